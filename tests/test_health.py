"""When a session is worn out: the rules in tables, and what the pool does with a session that is."""

from __future__ import annotations

import gc
import pickle
import re
import tracemalloc
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import attrs
import pytest

from sessionpool import Health, Session, SessionPool, exceptions
from sessionpool._health import BY_HAND, Record
from sessionpool.exceptions import IdentityRetiredError, LeaseReleasedError, WrongThreadError
from sessionpool.testing import FakeClock
from tests.helpers import Diary, eventually, in_thread


@pytest.fixture
def diary() -> Diary:
    return Diary()


@pytest.fixture
def make_pool(diary: Diary) -> Iterator[Callable[..., SessionPool]]:
    """Make pools on a clock that stands still, closed after the test, which must have given everything back."""
    pools: list[SessionPool] = []

    def make(**health: Any) -> SessionPool:
        pools.append(SessionPool(health=Health(**health), clock=FakeClock(), observer=diary))
        return pools[-1]

    yield make
    for pool in pools:
        nothing_is_leased(pool)
        pool.close(timeout=0)


def nothing_is_leased(pool: SessionPool) -> None:
    seats = pool._seats.stats()
    assert (pool.stats().sessions, pool.stats().leased) == (0, 0)
    assert (seats.leased, seats.waiting, seats.hosts) == (0, 0, {})


def advance(pool: SessionPool, seconds: float) -> None:
    assert isinstance(pool.clock, FakeClock)
    pool.clock.advance(seconds)


def why(session: Session) -> str | None:
    """Why it was retired; a call, after which mypy believes nothing that it saw before."""
    return session.retired


# --- settings ---


def test_the_defaults() -> None:
    """Those of crawlee's sessions, but for 429."""
    assert Health() == Health(
        blocked=(401, 403), max_score=3.0, max_age=None, max_uses=None, max_errors=None, on_retire="replace"
    )


def test_it_is_a_setting_like_the_others() -> None:
    """Named, fixed once made, the same in another process; any iterable of statuses will do."""
    health = Health(blocked=[403], max_age=5)

    assert health.blocked == (403,)
    assert pickle.loads(pickle.dumps(health)) == health
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        health.max_age = 6  # type: ignore[misc]
    with pytest.raises(TypeError):
        Health((403,))  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("setting", "value", "sentence"),
    [
        ("blocked", 403, "Health.blocked must be statuses such as (401, 403); got 403"),
        ("blocked", "403", "Health.blocked must be statuses such as (401, 403); got '403'"),
        ("blocked", ("403",), "Health.blocked must be statuses such as (401, 403); got ('403',)"),
        ("blocked", (99,), "Health.blocked must be statuses such as (401, 403); got (99,)"),
        ("blocked", (True,), "Health.blocked must be statuses such as (401, 403); got (True,)"),
        (
            "blocked",
            (403, 429),
            "Health.blocked must not hold 429: it slows the host down, and does not burn the session",
        ),
        ("max_score", 0, "Health.max_score must be a number above 0; got 0"),
        ("max_score", None, "Health.max_score must be a number above 0; got None"),
        ("max_age", 0, "Health.max_age must be a number above 0, or None for no limit; got 0"),
        ("max_uses", 0, "Health.max_uses must be a whole number of at least 1, or None for no limit; got 0"),
        ("max_errors", 1.5, "Health.max_errors must be a whole number of at least 1, or None for no limit; got 1.5"),
        ("on_retire", "drop", "Health.on_retire must be 'replace' or 'refuse'; got 'drop'"),
    ],
)
def test_what_is_refused(setting: str, value: Any, sentence: str) -> None:
    """The sentence names the setting, what it must be, and what it got."""
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        Health(**{setting: value})


def test_a_pool_wants_a_health() -> None:
    """Not a number, nor a mapping."""
    with pytest.raises(ValueError, match=r"^health must be a sessionpool\.Health, such as Health"):
        SessionPool(health={"max_uses": 5})  # type: ignore[arg-type]


# --- the rules ---

GOOD, BAD = "good", "bad"
REFUSED = exceptions.ConnectError("refused")


