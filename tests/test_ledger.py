"""The ledger against its own list of invariants: one test per rule first, then a state machine over all of them."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from typing import ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sessionpool._ledger import (
    LEASED,
    NEW,
    NOTHING,
    RETURNED,
    WAITING,
    Actions,
    HostStats,
    Ledger,
    Permit,
    QueueFullError,
)
from tests.helpers import Thing


def books(
    per_key: int = 2, total: float = 10, *, max_waiting: int | None = None, max_idle: float = math.inf
) -> Ledger[Thing]:
    return Ledger(lambda _: per_key, total, max_waiting=max_waiting, max_idle=max_idle)


def asked(ledger: Ledger[Thing], key: str = "a", identity: str = "plain", now: float = 0.0) -> Permit[Thing]:
    """A permit after its request, leased or waiting."""
    permit: Permit[Thing] = Permit(key, identity, thread=1)
    granted = ledger.request(permit, now)
    assert permit.state is (LEASED if granted else WAITING)
    return permit


def rested(ledger: Ledger[Thing], thing: Thing, key: str = "a", now: float = 0.0) -> Thing:
    """`thing`, idle under `key`."""
    permit = asked(ledger, key, thing.identity, now)
    assert permit.item is None
    permit.item = thing
    ledger.release(permit, thing, now)
    return thing


def closing(actions: Actions[Thing]) -> list[Thing | None]:
    """The items that are to be closed."""
    return [permit.item for permit in actions.close]


def back(ledger: Ledger[Thing], permit: Permit[Thing], thing: Thing | None, now: float = 0.0) -> list[Thing | None]:
    """Release; what is to be closed."""
    return closing(ledger.release(permit, thing, now))


def evicted(permit: Permit[Thing]) -> Thing | None:
    """The item that makes room for this permit."""
    return None if permit.evicted is None else permit.evicted.item


# --- the bound: invariant 1 ---


def test_a_new_permit_is_nobodys() -> None:
    """A permit that was never asked for holds nothing, and giving it back changes nothing."""
    ledger = books()
    permit: Permit[Thing] = Permit("a", "plain", thread=1)

    assert permit.state is NEW
    assert ledger.release(permit, None, 0.0) is NOTHING
    assert not ledger.withdraw(permit)
    assert ledger.stats().hosts == {}


def test_one_key_gets_as_many_as_its_limit() -> None:
    """The limit of a key counts leased permits whether or not their item is open yet."""
    ledger = books(per_key=3)
    permits = [asked(ledger) for _ in range(4)]

    assert [permit.state for permit in permits] == [LEASED, LEASED, LEASED, WAITING]
    assert ledger.stats().hosts == {"a": HostStats(leased=3, idle=0, waiting=1, limit=3)}


def test_all_keys_together_get_as_many_as_the_total() -> None:
    """The total binds over the keys even where each is below its own limit."""
    ledger = books(per_key=2, total=3)
    permits = [asked(ledger, key) for key in "aabb"]

    assert [permit.state for permit in permits] == [LEASED, LEASED, LEASED, WAITING]
    assert ledger.stats().peak == 3


def test_each_key_may_have_a_limit_of_its_own() -> None:
    """The limit is asked for by key, once for as long as the key is known."""
    questions: list[object] = []

    def limit_of(key: object) -> int:
        questions.append(key)
        return {"a": 1, "b": 2}[str(key)]

    ledger: Ledger[Thing] = Ledger(limit_of, 10)
    permits = [asked(ledger, key) for key in "aabbb"]

    assert [permit.state for permit in permits] == [LEASED, WAITING, LEASED, LEASED, WAITING]
    assert questions == ["a", "b"]


def test_idle_items_count_against_the_limit() -> None:
    """What lies idle is open, so there is room only for the rest; a request of another identity closes it."""
    ledger = books(per_key=2)
    idle = rested(ledger, Thing("tls"))
    first, second = asked(ledger), asked(ledger)

    assert (first.item, first.evicted) == (None, None)
    assert (second.item, evicted(second)) == (None, idle)
    assert ledger.open == 2


# --- who is next: invariants 2 and 3 ---


@pytest.mark.parametrize("with_item", [True, False])
def test_waiters_of_a_key_are_served_in_order(with_item: bool) -> None:
    """Each release serves the oldest waiter, whether an item comes back or not."""
    ledger = books(per_key=1)
    queue = [asked(ledger) for _ in range(50)]
    served = []
    for held, following in itertools.pairwise(queue):
        (woken,) = ledger.release(held, Thing() if with_item else None, 0.0).wake
        served.append(woken)
        assert woken is following

    assert served == queue[1:]
    assert ledger.stats().waiting == 0


def test_nobody_barges() -> None:
    """Whoever gives a permit back and asks again at once finds the waiter served and queues behind."""
    ledger = books(per_key=1)
    hog = asked(ledger)
    waiter = asked(ledger)
    ledger.release(hog, Thing(), 0.0)
    again = asked(ledger)

    assert waiter.state is LEASED
    assert again.state is WAITING


def test_a_hand_over_passes_the_item_on() -> None:
    """The waiter gets the very item that came back, so nothing is opened for it."""
    ledger = books(per_key=1)
    held, waiter, thing = asked(ledger), asked(ledger), Thing()
    actions = ledger.release(held, thing, 5.0)

    assert (list(actions.wake), closing(actions)) == ([waiter], [])
    assert waiter.item is thing
    assert (waiter.since, ledger.reused, held.item) == (5.0, 1, None)


def test_a_hand_over_to_another_identity_closes_the_item() -> None:
    """The first in the queue is served even if the item does not fit it; the item makes room."""
    ledger = books(per_key=1)
    held, first, second, thing = asked(ledger), asked(ledger, identity="tls"), asked(ledger), Thing()
    ledger.release(held, thing, 0.0)

    assert (first.state, first.item, evicted(first)) == (LEASED, None, thing)
    assert second.state is WAITING


def test_keys_that_wait_for_the_total_take_turns() -> None:
    """A key with a long queue does not keep the others waiting: one of each is served in turn."""
    ledger = books(per_key=10, total=1)
    held = asked(ledger, "busy")
    waiters = [asked(ledger, key) for key in "aaabbc"]
    order = []
    while ledger.waiting:
        (held,) = ledger.release(held, None, 0.0).wake
        order.append(held)

    assert [permit.key for permit in order] == ["a", "b", "c", "a", "b", "a"]
    assert set(order) == set(waiters)


def test_a_key_does_not_lose_its_turn_by_the_queue_behind_it() -> None:
    """One more waiter of a key, or one that leaves, does not move the key in the order of turns."""
    ledger = books(per_key=10, total=1)
    held = asked(ledger, "busy")
    first = asked(ledger, "a")
    asked(ledger, "b")
    second = asked(ledger, "a")
    ledger.withdraw(first)

    assert ledger.release(held, None, 0.0).wake == [second]


def test_a_key_at_its_limit_does_not_hold_up_the_others() -> None:
    """What comes free under the total goes to a key that may have it, though another has waited longer."""
    ledger = books(per_key=1, total=2)
    asked(ledger, "a")
    b = asked(ledger, "b")
    waits_for_limit = asked(ledger, "a")
    waits_for_total = asked(ledger, "c")
    actions = ledger.release(b, None, 0.0)

    assert actions.wake == [waits_for_total]
    assert waits_for_limit.state is WAITING


def test_one_release_may_serve_only_one() -> None:
    """One permit that comes back is one permit handed on."""
    ledger = books(per_key=2, total=2)
    held = asked(ledger, "a")
    asked(ledger, "b")
    waiters = [asked(ledger, key) for key in "ab"]

    assert ledger.release(held, Thing(), 0.0).wake == waiters[:1]
    assert waiters[1].state is WAITING


# --- idle items: invariants 4 and 5 ---


def test_the_newest_idle_item_is_taken_first() -> None:
    """The warmest works, so that the coldest expires."""
    ledger = books(per_key=3)
    permits = [asked(ledger) for _ in range(3)]
    things = [Thing(name=str(number)) for number in range(3)]
    for now, (permit, thing) in enumerate(zip(permits, things, strict=True)):
        ledger.release(permit, thing, now)

    assert [asked(ledger).item for _ in range(3)] == things[::-1]


def test_the_newest_that_fits_is_taken() -> None:
    """An item of another identity is passed over, and stays."""
    ledger = books(per_key=2)
    first, second = asked(ledger), asked(ledger, identity="tls")
    plain, tls = Thing(), Thing("tls")
    ledger.release(first, plain, 0.0)
    ledger.release(second, tls, 1.0)

    assert asked(ledger).item is plain
    assert ledger.stats().idle == 1


def test_identities_are_compared_by_value() -> None:
    """An item made under equal settings fits, though the settings are other objects."""
    ledger: Ledger[Thing] = books()
    thing = rested(ledger, Thing(str(("ca.pem", "client.pem"))))

    assert asked(ledger, identity=str(("ca.pem", "client.pem"))).item is thing


def test_items_never_cross_keys() -> None:
    """An idle item of one key is closed for another that needs its place, and never handed to it."""
    ledger = books(total=1)
    thing = rested(ledger, Thing())
    permit = asked(ledger, "b")

    assert (permit.item, evicted(permit)) == (None, thing)


def test_an_item_counts_at_its_own_key_until_it_is_closed() -> None:
    """Evicted for another key it has no place under the total any more, and still one at its own server."""
    ledger = books(per_key=1, total=1)
    rested(ledger, Thing())
    permit = asked(ledger, "b")
    ledger.total = 2
    waiter = asked(ledger, "a")
    assert permit.evicted is not None
    assert (permit.evicted.state, waiter.state) == (LEASED, WAITING)
    actions = ledger.release(permit.evicted, None, 0.0)

    assert list(actions.wake) == [waiter]
    assert ledger.open == 2


def test_an_item_that_is_being_closed_is_counted_once() -> None:
    """While the evicted is closed and before the new one is opened, no more are told than may be."""
    ledger = books(total=1)
    rested(ledger, Thing())
    asked(ledger, "b")

    assert ledger.stats().leased + ledger.stats().idle == 1


def test_an_item_evicted_for_its_own_key_gives_its_place_at_once() -> None:
    """Whoever closes it opens the new one, one after the other, so there is nothing to wait for."""
    ledger = books(per_key=1)
    rested(ledger, Thing())
    permit = asked(ledger, identity="tls")
    assert permit.evicted is not None
    assert permit.evicted.state is RETURNED
    before = ledger.stats()

    assert ledger.release(permit.evicted, None, 0.0) is NOTHING
    assert ledger.stats() == before


def test_a_key_whose_item_is_being_closed_does_not_hold_up_the_others() -> None:
    """A key that would have its turn and waits only for its own item to be closed is passed over meanwhile."""
    ledger = books(per_key=1, total=2)
    a, b = asked(ledger, "a"), asked(ledger, "b")
    served_first, at_its_limit = asked(ledger, "c"), asked(ledger, "a")
    assert list(ledger.release(a, Thing(), 0.0).wake) == [served_first]
    behind = asked(ledger, "d")
    actions = ledger.release(b, None, 0.0)

    assert list(actions.wake) == [behind]
    assert at_its_limit.state is WAITING


def test_the_coldest_of_all_keys_makes_room_under_the_total() -> None:
    """When the total binds, the item that has been idle longest goes, whosever it is."""
    ledger = books(per_key=2, total=3)
    permits = [asked(ledger, key) for key in "abc"]
    things = [Thing(name=key) for key in "abc"]
    for now, index in enumerate([1, 0, 2]):
        ledger.release(permits[index], things[index], now)

    assert evicted(asked(ledger, "d")) is things[1]


def test_the_coldest_of_its_own_makes_room_under_the_limit() -> None:
    """When the key's limit binds, one of its own goes, though another key has a colder one."""
    ledger = books(per_key=2, total=10)
    rested(ledger, Thing(), "b")
    first, second = asked(ledger), asked(ledger)
    older, newer = Thing(name="older"), Thing(name="newer")
    ledger.release(first, older, 1.0)
    ledger.release(second, newer, 2.0)

    assert evicted(asked(ledger, identity="tls")) is older


