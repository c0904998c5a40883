"""Which proxy a session goes through: the rules in tables, on instants that are numbers."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from time import sleep
from typing import Any

import pytest

from sessionpool import Health, ProxyRotation, SessionPool
from sessionpool._proxies import Passage, _Proxy
from sessionpool.exceptions import (
    ConnectError,
    ConnectionBroken,
    ConnectTimeout,
    NotSent,
    PoolTimeout,
    ProxyError,
    ReadTimeout,
    SSLError,
)
from sessionpool.testing import FakeClock

A, B, C, D = (f"http://user:s3cret@{name}.example:3128" for name in "abcd")
TIERS = [[A, B], [C], [D]]
FAULT = ProxyError("refused")


def ask(passage: Passage, outcome: Any, now: float = 0.0, *, is_forwarding: bool = True) -> str:
    """One request: the proxy that it took."""
    url = passage.take(now)
    passage.note(outcome, now, is_forwarding=is_forwarding)
    return url


def take_out(rotation: ProxyRotation, url: str, now: float = 0.0) -> None:
    """Let a proxy fail as often as it may."""
    passage = passage_of(rotation, url, now)
    while passage.take(now) == url:
        passage.note(FAULT, now, is_forwarding=True)
        if all(proxy.until > now for tier in rotation._tiers for proxy in tier):
            return


def passage_of(rotation: ProxyRotation, url: str, now: float) -> Passage:
    """A passage that takes this proxy."""
    for tier in range(len(rotation._tiers)):
        for _ in range(10):
            passage = rotation.admit(None, tier)
            if passage.take(now) == url:
                return passage
    raise AssertionError(url)


# --- settings ---


@pytest.mark.parametrize(
    ("proxies", "settings", "sentence"),
    [
        (A, {}, "ProxyRotation.proxies must be a list of URLs, none of them empty; got str"),
        ([], {}, "ProxyRotation.proxies must be a list of URLs, none of them empty; got list"),
        ({"http": A}, {}, "ProxyRotation.proxies must be a list of URLs, none of them empty; got dict"),
        (
            [A],
            {"by": "tiered"},
            "ProxyRotation.proxies must be lists of URLs, the cheapest first, none of them empty; got list",
        ),
        (
            [[A], []],
            {"by": "tiered"},
            "ProxyRotation.proxies must be lists of URLs, the cheapest first, none of them empty; got list",
        ),
        ([A, B, A], {}, "ProxyRotation.proxies must name each proxy once; twice: 'http://a.example:3128'"),
        (
            [[A], [A]],
            {"by": "tiered"},
            "ProxyRotation.proxies must name each proxy once; twice: 'http://a.example:3128'",
        ),
        ([A], {"by": "random"}, "ProxyRotation.by must be one of 'round robin', 'sticky', 'tiered'; got 'random'"),
        ([A], {"max_failures": 0}, "ProxyRotation.max_failures must be a whole number of at least 1; got 0"),
        ([A], {"max_failures": True}, "ProxyRotation.max_failures must be a whole number of at least 1; got True"),
        ([A], {"rest": 0}, "ProxyRotation.rest must be a number above 0, or None for good; got 0"),
        ([A], {"rest": float("nan")}, "ProxyRotation.rest must be a number above 0, or None for good; got nan"),
    ],
)
def test_what_is_refused(proxies: Any, settings: Any, sentence: str) -> None:
    """The sentence names the setting and what it must be."""
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        ProxyRotation(proxies, **settings)


@pytest.mark.parametrize(
    "url",
    [
        "socks6://user:s3cret@a.example:1",
        "ftp://user:s3cret@a.example",
        "http://",
        "http://user:s3cret@",
        "http://user:s3cret@a.example:port",
        "http://user:s3cret@[::1",
        "",
        b"http://user:s3cret@a.example",
        None,
        7,
    ],
)
def test_what_is_no_proxy_is_refused_at_once(url: Any) -> None:
    """When the rotation is made, not at the first request; and no password is shown."""
    with pytest.raises(ValueError, match=r"^ProxyRotation\.proxies must be URLs such as http://") as raised:
        ProxyRotation([A, url])

    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize("url", ["a.example:3128", "http://a.example", "https://[::1]:3128", A])
def test_what_a_proxy_may_be(url: str) -> None:
    """As in `proxies=`: the scheme may be left out."""
    assert ProxyRotation([url]).admit(None).take(0.0) == url


def test_no_password_is_shown() -> None:
    """Not where a rotation, a passage or a pool is printed."""
    rotation = ProxyRotation([A, B])
    passage = rotation.admit("ada")
    passage.take(0.0)
    with SessionPool(proxies=rotation) as pool:
        shown = f"{rotation!r} {passage!r} {pool!r} {rotation._tiers!r} {pool._defaults!r}"

    assert repr(rotation) == "<ProxyRotation round robin, proxies: 2>"
    assert "s3cret" not in shown


# --- which one ---


def test_round_robin_gives_each_session_the_next() -> None:
    """In the order of the list, with a name or without; a session keeps the one it has."""
    rotation = ProxyRotation([A, B, C])
    passages = [rotation.admit(key) for key in ("ada", None, "eve", "ada", None)]

    assert [passage.take(0.0) for passage in passages] == [A, B, C, A, B]
    assert [passage.take(9.0) for passage in passages] == [A, B, C, A, B]


def test_a_session_that_asks_nothing_takes_no_turn() -> None:
    """The proxy is chosen with the first request."""
    rotation = ProxyRotation([A, B])
    idle = rotation.admit(None)

    assert [rotation.admit(None).take(0.0) for _ in range(2)] == [A, B]
    assert idle.take(0.0) == A


@pytest.mark.parametrize("key", ["ada", 7, ("ada", 7), frozenset({1}), "\udcff"])
def test_sticky_gives_a_name_the_same_every_time(key: Hashable) -> None:
    """Whatever came before, in every pool and process; the order of the list is no matter."""
    urls = [f"http://p{number}.example" for number in range(20)]
    first = ProxyRotation(urls, by="sticky").admit(key).take(0.0)
    random.Random(1).shuffle(urls)
    rotation = ProxyRotation(urls, by="sticky")
    for number in range(10):
        rotation.admit(f"somebody {number}").take(0.0)
        rotation.admit(None).take(0.0)

    assert rotation.admit(key).take(0.0) == first
    assert rotation.admit(key).take(5.0) == first


def test_sticky_is_the_same_in_every_process() -> None:
    """Not by `hash`, which differs from process to process."""
    rotation = ProxyRotation([A, B, C, D], by="sticky")

    assert [rotation.admit(f"user {number}").take(0.0) for number in range(8)] == [B, A, D, C, A, C, B, C]


def test_sticky_spreads_names() -> None:
    """Every proxy gets about its share."""
    rotation = ProxyRotation([A, B, C, D], by="sticky")
    shares = Counter(rotation.admit(number).take(0.0) for number in range(4000))

    assert set(shares) == {A, B, C, D}
    assert all(800 < share < 1200 for share in shares.values())


def test_sticky_moves_only_those_whose_proxy_is_gone() -> None:
    """They go back when it is, if they are made anew by then; a session that moved stays where it is."""
    rotation = ProxyRotation([A, B, C, D], by="sticky", rest=10)
    before = {key: rotation.admit(key).take(0.0) for key in range(200)}
    take_out(rotation, B)
    moved = {key: rotation.admit(key) for key in range(200)}
    during = {key: passage.take(5.0) for key, passage in moved.items()}

    assert B not in during.values()
    assert {key for key in before if before[key] != during[key]} == {key for key in before if before[key] == B}
    assert len({during[key] for key in before if before[key] == B}) == 3
    assert {key: rotation.admit(key).take(10.0) for key in range(200)} == before
    assert {key: passage.take(10.0) for key, passage in moved.items()} == during


def test_sticky_without_a_name_takes_turns() -> None:
    """There is nothing to choose by."""
    rotation = ProxyRotation([A, B], by="sticky")

    assert [rotation.admit(None).take(0.0) for _ in range(4)] == [A, B, A, B]


@pytest.mark.parametrize(
    ("tier", "out", "expected"),
    [
        (0, [], [A, B, A]),
        (1, [], [C, C, C]),
        (2, [], [D, D, D]),
        (3, [], [D, D, D]),
        (0, [A], [B, B, B]),
        (0, [A, B], [C, C, C]),
        (1, [C], [D, D, D]),
        (1, [C, D], [A, B, A]),
        (2, [D], [C, C, C]),
        (2, [D, C, A], [B, B, B]),
    ],
)
def test_tiers(tier: int, out: list[str], expected: list[str]) -> None:
    """Of the own tier in turn; where all of it is left alone, of the nearest above, or else of the nearest below."""
    rotation = ProxyRotation(TIERS, by="tiered", max_failures=1)
    for url in out:
        take_out(rotation, url)
    rotation._turns = [0] * 3

    assert [rotation.admit(None, tier).take(0.0) for _ in range(3)] == expected


@pytest.mark.parametrize(
    ("act", "tiers"),
    [
        (lambda session: session.retire("captcha"), [0, 1, 2, 2]),
        (lambda session: [session.mark_bad() for _ in range(3)], [0, 1, 2, 2]),
        (lambda session: session._record().note(403, 0.0), [0, 1, 2, 2]),
        (lambda session: [session._record().note(200, 0.0) for _ in range(9)], [0, 0, 0, 0]),
        (lambda session: [session._record().note(FAULT, 0.0) for _ in range(5)], [0, 0, 0, 0]),
    ],
    ids=["by hand", "score", "status", "uses", "errors"],
)
@pytest.mark.parametrize("key", ["ada", None])
def test_who_was_blocked_moves_up(key: Hashable, act: Any, tiers: list[int]) -> None:
    """One tier with each replacement, up to the last; who was only used up stays, and others begin at the first."""
    seen = []
    with SessionPool(
        proxies=ProxyRotation(TIERS, by="tiered"), health=Health(max_uses=9, max_errors=5), clock=FakeClock()
    ) as pool:
        for _ in tiers:
            with pool.lease(key) as session:
                assert session.passage is not None
                seen.append(session.passage.tier)
                act(session)
        with pool.lease("somebody else") as other, pool.lease(fresh=True) as fresh:
            assert other.passage is not None
            assert fresh.passage is not None
            assert (other.passage.tier, fresh.passage.tier) == (0, 0)
        pool.forget("ada")
        with pool.lease("ada") as blank:
            assert blank.passage is not None
            assert blank.passage.tier == 0

    assert seen == tiers


# --- which ones are left alone ---


@pytest.mark.parametrize(
    ("outcomes", "is_forwarding", "is_out"),
    [
        ([FAULT, FAULT], True, False),
        ([FAULT, FAULT, FAULT], True, True),
        ([FAULT, FAULT, 200, FAULT, FAULT], True, False),
        ([FAULT, FAULT, 500, FAULT, FAULT], True, False),
        ([FAULT, ConnectTimeout("slow"), FAULT], False, True),
        ([FAULT, FAULT, ReadTimeout("slow"), FAULT], False, True),
        ([ReadTimeout("slow"), ConnectionBroken("x"), SSLError("x"), ConnectError("x"), PoolTimeout("x")], True, False),
        ([407, 407, 407], True, True),
        ([407, 407, 407], False, False),
        ([403, 429, 503, 502, 504], True, False),
    ],
)
def test_what_takes_a_proxy_out(outcomes: list[Any], is_forwarding: bool, is_out: bool) -> None:
    """Three times in a row that it let nobody through; an answer begins the count anew, other errors say nothing."""
    rotation = ProxyRotation([A, B])
    passage = rotation.admit(None)
    for outcome in outcomes:
        ask(passage, outcome, is_forwarding=is_forwarding)

    assert passage.take(0.0) == (B if is_out else A)


def test_failures_of_all_sessions_count_together() -> None:
    """A proxy is bad for everybody: whoever has it takes another with its next request, and no new session gets it."""
    rotation = ProxyRotation([A, B])
    passages = [rotation.admit(None) for _ in range(6)]

    assert [ask(passage, FAULT if at % 2 == 0 else 200) for at, passage in enumerate(passages)] == [A, B] * 3
    assert [passage.take(0.0) for passage in passages] == [B] * 6
    assert rotation.admit(None).take(0.0) == B


def test_a_proxy_comes_back_after_its_rest() -> None:
    """With a count of nothing; whoever moved away meanwhile stays where it is."""
    rotation = ProxyRotation([A, B], max_failures=2, rest=300)
    passage = rotation.admit(None)
    ask(passage, FAULT, 100.0)
    ask(passage, FAULT, 100.0)

    assert [rotation.admit(None).take(399.9) for _ in range(2)] == [B, B]
    assert sorted(rotation.admit(None).take(400.0) for _ in range(2)) == [A, B]
    assert passage.take(399.0) == passage.take(400.0) == B
    again = passage_of(rotation, A, 400.0)
    ask(again, FAULT, 400.0)
    assert again.take(400.0) == A


def test_requests_that_were_under_way_do_not_count_twice() -> None:
    """What fails after the proxy is left alone neither prolongs that nor is held against it afterwards."""
    rotation = ProxyRotation([A, B], max_failures=2, rest=10)
    passages = [passage_of(rotation, A, 0.0) for _ in range(6)]
    for now, passage in enumerate(passages):
        passage.note(FAULT, float(now), is_forwarding=True)

    again = passage_of(rotation, A, 11.0)
    assert ask(again, FAULT, 11.0) == A
    assert again.take(11.0) == A


@pytest.mark.parametrize(
    ("rest", "sentence"),
    [
        (300, "no proxy is left: all 2 of the rotation failed and are left alone, the first for another 297 s"),
        (None, "no proxy is left: all 2 of the rotation failed and are left alone, for good"),
    ],
)
def test_none_is_left(rest: float | None, sentence: str) -> None:
    """An error that says how many and for how long, that may be sent again, and that shows no password."""
    rotation = ProxyRotation([A, B], max_failures=1, rest=rest)
    passage = rotation.admit(None)
    ask(passage, FAULT, 0.0)
    ask(passage, FAULT, 2.0)

    for each in (passage, rotation.admit("ada")):
        with pytest.raises(ProxyError, match=f"^{re.escape(sentence)}$") as raised:
            each.take(3.0)
        assert isinstance(raised.value, NotSent)
    if rest is None:
        with pytest.raises(ProxyError):
            passage.take(1e12)
    else:
        assert passage.take(300.0) == A


class Slow(list[int]):
    """A list where another thread may come in between looking and writing."""

    def __getitem__(self, at: Any) -> Any:
        value = super().__getitem__(at)
        sleep(0)
        return value


class SlowProxy(_Proxy):
    """The same for the count of a proxy's failures."""

    @property
    def failures(self) -> int:
        value = self._failures
        sleep(0)
        return value

    @failures.setter
    def failures(self, value: int) -> None:
        self._failures = value