@pytest.mark.parametrize(
    ("settings", "events", "retired", "is_blocked"),
    [
        ({}, [], None, False),
        # the score
        ({}, [BAD, BAD], None, False),
        ({}, [BAD, BAD, BAD], "max_score=3", True),
        ({}, [BAD, BAD, GOOD, BAD], None, False),
        ({}, [BAD, BAD, GOOD, GOOD, BAD], None, False),
        ({}, [BAD, BAD, GOOD, BAD, BAD], "max_score=3", True),
        ({}, [GOOD] * 9 + [BAD, BAD, BAD], "max_score=3", True),
        ({"max_score": 0.5}, [BAD], "max_score=0.5", True),
        ({"max_score": 2.5}, [BAD, BAD], None, False),
        # statuses
        ({}, [200, 401], "status 401", True),
        ({}, [403], "status 403", True),
        ({}, [429] * 50, None, False),
        ({}, [500, 503, 404, 407] * 9, None, False),
        ({"blocked": ()}, [401, 403], None, False),
        ({"blocked": (418,)}, [403, 418], "status 418", True),
        # uses
        ({"max_uses": 3}, [200, 302], None, False),
        ({"max_uses": 3}, [200, 302, REFUSED], "max_uses=3", False),
        ({"max_uses": 1}, [403], "status 403", True),
        # errors
        ({"max_errors": 2}, [REFUSED, 200, 200], None, False),
        ({"max_errors": 2}, [REFUSED, 200, REFUSED], "max_errors=2", False),
        ({"max_errors": 1}, [500] * 9, None, False),
        ({"max_errors": 1, "max_uses": 1}, [REFUSED], "max_errors=1", False),
        ({}, [REFUSED] * 99, None, False),
        # the first reason stays
        ({"max_uses": 2}, [200, 200, 403, BAD, BAD, BAD], "max_uses=2", False),
        ({}, [403, 401], "status 403", True),
    ],
)
def test_what_retires_a_session(settings: Any, events: list[Any], retired: str | None, is_blocked: bool) -> None:
    """A table of what happens to a session; it is retired once, and knows whether it was unwelcome or only used up."""
    record = Record(Health(**settings), 0.0)
    told = 0
    for now, event in enumerate(events):
        if event is GOOD:
            record.mark_good()
        else:
            told += record.mark_bad(now) if event is BAD else record.note(event, now)

    assert (record.retired, record.is_blocked) == (retired, is_blocked)
    assert told == (retired is not None)


