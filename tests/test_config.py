"""What a user may set: every setting is checked when it is made, and each refusal is a sentence that says why."""

from __future__ import annotations

import math
import re
from typing import Any

import attrs
import pytest

from sessionpool import Limits, SessionPool
from sessionpool._config import AdaptiveConcurrency, AutoThrottle, CircuitBreaker, Governor, RateLimit, Timeout


def exactly(sentence: str) -> str:
    """A pattern that matches this sentence and nothing else."""
    return f"^{re.escape(sentence)}$"


def overriding(overrides: Any, **limits: Any) -> Limits:
    return Limits(overrides=overrides, **limits)


# --- defaults ---


def test_the_defaults_suit_a_crawler() -> None:
    """The numbers that the README names."""
    assert Limits() == Limits(
        per_host=10, total=100, sessions=None, waiting=None, idle=60, lifetime=600, max_uses=None, overrides={},
        max_body=None, max_ratio=200,
    )  # fmt: skip
    assert Timeout() == Timeout(connect=5, read=30, total=None, pool=30)


@pytest.mark.parametrize("settings", [Limits(), Timeout()])
def test_settings_do_not_change(settings: Any) -> None:
    """A setting is fixed once made; `attrs.evolve` makes a variant, checked like any other."""
    for field in attrs.fields(type(settings)):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(settings, field.name, 1)


@pytest.mark.parametrize("kind", [Limits, Timeout])
def test_settings_are_named(kind: Any) -> None:
    """Nobody has to count positions."""
    with pytest.raises(TypeError):
        kind(1)


def test_a_variant_is_checked_too() -> None:
    """`attrs.evolve` is no way round the rules."""
    assert attrs.evolve(Limits(total=7), per_host=3) == Limits(per_host=3, total=7)

    with pytest.raises(ValueError, match=r"^Limits.per_host must be"):
        attrs.evolve(Limits(), per_host=0)


# --- limits ---


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("per_host", 1),
        ("total", 1),
        ("sessions", 1),
        ("sessions", None),
        ("waiting", 0),
        ("waiting", None),
        ("idle", 0.001),
        ("idle", math.inf),
        ("lifetime", 1),
        ("max_uses", 1),
        ("max_uses", None),
        ("max_body", 0),
        ("max_body", None),
        ("max_ratio", 1),
        ("max_ratio", 1.5),
        ("max_ratio", None),
    ],
)
def test_limits_that_are_allowed(setting: str, value: Any) -> None:
    """The smallest and the largest of each."""
    assert getattr(Limits(**{setting: value}), setting) == value


WHOLE = "must be a whole number of at least"


@pytest.mark.parametrize(
    ("setting", "value", "sentence"),
    [
        ("per_host", 0, f"Limits.per_host {WHOLE} 1; got 0"),
        ("per_host", -3, f"Limits.per_host {WHOLE} 1; got -3"),
        ("per_host", 2.0, f"Limits.per_host {WHOLE} 1; got 2.0"),
        ("per_host", "8", f"Limits.per_host {WHOLE} 1; got '8'"),
        ("per_host", True, f"Limits.per_host {WHOLE} 1; got True"),
        ("per_host", None, f"Limits.per_host {WHOLE} 1; got None"),
        ("total", 0, f"Limits.total {WHOLE} 1; got 0"),
        ("total", None, f"Limits.total {WHOLE} 1; got None"),
        ("sessions", 0, f"Limits.sessions {WHOLE} 1, or None for no limit; got 0"),
        ("waiting", -1, f"Limits.waiting {WHOLE} 0, or None for no limit; got -1"),
        ("max_uses", 0, f"Limits.max_uses {WHOLE} 1, or None for no limit; got 0"),
        ("idle", 0, "Limits.idle must be a number above 0; got 0"),
        ("idle", math.nan, "Limits.idle must be a number above 0; got nan"),
        ("idle", None, "Limits.idle must be a number above 0; got None"),
        ("lifetime", -1.5, "Limits.lifetime must be a number above 0; got -1.5"),
        ("lifetime", "1h", "Limits.lifetime must be a number above 0; got '1h'"),
        ("max_body", -1, f"Limits.max_body {WHOLE} 0, or None for no limit; got -1"),
        ("max_body", 1e6, f"Limits.max_body {WHOLE} 0, or None for no limit; got 1000000.0"),
        ("max_ratio", 0.5, "Limits.max_ratio must be a number of at least 1, or None for no limit; got 0.5"),
        ("max_ratio", True, "Limits.max_ratio must be a number of at least 1, or None for no limit; got True"),
    ],
)
def test_limits_that_are_refused(setting: str, value: Any, sentence: str) -> None:
    """The sentence names the setting, what it must be, and what it got."""
    with pytest.raises(ValueError, match=exactly(sentence)):
        Limits(**{setting: value})