@pytest.fixture
def many() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as executor:
        yield executor


@pytest.mark.usefixtures("switch_interval")
def test_turns_are_fair_among_threads(many: ThreadPoolExecutor) -> None:
    """However many ask at once, no turn is given twice and none is left out."""
    rotation = ProxyRotation([A, B, C])
    rotation._turns = Slow([0])
    taken = Counter(many.map(lambda _: rotation.admit(None).take(0.0), range(3000)))

    assert taken == {A: 1000, B: 1000, C: 1000}


@pytest.mark.usefixtures("switch_interval")
def test_failures_are_counted_by_many_threads(many: ThreadPoolExecutor) -> None:
    """Not one is lost: so many take the proxy out, one fewer does not."""
    for failures, url in ((999, A), (1000, B)):
        rotation = ProxyRotation([A, B], max_failures=1000)
        rotation._tiers = [[SlowProxy(A), SlowProxy(B)]]
        passages = []
        for _ in range(failures):
            passages.append(rotation.admit(None))
            rotation._turns = [0]
            assert passages[-1].take(0.0) == A
        list(many.map(lambda passage: passage.note(FAULT, 0.0, is_forwarding=True), passages))
        assert passages[0].take(0.0) == url


def test_nothing_grows_with_the_proxies_that_were_seen() -> None:
    """A rotation holds its list and nothing else, whatever came and went."""
    rotation = ProxyRotation([A, B], max_failures=1, rest=1)
    for now in range(1000):
        ask(rotation.admit(now), FAULT if now % 3 else 200, float(now))

    assert {name: len(value) for name, value in vars(rotation).items() if isinstance(value, (list, dict, set))} == {
        "_tiers": 1,
        "_turns": 1,
    }
