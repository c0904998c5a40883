"""A session's cookies, kept and sent by RFC 6265bis, with the mapping interface of requests' cookie jar.

Sections named §5.x are those of draft-ietf-httpbis-rfc6265bis-20. A `Set-Cookie` line goes through three
stages: it is read (`_attributes`, §5.6), judged by what the request alone can tell (`_received`, §5.7), then
by what is in the jar (`CookieJar.store`, §5.7 steps 16 and 23, and the quotas). All text is header text here:
one character per octet.

A jar is laid out as domain -> (path, name, host-only flag) -> cookie. A domain holds some 50 cookies, so that
a level of its own for the path would save nothing: what a host is sent is looked up once and kept as a line.

What holds after every call (`tests/test_cookies.py` checks this list against a model):

1.  A cookie is filed under its domain, a domain without cookies is forgotten, and the counts are right.
2.  `_Index.guards` holds name and domain, the latter spelt backwards, of each Secure cookie, sorted: those of one name
    below one domain are one run in it.
3.  A cached line is, until its instant, what would be assembled anew.
4.  Cookies set in this jar have ascending creation times, even while the clock stands still or goes back.
5.  A new jar holds no container, nor does a cleared one.

`now`, wall seconds, is handed to `header` and `store`; only what has the interface of others asks the clock. The
mapping methods have no `now`, so they show whatever is stored. An expired cookie is never sent; it leaves the jar when
a header is next assembled for its domain, when a quota needs its place, or with `clear_expired`.
"""

from __future__ import annotations

import bisect
import datetime as dt
import functools
import http.cookiejar
import itertools
import math
import os
import re
import tempfile
import threading
import urllib.request
from collections.abc import Mapping
from http.cookies import Morsel
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

import attrs
import idna
import publicsuffixlist

from sessionpool import _wire
from sessionpool._clock import SYSTEM_CLOCK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = [
    "Cookie",
    "CookieConflictError",
    "CookieJar",
    "RequestsCookieJar",
    "cookiejar_from_dict",
    "create_cookie",
    "extract_cookies_to_jar",
    "get_cookie_header",
    "merge_cookies",
    "morsel_to_cookie",
    "parse_date",
    "remove_cookie_by_name",
]

SameSite: TypeAlias = Literal["Strict", "Lax", "None"]
Value: TypeAlias = "str | Morsel[Any] | None"
Cookies: TypeAlias = "CookieJar | http.cookiejar.CookieJar | Mapping[str, Value] | Iterable[tuple[str, Value]]"

_Snapshot: TypeAlias = "list[tuple[Cookie, float]]"  # cookies with their last access

AGE_LIMIT: Final = 400 * 24 * 3600  # §5.5
PAIR_LIMIT: Final = 4096  # §5.6 step 5: octets of name and value together
ATTRIBUTE_LIMIT: Final = 1024  # §5.6, attributes, step 6
DOMAIN_QUOTA: Final = 50  # §6.1
TOTAL_QUOTA: Final = 3000  # §6.1
_BY_HAND: Final = math.inf  # for the time of the last access: no quota is ever to reach this cookie
_UNSET: Final[Any] = object()

# A cookie's last access is noted when a line is assembled, not each time it is sent, and no line lives longer
# than this: eviction by last access (§5.7) is right to the minute, as in browsers, and a cached line costs no
# bookkeeping.
_LINE_LIFE: Final = 60.0
_LINES: Final = 256  # A crawl over many hosts would fill the memory with lines that say "nothing to send".

_WSP: Final = " \t"
_NOT_OCTETS: Final = r"[^\t\x20-\x7e\x80-\xff]"
_CONTROL: Final = re.compile(_NOT_OCTETS)  # §5.6 step 1
_MAX_AGE: Final = re.compile(r"-?[0-9]+")  # §5.6.2
_ADDRESS: Final = re.compile(r":|(?:^|\.)(?:[0-9]+|0x[0-9a-f]*)\.?$")  # IPv6, or IPv4 by its last label


class CookieConflictError(RuntimeError):
    """Several cookies have that name; say which by domain and path."""


@attrs.frozen(weakref_slot=False)
class Cookie:
    """One cookie; immutable, so set a changed one in its place: `jar.set_cookie(attrs.evolve(cookie, path="/"))`.

    Attributes:
        name: May be empty; then only the value is sent.
        value: As received, quotes included. Not shown by `repr`.
        domain: Lower case, A-labels, without a leading dot. Empty: sent to every host.
        path: Sent to this path and what lies below it.
        expires: Wall seconds; `None` means the end of the session.
        secure: Sent over secure connections only.
        http_only: Kept, without effect here.
        same_site: `None` where the server did not say. Kept, without effect here.
        host_only: Sent to the domain itself, not to hosts below it.
        created: Wall seconds, 0 until it is in a jar; older cookies are sent first. Not compared.
    """

    name: str
    value: str = attrs.field(repr=False)
    domain: str = ""
    path: str = "/"
    expires: float | None = None
    secure: bool = False
    http_only: bool = False
    same_site: SameSite | None = None
    host_only: bool = False
    created: float = attrs.field(default=0.0, eq=False)

    def is_expired(self, now: float | None = None) -> bool:
        """Whether it is no longer to be sent at `now`, in wall seconds; left out: at this moment."""
        return self.expires is not None and self.expires <= (SYSTEM_CLOCK.wall() if now is None else now)

    def has_nonstandard_attr(self, name: str) -> bool:
        """Whether it has HttpOnly, or SameSite; under the name that `http.cookiejar` gave this question."""
        return self.get_nonstandard_attr(name, _UNSET) is not _UNSET

    def get_nonstandard_attr(self, name: str, default: str | None = None) -> str | None:
        """The value of HttpOnly, which is empty, or of SameSite; `default` if it does not have that."""
        attributes = {"httponly": "" if self.http_only else None, "samesite": self.same_site}
        value = attributes.get(name.lower())
        return default if value is None else value


# --- dates, hosts and paths: §5.1 ---