@pytest.mark.parametrize(
    ("error", "counts"),
    [
        (exceptions.ConnectError("x"), True),
        (exceptions.ConnectTimeout("x"), True),
        (exceptions.NameResolutionError("x"), True),
        (exceptions.SSLError("x"), True),
        (exceptions.ProxyError("x"), True),
        (exceptions.ConnectionBroken("x"), True),
        (exceptions.InvalidResponse("x"), True),
        (exceptions.ReadTimeout("x"), True),
        (exceptions.IncompleteRead("x"), True),
        (exceptions.PoolTimeout("x"), False),
        (exceptions.PoolClosed("x"), False),
        (exceptions.PoolQueueFull("x"), False),
        (exceptions.ThrottleTimeout("x"), False),
        (exceptions.CoolDownTimeout("x"), False),
        (exceptions.RetryAfterTooLong("x"), False),
        (exceptions.CircuitOpenError("x"), False),
        (exceptions.ContentDecodingError("x"), False),
        (exceptions.StreamConsumedError("x"), False),
        (ValueError("x"), False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_which_errors_count(error: Exception, counts: bool) -> None:
    """Those of the way to the server and back; not those of the pool, which would have met any other session too."""
    assert Record(Health(max_errors=1), 0.0).note(error, 1.0) is counts


@pytest.mark.parametrize(("age", "is_over"), [(0, False), (9.9, False), (10, True), (1e9, True)])
def test_age_is_counted_from_its_beginning(age: float, is_over: bool) -> None:
    """At `max_age` and beyond it is over; what it did meanwhile is no matter."""
    record = Record(Health(max_age=10), 100.0)
    record.note(200, 105.0)

    assert record.note_age(100 + age) is is_over
    assert record.retired == ("max_age=10 s" if is_over else None)
    assert not record.is_blocked
    assert record.note_age(1e12) is not is_over, "told once"


# --- identities ---


def test_a_retired_session_serves_its_lease_to_the_end(make_pool: Callable[..., SessionPool], diary: Diary) -> None:
    """It keeps its cookies, its thread and its seat; the next lease of the name is another session, and blank."""
    pool = make_pool()
    with pool.lease("ada") as old:
        old.cookies["who"] = "ada"
        old.retire("captcha")
        old.retire("again")

        assert old.cookies["who"] == "ada"
        assert why(old) == "captcha"
        assert pool.stats().sessions == 1
    with pool.lease("ada") as new:
        assert new is not old
        assert len(new.cookies) == 0
        assert why(new) is None
    with pool.lease("ada") as again:
        assert again is new

    assert diary.retirements == [("ada", "captcha")]


@pytest.mark.parametrize("health", [None, Health()], ids=["without health", "with health"])
def test_marks_by_hand_count_in_every_pool(health: Health | None, diary: Diary) -> None:
    """Three bad ones retire a session, also in a pool that was given no rules; a good one makes up for half of one."""
    with SessionPool(health=health, observer=diary) as pool:
        with pool.lease("ada") as old:
            old.mark_bad()
            old.mark_bad()
            old.mark_good()
        with pool.lease("ada") as same:
            assert same is old
            same.mark_bad()
            assert why(same) is None
            same.mark_bad()
            assert why(same) == "max_score=3"
        with pool.lease("ada") as new:
            assert new is not old

    assert diary.retirements == [("ada", "max_score=3")]


def test_a_refused_identity_says_why_and_when(make_pool: Callable[..., SessionPool], diary: Diary) -> None:
    """Until it is forgotten; other names are no matter, and no seat stays taken."""
    pool = make_pool(on_retire="refuse")
    with pool.lease("ada") as old:
        old.retire("captcha")
    advance(pool, 90)
    sentence = (
        "the session of 'ada' was retired 90 s ago (captcha) and is not replaced (Health.on_retire='refuse'); "
        "pool.forget('ada') lets it begin anew"
    )
    for _ in range(2):
        with pytest.raises(IdentityRetiredError, match=f"^{re.escape(sentence)}$"):
            pool.lease("ada")
    nothing_is_leased(pool)
    with pool.lease("eve"):
        pass
    pool.forget("ada")
    with pool.lease("ada") as new:
        assert new is not old
        assert why(new) is None

    assert diary.retirements == [("ada", "captcha")]


@pytest.mark.parametrize("on_retire", ["replace", "refuse"])
def test_a_session_that_is_too_old_is_not_leased(
    make_pool: Callable[..., SessionPool], diary: Diary, on_retire: str
) -> None:
    """Its age is looked at when it is leased: a lease that lasts longer is not disturbed."""
    pool = make_pool(max_age=60, on_retire=on_retire)
    with pool.lease("ada") as old:
        advance(pool, 59)
    with pool.lease("ada") as same:
        assert same is old
        advance(pool, 1)
        assert why(same) is None
    if on_retire == "replace":
        with pool.lease("ada") as new:
            assert new is not old
    else:
        with pytest.raises(IdentityRetiredError, match=r"0 s ago \(max_age=60 s\)"):
            pool.lease("ada")

    assert diary.retirements == [("ada", "max_age=60 s")]


def test_who_waits_for_a_retired_identity_gets_the_new_one(make_pool: Callable[..., SessionPool]) -> None:
    """The name's queue stays what it is."""
    pool = make_pool()
    with pool.lease("ada") as old:
        waiter = in_thread(is_leased_again, pool, old)
        eventually(lambda: pool._seats.stats().waiting == 1)
        old.retire("captcha")

    assert waiter.get() is False


def is_leased_again(pool: SessionPool, session: Session) -> bool:
    with pool.lease("ada") as leased:
        return leased is session


# --- sessions of no name ---


@pytest.mark.parametrize("on_retire", ["replace", "refuse"])
def test_a_threads_own_session_is_replaced(make_pool: Callable[..., SessionPool], diary: Diary, on_retire: str) -> None:
    """With the thread's next lease; a nested one is the same lease."""
    pool = make_pool(max_age=60, on_retire=on_retire)
    with pool.lease() as old:
        old.retire("captcha")
        with pool.lease() as nested:
            assert nested is old
    with pool.lease() as new:
        assert new is not old
    with pool.lease() as again:
        assert again is new
    advance(pool, 60)
    with pool.lease() as third:
        assert third is not new

    assert diary.retirements == [(None, "captcha"), (None, "max_age=60 s")]


def test_a_threads_own_session_that_another_holds_is_not_looked_at(
    make_pool: Callable[..., SessionPool], elsewhere: Callable[..., Any], diary: Diary
) -> None:
    """Whoever took it over goes on with it, and it is replaced only when its own thread leases again after that."""
    pool = make_pool(max_age=60)
    lease = pool.lease()
    own = lease.session
    elsewhere(lease.transfer)
    advance(pool, 60)
    with pool.lease() as other:
        assert other is not own
    assert why(own) is None
    elsewhere(lease.release)
    with pool.lease() as new:
        assert new not in (own, other)

    assert why(own) == "max_age=60 s"
    assert diary.retirements == [(None, "max_age=60 s")]


def test_a_session_of_no_pool_is_only_marked() -> None:
    """There is no next lease: it goes on, and says why it should not."""
    with Session() as session:
        assert why(session) is None
        for _ in range(3):
            session.mark_bad()
        assert why(session) == "max_score=3"
        session.cookies["a"] = "b"
        session.retire("too late")

        assert why(session) == "max_score=3"


def test_a_fork_starts_with_fresh_health(make_pool: Callable[..., SessionPool], diary: Diary) -> None:
    """What one wears out is not the other's; the rules are the same."""
    pool = make_pool(max_score=2)
    with pool.lease("ada") as session:
        session.mark_bad()
        fork = session.fork()
        session.mark_bad()
        later = session.fork()
        fork.mark_bad()

        assert (session.retired, fork.retired, later.retired) == ("max_score=2", None, None)
        fork.mark_bad()
        assert (fork.retired, later.retired) == ("max_score=2", None)

    assert diary.retirements == [("ada", "max_score=2"), (None, "max_score=2")]


MARKS: list[Callable[[Session], None]] = [Session.mark_good, Session.mark_bad, lambda session: session.retire("mine")]


@pytest.mark.parametrize("mark", MARKS, ids=["mark_good", "mark_bad", "retire"])
def test_only_the_holder_may_mark(
    make_pool: Callable[..., SessionPool],
    elsewhere: Callable[..., Any],
    mark: Callable[[Session], None],
) -> None:
    """As with everything else that a session has: another thread, or the same one after its lease, is told so."""
    pool = make_pool()
    with pool.lease("ada") as session, pytest.raises(WrongThreadError):
        elsewhere(mark, session)
    with pytest.raises(LeaseReleasedError):
        mark(session)

    assert why(session) is None
    assert session.health is not None
    assert session.health.score == 0


# --- many threads, little memory ---


@pytest.mark.usefixtures("switch_interval")
@pytest.mark.parametrize("on_retire", ["replace", "refuse"])
def test_a_hundred_threads_retire_the_same_identities(
    make_pool: Callable[..., SessionPool], diary: Diary, on_retire: str
) -> None:
    """No seat is lost, no session has two holders, and each is told of as often as it was retired."""
    pool = make_pool(on_retire=on_retire)
    holders: dict[str, list[int]] = {f"key {number}": [] for number in range(5)}
    retired: list[str] = []
    refused: list[str] = []

    def work(number: int) -> None:
        for nth in range(20):
            key = f"key {(number + nth) % 5}"
            try:
                with pool.lease(key) as session:
                    holders[key].append(number)
                    assert holders[key] == [number]
                    assert why(session) is None
                    if (number + nth) % 3 == 0:
                        session.retire("enough")
                        retired.append(key)
                    holders[key].remove(number)
            except IdentityRetiredError:
                refused.append(key)
                pool.forget(key)

    with ThreadPoolExecutor(100) as executor:
        list(executor.map(work, range(100)))

    nothing_is_leased(pool)
    assert len(retired) > 5
    assert sorted(diary.retirements) == sorted((key, "enough") for key in retired)
    assert bool(refused) is (on_retire == "refuse")


def test_an_observer_may_use_the_pool(make_pool: Callable[..., SessionPool], diary: Diary) -> None:
    """It is called under no lock, wherever the retirement is noticed."""
    pool = make_pool(max_age=60)

    def look(key: Hashable, reason: str) -> None:
        diary.retirements.append((key, reason))
        with pool.lease(f"instead of {key}"):
            pool.stats()

    pool._transport.watch.retired = look
    with pool.lease("ada") as session:
        session.retire("captcha")
    with pool.lease("ada"):
        pass
    advance(pool, 60)
    with in_thread(lambda: pool.lease("ada").release()) as call:
        pass

    assert call.error is None
    assert diary.retirements == [("ada", "captcha"), ("ada", "max_age=60 s"), ("instead of ada", "max_age=60 s")]


@pytest.mark.parametrize(("health", "most"), [(None, 480), (Health(), 680)], ids=["without health", "with health"])
def test_an_idle_identity_is_small(health: Health | None, most: int) -> None:
    """Health costs a record; a pool without it has none."""
    with SessionPool(health=health) as pool:
        keys = [f"identity {number}" for number in range(2000)]
        for key in keys[:10]:
            pool.lease(key).release()
        gc.collect()
        tracemalloc.start()
        try:
            for key in keys[10:]:
                pool.lease(key).release()
            gc.collect()
            used = tracemalloc.get_traced_memory()[0] / (len(keys) - 10)
        finally:
            tracemalloc.stop()
        records = [session.health for session in pool._identities.values()]

    assert 200 < used < most
    assert [record is None for record in records] == [health is None] * len(keys)
    assert BY_HAND.blocked == ()