def test_a_key_may_close_its_own_item_for_the_total() -> None:
    """A key whose only item is closed for a request of another identity is not forgotten while that is granted."""
    ledger = books(per_key=2, total=1)
    thing = rested(ledger, Thing())
    permit = asked(ledger, identity="tls")
    assert evicted(permit) is thing
    assert ledger.holders("a") == [permit]
    ledger.release(permit, None, 0.0)

    assert (ledger.open, ledger.stats().hosts) == (0, {})


def test_returning_twice_is_harmless() -> None:
    """A second return changes no count, and the item that comes with it is closed, because it is nobody's."""
    ledger = books()
    permit, thing, stranger = asked(ledger), Thing(), Thing()
    ledger.release(permit, thing, 0.0)
    before = ledger.stats()

    assert ledger.release(permit, None, 0.0) is NOTHING
    assert back(ledger, permit, stranger) == [stranger]
    assert ledger.stats() == before


def test_returning_what_still_waits_is_leaving_the_queue() -> None:
    """A waiter whose wait was broken off takes nothing from anybody, and is not served later."""
    ledger = books(per_key=1)
    held, waiter, behind = asked(ledger), asked(ledger), asked(ledger)

    assert ledger.release(waiter, None, 0.0) is NOTHING
    assert (waiter.state, ledger.waiting) == (RETURNED, 1)
    assert list(ledger.release(held, None, 0.0).wake) == [behind]