_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DATE_TOKEN: Final = re.compile(r"[\x00-\x08\x0a-\x1f0-9:A-Za-z\x7f-\xff]+")
_DATE_FIELDS: Final = (  # A token is tried for these in turn; of several that fit, the first counts.
    ("time", re.compile(r"([0-9]{1,2}):([0-9]{1,2}):([0-9]{1,2})(?![0-9])")),
    ("day", re.compile(r"([0-9]{1,2})(?![0-9])")),
    ("month", re.compile(f"({'|'.join(_MONTHS)})", re.IGNORECASE | re.ASCII)),
    ("year", re.compile(r"([0-9]{2,4})(?![0-9])")),
)


def parse_date(text: str) -> float | None:
    """Wall seconds of a cookie date, read as leniently as §5.1.1 asks; `None` if it is none."""
    found: dict[str, re.Match[str]] = {}
    for token in _DATE_TOKEN.findall(text):
        for field, pattern in _DATE_FIELDS:
            if field not in found and (match := pattern.match(token)):
                found[field] = match
                break
    if len(found) < len(_DATE_FIELDS):
        return None
    year, month = int(found["year"][1]), _MONTHS.index(found["month"][1].lower()) + 1
    if year <= 99:
        year += 1900 if year >= 70 else 2000
    hour, minute, second = map(int, found["time"].groups())
    try:
        date = dt.datetime(year, month, int(found["day"][1]), hour, minute, second, tzinfo=dt.UTC)
    except ValueError:
        return None
    return date.timestamp() if year >= 1601 else None


def _canonical(domain: str) -> str:
    """A domain as people write it in the form used here: lower case, A-labels, no leading dot or bracket (§5.1.2)."""
    domain = domain.removeprefix(".").lower().strip("[]")
    if domain.isascii():
        return domain
    try:
        return idna.encode(domain, uts46=True).decode("ascii")
    except idna.IDNAError as error:
        raise ValueError(f"{domain!r} cannot be the domain of a cookie: {error}") from error


def _is_address(host: str) -> bool:
    return _ADDRESS.search(host) is not None


@functools.lru_cache(maxsize=1024)
def _lineage(host: str) -> tuple[str, ...]:
    """The domains that a host domain-matches: itself and all above, but none above an address (§5.1.3)."""
    dots = [] if _is_address(host) else [dot.end() for dot in re.finditer(r"\.(?=.)", host)]
    return host, *(host[dot:] for dot in dots)


def _default_path(path: str) -> str:
    """The path of a cookie that names none: the request's directory (§5.1.4)."""
    return (path[: path.rfind("/")] or "/") if path.startswith("/") else "/"


def _below(path: str) -> str:
    """What every request path below a cookie's path starts with."""
    return path if path.endswith("/") else path + "/"


def _path_matches(path: str, cookie_path: str) -> bool:
    """Whether a request for `path` is sent a cookie of `cookie_path` (§5.1.4)."""
    return path == cookie_path or path.startswith(_below(cookie_path))


_load_suffixes: Final = functools.cache(publicsuffixlist.PublicSuffixList)
_loading = threading.Lock()


@functools.lru_cache(maxsize=1024)
def _is_public_suffix(domain: str) -> bool:
    """Whether anybody can register below it: `com`, `co.uk`, `github.io`, and any single label.

    The list, private section included as in browsers, is loaded by the first call (0.1 s) and shared by all
    jars; with the lock, threads that come meanwhile wait for it instead of each loading their own.
    """
    with _loading:
        suffixes = _load_suffixes()
    return suffixes.is_public(domain)


def _restart() -> None:
    """In a forked process: whichever thread of the parent was loading will not end here."""
    global _loading  # noqa: PLW0603 - the lock that stays held cannot be freed
    _loading = threading.Lock()


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_restart)


# --- reading a Set-Cookie line: §5.6 ---


@attrs.frozen
class _Attributes:
    """What a line says of its cookie besides name and value; the last of several alike counts."""

    domain: str = ""
    path: str | None = None  # "" where one is given that does not start with "/"
    max_age: int | None = None
    expires: float | None = None
    secure: bool = False
    http_only: bool = False
    same_site: SameSite | None = None


_SAME_SITE: Final[dict[str, SameSite]] = {"strict": "Strict", "lax": "Lax", "none": "None"}


# A site has few ways to write its attributes, and they are no secret: for most lines this is not run.
@functools.lru_cache(maxsize=256)
def _attributes(text: str) -> _Attributes:
    """Read what follows the first ";" of a line (§5.6, second algorithm, and §5.6.1 to §5.6.7)."""
    found: dict[str, Any] = {}
    for part in text.split(";"):
        name, _, value = part.partition("=")
        value = value.strip(_WSP)
        if len(value) > ATTRIBUTE_LIMIT:
            continue
        match name.strip(_WSP).lower():
            case "domain":
                found["domain"] = value.removeprefix(".").lower()
            case "path":
                found["path"] = value if value.startswith("/") else ""
            case "max-age" if _MAX_AGE.fullmatch(value):
                found["max_age"] = min(int(value), AGE_LIMIT)
            case "expires" if (date := parse_date(value)) is not None:
                found["expires"] = date
            case "secure":
                found["secure"] = True
            case "httponly":
                found["http_only"] = True
            case "samesite":
                found["same_site"] = _SAME_SITE.get(value.lower())
    return _Attributes(**found)


# --- judging it by the request alone: §5.7 ---


def _scope(domain: str, host: str) -> tuple[str, bool] | None:
    """Where a cookie with this Domain attribute belongs, and whether to that host only (§5.7 steps 8 to 10).

    `None` if the host has no say there. Hosts are ASCII, so none ends in a domain that is not (step 8).
    """
    if not domain:
        return host, True
    if domain == host:
        return host, _is_address(host) or _is_public_suffix(host)
    if not host.endswith("." + domain) or _is_address(host) or _is_public_suffix(domain):
        return None
    return domain, False


