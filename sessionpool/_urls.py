"""URLs, taken apart and normalised by RFC 3986, with requests' leniency where it cannot be read in two ways.

What two parsers could read differently (a backslash before the path, a blank in a host, an escape in a dot segment) is
refused, or made into the one form that all of them understand: where a check and a request disagree about the host,
the check is worth nothing. What cannot stand in a URL is escaped elsewhere, so that no URL can end a request's line.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from typing import Final
from urllib.parse import quote, unquote, unquote_to_bytes

import attrs
import idna

from sessionpool import _wire
from sessionpool.exceptions import InvalidURL, MissingSchema

# RFC 3986, Appendix B; any text matches. Scheme, authority, path, query, fragment.
_PARTS = re.compile(r"(?:([A-Za-z][A-Za-z0-9+.-]*):)?(?://([^/?#]*))?([^?#]*)(?:\?([^#]*))?(?:#(.*))?", re.DOTALL)
# Host and port; leading zeros are no part of the number.
_PLACE = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::0*?(|0|[1-9][0-9]{0,4}))?", re.DOTALL)
# RFC 3986 §3.2.2, of labels as in RFC 1035 §2.3.4. Names with underscores are in use, though no host should have one.
_NAME = re.compile(r"(?!\*)[a-z0-9\-_~!$&'()*+,;=]{1,63}(?:\.[a-z0-9\-_~!$&'()*+,;=]{1,63})*\.?")
_UNFIT = re.compile(r"[^a-z0-9\-_~!$&'()*+,;=.]")
_MAX_NAME: Final = 253
# RFC 3986 §3.3 and §3.4: what may stand in a path or a query as it is.
_LEGAL = re.compile(r"[A-Za-z0-9\-._~!$&'()*+,;=:@/?]*")
_ESCAPABLE = re.compile(r"%[0-9A-Fa-f]{2}|%|[^A-Za-z0-9\-._~!$&'()*+,;=:@/?%]+")
_UNRESERVED: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_RESERVED: Final = "!#$%&'()*+,/:;=?@[]~"
_ZONE = re.compile(r"[!-~]+")
_BLANKS: Final = " \t\r\n\f\v"


@attrs.frozen(eq=False)
class Target:
    """A URL taken apart once. Immutable.

    Of a URL that is an adapter's to understand, for its scheme is neither http nor https, `is_opaque`, only `url`,
    `scheme`, `path` and `request_target` tell anything.

    Attributes:
        url: Normalised (RFC 3986 §6.2.2), with fragment; an opaque one as it was given.
        scheme: Lower case.
        host: Lower case, A-label; IPv6 without brackets, with its zone if it has one.
        port: The port, the scheme's own if the URL names none.
        path: The path, "/" at least, without the query.
        request_target: Path and query as sent (RFC 9112 §3.2.1).
        host_field: The value of `Host` (RFC 9110 §7.2).
        origin: Scheme, host and port (RFC 9110 §4.3.1).
        start: The request's first two lines, from behind the method on: target, version, `Host`.
        auth: User and password from the URL, or `None`.
        is_secure: https.
    """

    url: str = attrs.field(repr=False)
    scheme: str
    host: str
    port: int
    path: str
    request_target: bytes
    host_field: bytes
    origin: tuple[str, str, int]
    start: bytes
    auth: tuple[str, str] | None = attrs.field(repr=False)
    is_secure: bool

    @property
    def is_opaque(self) -> bool:
        """Neither http nor https: only an adapter that is mounted for it can fetch it."""
        return not self.start


def is_same_place(old: tuple[str, str, int], new: tuple[str, str, int]) -> bool:
    """The same origin, or from http to https of the same host at their usual ports, which everybody sees as one."""
    return old == new or (old[1] == new[1] and (old[::2], new[::2]) == (("http", 80), ("https", 443)))


def parse_target(url: str) -> Target:
    """Take a URL apart; those without a user's part, and of ordinary length, are remembered.

    Raises:
        MissingSchema, InvalidURL: It is not an absolute URL, or an http or https URL that cannot be used.
    """
    return _parse_target(url) if "@" not in url and len(url) <= 2048 else _parse_target.__wrapped__(url)


# Parsing costs 5 µs, a hit 0.1. 700 bytes an entry; a walk round more URLs than there are entries never hits, and to
# poll ten thousand hosts in turn is an ordinary job.
@functools.lru_cache(maxsize=16384)
def _parse_target(url: str) -> Target:
    url = _trimmed(url)
    scheme, authority, path, query, fragment = _split(url)
    scheme = scheme and scheme.lower()
    if scheme not in ("http", "https"):
        return _opaque(url, scheme, authority)
    authority = authority or ""
    if "\\" in authority:
        # Of http://a\@b/ some parsers ask a, others b.
        raise _invalid(url, "has a backslash before its path")
    userinfo, _, place = authority.rpartition("@")
    parts = _PLACE.fullmatch(place)
    if parts is None or int(digits := parts[2] or "0") > 65535:
        raise _invalid(url, "has a port that is no number up to 65535, or an IPv6 address without brackets")
    if not parts[1]:
        raise _invalid(url, "has no host")
    host = written = named = parts[1].lower()
    if not _NAME.fullmatch(host) or len(host) > _MAX_NAME:
        if host.startswith("["):
            host, written, named = _ipv6(url, parts[1])
        else:
            host = written = named = _name(url, host)
    default_port = 443 if scheme == "https" else 80
    port = int(digits) if parts[2] else default_port
    if parts[2]:
        written = f"{written}:{digits}"
    if port != default_port:
        named = f"{named}:{digits}"
    path = _escaped(path) or "/"
    if "/." in path:  # once escaped dots are dots (RFC 3986 §6.2.2.2), else those would get past
        path = _without_dots(path)
    query = "" if query is None else f"?{_escaped(query)}"
    fragment = "" if fragment is None else f"#{_escaped(fragment)}"
    userinfo = userinfo and _escaped(userinfo).replace("@", "%40") + "@"
    auth = _wire.userinfo(userinfo[:-1]) if userinfo not in ("", ":@") else None
    if auth is not None and not _wire.may_be_basic(*auth):
        raise _invalid(url, "has a user with a colon, or a control character in user or password (RFC 7617 §2)")
    request_target = (path + query).encode("ascii")
    host_field = named.encode("ascii")
    return Target(
        url=f"{scheme}://{userinfo}{written}{path}{query}{fragment}",
        scheme=scheme,
        host=host,
        port=port,
        path=path,
        request_target=request_target,
        host_field=host_field,
        origin=(scheme, host, port),
        start=b" %b HTTP/1.1\r\nHost: %b\r\n" % (request_target, host_field),
        auth=auth,
        is_secure=scheme == "https",
    )


def as_url(url: object) -> str:
    """The text of what a user may give for a URL: str, bytes (UTF-8), or an object whose `str` it is.

    Raises:
        InvalidURL: The bytes are not UTF-8.
    """
    if isinstance(url, bytes):
        try:
            return _trimmed(url.decode("utf-8"))
        except UnicodeDecodeError:
            raise _invalid(url.decode("utf-8", "replace"), "is given as bytes that are not UTF-8") from None
    return _trimmed(url if isinstance(url, str) else str(url))


def add_query(url: str, query: str | bytes) -> str:
    """The URL with something more at the end of its query."""
    url = _trimmed(url)
    if not query or (":" in url and url[:4].lower() != "http"):  # of another scheme: left alone, as in requests
        return url
    if isinstance(query, bytes):
        query = quote(query, _RESERVED)
    url, mark, fragment = url.partition("#")
    glue = "" if url.endswith("?") else "&" if "?" in url else "?"
    # RFC 3986 §3.4: a query ends where a "#" stands.
    return f"{url}{glue}{query.replace('#', '%23')}{mark}{fragment}"


def join(base: str, reference: str) -> str:
    """What a reference means at a base (RFC 3986 §5.2.2), not yet normalised.

    `http:path`, at a base of that scheme, is read as `path`, as browsers do and as §5.2.2 allows.
    """
    scheme, authority, path, query, fragment = _split(_trimmed(reference))
    base_scheme, base_authority, base_path, base_query, _ = _split(_trimmed(base))
    if scheme is not None and (authority is not None or scheme.lower() != (base_scheme or "").lower()):
        return reference
    if authority is None:
        authority = base_authority
        if not path:
            path = base_path
            query = base_query if query is None else query
        elif not path.startswith("/"):
            path = (base_path.rpartition("/")[0] + "/" if base_path or not authority else "/") + path
    return "".join(
        [
            "" if base_scheme is None else f"{base_scheme}:",
            "" if authority is None else f"//{authority}",
            path,
            "" if query is None else f"?{query}",
            "" if fragment is None else f"#{fragment}",
        ]
    )


def _trimmed(url: str) -> str:
    """Without the blanks around it, such as the end of the line that it was read from (RFC 3986, Appendix C)."""
    return url.lstrip().rstrip(_BLANKS)  # what looks blank elsewhere may stand at an IRI's end (RFC 3987 §2.2)


def _split(url: str) -> tuple[str | None, str | None, str, str | None, str | None]:
    return _PARTS.fullmatch(url).groups()  # type: ignore[union-attr,return-value]  # any text matches, with a path


def _opaque(url: str, scheme: str | None, authority: str | None) -> Target:
    """A URL that only an adapter understands."""
    if scheme is None:
        shown = _wire.redacted(url)
        hint = f"; perhaps you meant 'https://{shown}'" if "." in shown.partition("/")[0] and authority is None else ""
        raise MissingSchema(f"URL {shown!r} has no scheme{hint}")
    if scheme.startswith("http"):  # requests' rule, which adapters for http+unix and the like count on
        url = quote(url, _RESERVED, errors="surrogatepass")
    _, authority, path, query, _ = _split(url)
    path = path or "/"
    wanted = path if query is None else f"{path}?{query}"
    request_target = quote(wanted, _RESERVED, errors="surrogatepass").encode("ascii")
    origin = (scheme, (authority or "").rpartition("@")[2].lower(), 0)  # whatever its host and port may be called
    return Target(url, scheme, "", 0, path, request_target, b"", origin, b"", None, is_secure=False)


def _name(url: str, host: str) -> str:
    """A host's name as the DNS knows it (RFC 5891 §5, with the mapping of UTS 46 as in requests).

    Raises:
        InvalidURL: There can be no such name.
    """
    try:
        # RFC 3986 §3.2.2: escapes in a name are UTF-8.
        text = unquote_to_bytes(host).decode("utf-8") if "%" in host else host
        text = idna.uts46_remap(text, std3_rules=False)
        # Label by label, for IDNA has no place for the underscores and the emoji of names that are in use as they are.
        text = ".".join([label if label.isascii() else idna.alabel(label).decode("ascii") for label in text.split(".")])
    except UnicodeError as error:  # idna's is one
        reason = f": {error}" if isinstance(error, idna.IDNAError) else ""
        raise _invalid(url, f"has a host name that is none (IDNA 2008){reason}") from None
    if unfit := _UNFIT.search(text):
        raise _invalid(url, f"has {unfit[0]!r} in its host name")
    if text.startswith("*"):
        raise _invalid(url, "has a host name that starts with '*'")
    if not _NAME.fullmatch(text) or len(text.removesuffix(".")) > _MAX_NAME:
        raise _invalid(
            url, f"has a host name with an empty label, or of more than 63 characters a label or {_MAX_NAME} in all"
        )
    return text


def _ipv6(url: str, literal: str) -> tuple[str, str, str]:
    """An IPv6 address in brackets as it is dialled, written in a URL, and sent as `Host`.

    RFC 6874 §2 and §4: a zone is written behind `%25`, a bare `%` understood; it means nothing elsewhere, so it is not
    sent.
    """
    address, percent, zone = literal[1:-1].partition("%")
    address = address.lower()
    zone = unquote(zone.removeprefix("25"))
    try:
        ipaddress.IPv6Address(address)
    except ValueError:
        raise _invalid(url, "has no valid IPv6 address in its brackets") from None
    if not percent:
        return address, f"[{address}]", f"[{address}]"
    if not _ZONE.fullmatch(zone):
        raise _invalid(url, "has an IPv6 address with an empty or unprintable zone")
    return f"{address}%{zone}", f"[{address}%25{quote(zone, '')}]", f"[{address}]"


def _escaped(text: str) -> str:
    """A path, query or fragment with what may not stand there escaped, and what need not be escaped as it is.

    RFC 3986 §2.4: nothing is escaped twice, so a `%` that begins no escape is escaped, and no other.
    """
    return text if _LEGAL.fullmatch(text) else _ESCAPABLE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    found = match[0]
    if len(found) == 3 and found.startswith("%"):
        character = chr(int(found[1:], 16))
        return character if character in _UNRESERVED else found.upper()  # RFC 3986 §6.2.2
    return quote(found, "", errors="surrogatepass")


def _without_dots(path: str) -> str:
    """RFC 3986 §5.2.4."""
    kept: list[str] = []
    for segment in path[1:].split("/"):
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if path.endswith(("/.", "/..")):
        kept.append("")
    return "/" + "/".join(kept)


def _invalid(url: str, what: str) -> InvalidURL:
    return InvalidURL(f"URL {_wire.redacted(url)!r} {what}")