# --- leaving the queue ---


def test_whoever_leaves_is_passed_over() -> None:
    """A waiter that gives up is not served; the one behind it is."""
    ledger = books(per_key=1)
    held, first, second = asked(ledger), asked(ledger), asked(ledger)

    assert ledger.withdraw(first)
    assert ledger.release(held, None, 0.0).wake == [second]
    assert first.state is RETURNED


def test_a_permit_that_has_been_served_cannot_be_withdrawn() -> None:
    """False says: it is yours, use it; and nothing has been taken away."""
    ledger = books(per_key=1)
    held, waiter = asked(ledger), asked(ledger)
    ledger.release(held, None, 0.0)

    assert not ledger.withdraw(waiter)
    assert waiter.state is LEASED
    assert ledger.stats().leased == 1


def test_withdrawing_twice_is_harmless() -> None:
    """The second time says that nothing was waiting."""
    ledger = books(per_key=1)
    asked(ledger)
    waiter = asked(ledger)

    assert [ledger.withdraw(waiter), ledger.withdraw(waiter)] == [True, False]
    assert ledger.waiting == 0


@pytest.mark.parametrize("allowed", [0, 1, 3])
def test_only_so_many_may_wait(allowed: int) -> None:
    """One more waiter than allowed is refused, and leaves no trace."""
    ledger = books(per_key=1, max_waiting=allowed)
    asked(ledger)
    for _ in range(allowed):
        asked(ledger)
    refused: Permit[Thing] = Permit("a", "plain", thread=1)
    before = ledger.stats()

    with pytest.raises(QueueFullError):
        ledger.request(refused, 0.0)
    assert refused.state is NEW
    assert ledger.stats() == before