def _expiry(given: _Attributes, now: float) -> float | None:
    """Max-Age before Expires, and neither beyond 400 days (§5.5, §5.7 step 6)."""
    if given.max_age is not None:
        return now + given.max_age if given.max_age > 0 else -math.inf
    return None if given.expires is None else min(given.expires, now + AGE_LIMIT)


def _keeps_promise(cookie: Cookie, given: _Attributes) -> bool:
    """Whether the cookie is what its name's prefix says, in any case of letters (§5.4, §5.7 steps 20 to 22).

    A nameless cookie cannot be: the server would take the prefix of its value for a name's.
    """
    start = (cookie.name or cookie.value)[:9].lower()
    if start.startswith("__host-"):
        at_root = given.path is not None and cookie.path == "/"
        return bool(cookie.name) and cookie.secure and cookie.host_only and at_root
    return start != "__secure-" or (bool(cookie.name) and cookie.secure)


def _received(line: str, host: str, path: str, secure: bool, now: float, *, created: float) -> Cookie | None:
    """The cookie a line from this URI sets, `None` to ignore it (§5.6, §5.7 steps 1 to 22 without 16)."""
    if _CONTROL.search(line):
        return None
    pair, _, rest = line.partition(";")
    name, equals, value = pair.partition("=")
    name, value = (name.strip(_WSP), value.strip(_WSP)) if equals else ("", pair.strip(_WSP))
    if not 0 < len(name) + len(value) <= PAIR_LIMIT:
        return None
    given = _attributes(rest)
    if (given.secure and not secure) or (given.same_site == "None" and not given.secure):  # steps 13 and 19
        return None
    scope = _scope(given.domain, host)
    if scope is None:
        return None
    domain, host_only = scope
    path, expires = given.path or _default_path(path), _expiry(given, now)
    cookie = Cookie(
        name, value, domain, path, expires, given.secure, given.http_only, given.same_site, host_only, created
    )
    return cookie if _keeps_promise(cookie, given) else None


# --- what is in a jar ---


@attrs.define(eq=False, weakref_slot=False)
class _Kept:
    """A cookie in a jar, and when it was last set or sent, or `_BY_HAND`."""

    cookie: Cookie
    accessed: float

    def eviction_order(self, now: float, *, spare_secure: bool) -> tuple[bool, bool, float, float]:
        cookie = self.cookie
        return not cookie.is_expired(now), spare_secure and cookie.secure, self.accessed, cookie.created


class _Line(NamedTuple):
    """What one host is sent: the same text for all paths, or else the pairs to choose from by path."""

    until: float
    text: str | None
    pairs: list[tuple[str, str, str]] | None  # the cookie's path, `_below` it, "name=value"

    @classmethod
    def of(cls, cookies: list[Cookie], now: float) -> _Line:
        """Assemble cookies into a line, longer paths first, then older ones (§5.8.3 steps 2 and 4)."""
        cookies.sort(key=lambda cookie: (-len(cookie.path), cookie.created))
        until = min([now + _LINE_LIFE, *(c.expires for c in cookies if c.expires is not None)])
        pairs = [(c.path, _below(c.path), f"{c.name}={c.value}" if c.name else c.value) for c in cookies]
        if all(path == "/" for path, _, _ in pairs):
            return cls(until, "; ".join([pair for _, _, pair in pairs]) or None, None)
        return cls(until, None, pairs)

    def value(self, path: str) -> str | None:
        if self.pairs is None:
            return self.text
        pairs = [pair for at, below, pair in self.pairs if path.startswith(below) or path == at]
        return "; ".join(pairs) or None


