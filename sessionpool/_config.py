"""What a user may set: frozen, validated when built, never corrected in silence. All classes are immutable."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from types import NoneType
from typing import Any

import attrs


def _number(minimum: float, *, exclusive: bool = False, integer: bool = False) -> Callable[..., None]:
    """A validator: a number at least (or above) `minimum`; `None` passes where the field's default allows it."""
    kind = "a whole number" if integer else "a number"
    bound = f"above {minimum:g}" if exclusive else f"of at least {minimum:g}"

    def check(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value is None and "None" in str(attribute.type):
            return
        right_type = isinstance(value, int if integer else (int, float)) and not isinstance(value, bool)
        if not right_type or math.isnan(value) or value < minimum or (exclusive and value == minimum):
            where = f"{type(instance).__name__}.{attribute.name}"
            optional = ", or None for no limit" if "None" in str(attribute.type) else ""
            raise ValueError(f"{where} must be {kind} {bound}{optional}; got {value!r}")

    return check


def _lower_keys(value: Any) -> Any:
    """A mapping with its names in lower case, as hosts are compared; anything else is left to the validator."""
    if not isinstance(value, Mapping):
        return value
    return {name.lower() if isinstance(name, str) else name: limit for name, limit in value.items()}


@attrs.frozen(kw_only=True)
class Limits:
    """How many connections may be open at once, how long one may be kept, and how large a body may be.

    Attributes:
        per_host: Connections open to one host (scheme, host, port, proxy) at once, idle ones included.
        total: Connections open to all hosts together. When it binds, the coldest idle connection is closed for the
            host that needs one, and waiting hosts are served in turn.
        sessions: Sessions leased at once; `None` for no limit.
        waiting: Threads that may wait for a connection at once; one more gets `PoolQueueFull`. `None` for no limit.
        idle: Seconds a connection may lie idle and still be reused; keep it below the server's own (RFC 9112 §9.5).
            A server's `Keep-Alive: timeout=` shortens it.
        lifetime: Seconds a connection is kept in all, less up to a tenth at random so that connections opened
            together do not all end together.
        max_uses: Requests a connection may carry; `None` for no limit.
        overrides: `per_host` for some hosts: `{"api.example.com": 2, ".example.org": 20}`; a name with a leading dot
            stands for every host below it, the longest match wins.
        max_body: Bytes of a body, as it comes and decoded, streamed or not; a larger one is `BodyTooLarge`, at once
            where its length is told. `None`, as in requests, for no limit.
        max_ratio: How many times larger than it came a body may grow by decoding, once it has more than 32 MiB; one
            that grows more is `BodyTooLarge`. `None` for no limit.
    """

    per_host: int = attrs.field(default=10, validator=_number(1, integer=True))
    total: int = attrs.field(default=100, validator=_number(1, integer=True))
    sessions: int | None = attrs.field(default=None, validator=_number(1, integer=True))
    waiting: int | None = attrs.field(default=None, validator=_number(0, integer=True))
    idle: float = attrs.field(default=60.0, validator=_number(0, exclusive=True))
    lifetime: float = attrs.field(default=600.0, validator=_number(0, exclusive=True))
    max_uses: int | None = attrs.field(default=None, validator=_number(1, integer=True))
    overrides: Mapping[str, int] = attrs.field(factory=dict, converter=_lower_keys)
    max_body: int | None = attrs.field(default=None, validator=_number(0, integer=True))
    # Text shrinks to a tenth, the most repetitive logs to a hundredth. Apache httpd stops at 200 as well, Envoy at 100.
    # Deflate's own end is at 1032, brotli's and zstd's far beyond: a bound near it would let through the usual bombs.
    max_ratio: float | None = attrs.field(default=200.0, validator=_number(1))

    @overrides.validator
    def _check_overrides(self, _: attrs.Attribute[Any], value: Mapping[str, int]) -> None:
        if not isinstance(value, Mapping):
            raise ValueError(f"Limits.overrides must be a mapping such as {{'example.com': 2}}; got {value!r}")
        for host, limit in value.items():
            port = isinstance(host, str) and host.count(":") == 1
            if not isinstance(host, str) or not host.strip(".") or "/" in host or port:
                raise ValueError(f"Limits.overrides maps host names such as 'example.com'; got {host!r}")
            if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
                raise ValueError(f"Limits.overrides[{host!r}] must be a whole number of at least 1; got {limit!r}")

    def for_host(self, host: str) -> int:
        """The most connections that may be open to `host`, a bare lower-case name or address."""
        if not self.overrides:
            return self.per_host
        exact = self.overrides.get(host)
        if exact is not None:
            return exact
        suffixes = [name for name in self.overrides if name.startswith(".") and host.endswith(name)]
        return self.overrides[max(suffixes, key=len)] if suffixes else self.per_host


@attrs.frozen(kw_only=True)
class Timeout:
    """How long each step may take, in seconds; `None` means no limit.

    Attributes:
        connect: From the first packet to a connection ready for use, TLS and proxy included.
        read: Between two arrivals of bytes (and for each piece that is sent).
        total: One deadline over everything: waiting, connecting, redirects, and the body.
        pool: Waiting for a connection or a session to come free.
    """

    connect: float | None = attrs.field(default=5.0, validator=_number(0, exclusive=True))
    read: float | None = attrs.field(default=30.0, validator=_number(0, exclusive=True))
    total: float | None = attrs.field(default=None, validator=_number(0, exclusive=True))
    pool: float | None = attrs.field(default=30.0, validator=_number(0))

    def override(self, value: object) -> Timeout:
        """This timeout with what one call asks for: a `Timeout`, or requests' float or `(connect, read)` pair.

        Raises:
            ValueError: It is none of these, or a number in it is not above 0.
        """
        if isinstance(value, Timeout):
            return value
        if isinstance(value, tuple) and len(value) == 2:
            hashable = all(isinstance(each, (int, float, NoneType)) for each in value)
            return (_with_pair if hashable else _with_pair.__wrapped__)(self, *value)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return _with_pair(self, value, value)
        named = ", which names no limit: write Timeout(read=10)" if isinstance(value, Exception) else ""
        raise ValueError(
            "timeout must be seconds, a (connect, read) pair of seconds, or a sessionpool.Timeout; "
            f"got {value!r}{named}"
        )


@functools.lru_cache(
    maxsize=256, typed=True
)  # a call site passes the same numbers again and again; validating costs 5 µs
def _with_pair(base: Timeout, connect: float | None, read: float | None) -> Timeout:
    return attrs.evolve(base, connect=connect, read=read)


def _not_below(other: str) -> Callable[..., None]:
    """A validator: at least what another field is, which stands before it and so has been checked."""

    def check(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
        least = getattr(instance, other)
        if value < least:
            name = type(instance).__name__
            raise ValueError(f"{name}.{attribute.name} must not be below {name}.{other}, {least!r}; got {value!r}")

    return check


def _instance(kind: type) -> Callable[..., None]:
    """A validator: one of the settings classes here, or `None`."""

    def check(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value is not None and not isinstance(value, kind):
            where = f"{type(instance).__name__}.{attribute.name}"
            raise ValueError(f"{where} must be a sessionpool.{kind.__name__}, or None; got {value!r}")

    return check


def _is_bool(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"{type(instance).__name__}.{attribute.name} must be True or False; got {value!r}")


@attrs.frozen(kw_only=True)
class RateLimit:
    """How often a host may be asked.

    Attributes:
        rate: Requests per second, retries and redirects included; at least one in a million seconds.
        burst: Requests that may go at once after a pause: in no window of `w` seconds more than `burst + rate * w`.
    """

    rate: float = attrs.field(validator=_number(1e-6))
    burst: int = attrs.field(default=1, validator=_number(1, integer=True))


@attrs.frozen(kw_only=True)
class AutoThrottle:
    """A pause between the requests to a host that follows its latency: a host that slows down is asked less often.

    The pause is such that `concurrency` requests are under way on average: the latency divided by it. It grows to that
    at once and shrinks by half the difference with each answer; answers other than 2xx and 3xx do not shorten it.

    Attributes:
        concurrency: Requests under way at the host, on average.
        start: Seconds between the first requests, where `least` and `most` allow that.
        least: Seconds, never less.
        most: Seconds, never more.
    """

    concurrency: float = attrs.field(default=1.0, validator=_number(0, exclusive=True))
    start: float = attrs.field(default=1.0, validator=_number(0))
    least: float = attrs.field(default=0.0, validator=_number(0))
    most: float = attrs.field(default=60.0, validator=[_number(0, exclusive=True), _not_below("least")])


@attrs.frozen(kw_only=True)
class AdaptiveConcurrency:
    """A limit on a host's connections that halves when it is overloaded (429, 503, time-outs) and grows back.

    It starts from, and grows back to, what `Limits` allows: by one for as many good answers as it is high.

    Attributes:
        least: Connections, never fewer.
    """

    least: int = attrs.field(default=1, validator=_number(1, integer=True))


@attrs.frozen(kw_only=True)
class CircuitBreaker:
    """A host that keeps failing is left alone for a while: requests to it fail at once, with `CircuitOpenError`.

    Failures are connections that cannot be had or break, time-outs, and the statuses 500, 502, 503 and 504. When its
    time is over one request is let through as a probe: a good answer closes the circuit, a failure opens it again. Once
    it is closed the host gets one connection, and twice as many with each good answer, up to what `Limits` allows.

    Attributes:
        failures: Failures in a row that open it; `None`: no matter how many.
        rate: Share of failures, up to 1, among the requests of the last `window` seconds that opens it; `None`: no
            matter. One of `failures` and `rate` is to be given.
        window: Seconds.
        requests: How many requests there must be in the window for `rate` to count.
        open: Seconds that it stays open the first time; the second time twice that, the third three times, less up to
            a fifth at random. A circuit that was then closed for as long as it had been open begins anew.
        most: Seconds, never longer.
    """

    failures: int | None = attrs.field(default=5, validator=_number(1, integer=True))
    rate: float | None = attrs.field(default=None, validator=_number(0, exclusive=True))
    window: float = attrs.field(default=10.0, validator=_number(0, exclusive=True))
    requests: int = attrs.field(default=20, validator=_number(1, integer=True))
    open: float = attrs.field(default=30.0, validator=_number(0, exclusive=True))
    most: float = attrs.field(default=300.0, validator=[_number(0, exclusive=True), _not_below("open")])

    @rate.validator
    def _check_rate(self, _: attrs.Attribute[Any], value: float | None) -> None:
        if value is not None and value > 1:
            raise ValueError(f"CircuitBreaker.rate must be a share, of at most 1; got {value!r}")
        if value is None and self.failures is None:
            raise ValueError("CircuitBreaker needs failures or rate, or nothing would ever open the circuit")


@attrs.frozen(kw_only=True)
class Governor:
    """How hosts are protected, each for itself; all but `cool_down` is off unless asked for.

    Attributes:
        cool_down: A host that says when it wants to be asked again (`Retry-After` with 429 or 503, `RateLimit`) is left
            alone until then, by all threads: requests wait, but no longer than their policy's `retry_after_max` (60
            seconds without a policy) and their `Timeout.total`.
        cool_down_max: Seconds after which it is asked again, however long it wants.
        rate: See `RateLimit`.
        throttle: See `AutoThrottle`.
        concurrency: See `AdaptiveConcurrency`.
        circuit: See `CircuitBreaker`.
        hosts: How many hosts are remembered; the one that was asked longest ago is forgotten first.
    """

    cool_down: bool = attrs.field(default=True, validator=_is_bool)
    cool_down_max: float = attrs.field(default=300.0, validator=_number(0, exclusive=True))
    rate: RateLimit | None = attrs.field(default=None, validator=_instance(RateLimit))
    throttle: AutoThrottle | None = attrs.field(default=None, validator=_instance(AutoThrottle))
    concurrency: AdaptiveConcurrency | None = attrs.field(default=None, validator=_instance(AdaptiveConcurrency))
    circuit: CircuitBreaker | None = attrs.field(default=None, validator=_instance(CircuitBreaker))
    hosts: int = attrs.field(default=10_000, validator=_number(1, integer=True))