@pytest.mark.parametrize("per_host", [5, 10])
@pytest.mark.parametrize(
    ("host", "limit"),
    [
        ("api.example.com", 2),
        ("www.example.com", 20),
        ("deep.below.example.com", 20),
        ("static.cdn.example.com", 30),
        ("example.com", None),
        ("notexample.com", None),
        ("example.com.evil.org", None),
        ("127.0.0.1", 1),
        ("::1", 3),
        ("", None),
    ],
)
def test_hosts_with_limits_of_their_own(host: str, limit: int | None, per_host: int) -> None:
    """An exact name comes first, then the longest suffix, then `per_host`."""
    limits = overriding(
        {"api.example.com": 2, ".example.com": 20, ".cdn.example.com": 30, "127.0.0.1": 1, "::1": 3},
        per_host=per_host,
    )

    assert limits.for_host(host) == (per_host if limit is None else limit)


def test_the_overrides_are_the_pools_own() -> None:
    """What the caller does with the mapping later changes nothing."""
    mine = {"example.com": 2}
    limits = overriding(mine)
    mine["example.com"] = 0

    assert limits.for_host("example.com") == 2


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"": 1}, "Limits.overrides maps host names such as 'example.com'; got ''"),
        ({".": 1}, "Limits.overrides maps host names such as 'example.com'; got '.'"),
        ({"http://a.example": 1}, "Limits.overrides maps host names such as 'example.com'; got 'http://a.example'"),
        ({7: 1}, "Limits.overrides maps host names such as 'example.com'; got 7"),
        ({"a.example": 0}, "Limits.overrides['a.example'] must be a whole number of at least 1; got 0"),
        ({"a.example": 1.5}, "Limits.overrides['a.example'] must be a whole number of at least 1; got 1.5"),
        ({"a.example": True}, "Limits.overrides['a.example'] must be a whole number of at least 1; got True"),
        ({"a.example": None}, "Limits.overrides['a.example'] must be a whole number of at least 1; got None"),
    ],
)
def test_overrides_that_are_refused(overrides: Any, sentence: str) -> None:
    """A typing error is found when the pool is made, not when a host is too busy."""
    with pytest.raises(ValueError, match=exactly(sentence)):
        overriding(overrides)


@pytest.mark.parametrize("overrides", [5, None, "example.com", ["example.com"]])
def test_overrides_that_are_no_mapping(overrides: Any) -> None:
    """Also a wrong type is a `ValueError` that names the setting."""
    with pytest.raises(ValueError, match=r"^Limits.overrides"):
        overriding(overrides)


@pytest.mark.parametrize("name", ["API.example.com", ".Example.com"])
def test_the_case_of_an_override_does_not_matter(name: str) -> None:
    """Host names are compared without case (RFC 9110 §4.2.3), so a capital letter does not switch a limit off."""
    assert overriding({name: 2}).for_host("api.example.com") == 2


def test_an_override_with_a_port_is_refused() -> None:
    """A limit is by host; with a port it would never apply, and nobody would notice."""
    with pytest.raises(ValueError, match=r"^Limits.overrides maps host names .*'example.com:8080'"):
        overriding({"example.com:8080": 2})


# --- time-outs ---


@pytest.mark.parametrize("setting", ["connect", "read", "total", "pool"])
@pytest.mark.parametrize("value", [0.001, 1, 3600.5, None])
def test_timeouts_that_are_allowed(setting: str, value: float | None) -> None:
    """Seconds, whole or not, or `None` for no limit."""
    assert getattr(Timeout(**{setting: value}), setting) == value


def test_not_to_wait_at_all_is_allowed() -> None:
    """`pool=0` takes what is free and waits for nothing."""
    assert Timeout(pool=0).pool == 0


@pytest.mark.parametrize(
    ("setting", "value", "sentence"),
    [
        ("connect", 0, "Timeout.connect must be a number above 0, or None for no limit; got 0"),
        ("read", -1, "Timeout.read must be a number above 0, or None for no limit; got -1"),
        ("total", math.nan, "Timeout.total must be a number above 0, or None for no limit; got nan"),
        ("pool", -0.5, "Timeout.pool must be a number of at least 0, or None for no limit; got -0.5"),
        ("connect", "5", "Timeout.connect must be a number above 0, or None for no limit; got '5'"),
        ("read", False, "Timeout.read must be a number above 0, or None for no limit; got False"),
        ("read", (1, 2), "Timeout.read must be a number above 0, or None for no limit; got (1, 2)"),
    ],
)
def test_timeouts_that_are_refused(setting: str, value: Any, sentence: str) -> None:
    """The sentence names the setting, what it must be, and what it got."""
    with pytest.raises(ValueError, match=exactly(sentence)):
        Timeout(**{setting: value})