class _Index:
    """The cookies of a jar that is not empty, by domain, and the lines assembled from them."""

    __slots__ = ("count", "domains", "guards", "lines", "newest", "received")

    def __init__(self) -> None:
        self.domains: dict[str, dict[tuple[str, str, bool], _Kept]] = {}
        self.guards: list[tuple[str, str]] = []
        self.lines: dict[tuple[str, bool], _Line] = {}
        self.count = 0
        self.received = 0  # how many of the cookies servers have set
        self.newest = 0.0

    def __iter__(self) -> Iterator[_Kept]:
        for kept in self.domains.values():
            yield from kept.values()

    def put(self, cookie: Cookie, accessed: float) -> None:
        """Add a cookie, or give it the place and creation time of the one it replaces (§5.7 step 23)."""
        key = (cookie.path, cookie.name, cookie.host_only)
        place = self.domains.get(cookie.domain, {}).get(key)
        if place is not None and place.cookie.is_expired(cookie.created):  # should be gone, so hands down nothing
            self.drop(place.cookie)
            place = None
        if place is None:
            self.forget_lines(cookie)
            if cookie.secure:
                self.guard(cookie)
            if cookie.domain not in self.domains:
                self.domains[cookie.domain] = {}
            self.domains[cookie.domain][key] = _Kept(cookie, accessed)
            self.count += 1
            self.received += accessed < _BY_HAND
            self.newest = max(self.newest, cookie.created)
            return
        self.received += (accessed < _BY_HAND) - (place.accessed < _BY_HAND)
        place.accessed = accessed
        old = place.cookie
        if old == cookie:
            return
        # A cookie that only lives longer, as when a session is prolonged, leaves the lines as they are.
        shorter = cookie.expires is not None and (old.expires is None or cookie.expires < old.expires)
        if shorter or old.value != cookie.value or old.secure != cookie.secure:
            self.forget_lines(cookie)
        if cookie.secure and not old.secure:
            self.guard(cookie)
        place.cookie = _created(cookie, old.created)
        if old.secure and not cookie.secure:
            self.unguard(cookie)

    def drop(self, cookie: Cookie) -> None:
        """Forget the cookie with this one's domain, path, name and host-only flag, if there is one."""
        kept = self.domains.get(cookie.domain, {})
        key = (cookie.path, cookie.name, cookie.host_only)
        if key not in kept:
            return
        self.forget_lines(cookie)
        dropped = kept.pop(key)
        self.count -= 1
        self.received -= dropped.accessed < _BY_HAND
        if dropped.cookie.secure:
            self.unguard(cookie)
        if not kept:
            del self.domains[cookie.domain]

    def forget_lines(self, cookie: Cookie) -> None:
        """Those it has a part in. Many sites change a cookie with every answer; that need not concern the others."""
        if cookie.host_only:
            self.lines.pop((cookie.domain, True), None)
            self.lines.pop((cookie.domain, False), None)
        else:
            self.lines.clear()

    # Guarded before it is there, and until it is gone: an interrupt in between leaves a guard too many, which does no
    # harm, rather than a cookie that nothing protects.
    def guard(self, cookie: Cookie) -> None:
        bisect.insort(self.guards, (cookie.name, cookie.domain[::-1]))

    def unguard(self, cookie: Cookie) -> None:
        del self.guards[bisect.bisect_left(self.guards, (cookie.name, cookie.domain[::-1]))]

    def matching(self, host: str, secure: bool, now: float) -> list[Cookie]:
        """A host's cookies, whatever their path (§5.8.3 step 1); they count as accessed, expired ones go."""
        found = []
        for domain in ("", *_lineage(host)):
            for kept in list(self.domains.get(domain, {}).values()):
                cookie = kept.cookie
                if cookie.is_expired(now):
                    self.drop(cookie)
                elif (secure or not cookie.secure) and (domain == host or not cookie.host_only):
                    if kept.accessed < _BY_HAND:
                        kept.accessed = now
                    found.append(cookie)
        return found

    def assemble(self, host: str, secure: bool, now: float) -> _Line:
        line = _Line.of(self.matching(host, secure, now), now)
        if len(self.lines) >= _LINES:
            self.lines.clear()
        self.lines[host, secure] = line
        return line

    def guarded_below(self, name: str, domain: str) -> Iterator[str]:
        """The domains below this one that have a Secure cookie of that name."""
        start = domain[::-1] + "."
        for i in range(bisect.bisect_left(self.guards, (name, start)), len(self.guards)):
            guarded, backwards = self.guards[i]
            if guarded != name or not backwards.startswith(start):
                return
            yield backwards[::-1]

    def protects(self, cookie: Cookie, now: float) -> bool:
        """Whether a cookie from an insecure connection would cover a secure one (§5.7 step 16)."""
        return bool(self.guards) and any(
            old.secure and old.name == cookie.name and not old.is_expired(now) and _path_matches(cookie.path, old.path)
            for domain in itertools.chain(_lineage(cookie.domain), self.guarded_below(cookie.name, cookie.domain))
            for old in [kept.cookie for kept in self.domains.get(domain, {}).values()]
        )

    def keep_quotas(self, domain: str, now: float) -> None:
        """Make room after a server's cookie was added, in the order that §5.7 asks for.

        What was set by hand is neither counted nor evicted: a user who loads five thousand cookies means them all.
        Beyond the total a tenth goes at once, so that the whole jar is rarely looked at.
        """
        if len(self.domains[domain]) > DOMAIN_QUOTA:
            theirs = [kept for kept in self.domains[domain].values() if kept.accessed < _BY_HAND]
            if len(theirs) > DOMAIN_QUOTA:
                self.drop(min(theirs, key=lambda kept: kept.eviction_order(now, spare_secure=True)).cookie)
        if self.received > TOTAL_QUOTA:
            theirs = [kept for kept in self if kept.accessed < _BY_HAND]
            theirs.sort(key=lambda kept: kept.eviction_order(now, spare_secure=False))
            for old in theirs[: self.received - TOTAL_QUOTA * 9 // 10]:
                self.drop(old.cookie)


def _created(c: Cookie, created: float) -> Cookie:
    # Spelt out: `attrs.evolve` takes three times as long, and this runs for every cookie that changes.
    return Cookie(
        c.name, c.value, c.domain, c.path, c.expires, c.secure, c.http_only, c.same_site, c.host_only, created
    )


class CookieJar:
    """The cookies of one identity, by RFC 6265bis, with requests' mapping interface. Confined to one thread.

    Sending and receiving cost next to nothing on an empty jar, and nothing that grows with the jar on a full
    one. The mapping methods look at every cookie, as requests' do, or at those of the domain that they are given,
    with or without leading dot. They show what is stored, an expired cookie included until it is purged (see the
    module's docstring).

    Every request counts as same-site: there is no page around it that could be another site's. Quotas (50
    cookies per domain, 3000 in all) bind servers, not you: a cookie set by hand evicts none, and is not evicted until
    a server has set it anew.

    It is no `Mapping`, because iteration gives cookies. `urllib.request.HTTPCookieProcessor` can share a jar, in the
    thread that it is confined to.

    Args:
        policy: As for `set_policy`.
    """

    __slots__ = ("_index", "_policy")

    def __init__(self, policy: http.cookiejar.CookiePolicy | None = None) -> None:
        self._index: _Index | None = None
        self._policy = policy

    # --- HTTP ---

    def header(self, host: str, path: str, secure: bool, now: float, overlay: CookieJar | None = None) -> str | None:
        """The value of the Cookie header for a request, `None` if there is nothing to send (§5.8).

        Args:
            host: Lower case, A-labels; an IPv6 address without brackets.
            path: Of the request target, without the query; starts with "/".
            secure: Whether the connection is.
            now: Wall seconds.
            overlay: Cookies of this one request, sent besides the jar's, and instead of those with the same
                domain, path and name.
        """
        index = self._index
        if overlay is not None and overlay._index is not None:
            sent = [*([] if index is None else index.matching(host, secure, now))]
            sent += overlay._index.matching(host, secure, now)
            chosen = {(c.domain, c.path, c.name, c.host_only): c for c in sent}
            return _Line.of(list(chosen.values()), now).value(path)
        if index is None:
            return None
        line = index.lines.get((host, secure))
        if line is None or now >= line.until:
            line = index.assemble(host, secure, now)
        return line.value(path)

    def store(self, line: str, host: str, path: str, secure: bool, now: float) -> bool:
        """Take in the value of one Set-Cookie field of a response (§5.6, §5.7); arguments as for `header`.

        Returns `False` if it was ignored, `True` if it was obeyed, be it by deleting a cookie.
        """
        cookie = _received(line, host, path, secure, now, created=self._creation(now))
        if cookie is None:
            return False
        index = self._index
        if index is not None and not secure and index.protects(cookie, now):
            return False
        if cookie.is_expired(now):
            self._drop(cookie)
            return True
        if self._policy is not None and not self._policy.set_ok(_to_foreign(cookie), _request(host, path, secure)):
            return False
        if index is None:
            index = self._index = _Index()
        count = index.count
        index.put(cookie, now)
        if index.count > count:
            index.keep_quotas(cookie.domain, now)
        return True

    def _creation(self, now: float) -> float:
        """When a cookie set now is said to be created: after all before it, to keep the order of arrival."""
        newest = 0.0 if self._index is None else self._index.newest
        return now if now > newest else math.nextafter(newest, math.inf)

    def set_policy(self, policy: http.cookiejar.CookiePolicy | None) -> None:
        """Have `policy.set_ok` of the standard library asked, too, before a server's cookie is kept.

        Its other methods are not asked, as by requests' sessions: what was kept is sent. `None` asks nobody.
        """
        self._policy = policy

    def get_policy(self) -> http.cookiejar.CookiePolicy | None:
        """What was given to `set_policy`."""
        return self._policy

    def add_cookie_header(self, request: Any) -> None:
        """Add to a `urllib.request.Request` what is to be sent with it, unless it has a Cookie header."""
        if not request.has_header("Cookie"):
            line = self.header(*_place(request.get_full_url()), SYSTEM_CLOCK.wall())
            if line is not None:
                request.add_unredirected_header("Cookie", line)

    def extract_cookies(self, response: Any, request: Any) -> None:
        """Take in the cookies of an `http.client.HTTPResponse` to a `urllib.request.Request`."""
        self._store_all(response.info().get_all("Set-Cookie", ()), request.get_full_url())

    def _store_all(self, lines: Iterable[str], url: str) -> None:
        place, now = _place(url), SYSTEM_CLOCK.wall()
        for line in lines:
            self.store(line, *place, now)

    # --- by hand ---

    def set(
        self, name: str, value: Value, domain: str | None = None, path: str | None = None, **attributes: Any
    ) -> Cookie | None:
        """Set a cookie by hand; with `None` for the value, remove those of that name, domain and path.

        Args:
            name: As for `create_cookie`, as all that follows.
            value: The same; a `Morsel` brings everything with it, its own name included.
            domain: Left out: the cookie goes to every host; or it is removed from all domains.
            path: Left out: "/"; or the cookie is removed from all paths.
            attributes: What else `create_cookie` takes.

        Raises:
            ValueError: It cannot be sent as it is; the message says what is in the way.
            TypeError: Something is not of its type, or no attribute is called that.
        """
        if value is None:
            for cookie in self._find(name, domain, path):
                self._drop(cookie)
            return None
        if isinstance(value, Morsel):
            return self.set_cookie(morsel_to_cookie(value))
        return self.set_cookie(create_cookie(name, value, domain, path, **attributes))

    def set_cookie(self, cookie: Cookie | http.cookiejar.Cookie) -> Cookie:
        """Set a cookie that is one already, and return it as it is stored; raises as `set` does."""
        cookie = _sendable(_from_foreign(cookie) if isinstance(cookie, http.cookiejar.Cookie) else cookie)
        if not cookie.created:
            cookie = _created(cookie, self._creation(0.0))
        if self._index is None:
            self._index = _Index()
        self._index.put(cookie, _BY_HAND)
        return cookie

    def clear(self, domain: str | None = None, path: str | None = None, name: str | None = None) -> None:
        """Remove all cookies, or those of a domain, of a domain and path, or the one of that name there.

        Raises:
            KeyError: There is none such.
            ValueError: A path is given without a domain, or a name without both.
        """
        if (path is not None and domain is None) or (name is not None and path is None):
            raise ValueError("cookies are cleared by domain, by domain and path, or by domain, path and name")
        if domain is None:
            self._index = None
            return
        cookies = self._find(name, domain, path)
        if not cookies:
            raise KeyError(f"no cookie has domain={domain!r}, path={path!r}, name={name!r}")
        for cookie in cookies:
            self._drop(cookie)

    def clear_expired(self, now: float) -> None:
        """Remove the cookies that have expired by `now`, in wall seconds."""
        for cookie in self:
            if cookie.is_expired(now):
                self._drop(cookie)

    def clear_expired_cookies(self) -> None:
        """Remove the cookies that have expired."""
        self.clear_expired(SYSTEM_CLOCK.wall())

    def clear_session_cookies(self) -> None:
        """Remove the cookies that have no expiry."""
        for cookie in self:
            if cookie.expires is None:
                self._drop(cookie)

    def _drop(self, cookie: Cookie) -> None:
        if self._index is not None:
            self._index.drop(cookie)

    # --- as a mapping ---

    def __iter__(self) -> Iterator[Cookie]:
        """The cookies, by domain; the jar may be changed meanwhile."""
        return iter([] if self._index is None else [kept.cookie for kept in self._index])

    def __len__(self) -> int:
        return 0 if self._index is None else self._index.count

    def __contains__(self, name: object) -> bool:
        return any(cookie.name == name for cookie in self)

    def __eq__(self, other: object) -> bool:
        """Whether another jar has the same cookies, or a mapping the same names and values."""
        if isinstance(other, CookieJar):
            return set(self) == set(other)
        return self.get_dict() == dict(other.items()) if isinstance(other, Mapping) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # mutable

    def _find(self, name: str | None, domain: str | None = None, path: str | None = None) -> list[Cookie]:
        cookies: Iterable[Cookie] = self
        if domain is not None:
            kept = {} if self._index is None else self._index.domains.get(_canonical(domain), {})
            cookies = [each.cookie for each in kept.values()]
        return [
            cookie
            for cookie in cookies
            if (name is None or cookie.name == name) and (path is None or cookie.path == path)
        ]

    def _the_one(self, name: str, domain: str | None = None, path: str | None = None) -> Cookie:
        found = self._find(name, domain, path)
        if not found:
            raise KeyError(f"no cookie has name={name!r}, domain={domain!r}, path={path!r}")
        if len(found) > 1:
            places = ", ".join(f"{cookie.domain or '(every host)'}{cookie.path}" for cookie in found)
            raise CookieConflictError(f"{len(found)} cookies are named {name!r}, at {places}: say which one")
        return found[0]

    def get(
        self, name: str, default: str | None = None, domain: str | None = None, path: str | None = None
    ) -> str | None:
        """The value of the cookie of that name, domain, path; `CookieConflictError` if there are two."""
        try:
            return self._the_one(name, domain, path).value
        except KeyError:
            return default

    def __getitem__(self, name: str) -> str:
        return self._the_one(name).value

    def __setitem__(self, name: str, value: Value) -> None:
        self.set(name, value)

    def __delitem__(self, name: str) -> None:
        """Remove every cookie of that name; as in requests, it is no error if there is none."""
        self.set(name, None)

    def pop(self, name: str, default: str | None = _UNSET) -> str | None:
        """Remove the cookie of that name and return its value; raises as `get`, or `KeyError`, as dicts do."""
        try:
            cookie = self._the_one(name)
        except KeyError:
            if default is _UNSET:
                raise
            return default
        self._drop(cookie)
        return cookie.value

    def setdefault(self, name: str, default: Value = None) -> str | None:
        """The value of the cookie of that name, which is set to `default` if there is none; raises as `get`."""
        if name not in self:
            self.set(name, default)
        return self.get(name)

    def keys(self) -> list[str]:
        """The names, one for each cookie."""
        return [cookie.name for cookie in self]

    def values(self) -> list[str]:
        """The values, one for each cookie."""
        return [cookie.value for cookie in self]

    def items(self) -> list[tuple[str, str]]:
        """Name and value of each cookie."""
        return [(cookie.name, cookie.value) for cookie in self]

    def iterkeys(self) -> Iterator[str]:
        """`keys`, one by one."""
        return iter(self.keys())

    def itervalues(self) -> Iterator[str]:
        """`values`, one by one."""
        return iter(self.values())

    def iteritems(self) -> Iterator[tuple[str, str]]:
        """`items`, one by one."""
        return iter(self.items())

    def get_dict(self, domain: str | None = None, path: str | None = None) -> dict[str, str]:
        """Names and values of the cookies of that domain and path; of two with one name, either."""
        return {cookie.name: cookie.value for cookie in self._find(None, domain, path)}

    def list_domains(self) -> list[str]:
        """The domains that have cookies, each once."""
        return [] if self._index is None else list(self._index.domains)

    def list_paths(self) -> list[str]:
        """The paths that have cookies, each once."""
        return list(dict.fromkeys(cookie.path for cookie in self))

    def multiple_domains(self) -> bool:
        """Whether the cookies are of more than one domain."""
        return len(self.list_domains()) > 1

    def update(self, other: Cookies) -> None:
        """Set the cookies of another jar, or names and values; raises as `set` does."""
        if isinstance(other, CookieJar | http.cookiejar.CookieJar):
            for cookie in other:
                self.set_cookie(cookie)
        else:
            for name, value in _pairs(other).items():
                self.set(name, value)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self)} cookies of {len(self.list_domains())} domains>"

    # --- to and from elsewhere ---

    @classmethod
    def from_mapping(cls, cookies: Cookies | None) -> CookieJar:
        """A new jar with the cookies of a dict, of pairs, or of another jar, `http.cookiejar`'s included."""
        jar = cls()
        if cookies is not None:
            jar.update(cookies)
        return jar

    def to_cookiejar(self, jar: http.cookiejar.CookieJar | None = None) -> http.cookiejar.CookieJar:
        """A jar of the standard library with these cookies: the one given, such as an `LWPCookieJar`, or a new one."""
        jar = http.cookiejar.CookieJar() if jar is None else jar
        for cookie in self:
            jar.set_cookie(_to_foreign(cookie))
        return jar

    def copy(self) -> CookieJar:
        """An independent jar with the same cookies and the same policy."""
        restore, arguments = self.__reduce__()
        return restore(*arguments)

    def __reduce__(self) -> tuple[Callable[..., CookieJar], tuple[_Snapshot, http.cookiejar.CookiePolicy | None]]:
        kept = () if self._index is None else self._index
        return _restore, ([(k.cookie, k.accessed) for k in kept], self._policy)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Set the cookies of a Netscape `cookies.txt`, as curl, wget and browser extensions write it.

        Raises:
            OSError: It cannot be read.
            ValueError: A line, which the message names, is not of that format; no cookie was set.
        """
        cookies = []
        text = Path(path).read_text("latin-1").removeprefix("\xef\xbb\xbf")  # a byte order mark of UTF-8
        for number, line in enumerate(text.split("\n"), 1):
            try:
                cookies += [_sendable(cookie) for cookie in _from_netscape(line.rstrip("\r"))]
            except (ValueError, OverflowError) as error:
                raise ValueError(f"{os.fspath(path)}, line {number}: {error}") from error
        for cookie in cookies:
            self.set_cookie(cookie)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all cookies to a Netscape `cookies.txt` that only its owner may read; raises `OSError`.

        It takes the place of a file that was there when it is complete, so that nobody ever reads half of one.
        Session cookies are written too. The format has no place for SameSite and creation times (pickling
        keeps them), nor for a tab in a name or path: a cookie with one is left out.
        """
        place = Path(path).resolve()  # where a symbolic link leads, so that it stays one
        descriptor, draft = tempfile.mkstemp(prefix=f"{place.name}.", dir=place.parent)  # its mode is 600
        try:
            with os.fdopen(descriptor, "w", encoding="latin-1", newline="\n") as file:
                file.write("# Netscape HTTP Cookie File\n")
                file.writelines(_to_netscape(cookie) for cookie in self if "\t" not in cookie.name + cookie.path)
            Path(draft).replace(place)
        except BaseException:
            Path(draft).unlink(missing_ok=True)
            raise


