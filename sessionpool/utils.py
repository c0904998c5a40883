"""The functions of `requests.utils` that its documentation names, and the few others in everyday use.

What is missing was requests' own scaffolding, or is had elsewhere: a body's charset is `Response.encoding`, its JSON
`Response.json`, `prepend_scheme_if_needed`, `urldefragauth` and their like are `urllib.parse`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote, urlparse, urlunparse

from sessionpool import _messages
from sessionpool._session import default_headers
from sessionpool._version import __version__
from sessionpool.cookies import CookieJar, cookiejar_from_dict

if TYPE_CHECKING:
    import http.cookiejar
    from collections.abc import Mapping

    from sessionpool._messages import Response

__all__ = [
    "add_dict_to_cookiejar",
    "cookiejar_from_dict",
    "default_headers",
    "default_user_agent",
    "dict_from_cookiejar",
    "get_encoding_from_headers",
    "get_encodings_from_content",
    "get_unicode_from_response",
    "parse_header_links",
    "quote",
    "requote_uri",
    "unquote",
    "urlparse",
    "urlunparse",
]

# Neither runs on over the next "<", so that no page can make them take long.
_META: Final = re.compile(r"<meta[^<>]*?charset\s*=\s*[\"']*([^\s\"'/<>;]+)", re.IGNORECASE)
_XML: Final = re.compile(r"^<\?xml[^<>]*?encoding\s*=\s*[\"']*([^\s\"'<>?]+)")
_STRAY_PERCENT: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_UNRESERVED: Final = re.compile(r"%(?:2[DEde]|3[0-9]|[46][1-9A-Fa-f]|[57][0-9Aa]|5[Ff]|7[Ee])")  # RFC 3986 §2.3
_URL_CHARACTERS: Final = "!#$%&'()*+,/:;=?@[]~"  # RFC 3986 §2.2, and "%"


def dict_from_cookiejar(cj: CookieJar | http.cookiejar.CookieJar) -> dict[str, str | None]:
    """Names and values of a jar's cookies; of two with one name, the later."""
    return {cookie.name: cookie.value for cookie in cj}


def add_dict_to_cookiejar(cj: CookieJar, cookie_dict: Mapping[str, str]) -> CookieJar:
    """Set names and values in a jar, and return it; raises as `CookieJar.set` does."""
    return cookiejar_from_dict(cookie_dict, cj)


def get_encoding_from_headers(headers: Mapping[str, Any]) -> str | None:
    """The charset that `Content-Type` names, or that its media type implies, as `Response.encoding` has it."""
    return _messages._charset(headers.get("content-type"))


def get_encodings_from_content(content: str) -> list[str]:
    """The charsets that a page of HTML, or the first line of XML, says it is written in."""
    return _META.findall(content) + _XML.findall(content)


def get_unicode_from_response(r: Response) -> str:
    """The body as text, by the charset that the header names, else UTF-8; what does not fit is replaced."""
    try:
        return str(r.content, get_encoding_from_headers(r.headers) or "utf-8", errors="replace")
    except LookupError:  # a charset that Python does not know
        return str(r.content, "utf-8", errors="replace")


def parse_header_links(value: str) -> list[dict[str, str]]:
    """A `Link` field taken apart (RFC 8288): of each link its `url`, and its parameters by name."""
    return _messages.parse_links(value)


def requote_uri(uri: str) -> str:
    """The same URL with what no URL may hold escaped, and nothing escaped twice (RFC 3986 §2)."""
    plain = _UNRESERVED.sub(lambda match: unquote(match[0]), _STRAY_PERCENT.sub("%25", uri))
    return quote(plain, safe=_URL_CHARACTERS)


def default_user_agent(name: str = "sessionpool") -> str:
    """What a session calls itself."""
    return f"{name}/{__version__}"