@pytest.mark.parametrize(
    ("value", "connect", "read"),
    [
        (7, 7, 7),
        (0.5, 0.5, 0.5),
        ((1, 2), 1, 2),
        ((None, 2.5), None, 2.5),
        ((3, None), 3, None),
        ((None, None), None, None),
    ],
)
def test_one_calls_timeout_as_in_requests(value: Any, connect: float | None, read: float | None) -> None:
    """A number is for connecting and for reading, a pair for one each; `total` and `pool` stay the pool's."""
    base = Timeout(connect=5, read=30, total=60, pool=9)

    assert base.override(value) == Timeout(connect=connect, read=read, total=60, pool=9)


def test_one_calls_timeout_in_full() -> None:
    """A `Timeout` stands as it is, for this call."""
    mine = Timeout(read=1, total=2)

    assert Timeout(connect=99).override(mine) is mine


@pytest.mark.parametrize("value", ["5", (1, 2, 3), (1,), [1, 2], True, {"read": 1}, b"5", object])
def test_one_calls_timeout_of_a_wrong_kind(value: Any) -> None:
    """Anything else is refused with what it could be."""
    sentence = f"timeout must be seconds, a (connect, read) pair of seconds, or a sessionpool.Timeout; got {value!r}"

    with pytest.raises(ValueError, match=exactly(sentence)):
        Timeout().override(value)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (0, "Timeout.connect must be a number above 0, or None for no limit; got 0"),
        (-1, "Timeout.connect must be a number above 0, or None for no limit; got -1"),
        (math.nan, "Timeout.connect must be a number above 0, or None for no limit; got nan"),
        ((1, 0), "Timeout.read must be a number above 0, or None for no limit; got 0"),
    ],
)
def test_one_calls_timeout_out_of_range(value: Any, sentence: str) -> None:
    """The sentence names the step whose number it is."""
    with pytest.raises(ValueError, match=exactly(sentence)):
        Timeout().override(value)


def test_what_is_refused_is_always_refused() -> None:
    """A pair that was allowed a moment ago does not let an equal one of a wrong type in."""
    Timeout().override((1, 5))

    with pytest.raises(ValueError, match=r"^Timeout.connect must be a number .*; got True$"):
        Timeout().override((True, 5))


@pytest.mark.parametrize("value", [("a", 1), (1, "a"), ([1], 2), (1, {})])
def test_a_pair_of_anything_is_refused_in_words(value: Any) -> None:
    """A pair of what is no number is refused, also of what cannot be hashed, in a sentence that shows what it got."""
    with pytest.raises(ValueError, match=r"^(timeout|Timeout\.connect|Timeout\.read) must be .*; got "):
        Timeout().override(value)


# --- the governor ---

GOVERNORS = [RateLimit(rate=1), AutoThrottle(), AdaptiveConcurrency(), CircuitBreaker(), Governor()]


def test_a_governor_does_nothing_that_nobody_asked_for() -> None:
    """But for what a host asks for itself; the numbers that the README names."""
    assert Governor() == Governor(
        cool_down=True, rate=None, throttle=None, concurrency=None, circuit=None, hosts=10_000
    )
    assert RateLimit(rate=2) == RateLimit(rate=2, burst=1)
    assert AutoThrottle() == AutoThrottle(concurrency=1, start=1, least=0, most=60)
    assert AdaptiveConcurrency() == AdaptiveConcurrency(least=1)
    assert CircuitBreaker() == CircuitBreaker(failures=5, rate=None, window=10, requests=20, open=30, most=300)


@pytest.mark.parametrize("settings", GOVERNORS, ids=lambda settings: type(settings).__name__)
def test_a_governors_settings_do_not_change(settings: Any) -> None:
    """Fixed once made, and named when made."""
    for field in attrs.fields(type(settings)):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(settings, field.name, 1)
    with pytest.raises(TypeError):
        type(settings)(1)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (RateLimit, {"rate": 1e-6, "burst": 1}),
        (RateLimit, {"rate": math.inf}),
        (AutoThrottle, {"concurrency": 0.5, "start": 0, "least": 2, "most": 2}),
        (AutoThrottle, {"start": 5.0, "most": math.inf}),
        (AdaptiveConcurrency, {"least": 100}),
        (CircuitBreaker, {"failures": None, "rate": 1}),
        (CircuitBreaker, {"failures": 1, "rate": 0.01, "window": math.inf, "requests": 1, "open": 5, "most": 5}),
        (Governor, {"cool_down": False, "hosts": 1, "rate": RateLimit(rate=1), "circuit": CircuitBreaker()}),
    ],
)
def test_a_governors_settings_that_are_allowed(kind: Any, settings: dict[str, Any]) -> None:
    """The smallest and the largest of each."""
    made = kind(**settings)

    assert {name: getattr(made, name) for name in settings} == settings