RequestsCookieJar = CookieJar  # under the name that requests' users import


def as_jar(cookies: Any) -> CookieJar:
    """A jar from what a user may give: a jar, a mapping, or an `http.cookiejar.CookieJar`."""
    return cookies if isinstance(cookies, CookieJar) else CookieJar.from_mapping(cookies)


def create_cookie(
    name: str,
    value: str,
    domain: str | None = None,
    path: str | None = None,
    secure: bool = False,
    expires: float | None = None,
    http_only: bool = False,
    same_site: SameSite | None = None,
    host_only: bool = False,
    **foreign: Any,
) -> Cookie:
    """A cookie as one sets it by hand, for `CookieJar.set_cookie`.

    Args:
        name: Text that a header can carry: Latin-1, no control characters; neither ";" nor "=".
        value: The same, but "=" is allowed.
        domain: May be an international name. Left out or empty: the cookie goes to every host.
        path: Starts with "/", which is the default.
        secure: Whether it is sent over secure connections only.
        expires: Wall seconds; `None` means the end of the session.
        http_only: Kept.
        same_site: Kept.
        host_only: Whether hosts below the domain do not get it.
        foreign: What else `http.cookiejar` and requests know: of `rest`, HttpOnly and SameSite are heeded; a `port` is
            refused; version, discard, comment, comment_url and rfc2109 mean nothing since RFC 6265.

    Raises:
        ValueError: A port is given.
        TypeError: No attribute is called that.
    """
    if unknown := sorted(foreign.keys() - _FOREIGN):
        raise TypeError(f"a cookie has no attribute {unknown[0]!r}")
    if foreign.get("port") is not None:
        raise ValueError(
            f"cookie {name!r} is for port {foreign['port']}; since RFC 6265 cookies go to all ports of a host"
        )
    rest = {key.lower(): given for key, given in (foreign.get("rest") or {}).items()}
    http_only = http_only or rest.get("httponly", False) is not False
    same_site = same_site or _SAME_SITE.get(str(rest.get("samesite") or "").lower())
    path = "/" if path is None else path
    return Cookie(name, value, domain or "", path, expires, bool(secure), http_only, same_site, host_only)