def test_a_refused_key_is_not_remembered() -> None:
    """A key whose first request is refused leaves nothing behind."""
    ledger = books(total=1, max_waiting=0)
    asked(ledger, "a")

    with pytest.raises(QueueFullError):
        asked(ledger, "b")
    assert list(ledger.stats().hosts) == ["a"]


def test_waiters_of_all_keys_count_together() -> None:
    """The number that may wait is the pool's, not the key's."""
    ledger = books(per_key=1, max_waiting=2)
    for key in "abab":
        asked(ledger, key)

    with pytest.raises(QueueFullError):
        asked(ledger, "a")


# --- the end of things ---


def test_draining_sends_everybody_away() -> None:
    """Waiters leave, idle items are to be closed, and what is leased stays leased until it comes back."""
    ledger = books(per_key=1, total=3)
    held = asked(ledger, "a")
    waiters = [asked(ledger, "a"), asked(ledger, "a")]
    idle = rested(ledger, Thing(), "b")
    actions = ledger.drain(0.0)
    assert (list(actions.wake), closing(actions)) == (waiters, [idle])
    assert {permit.state for permit in waiters} == {RETURNED}
    assert list(ledger.leased()) == [held, *actions.close]
    for permit in (held, *actions.close):
        assert ledger.release(permit, None, 0.0) is NOTHING

    assert (ledger.open, ledger.stats().hosts) == (0, {})


