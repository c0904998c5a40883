"""URLs made equal where they mean the same, so that no page is asked for twice.

Normalisation is that of RFC 3986 §6.2.2 (case, percent-encoding, dot segments) and §6.2.3 (default port,
empty path); the fragment is dropped, for it never reaches the server. References are resolved by §5.2.2. Only
http and https are known here. An empty query (`/a?`) stays, as §6.2.3 asks: it may be another resource than
`/a`.

>>> resolve("HTTP://Example.COM:80/%7efoo/./a/../b#top")
'http://example.com/~foo/b'
>>> resolve("../img?q", base="http://example.com/a/b/c.html")
'http://example.com/a/img?q'
"""

from __future__ import annotations

import functools
import ipaddress
import re
from typing import Final, NamedTuple
from urllib.parse import unquote

import idna

_PORTS: Final = {"http": 80, "https": 443}

# RFC 3986 appendix B, with the scheme as in §3.1 so that "a/b:c" is a path. It matches anything; the fragment
# is left.
_SPLIT: Final = re.compile(r"(?:([A-Za-z][A-Za-z0-9+.-]*):)?(?://([^/?#]*))?([^?#]*)(?:\?([^#]*))?")
# What may not stand in a path or query as it is: every "%", and all that is neither unreserved nor a
# delimiter there.
_ODD: Final = re.compile(r"%(?:[0-9A-Fa-f]{2})?|[^A-Za-z0-9\-._~!$&'()*+,;=:@/?%]+")
_UNRESERVED: Final = re.compile(r"[A-Za-z0-9\-._~]")
_NAME: Final = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?")
# HTML's URLs lose these: leading and trailing C0 controls and spaces, and line breaks and tabs anywhere.
_EDGES: Final = "".join(map(chr, range(0x21)))
_BREAKS: Final = re.compile(r"[\t\r\n]")


class _Base(NamedTuple):
    """A normalised URL's parts; the authority as it was written, the path never empty."""

    scheme: str
    authority: str
    path: str
    query: str | None


def resolve(reference: str, *, base: str | None = None) -> str:
    """The normalised absolute URL that a reference found in the page `base` stands for.

    Args:
        reference: An absolute URL or, with a base, any reference.
        base: A URL that `resolve` gave.

    Raises:
        ValueError: It is not an http or https URL, or it has no valid host or port. The message says which.
    """
    text = _BREAKS.sub("", reference.strip(_EDGES))
    match = _SPLIT.match(text)
    assert match is not None  # every part is optional
    scheme, authority, path, query = match.groups()
    if scheme is not None:
        scheme = scheme.lower()
    start = None if base is None else _parts(base)
    # "http:page" is relative for browsers and so for those who write pages (§5.2.2, the note on the strict
    # flag).
    if start is not None and (scheme is None or (scheme == start.scheme and authority is None)):
        scheme = start.scheme
        if authority is None:
            authority = start.authority
            if not path:
                path, query = start.path, start.query if query is None else query
            elif not path.startswith("/"):
                path = start.path[: start.path.rindex("/") + 1] + path
    if scheme not in _PORTS:
        reason = "has no scheme" if scheme is None else f"has the unknown scheme {scheme!r}"
        raise ValueError(f"{_shown(text)} {reason}; a URL begins with http:// or https://")
    where = _authority(scheme, authority or "")
    path = _without_dots(_ODD.sub(_encoded, path)) or "/"
    return f"{scheme}://{where}{path}" + ("" if query is None else f"?{_ODD.sub(_encoded, query)}")


def site(url: str) -> str:
    """Scheme, host and port of a normalised URL, the prefix of every URL of that site; ends with a slash."""
    return url[: url.index("/", len("https://")) + 1]


def is_same_house(start: str, target: str) -> bool:
    """Whether a redirect from where a crawl begins to `target` is still the site the user asked for.

    `http://example.com/` mostly leads to `https://www.example.com/`, which is another site by scheme and host
    and yet the one that was meant. Never from https to http, and never to or from a port of one's own choice.
    """
    old, new = _parts(start), _parts(target)
    return (
        new.scheme in {old.scheme, "https"}
        and old.authority.removeprefix("www.") == new.authority.removeprefix("www.")
        and ":" not in old.authority
    )


@functools.lru_cache(maxsize=256)  # every link of a page is resolved against the same base
def _parts(url: str) -> _Base:
    match = _SPLIT.match(url)
    assert match is not None
    scheme, authority, path, query = match.groups()
    return _Base(scheme, authority, path, query)


@functools.lru_cache(maxsize=1024)
def _authority(scheme: str, authority: str) -> str:
    """User information, host and port in their normal form.

    Raises:
        ValueError: The host is missing or cannot be one, or the port is not a number up to 65535.
    """
    userinfo, at, rest = authority.rpartition("@")
    host, colon, port = rest.partition(":") if not rest.startswith("[") else rest.partition("]:")
    if colon == "]:":
        host += "]"
    host = _host(host, f"{scheme}://{rest}")
    if port and not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise ValueError(f"{_shown(f'{scheme}://{rest}')} has the port {port!r}; a port is a number up to 65535")
    suffix = f":{int(port)}" if port and int(port) != _PORTS[scheme] else ""
    return f"{userinfo}{at}{host}{suffix}"


def _host(host: str, url: str) -> str:
    if not host:
        raise ValueError(f"{_shown(url)} names no host")
    if host.startswith("["):
        try:
            address = ipaddress.IPv6Address(host[1:-1] if host.endswith("]") else host)
        except ValueError:
            raise ValueError(f"{_shown(url)} has {host!r} for a host, which is not an IPv6 address") from None
        return f"[{address.compressed}]"
    host = unquote(host).lower()
    if not host.isascii():
        try:
            host = idna.encode(host, uts46=True).decode("ascii")
        except idna.IDNAError as error:
            raise ValueError(f"{_shown(url)} has {host!r} for a host, which is no domain name: {error}") from None
    if _NAME.fullmatch(host) is None:
        raise ValueError(f"{_shown(url)} has {host!r} for a host, which is no domain name")
    return host


def _encoded(match: re.Match[str]) -> str:
    """An encoded octet in its normal form (§6.2.2.1, §6.2.2.2), or encoded what should have been."""
    text = match[0]
    if len(text) == 3 and text[0] == "%":
        character = chr(int(text[1:], 16))
        return character if _UNRESERVED.fullmatch(character) else text.upper()
    return "".join(f"%{octet:02X}" for octet in text.encode("utf-8", "replace"))


def _without_dots(path: str) -> str:
    """RFC 3986 §5.2.4, for a path that is empty or begins with a slash."""
    if "/." not in path:
        return path
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in {".", ".."}:
        kept.append("")
    return "/" + "/".join(kept)


def _shown(url: str) -> str:
    """A URL as a message may show it: short, without a password."""
    scheme, slashes, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    text = f"{scheme}{slashes}{authority.rpartition('@')[2]}{slash}{path}"
    return repr(text if len(text) <= 100 else text[:99] + "…")