_FOREIGN: Final = frozenset({"comment", "comment_url", "discard", "port", "rest", "rfc2109", "version"})


def morsel_to_cookie(morsel: Morsel[Any]) -> Cookie:
    """A cookie from one of `http.cookies.SimpleCookie`.

    Raises:
        TypeError: Its Max-Age is no whole number, as in requests.
    """
    age, expires = morsel["max-age"], parse_date(str(morsel["expires"]))
    if age != "":
        if not _MAX_AGE.fullmatch(str(age)):
            raise TypeError(f"the Max-Age of cookie {morsel.key!r} must be a whole number; got {age!r}")
        expires = SYSTEM_CLOCK.wall() + int(age)
    return create_cookie(
        morsel.key,
        morsel.value,
        morsel["domain"],
        morsel["path"] or "/",
        bool(morsel["secure"]),
        expires,
        bool(morsel["httponly"]),
        _SAME_SITE.get(morsel["samesite"].lower()),
    )


def cookiejar_from_dict(
    cookie_dict: Mapping[str, Value] | None, cookiejar: CookieJar | None = None, overwrite: bool = True
) -> CookieJar:
    """Set names and values in a jar, by default a new one; without `overwrite`, only those it has not."""
    if isinstance(cookie_dict, CookieJar | http.cookiejar.CookieJar):
        raise TypeError(
            "cookiejar_from_dict takes names and values; of a jar they would go to every host: update() a jar"
        )
    jar = CookieJar() if cookiejar is None else cookiejar
    present = () if overwrite else frozenset(jar.keys())
    jar.update({name: value for name, value in _pairs(cookie_dict or {}).items() if name not in present})
    return jar