def test_draining_twice_does_nothing_more() -> None:
    """The second time there is no one to send away."""
    ledger = books(per_key=1)
    rested(ledger, Thing())
    ledger.drain(0.0)

    assert ledger.drain(0.0) == Actions([], [])


def test_items_that_have_been_idle_too_long_are_closed() -> None:
    """Whoever gives something back takes the expired with it: exactly those of `max_idle` seconds and more."""
    ledger = books(per_key=4, max_idle=10.0)
    permits = [asked(ledger) for _ in range(4)]
    old, less_old, young, newest = (Thing(name=name) for name in ("old", "less old", "young", "newest"))
    ledger.release(permits[0], old, 0.0)
    ledger.release(permits[1], less_old, 5.0)
    ledger.release(permits[2], young, 5.5)
    actions = ledger.release(permits[3], newest, 15.0)

    assert closing(actions) == [old, less_old]
    assert (ledger.open, ledger.stats().idle) == (4, 2)
    for permit in actions.close:
        ledger.release(permit, None, 15.0)
    assert (ledger.open, ledger.stats().idle) == (2, 2)


def test_an_expired_item_counts_until_it_is_closed() -> None:
    """Its place is granted when it has been closed, to whoever waits for it."""
    ledger = books(per_key=2, max_idle=10.0)
    first, second = asked(ledger), asked(ledger)
    ledger.release(first, Thing(), 0.0)
    (expired,) = ledger.release(second, Thing(), 10.0).close
    again, waiter = asked(ledger), asked(ledger)
    assert (again.state, waiter.state) == (LEASED, WAITING)

    assert list(ledger.release(expired, None, 10.0).wake) == [waiter]


def test_nothing_is_closed_where_nothing_comes_back() -> None:
    """A permit without its item may be given back by a finalizer, which must not close anything."""
    ledger = books(max_idle=10.0)
    held = asked(ledger)
    rested(ledger, Thing(), "b")

    assert ledger.release(held, None, 1000.0) is NOTHING


def test_the_expired_are_looked_for_once_a_second() -> None:
    """Within a second of the last look nothing is looked at, so that a busy pool does not pay for it per request."""
    ledger = books(per_key=3, max_idle=0.5)
    permits = [asked(ledger) for _ in range(3)]
    things = [Thing(name=str(number)) for number in range(3)]
    ledger.release(permits[0], things[0], 10.0)

    assert back(ledger, permits[1], things[1], 10.9) == []
    assert back(ledger, permits[2], things[2], 11.0) == [things[0]]


def test_a_key_whose_last_item_expired_is_forgotten() -> None:
    """A crawler that has passed ten thousand hosts remembers those it uses."""
    ledger = books(max_idle=10.0)
    for number in range(3):
        rested(ledger, Thing(), f"host{number}", now=0.0)
    held = asked(ledger, "b", now=20.0)
    for permit in ledger.release(held, Thing(), 20.0).close:
        ledger.release(permit, None, 20.0)

    assert list(ledger.stats().hosts) == ["b"]


# --- what is told ---


def test_holders_are_told_longest_first() -> None:
    """For an error that names who holds on: the permits of the key in the order they were granted."""
    ledger = books(per_key=3)
    first, second, third = (asked(ledger, now=now) for now in range(3))
    ledger.release(second, None, 3.0)
    fourth = asked(ledger, now=4.0)

    assert ledger.holders("a") == [first, third, fourth]
    assert ledger.holders("unknown") == []


def test_an_unusable_item_counts_as_opened_and_not_as_reused() -> None:
    """The count of reuse tells what was really used."""
    ledger = books()
    rested(ledger, Thing())
    asked(ledger)
    ledger.note_opened(unusable=True)

    assert (ledger.stats().opened, ledger.stats().reused) == (1, 0)


def test_no_total_is_told_as_none() -> None:
    """Without a bound over all keys there is no number to tell."""
    assert books(total=math.inf).stats().capacity is None
    assert books(total=7).stats().capacity == 7


# --- everything at once ---