@pytest.mark.parametrize(
    ("kind", "settings", "sentence"),
    [
        (RateLimit, {"rate": 0}, "RateLimit.rate must be a number of at least 1e-06; got 0"),
        (RateLimit, {"rate": None}, "RateLimit.rate must be a number of at least 1e-06; got None"),
        (RateLimit, {"rate": 1, "burst": 0}, f"RateLimit.burst {WHOLE} 1; got 0"),
        (RateLimit, {"rate": 1, "burst": 1.5}, f"RateLimit.burst {WHOLE} 1; got 1.5"),
        (AutoThrottle, {"concurrency": 0}, "AutoThrottle.concurrency must be a number above 0; got 0"),
        (AutoThrottle, {"start": -1}, "AutoThrottle.start must be a number of at least 0; got -1"),
        (AutoThrottle, {"most": 0}, "AutoThrottle.most must be a number above 0; got 0"),
        (AutoThrottle, {"most": "x"}, "AutoThrottle.most must be a number above 0; got 'x'"),
        (AutoThrottle, {"least": 9, "most": 8}, "AutoThrottle.most must not be below AutoThrottle.least, 9; got 8"),
        (AdaptiveConcurrency, {"least": 0}, f"AdaptiveConcurrency.least {WHOLE} 1; got 0"),
        (CircuitBreaker, {"failures": 0}, f"CircuitBreaker.failures {WHOLE} 1, or None for no limit; got 0"),
        (CircuitBreaker, {"rate": 0}, "CircuitBreaker.rate must be a number above 0, or None for no limit; got 0"),
        (CircuitBreaker, {"rate": 50}, "CircuitBreaker.rate must be a share, of at most 1; got 50"),
        (
            CircuitBreaker,
            {"failures": None},
            "CircuitBreaker needs failures or rate, or nothing would ever open the circuit",
        ),
        (CircuitBreaker, {"open": 301}, "CircuitBreaker.most must not be below CircuitBreaker.open, 301; got 300.0"),
        (CircuitBreaker, {"window": 0}, "CircuitBreaker.window must be a number above 0; got 0"),
        (Governor, {"cool_down": 1}, "Governor.cool_down must be True or False; got 1"),
        (Governor, {"rate": 5}, "Governor.rate must be a sessionpool.RateLimit, or None; got 5"),
        (Governor, {"circuit": True}, "Governor.circuit must be a sessionpool.CircuitBreaker, or None; got True"),
        (Governor, {"throttle": 1.0}, "Governor.throttle must be a sessionpool.AutoThrottle, or None; got 1.0"),
        (Governor, {"hosts": 0}, f"Governor.hosts {WHOLE} 1; got 0"),
        (Governor, {"hosts": None}, f"Governor.hosts {WHOLE} 1; got None"),
    ],
)
def test_a_governors_settings_that_are_refused(kind: Any, settings: dict[str, Any], sentence: str) -> None:
    """The sentence names the setting, what it must be, and what it got."""
    with pytest.raises(ValueError, match=exactly(sentence)):
        kind(**settings)


# --- the pool's own ---


@pytest.mark.parametrize("workers", [0, -1, 2.5, "8", None, True])
def test_workers_that_are_refused(workers: Any) -> None:
    """A pool needs at least one worker, and so has `map`."""
    sentence = exactly(f"workers must be a whole number of at least 1; got {workers!r}")

    with pytest.raises(ValueError, match=sentence):
        SessionPool(workers=workers)
    if workers is not None:  # for `map` it stands for the pool's own number
        with SessionPool() as pool, pytest.raises(ValueError, match=sentence):
            pool.map(lambda session, item: item, [1], workers=workers)


@pytest.mark.parametrize("limits", [10, {"per_host": 3}, Timeout()])
def test_limits_of_a_wrong_kind(limits: Any) -> None:
    """The sentence shows how it is written."""
    sentence = f"limits must be a sessionpool.Limits, such as Limits(per_host=8); got {limits!r}"

    with pytest.raises(ValueError, match=exactly(sentence)):
        SessionPool(limits=limits)


@pytest.mark.parametrize("timeout", ["5", (5, 30, 60), {"read": 1}])
def test_a_pools_timeout_of_a_wrong_kind(timeout: Any) -> None:
    """A pool's timeout is found wrong when the pool is made, not when the first request is sent."""
    with pytest.raises(ValueError, match=r"timeout must be .*Timeout"):
        SessionPool(timeout=timeout)