def merge_cookies(cookiejar: CookieJar, cookies: Cookies | None) -> CookieJar:
    """Add cookies to a jar, and return it: of a mapping, as in requests, only those whose names it has not.

    Raises:
        ValueError: `cookiejar` is not a jar of this library.
    """
    if not isinstance(cookiejar, CookieJar):
        raise ValueError(f"cookies can be merged into a sessionpool CookieJar only; got {type(cookiejar).__name__}")
    if isinstance(cookies, Mapping) and not isinstance(cookies, http.cookiejar.CookieJar):
        return cookiejar_from_dict(cookies, cookiejar, overwrite=False)
    if cookies is not None:
        cookiejar.update(cookies)
    return cookiejar


def remove_cookie_by_name(cookiejar: CookieJar, name: str, domain: str | None = None, path: str | None = None) -> None:
    """Remove the cookies of that name, from all domains and paths that are not given."""
    cookiejar.set(name, None, domain, path)


def extract_cookies_to_jar(jar: CookieJar, request: Any, response: Any) -> None:
    """Take in the cookies that a response, or its `raw`, sets in answer to a request, which need only have a `url`."""
    jar._store_all(getattr(response, "raw", response).headers.getlist("Set-Cookie"), request.url)


def get_cookie_header(jar: Cookies, request: Any) -> str | None:
    """What a jar sends with a request, which need only have a `url`; `None` if nothing."""
    jar = jar if isinstance(jar, CookieJar) else CookieJar.from_mapping(jar)
    return jar.header(*_place(request.url), SYSTEM_CLOCK.wall())


