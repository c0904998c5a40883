"""Which proxy a session goes through, and which ones are left alone for a while.

A gateway behind one address may choose its exit anew for each connection. So a connection through a rotation's proxy
belongs to one session: the route's `partition` keeps the others from it, while all of them share the limit per host.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import threading
from collections.abc import Hashable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Literal

import attrs

from sessionpool import _wire
from sessionpool._clock import seconds
from sessionpool._connection import PROXY_PORTS
from sessionpool.exceptions import ConnectTimeout, InvalidURL, ProxyError

# Stands for the rotation's proxy where proxies are chosen from mappings; being no URL, it cannot be one of a user's.
ROTATED: Final = "the rotation's"
EVERYWHERE: Final[Mapping[str, str]] = MappingProxyType({"all": ROTATED})

_WAYS: Final = ("round robin", "sticky", "tiered")


@attrs.define(eq=False)
class _Proxy:
    """One proxy, as all sessions see it; written under the rotation's lock.

    Attributes:
        url: With user and password.
        failures: In a row.
        until: The instant until which it is left alone.
    """

    url: str = attrs.field(repr=False)
    failures: int = 0
    until: float = -math.inf


class ProxyRotation:
    """Gives each session of a pool a proxy of its own: `SessionPool(proxies=ProxyRotation([...]))`. Thread-safe.

    A session gets its proxy with its first request and keeps it, for http and https. Its connections are no other
    session's, because many a proxy chooses its exit by the connection. What `proxies=` of a call or `Session.proxies`
    say goes first; the environment's proxies do not count.

    A proxy that lets nobody through (`ProxyError`, `ConnectTimeout`, status 407) so many times in a row, retries
    counted, is left alone for a while, and its sessions take another with their next request. When none is left,
    requests raise `ProxyError`. One that answers, and be it that a host cannot be reached (502 to CONNECT), works.

    Args:
        proxies: URLs, which may hold user and password; for "tiered" a list of lists of URLs, the cheapest first.
        by: "round robin": each new session takes the next one. "sticky": an identity has the same one in every lease
            and every process, chosen by the `repr` of its key, as long as that is not left alone; sessions of no key
            take turns. "tiered": new sessions take turns at the first tier; one that is retired because it was blocked
            (by status, by `mark_bad`, by hand) is replaced by one at the next tier.
        max_failures: Failures in a row after which a proxy is left alone.
        rest: Seconds that it is left alone; `None` for good.

    Raises:
        ValueError: A setting is not what it must be.
    """

    def __init__(
        self,
        proxies: Sequence[str] | Sequence[Sequence[str]],
        *,
        by: Literal["round robin", "sticky", "tiered"] = "round robin",
        max_failures: int = 3,
        rest: float | None = 300.0,
    ) -> None:
        if by not in _WAYS:
            raise ValueError(f"ProxyRotation.by must be one of {', '.join(map(repr, _WAYS))}; got {by!r}")
        if type(max_failures) is not int or max_failures < 1:
            raise ValueError(f"ProxyRotation.max_failures must be a whole number of at least 1; got {max_failures!r}")
        if rest is not None and (type(rest) not in (int, float) or not rest > 0):
            raise ValueError(f"ProxyRotation.rest must be a number above 0, or None for good; got {rest!r}")
        self._tiers = [[_Proxy(_checked(url)) for url in tier] for tier in _as_tiers(proxies, tiered=by == "tiered")]
        urls = [proxy.url for proxy in itertools.chain(*self._tiers)]
        if len(set(urls)) < len(urls):
            twice = next(url for url in urls if urls.count(url) > 1)
            raise ValueError(f"ProxyRotation.proxies must name each proxy once; twice: {_wire.redacted(twice)!r}")
        self._by = by
        self._max_failures = max_failures
        self._rest = math.inf if rest is None else rest
        self._turns = [0] * len(self._tiers)
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<ProxyRotation {self._by}, proxies: {sum(map(len, self._tiers))}>"

    def admit(self, key: Hashable, tier: int = 0) -> Passage:
        """The passage of a new session, whose proxy is chosen when it is needed."""
        return Passage(self, key, min(tier, len(self._tiers) - 1))

    def choose(self, key: Hashable, tier: int, now: float) -> _Proxy:
        """A proxy that is not left alone, of this tier or else of the nearest above, or else of the nearest below.

        Raises:
            ProxyError: There is none.
        """
        for level in (*range(tier, len(self._tiers)), *range(tier - 1, -1, -1)):
            if self._by == "sticky" and key is not None:
                proxy = _favourite(repr(key), [each for each in self._tiers[level] if each.until <= now])
            else:
                proxy = self._next(level, now)
            if proxy is not None:
                return proxy
        back = min(each.until for each in itertools.chain(*self._tiers)) - now
        when = "for good" if back == math.inf else f"the first for another {seconds(back)}"
        count = sum(map(len, self._tiers))
        raise ProxyError(f"no proxy is left: all {count} of the rotation failed and are left alone, {when}")

    def blame(self, proxy: _Proxy, now: float) -> float | None:
        """It let a request down; for how long it is left alone because of that, `None` if it is not."""
        with self._lock:
            if proxy.until > now:
                return None  # a request that began before it was left alone
            proxy.failures += 1
            if proxy.failures < self._max_failures:
                return None
            proxy.failures, proxy.until = 0, now + self._rest
            return self._rest

    def praise(self, proxy: _Proxy) -> None:
        """It brought an answer."""
        with self._lock:
            proxy.failures = 0

    def restart(self) -> None:
        """In a forked process the lock may be that of a thread which is not there."""
        self._lock = threading.Lock()

    def _next(self, level: int, now: float) -> _Proxy | None:
        tier = self._tiers[level]
        with self._lock:
            for _ in tier:
                proxy = tier[self._turns[level]]
                self._turns[level] = (self._turns[level] + 1) % len(tier)
                if proxy.until <= now:
                    return proxy
        return None


@attrs.define(eq=False)
class Passage:
    """One session's way through a rotation. Confined to whoever may use the session.

    Attributes:
        tier: Where its proxy is chosen from.
        partition: What its connections have in common, and no other session's; a copy's are the same.
    """

    _rotation: ProxyRotation
    _key: Hashable
    tier: int
    partition: object = attrs.field(factory=object)
    _proxy: _Proxy | None = attrs.field(default=None)

    def take(self, now: float) -> str:
        """The URL of its proxy, which is another one if that is left alone by now.

        Raises:
            ProxyError: None is left.
        """
        if self._proxy is None or self._proxy.until > now:
            self._proxy = self._rotation.choose(self._key, self.tier, now)
        return self._proxy.url

    def note(self, outcome: int | BaseException, now: float, *, is_forwarding: bool) -> tuple[str, float, str] | None:
        """A request that took this passage has ended: with this status, or with this error.

        What there is to tell, if its proxy is left alone because of that: the proxy, for how long, and why.
        """
        proxy = self._proxy
        if proxy is None:
            return None
        status = getattr(outcome, "status", None)
        if isinstance(outcome, int) and is_forwarding:
            status = outcome
        # Any other answer, such as 502 to CONNECT, is of a proxy that works, about a host that does not.
        if status == 407 or (status is None and isinstance(outcome, (ProxyError, ConnectTimeout))):
            rest = self._rotation.blame(proxy, now)
            if rest is not None:
                return _wire.redacted(proxy.url), rest, str(status or type(outcome).__name__)
        elif isinstance(outcome, (int, ProxyError)) and proxy.failures:
            self._rotation.praise(proxy)
        return None


def _as_tiers(proxies: Any, *, tiered: bool) -> list[list[str]]:
    tiers = proxies if tiered else [proxies]
    what = "lists of URLs, the cheapest first" if tiered else "a list of URLs"
    # A URL that is no list itself must not be shown: it may hold a password.
    if not _is_list(tiers) or not tiers or not all(_is_list(tier) and tier for tier in tiers):
        raise ValueError(f"ProxyRotation.proxies must be {what}, none of them empty; got {type(proxies).__name__}")
    return [list(tier) for tier in tiers]


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _checked(url: Any) -> str:
    """A proxy's URL, if it can be one.

    Raises:
        ValueError: It cannot.
    """
    wanted = "ProxyRotation.proxies must be URLs such as http://user:password@proxy.example.com:3128"
    if not isinstance(url, str):
        raise ValueError(f"{wanted}; got {type(url).__name__}")
    try:
        parts = _wire.split_url(url if "://" in url else f"http://{url}")
    except InvalidURL as error:
        raise ValueError(f"{wanted}: {error}") from None
    if parts.scheme not in PROXY_PORTS or not parts.host:
        raise ValueError(f"{wanted}; got {_wire.redacted(url)!r}")
    return url


def _favourite(name: str, proxies: list[_Proxy]) -> _Proxy | None:
    """Rendezvous hashing: when one proxy goes, only those that had it get another, and when it is back they return."""

    def weight(proxy: _Proxy) -> bytes:
        return hashlib.blake2b(f"{name}\n{proxy.url}".encode("utf-8", "surrogatepass"), digest_size=8).digest()

    return max(proxies, key=weight, default=None)