class LedgerMachine(RuleBasedStateMachine):
    """Any order of calls, against books kept as plainly as can be: lists, searched from one end to the other.

    What is told by a call is checked as it is told (who is served, with which item, what is closed), the invariants
    after every call, under the numbers that the module's docstring gives them.
    """

    KEYS: ClassVar = ["a", "b", "c", "d"]
    IDENTITIES: ClassVar = ["plain", "tls"]

    @initialize(
        limits=st.fixed_dictionaries({key: st.integers(1, 3) for key in KEYS}),
        total=st.integers(1, 4),
        max_waiting=st.none() | st.integers(0, 4),
        max_idle=st.sampled_from([0.5, 3.0, math.inf]),
    )
    def open_the_books(self, limits: dict[str, int], total: int, max_waiting: int | None, max_idle: float) -> None:
        self.limits = limits
        self.total = total
        self.max_waiting = max_waiting
        self.max_idle = max_idle
        self.ledger: Ledger[Thing] = Ledger(
            lambda key: limits[str(key)], total, max_waiting=max_waiting, max_idle=max_idle
        )
        self.now = 0.0
        self.leased: list[Permit[Thing]] = []
        self.queues: dict[str, list[Permit[Thing]]] = {key: [] for key in self.KEYS}
        self.idle: list[tuple[Thing, str, float]] = []  # item, key, since; oldest first
        self.closing: list[Permit[Thing]] = []  # those of the leased whose item is to be closed
        self.returned: list[Permit[Thing]] = []
        self.look_at = 0.0
        self.peak = self.opened = self.reused = self.numbered = 0
        # How often each key was served since another began to wait for the total: overtaken[other][key].
        self.overtaken: dict[str, dict[str, int]] = {key: defaultdict(int) for key in self.KEYS}

    # --- what the books say ---

    @property
    def open(self) -> int:
        return sum(permit.weight for permit in self.leased) + len(self.idle)

    @property
    def in_use(self) -> list[Permit[Thing]]:
        return [permit for permit in self.leased if permit not in self.closing]

    @property
    def waiting(self) -> int:
        return sum(map(len, self.queues.values()))

    def leased_of(self, key: str) -> list[Permit[Thing]]:
        return [permit for permit in self.leased if permit.key == key]

    def idle_of(self, key: str) -> list[Thing]:
        return [thing for thing, owner, _ in self.idle if owner == key]

    def waits_for_total(self, key: str) -> bool:
        return bool(self.queues[key]) and len(self.leased_of(key)) < self.limits[key]

    def forget(self, thing: Thing) -> None:
        self.idle = [entry for entry in self.idle if entry[0] is not thing]

    def take_idle(self, which: int, *, key: str | None = None) -> tuple[Thing, str]:
        """Take an idle item out of the books: the nth of all, or of one key."""
        thing, owner, _ = [entry for entry in self.idle if key in (None, entry[1])][which]
        self.forget(thing)
        return thing, owner

    def check_grant(self, permit: Permit[Thing]) -> None:
        """A permit has been granted: it was to be, with the right item, and the right one makes room for it."""
        key = str(permit.key)
        assert permit.state is LEASED
        assert permit.since == self.now
        expected, makes_room = self.expected(permit)
        assert permit.item is expected
        if makes_room is None:
            assert permit.evicted is None
        else:
            assert permit.evicted is not None
            assert permit.evicted.item is makes_room[0]
            if makes_room[1] == key:
                assert permit.evicted.state is RETURNED
                self.returned.append(permit.evicted)
            else:
                assert permit.evicted.weight == 0
                self.note_closing(permit.evicted, makes_room[1])
        self.leased.append(permit)
        self.reused += expected is not None
        self.peak = max(self.peak, self.open)

    def note_closing(self, permit: Permit[Thing], key: str) -> None:
        assert (permit.state, permit.key, permit.since) == (LEASED, key, self.now)
        self.leased.append(permit)
        self.closing.append(permit)

    def can_be_granted(self, permit: Permit[Thing]) -> bool:
        """There is an item for it, or room for one, or somebody who makes room."""
        key = str(permit.key)
        if len(self.leased_of(key)) + len(self.idle_of(key)) < self.limits[key]:
            return self.open < self.total or bool(self.idle)
        return bool(self.idle_of(key))

    def expected(self, permit: Permit[Thing]) -> tuple[Thing | None, tuple[Thing, str] | None]:
        """The item that a permit is to get, and the one, of which key, that makes room; taken out of the idle."""
        key = str(permit.key)
        assert self.can_be_granted(permit), "served although there is no room"
        fitting = [thing for thing in self.idle_of(key) if thing.identity == permit.identity]
        if fitting:
            self.forget(fitting[-1])
            return fitting[-1], None  # 4: the newest that fits
        if len(self.leased_of(key)) + len(self.idle_of(key)) == self.limits[key]:
            return None, self.take_idle(0, key=key)  # 4: the oldest of its own
        if self.open == self.total:
            return None, self.take_idle(0)  # 4: the oldest of all
        return None, None

    # --- what may happen ---

    @rule(keys=st.lists(st.sampled_from(KEYS), min_size=1, max_size=4), identity=st.sampled_from(IDENTITIES))
    def request_several(self, keys: list[str], identity: str) -> None:
        for key in keys:
            self.request(key, identity)

    def request(self, key: str, identity: str) -> None:
        permit: Permit[Thing] = Permit(key, identity, thread=1)
        at_once = not self.queues[key] and self.can_be_granted(permit)  # 3: nobody overtakes the queue
        if not at_once and self.max_waiting is not None and self.waiting == self.max_waiting:
            with pytest.raises(QueueFullError):
                self.ledger.request(permit, self.now)
            assert permit.state is NEW
            assert self.ledger.release(permit, None, self.now) is NOTHING
            return
        assert self.ledger.request(permit, self.now) == at_once
        if at_once:
            self.check_grant(permit)
        else:
            assert permit.state is WAITING
            self.queues[key].append(permit)

    def release(self, permit: Permit[Thing], thing: Thing | None) -> None:
        self.leased.remove(permit)
        self.returned.append(permit)
        if thing is not None:
            self.idle.append((thing, str(permit.key), self.now))
        wake, close = self.ledger.release(permit, thing, self.now)
        assert permit.state is RETURNED
        assert permit.item is None
        for served in wake:
            key = str(served.key)
            assert served is self.queues[key][0], "3: not the oldest of its key"
            for other in self.KEYS:
                if other != key and self.waits_for_total(other):
                    self.overtaken[other][key] += 1
                    assert self.overtaken[other][key] <= 1, f"3: {key} was served twice while {other} had its turn"
            self.overtaken[key].clear()
            del self.queues[key][0]
            self.check_grant(served)
        expired = []
        if thing is not None and self.now >= self.look_at:
            self.look_at = self.now + 1
            expired = [(item, key) for item, key, since in self.idle if since + self.max_idle <= self.now]
        assert [permit.item for permit in close] == [item for item, _ in expired]
        for closing, (item, key) in zip(close, expired, strict=True):
            self.forget(item)
            self.note_closing(closing, key)

    @precondition(lambda self: self.in_use)
    @rule(data=st.data())
    def release_with_item(self, data: st.DataObject) -> None:
        permit = data.draw(st.sampled_from(self.in_use))
        if permit.item is None:
            self.numbered += 1
            permit.item = Thing(str(permit.identity), str(self.numbered))
            self.ledger.note_opened(unusable=False)
            self.opened += 1
        self.release(permit, permit.item)

    @precondition(lambda self: self.in_use)
    @rule(data=st.data())
    def release_without_item(self, data: st.DataObject) -> None:
        self.release(data.draw(st.sampled_from(self.in_use)), None)

    @precondition(lambda self: self.closing)
    @rule(data=st.data())
    def close_one(self, data: st.DataObject) -> None:
        """What was to be closed has been."""
        permit = data.draw(st.sampled_from(self.closing))
        self.closing.remove(permit)
        self.release(permit, None)

    @precondition(lambda self: any(permit.item for permit in self.in_use))
    @rule(data=st.data())
    def replace_item(self, data: st.DataObject) -> None:
        """What came with the permit could not be used, and its holder opened another."""
        permit = data.draw(st.sampled_from([permit for permit in self.in_use if permit.item]))
        self.numbered += 1
        permit.item = Thing(str(permit.identity), str(self.numbered))
        self.ledger.note_opened(unusable=True)
        self.opened += 1
        self.reused -= 1

    @precondition(lambda self: self.returned)
    @rule(data=st.data(), stranger=st.none() | st.builds(Thing))
    def release_again(self, data: st.DataObject, stranger: Thing | None) -> None:
        actions = self.ledger.release(data.draw(st.sampled_from(self.returned)), stranger, self.now)
        assert list(actions.wake) == []
        assert closing(actions) == ([] if stranger is None else [stranger])
        self.returned += actions.close

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), by_release=st.booleans())
    def withdraw(self, data: st.DataObject, by_release: bool) -> None:
        permit = data.draw(st.sampled_from([permit for queue in self.queues.values() for permit in queue]))
        if by_release:
            assert self.ledger.release(permit, None, self.now) is NOTHING
        else:
            assert self.ledger.withdraw(permit)
        assert permit.state is RETURNED
        self.queues[str(permit.key)].remove(permit)
        self.returned.append(permit)

    @precondition(lambda self: self.leased or self.returned)
    @rule(data=st.data())
    def withdraw_in_vain(self, data: st.DataObject) -> None:
        permit = data.draw(st.sampled_from(self.leased + self.returned))
        state = permit.state
        assert not self.ledger.withdraw(permit)
        assert permit.state is state

    @rule()
    def drain(self) -> None:
        wake, close = self.ledger.drain(self.now)
        assert sorted(wake, key=id) == sorted((each for queue in self.queues.values() for each in queue), key=id)
        self.returned += wake
        for queue in self.queues.values():
            queue.clear()
        for permit, (thing, key, _) in zip(close, self.idle, strict=True):
            assert permit.item is thing
            self.note_closing(permit, key)
        self.idle.clear()

    @rule(seconds=st.sampled_from([0.25, 0.5, 1.0, 3.0]))
    def let_time_pass(self, seconds: float) -> None:
        self.now += seconds

    # --- what holds after every call ---

    @invariant()
    def the_bound_holds(self) -> None:
        """1."""
        stats = self.ledger.stats()
        for key, host in stats.hosts.items():
            assert host.leased + host.idle <= host.limit == self.limits[str(key)]
        assert stats.capacity == self.total
        assert stats.leased + stats.idle <= self.total

    @invariant()
    def no_one_waits_in_vain(self) -> None:
        """2."""
        for key, queue in self.queues.items():
            if queue:
                assert not self.idle_of(key)
                assert len(self.leased_of(key)) == self.limits[key] or self.open == self.total

    @invariant()
    def turns_are_counted_while_it_waits(self) -> None:
        """3: for the count of who overtook whom."""
        for key in self.KEYS:
            if not self.waits_for_total(key):
                self.overtaken[key].clear()

    @invariant()
    def every_item_is_somewhere_once(self) -> None:
        """5."""
        held = [permit.item for permit in self.leased if permit.item]
        lying = [thing for thing, _, _ in self.idle]
        assert len({*held, *lying}) == len(held) + len(lying)
        for permit in self.leased:
            assert permit.item is None or permit.item.identity == permit.identity
        assert set(self.ledger.leased()) == set(self.leased)

    @invariant()
    def nothing_else_is_remembered(self) -> None:
        """6, and every count."""
        stats = self.ledger.stats()
        assert stats.hosts == {
            key: HostStats(len(self.leased_of(key)), len(self.idle_of(key)), len(self.queues[key]), self.limits[key])
            for key in self.KEYS
            if self.leased_of(key) or self.idle_of(key) or self.queues[key]
        }
        assert (stats.leased + stats.idle, stats.idle, stats.waiting) == (self.open, len(self.idle), self.waiting)
        assert (stats.peak, stats.opened, stats.reused) == (self.peak, self.opened, self.reused)
        for key in self.KEYS:
            assert self.ledger.holders(key) == self.leased_of(key)

    def teardown(self) -> None:
        """Whatever happened, when everything has come back nothing is left."""
        if not hasattr(self, "ledger"):
            return
        self.drain()
        while self.leased:
            self.release(self.leased[0], None)

        assert self.ledger.open == self.ledger.waiting == 0
        assert self.ledger.stats().hosts == {}


LedgerMachine.TestCase.settings = settings(max_examples=300, stateful_step_count=50, deadline=None)
TestLedgerMachine = pytest.mark.timeout(600)(LedgerMachine.TestCase)  # to make a failure small takes its time