def _place(url: str) -> tuple[str, str, bool]:
    """Host, path, and whether it is secure: what a jar asks of a URL."""
    parts = _wire.split_url(url)
    return (parts.host or "").strip("[]"), parts.path or "/", parts.scheme == "https"


def _request(host: str, path: str, secure: bool) -> urllib.request.Request:
    """What a policy of the standard library is asked about."""
    url = f"{'https' if secure else 'http'}://{f'[{host}]' if ':' in host else host}{path}"
    return urllib.request.Request(url)  # noqa: S310 - it is not opened


def _pairs(cookies: Any) -> Mapping[str, Value]:
    """Names and values, as users may write them down."""
    if isinstance(cookies, Mapping):
        return cookies
    wanted = f"cookies must be a mapping of names to values, pairs of those, or a jar; got {type(cookies).__name__}"
    if isinstance(cookies, str | bytes):
        raise TypeError(wanted)
    try:
        return dict(cookies)
    except (TypeError, ValueError):
        raise TypeError(wanted) from None


def _restore(snapshot: _Snapshot, policy: http.cookiejar.CookiePolicy | None = None) -> CookieJar:
    jar = CookieJar(policy)
    if snapshot:
        jar._index = _Index()
        for cookie, accessed in snapshot:
            jar._index.put(cookie, accessed)
    return jar


# With these the server would read another cookie, or another header, than was set.
_UNSENDABLE: Final = {
    "name": re.compile(f"{_NOT_OCTETS}|[;=]"),
    "value": re.compile(f"{_NOT_OCTETS}|;"),
    "path": re.compile(f"{_NOT_OCTETS}|;|^[^/]"),
    "domain": re.compile(r"[\0-\x20/?#@;,\\\x7f]|^[^:]*:(?=[^:]*$)"),  # and no port
}


def _sendable(cookie: Cookie) -> Cookie:
    """A cookie set by hand, with its domain made canonical; raises as `CookieJar.set` does."""
    for what, unsendable in _UNSENDABLE.items():
        text = getattr(cookie, what)
        if not isinstance(text, str):
            raise TypeError(f"the {what} of cookie {cookie.name!r} must be a str; got {type(text).__name__}")
        if found := unsendable.search(text):  # The text may be a secret, so only the character is shown.
            wrong = f"{found[0][-1]!r} at position {found.end() - 1}"
            raise ValueError(f"the {what} of cookie {cookie.name!r} cannot be sent, because of {wrong}")
    if not isinstance(cookie.expires, float | int | None) or cookie.expires != cookie.expires:
        raise TypeError(f"the expiry of cookie {cookie.name!r} must be wall seconds; got {cookie.expires!r}")
    if not (cookie.name or cookie.value):
        raise ValueError("a cookie has neither name nor value")
    if not cookie.path:
        raise ValueError(f"the path of cookie {cookie.name!r} is empty")
    domain = _canonical(cookie.domain)
    return attrs.evolve(cookie, domain=domain, host_only=cookie.host_only and bool(domain))


# --- http.cookiejar ---


def _from_foreign(cookie: http.cookiejar.Cookie) -> Cookie:
    name, value = (cookie.name, cookie.value) if cookie.value is not None else ("", cookie.name)
    return create_cookie(
        name,
        value,
        # There, a host without a dot is kept as if it were below "local".
        domain="localhost" if cookie.domain == "localhost.local" else cookie.domain,
        path=cookie.path or "/",
        secure=cookie.secure,
        expires=cookie.expires,
        host_only=not cookie.domain_specified,
        rest=cookie._rest,  # type: ignore[attr-defined]  # its questions would need the server's spelling
    )


def _to_foreign(cookie: Cookie) -> http.cookiejar.Cookie:
    domain = cookie.domain
    if domain and "." not in domain and ":" not in domain:
        domain += ".local"
    below = bool(domain) and not cookie.host_only
    # As servers spell it, and as `MozillaCookieJar.save` does.
    rest = {"HttpOnly": "", "HTTPOnly": ""} if cookie.http_only else {}
    return http.cookiejar.Cookie(
        version=0,
        name=cookie.name or cookie.value,
        value=cookie.value if cookie.name else None,
        port=None,
        port_specified=False,
        domain="." + domain if below else domain,
        domain_specified=below,
        domain_initial_dot=below,
        path=cookie.path,
        path_specified=True,
        secure=cookie.secure,
        expires=None if cookie.expires is None else int(cookie.expires),
        discard=cookie.expires is None,
        comment=None,
        comment_url=None,
        rest=rest if cookie.same_site is None else rest | {"SameSite": cookie.same_site},
    )


# --- cookies.txt: domain, whether hosts below get it, path, secure, expiry (0: session), name, value ---

_HTTP_ONLY: Final = "#HttpOnly_"


def _from_netscape(line: str) -> list[Cookie]:
    """The cookie of a line; none for a blank one or a comment."""
    text = line.removeprefix(_HTTP_ONLY)
    if text.startswith("#") or not text.strip():
        return []
    fields = text.split("\t", 6)
    if len(fields) == 6:
        fields.append("")  # Some writers lose the tab before an empty value.
    if len(fields) != 7:
        raise ValueError(f"expected 7 fields with tabs between, found {len(fields)}")
    domain, below, path, secure, expiry, name, value = fields
    return [
        Cookie(
            name=name,
            value=value,
            domain=domain,
            path=path,
            expires=int(float(expiry or 0)) or None,
            secure=secure.upper() == "TRUE",
            http_only=text != line,
            host_only=below.upper() != "TRUE",
        )
    ]


def _to_netscape(cookie: Cookie) -> str:
    below = bool(cookie.domain) and not cookie.host_only
    fields = (
        (_HTTP_ONLY if cookie.http_only else "") + ("." if below else "") + cookie.domain,
        "TRUE" if below else "FALSE",
        cookie.path,
        "TRUE" if cookie.secure else "FALSE",
        "0" if cookie.expires is None else str(max(1, int(cookie.expires))),
        cookie.name,
        cookie.value,
    )
    return "\t".join(fields) + "\n"
