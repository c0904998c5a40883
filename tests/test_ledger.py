"""The ledger against its own list of invariants: one test per rule first, then a state machine over all of them."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, ClassVar

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


# --- limits that change ---


class Limited(Ledger[Thing]):
    """A ledger whose limits a test may change, and which knows how often it asked for them."""

    def __init__(self, limits: dict[str, int], total: float = 10) -> None:
        self.asked: list[str] = []
        self.limits = limits
        super().__init__(self._ask, total)

    def _ask(self, key: object) -> int:
        self.asked.append(str(key))
        return self.limits[str(key)]

    def change(self, total: float = 10, now: float = 0.0, **limits: int) -> Actions[Thing]:
        self.limits = {**self.limits, **limits}
        return self.resize(total, max_waiting=None, max_idle=math.inf, now=now)


def leased_with_items(ledger: Ledger[Thing], *keys: str) -> list[Permit[Thing]]:
    """Leased permits, each with an item that its holder has opened."""
    permits = [asked(ledger, key) for key in keys]
    for number, permit in enumerate(permits):
        assert permit.state is LEASED
        permit.item = Thing(name=f"{permit.key}{number}")
    return permits


def come_back(ledger: Ledger[Thing], *permits: Permit[Thing]) -> list[Permit[Thing]]:
    """All come back with their items, one after the other; the permits under which some are to be closed."""
    return [closed for permit in permits for closed in ledger.release(permit, permit.item, 0.0).close]


def test_a_raised_limit_serves_who_waits_in_order() -> None:
    """As many as there is room for now, the longest waiting first, and the rest wait on."""
    ledger = Limited({"a": 1})
    asked(ledger)
    first, second, third = (asked(ledger) for _ in range(3))
    actions = ledger.change(a=3, now=7.0)

    assert (list(actions.wake), closing(actions)) == ([first, second], [])
    assert (first.since, third.state, ledger.waiting) == (7.0, WAITING, 1)
    assert ledger.stats().hosts["a"] == HostStats(leased=3, idle=0, waiting=1, limit=3)


def test_a_raised_total_serves_the_keys_in_turn() -> None:
    """Whoever waits for the total is served one of each key in turn, up to the new one."""
    ledger = Limited({"a": 9, "b": 9, "c": 9}, total=1)
    asked(ledger, "a")
    waiters = {key: [asked(ledger, key) for _ in range(2)] for key in "bc"}
    actions = ledger.change(total=4)

    assert list(actions.wake) == [waiters["b"][0], waiters["c"][0], waiters["b"][1]]
    assert ledger.stats().capacity == 4


def test_each_keys_limit_is_asked_for_again() -> None:
    """Each known key is asked for once, as `overrides` may differ; a key that is not known when it turns up."""
    ledger = Limited({"a": 1, "b": 1, "c": 5})
    asked(ledger, "a")
    asked(ledger, "b")
    ledger.asked.clear()
    ledger.change(a=2, b=3)
    limits = {key: host.limit for key, host in ledger.stats().hosts.items()}
    asked(ledger, "c")

    assert limits == {"a": 2, "b": 3}
    assert ledger.asked == ["a", "b", "c"]


def test_a_lowered_limit_closes_the_oldest_idle_items_of_its_key() -> None:
    """Exactly as many as are too many, those that have been idle longest; other keys keep theirs."""
    ledger = Limited({"a": 4, "b": 4})
    permits = leased_with_items(ledger, "a", "a", "a", "a", "b")
    things = [permit.item for permit in permits]
    come_back(ledger, *permits[4:], *permits[1:4])
    actions = ledger.change(a=2)

    assert closing(actions) == things[1:3]
    assert [item for _, item, _ in ledger.idle()] == [things[4], things[3]]
    assert {permit.state for permit in actions.close} == {LEASED}
    assert ledger.open == 5  # what is to be closed counts until it is
    for permit in actions.close:
        ledger.release(permit, None, 0.0)
    assert ledger.stats().hosts["a"] == HostStats(leased=1, idle=1, waiting=0, limit=2)


def test_a_lowered_total_closes_the_coldest_of_all_keys() -> None:
    """Whosever they are, those idle longest go, and exactly as many as are too many."""
    ledger = Limited({"a": 4, "b": 4})
    permits = leased_with_items(ledger, "a", "b", "a", "b")
    things = [permit.item for permit in permits]
    come_back(ledger, *permits)
    actions = ledger.change(total=2)

    assert closing(actions) == things[:2]
    assert [item for _, item, _ in ledger.idle()] == things[2:]


def test_what_one_limit_closes_counts_for_the_other() -> None:
    """A key's limit and the total lowered together close no item for both."""
    ledger = Limited({"a": 3, "b": 1})
    permits = leased_with_items(ledger, "b", "a", "a", "a")
    things = [permit.item for permit in permits]
    come_back(ledger, *permits)

    assert closing(ledger.change(a=1, total=2)) == things[1:3]


@pytest.mark.parametrize(("limit", "total"), [(2, 10), (9, 2)])
def test_what_comes_back_beyond_a_lowered_limit_is_closed(limit: int, total: int) -> None:
    """Nothing in use is interrupted; of five in use that may be two now, three are closed when they come back, whether
    or not those before them have been closed yet."""
    ledger = Limited({"a": 9})
    permits = leased_with_items(ledger, *"aaaaa")
    things = [permit.item for permit in permits]
    assert ledger.change(a=limit, total=total) == Actions([], [])
    closed = come_back(ledger, *permits)

    assert [permit.item for permit in closed] == things[:3]
    assert (ledger.open, ledger.stats().idle) == (5, 2)
    for permit in closed:
        ledger.release(permit, None, 0.0)
    assert (ledger.open, ledger.stats().idle) == (2, 2)


@pytest.mark.parametrize(("limit", "total"), [(2, 10), (9, 2)])
def test_nothing_is_opened_under_a_lowered_limit_until_it_holds(limit: int, total: int) -> None:
    """Who asks waits while more is leased, or being closed, than may be; then it is served, in order."""
    ledger = Limited({"a": 9})
    permits = leased_with_items(ledger, *"aaaa")
    ledger.change(a=limit, total=total)
    first, second = asked(ledger), asked(ledger)
    assert {first.state, second.state} == {WAITING}
    closed = come_back(ledger, *permits[:2])
    assert len(closed) == 2
    for permit in closed:
        assert list(ledger.release(permit, None, 0.0).wake) == []

    assert list(ledger.release(permits[2], None, 0.0).wake) == [first]
    assert list(ledger.release(permits[3], permits[3].item, 0.0).wake) == [second]
    assert second.item is not None


def test_what_was_evicted_for_its_own_key_is_not_taken_for_being_closed() -> None:
    """Its permit was returned at once, so it is none of those that a lowered limit may count on to go."""
    ledger = Limited({"a": 2})
    rested(ledger, Thing())
    held = leased_with_items(ledger, "a")  # takes it
    come_back(ledger, *held)
    tls = [asked(ledger, identity="tls"), asked(ledger, identity="tls")]
    assert tls[1].evicted is not None
    assert tls[1].evicted.state is RETURNED
    for permit in tls:
        permit.item = Thing("tls")
    ledger.change(a=1)

    assert len(come_back(ledger, *tls)) == 1


def test_a_lowered_limit_of_one_key_is_none_of_anothers() -> None:
    """A key that holds too much keeps no other from being served, nor what others give back from lying idle."""
    ledger = Limited({"a": 3, "b": 2})
    a = leased_with_items(ledger, *"aaa")
    b = leased_with_items(ledger, "b")
    ledger.change(a=1)
    asked(ledger, "b")

    assert come_back(ledger, *b) == []
    assert asked(ledger, "b").item is not None
    assert len(come_back(ledger, *a)) == 2


def test_what_is_still_being_closed_keeps_nobody_from_an_idle_item() -> None:
    """While surplus items are being closed, what lies idle is handed on: it is open already."""
    ledger = Limited({"a": 3})
    permits = leased_with_items(ledger, *"aaa")
    come_back(ledger, permits[0])
    ledger.change(a=2)
    waiter = asked(ledger)
    assert waiter.state is WAITING
    actions = ledger.release(permits[1], permits[1].item, 0.0)

    assert list(actions.wake) == [waiter]
    assert waiter.item is not None


def test_a_limit_lowered_and_raised_again_is_as_before() -> None:
    """What was not closed meanwhile stays, and counts once."""
    ledger = Limited({"a": 3})
    permits = leased_with_items(ledger, *"aaa")
    ledger.change(a=1)
    ledger.change(a=3)

    assert come_back(ledger, *permits) == []
    assert ledger.stats().hosts["a"] == HostStats(leased=0, idle=3, waiting=0, limit=3)


def test_one_keys_limit_is_asked_for_again_and_no_others() -> None:
    """Raised, it serves who waits in order; the others keep what they have."""
    ledger = Limited({"a": 1, "b": 1})
    for key in "ab":
        asked(ledger, key)
    first, second, other = asked(ledger, "a"), asked(ledger, "a"), asked(ledger, "b")
    ledger.limits = {"a": 2, "b": 2}
    ledger.asked.clear()
    actions = ledger.relimit("a", 7.0)

    assert ledger.asked == ["a"]
    assert (list(actions.wake), closing(actions)) == ([first], [])
    assert (first.since, second.state, other.state) == (7.0, WAITING, WAITING)
    assert ledger.stats().hosts["b"].limit == 1


def test_one_keys_lowered_limit_closes_its_oldest_idle_items() -> None:
    """Exactly what is too much of that key, and then what comes back."""
    ledger = Limited({"a": 4, "b": 4})
    permits = leased_with_items(ledger, *"aaaab")
    things = [permit.item for permit in permits]
    come_back(ledger, *permits[:2], permits[4])
    ledger.limits = {"a": 2, "b": 2}
    closed = ledger.relimit("a", 0.0)

    assert closing(closed) == things[:2]
    assert come_back(ledger, *permits[2:4]) == []
    assert ledger.stats().hosts["a"] == HostStats(leased=2, idle=2, waiting=0, limit=2)  # those leased are being closed
    assert ledger.stats().hosts["b"] == HostStats(leased=0, idle=1, waiting=0, limit=4)


def test_the_limit_of_a_key_that_is_not_known() -> None:
    """Nothing is asked, nothing remembered: it is asked for when the key turns up."""
    ledger = Limited({"a": 1})

    assert ledger.relimit("a", 0.0) is NOTHING
    assert (ledger.asked, ledger.stats().hosts) == ([], {})


def test_how_many_may_wait_and_how_long_items_lie_can_be_changed() -> None:
    """`resize` changes those too; who waits already stays."""
    ledger = books(per_key=2, max_waiting=None, max_idle=math.inf)
    first, second = asked(ledger), asked(ledger)
    asked(ledger)
    ledger.resize(10, max_waiting=1, max_idle=5.0, now=0.0)
    with pytest.raises(QueueFullError):
        asked(ledger)

    assert ledger.waiting == 1
    ledger.release(first, None, 0.0)
    thing = Thing()
    ledger.release(second, thing, 0.0)
    assert back(ledger, asked(ledger, "b"), Thing(), now=5.0) == [thing]


def test_resizing_to_the_same_does_nothing() -> None:
    """No item is closed and nobody served."""
    ledger = Limited({"a": 2})
    rested(ledger, Thing())
    leased_with_items(ledger, "a")

    assert ledger.change() == Actions([], [])


# --- suspended ---


def test_nothing_is_granted_while_suspended() -> None:
    """Whoever asks waits, though there is room and an item lies ready; what comes back serves nobody."""
    ledger = books(per_key=2)
    rested(ledger, Thing())
    held = asked(ledger)
    ledger.suspended = True
    waiters = [asked(ledger), asked(ledger, "b")]

    assert {permit.state for permit in waiters} == {WAITING}
    assert list(ledger.release(held, Thing(), 0.0).wake) == []
    assert ledger.stats().suspended


def test_who_waited_while_suspended_is_served_in_order() -> None:
    """`resume` serves the queues as releases would have: oldest first, keys in turn, and as many as fit."""
    ledger = books(per_key=2, total=3)
    ledger.suspended = True
    waiters = [asked(ledger, key) for key in "aaabb"]
    actions = ledger.resume(7.0)

    assert list(actions.wake) == [waiters[0], waiters[3], waiters[1]]
    assert waiters[0].since == 7.0
    assert (ledger.stats().suspended, ledger.waiting) == (False, 2)


def test_whoever_comes_after_a_suspension_queues_behind() -> None:
    """Nobody overtakes who waited through it."""
    ledger = books(per_key=1)
    ledger.suspended = True
    waiter = asked(ledger)
    ledger.resume(0.0)

    assert (waiter.state, asked(ledger).state) == (LEASED, WAITING)


def test_a_permit_that_came_back_while_suspended_serves_afterwards() -> None:
    """What was given back meanwhile, to a key that was at its limit, is not forgotten."""
    ledger = books(per_key=1)
    held, waiter, thing = asked(ledger), asked(ledger), Thing()
    ledger.suspended = True
    ledger.release(held, thing, 0.0)
    actions = ledger.resume(1.0)

    assert list(actions.wake) == [waiter]
    assert waiter.item is thing


def test_resizing_while_suspended_serves_nobody() -> None:
    """Room that is made meanwhile is given at the end."""
    ledger = Limited({"a": 1})
    asked(ledger)
    ledger.suspended = True
    waiter = asked(ledger)

    assert list(ledger.change(a=2).wake) == []
    assert list(ledger.resume(0.0).wake) == [waiter]


def test_resuming_what_is_not_suspended_does_nothing() -> None:
    """There is nobody to serve that has not been."""
    ledger = books(per_key=1)
    asked(ledger)
    asked(ledger)

    assert list(ledger.resume(0.0).wake) == []


def test_a_suspended_ledger_still_refuses_who_may_not_wait() -> None:
    """`max_waiting` holds for those a suspension keeps waiting."""
    ledger = books(max_waiting=0)
    ledger.suspended = True

    with pytest.raises(QueueFullError):
        asked(ledger)
    assert ledger.stats().hosts == {}


# --- all idle items closed, and a new beginning ---


def test_evicting_closes_what_is_idle_and_only_that() -> None:
    """The coldest first; what is leased stays, who waits goes on waiting, and places come free as items are closed."""
    ledger = books(per_key=1, total=2)
    cold, warm = rested(ledger, Thing(), "a"), rested(ledger, Thing(), "b")
    actions = ledger.evict(0.0)
    assert (closing(actions), list(actions.wake)) == ([cold, warm], [])
    waiter = asked(ledger, "a")
    assert waiter.state is WAITING
    assert ledger.open == 2

    assert list(ledger.release(actions.close[0], None, 0.0).wake) == [waiter]
    assert waiter.item is None
    ledger.release(actions.close[1], None, 0.0)
    assert ledger.open == 1


def test_a_new_beginning_keeps_only_what_is_named() -> None:
    """In a forked process: of three leased one is kept, with its item and since when; all else is as if never asked."""
    ledger = books(per_key=3, total=3)
    rested(ledger, Thing(), "b")
    kept, gone = asked(ledger, now=5.0), asked(ledger)
    kept.item = thing = Thing()
    waiter = asked(ledger, "a")
    assert waiter.evicted is not None  # of "b": being closed when the process was forked
    late = asked(ledger, "a")
    assert late.state is WAITING
    wake = ledger.reset([kept])

    assert wake == [late]
    assert [permit.state for permit in (kept, gone, waiter, waiter.evicted, late)] == [LEASED, *[RETURNED] * 4]
    assert (kept.item, kept.since) == (thing, 5.0)
    assert list(ledger.leased()) == [kept]
    assert (ledger.open, ledger.waiting, list(ledger.idle()), list(ledger.waiters())) == (1, 0, [], [])
    for permit in (gone, waiter, late):
        assert ledger.release(permit, None, 6.0) is NOTHING
    assert [asked(ledger).state for _ in range(3)] == [LEASED, LEASED, WAITING]


def test_a_new_beginning_with_nothing_leased() -> None:
    """Nothing is remembered, and all there is can be had."""
    ledger = books(per_key=1)
    asked(ledger)
    asked(ledger)
    ledger.reset(())

    assert (ledger.open, ledger.waiting, ledger.stats().hosts) == (0, 0, {})
    assert asked(ledger).state is LEASED


# --- who waits for itself ---


def holding(ledger: Ledger[Thing], thread: int, key: str = "a", *, bound: bool = True) -> Permit[Thing]:
    """A permit of this thread's, leased or waiting."""
    permit: Permit[Thing] = Permit(key, "plain", thread, bound=bound)
    ledger.request(permit, 0.0)
    return permit


def test_whoever_holds_all_of_a_key_waits_for_itself() -> None:
    """The number says how many it holds."""
    ledger = books(per_key=2)
    holding(ledger, 1)
    holding(ledger, 1)

    assert ledger.own_in_the_way(holding(ledger, 1), alone=lambda: False) == 2
    assert ledger.own_in_the_way(holding(ledger, 2), alone=lambda: False) == 0


def test_whoever_holds_some_of_a_key_does_not() -> None:
    """Another may give its own back."""
    ledger = books(per_key=2)
    holding(ledger, 1)
    holding(ledger, 2)

    assert ledger.own_in_the_way(holding(ledger, 1), alone=lambda: True) == 0


def test_whoever_holds_all_of_the_total_waits_for_itself() -> None:
    """Where the total binds, permits of every key are in the way."""
    ledger = books(per_key=2, total=2)
    holding(ledger, 1, "a")
    b = holding(ledger, 1, "b")
    waiter = holding(ledger, 1, "c")

    assert ledger.own_in_the_way(waiter, alone=lambda: False) == 2
    b.thread = 2  # taken over by another
    assert ledger.own_in_the_way(waiter, alone=lambda: False) == 0


def test_what_others_may_give_back_is_not_in_the_way_unless_there_are_none() -> None:
    """A permit that goes with a response may be given back by whoever has that; by nobody, in a program of one
    thread."""
    ledger = books(per_key=2)
    holding(ledger, 1)
    holding(ledger, 1, bound=False)
    waiter = holding(ledger, 1)

    assert ledger.own_in_the_way(waiter, alone=lambda: False) == 0
    assert ledger.own_in_the_way(waiter, alone=lambda: True) == 2


def test_what_is_being_closed_comes_back() -> None:
    """An item in the hands of whoever closes it is nobody's who waits."""
    ledger = books(per_key=1)
    rested(ledger, Thing())
    ledger.evict(0.0)

    assert ledger.own_in_the_way(holding(ledger, 1), alone=lambda: True) == 0


def test_a_suspension_ends_from_outside() -> None:
    """Who waits while suspended waits for `resume`, whatever it holds."""
    ledger = books(per_key=1)
    holding(ledger, 1)
    waiter = holding(ledger, 1)
    ledger.suspended = True

    assert ledger.own_in_the_way(waiter, alone=lambda: True) == 0


# --- what is told ---


def test_who_waits_and_what_is_idle_are_told() -> None:
    """The longest waiting of each key first; idle items with their key and since when, the coldest first."""
    ledger = books(per_key=1, total=4)
    cold, warm = rested(ledger, Thing(), "c", now=1.0), rested(ledger, Thing(), "d", now=2.0)
    held = [asked(ledger, key) for key in "ab"]
    b, first, second = asked(ledger, "b"), asked(ledger, "a"), asked(ledger, "a")

    assert [permit for permit in ledger.waiters() if permit.key == "a"] == [first, second]
    assert set(ledger.waiters()) == {first, second, b}
    assert list(ledger.idle()) == [("c", cold, 1.0), ("d", warm, 2.0)]
    assert set(ledger.leased()) == set(held)


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

    KEYS: ClassVar = ["a", "b", "c"]
    IDENTITIES: ClassVar = ["plain", "tls"]

    SETTINGS: ClassVar[dict[str, Any]] = {
        "limits": st.fixed_dictionaries({key: st.integers(1, 4) for key in KEYS}),
        "total": st.integers(1, 6),
        "max_waiting": st.none() | st.integers(0, 4),
        "max_idle": st.sampled_from([0.5, 3.0, math.inf]),
    }

    @initialize(**SETTINGS)
    def open_the_books(self, limits: dict[str, int], total: int, max_waiting: int | None, max_idle: float) -> None:
        self.limits = dict(limits)
        self.total = total
        self.max_waiting = max_waiting
        self.max_idle = max_idle
        self.suspended = False
        self.ledger: Ledger[Thing] = Ledger(
            lambda key: self.limits[str(key)], total, max_waiting=max_waiting, max_idle=max_idle
        )
        self.now = 0.0
        self.leased: list[Permit[Thing]] = []
        self.queues: dict[str, list[Permit[Thing]]] = {key: [] for key in self.KEYS}
        self.idle: list[tuple[Thing, str, float]] = []  # item, key, since; oldest first
        self.closing: list[Permit[Thing]] = []  # those of the leased whose item is to be closed
        self.returned: list[Permit[Thing]] = []
        self.look_at = 0.0
        self.peak = self.opened = self.reused = self.numbered = 0
        # What was open after the last step; None stands for all keys together.
        self.was_open: dict[str | None, int] = dict.fromkeys([*self.KEYS, None], 0)
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

    def to_be_closed(self, key: str | None = None) -> int:
        """How many of what is open, of one key or of all, are to be closed."""
        if key is None:
            return sum(permit.weight for permit in self.closing)
        return sum(permit.key == key for permit in self.closing)

    def idle_of(self, key: str) -> list[Thing]:
        return [thing for thing, owner, _ in self.idle if owner == key]

    def waits_for_total(self, key: str) -> bool:
        return bool(self.queues[key]) and (len(self.leased_of(key)) < self.limits[key] or bool(self.idle_of(key)))

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
        if len(self.leased_of(key)) + len(self.idle_of(key)) >= self.limits[key]:
            return None, self.take_idle(0, key=key)  # 4: the oldest of its own
        if self.open >= self.total:
            return None, self.take_idle(0)  # 4: the oldest of all
        return None, None

    # --- what may happen ---

    @rule(
        keys=st.lists(st.sampled_from(KEYS), min_size=1, max_size=4) | st.sampled_from(KEYS).map(lambda key: [key] * 4),
        identity=st.sampled_from(IDENTITIES),
    )
    def request_several(self, keys: list[str], identity: str) -> None:
        for key in keys:
            self.request(key, identity)

    def request(self, key: str, identity: str) -> None:
        permit: Permit[Thing] = Permit(key, identity, thread=1)
        # 3: nobody overtakes the queue.
        at_once = not self.suspended and not self.queues[key] and self.can_be_granted(permit)
        if not at_once and self.max_waiting is not None and self.waiting >= self.max_waiting:
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

    def check_served(self, wake: Sequence[Permit[Thing]]) -> None:
        """These have been served, one after the other: it was their turn."""
        assert not (wake and self.suspended), "2: served while suspended"
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

    def release(self, permit: Permit[Thing], thing: Thing | None) -> None:
        key = str(permit.key)
        # 1: since a limit was lowered, what is open, and not to be closed already, may be too much.
        too_many = len(self.leased_of(key)) - self.to_be_closed(key) > self.limits[key]
        is_surplus = thing is not None and (too_many or self.open - self.to_be_closed() > self.total)
        self.leased.remove(permit)
        if permit in self.closing:
            self.closing.remove(permit)
        self.returned.append(permit)
        if thing is not None and not is_surplus:
            self.idle.append((thing, key, self.now))
        wake, close = self.ledger.release(permit, thing, self.now)
        assert permit.state is RETURNED
        assert permit.item is None
        if is_surplus:
            assert ([closing.item for closing in close], list(wake)) == ([thing], [])
            self.note_closing(close[0], key)
            return
        self.check_served(wake)
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
        for permit in data.draw(st.lists(st.sampled_from(self.in_use), min_size=1, max_size=4, unique_by=id)):
            if permit.item is None:
                self.numbered += 1
                permit.item = Thing(str(permit.identity), str(self.numbered))
                self.ledger.note_opened(unusable=False)
                self.opened += 1
            self.release(permit, permit.item)
            self.turns_are_counted_while_it_waits()

    @precondition(lambda self: self.in_use)
    @rule(data=st.data())
    def release_without_item(self, data: st.DataObject) -> None:
        self.release(data.draw(st.sampled_from(self.in_use)), None)

    @precondition(lambda self: self.closing)
    @rule(data=st.data())
    def close_one(self, data: st.DataObject) -> None:
        """What was to be closed has been."""
        self.release(data.draw(st.sampled_from(self.closing)), None)

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

    # Of what empties the books a little is enough: one rule, so that the others have their turns.
    @precondition(lambda self: len(self.leased) + len(self.idle) >= self.total)
    @rule(data=st.data(), how=st.sampled_from(["drain", "evict", "start anew"]))
    def empty(self, data: st.DataObject, how: str) -> None:
        if how == "drain":
            self.drain()
        elif how == "evict":
            self.evict()
        else:
            self.start_anew(data.draw(st.lists(st.sampled_from(self.in_use), unique_by=id)) if self.in_use else [])

    def drain(self) -> None:
        wake, close = self.ledger.drain(self.now)
        assert sorted(wake, key=id) == sorted((each for queue in self.queues.values() for each in queue), key=id)
        self.returned += wake
        for queue in self.queues.values():
            queue.clear()
        self.check_evicted(close)

    def evict(self) -> None:
        wake, close = self.ledger.evict(self.now)
        assert list(wake) == []
        self.check_evicted(close)

    def check_evicted(self, close: Sequence[Permit[Thing]]) -> None:
        for permit, (thing, key, _) in zip(close, self.idle, strict=True):
            assert permit.item is thing
            self.note_closing(permit, key)
        self.idle.clear()

    @precondition(lambda self: self.leased or self.idle)
    @rule(**SETTINGS)
    def resize(self, limits: dict[str, int], total: int, max_waiting: int | None, max_idle: float) -> None:
        self.limits, self.total, self.max_waiting, self.max_idle = dict(limits), total, max_waiting, max_idle
        wake, close = self.ledger.resize(total, max_waiting=max_waiting, max_idle=max_idle, now=self.now)
        # 1: exactly as many as are too much; 4: the oldest of each key, then the oldest of all.
        retired = []
        for key in self.KEYS:
            surplus = len(self.leased_of(key)) - self.to_be_closed(key) + len(self.idle_of(key)) - limits[key]
            retired += [self.take_idle(0, key=key) for _ in range(min(surplus, len(self.idle_of(key))))]
        surplus = self.open - self.to_be_closed() - total
        retired += [self.take_idle(0) for _ in range(min(surplus, len(self.idle)))]
        assert {permit.item: permit.key for permit in close} == dict(retired)
        for permit in close:
            self.note_closing(permit, str(permit.key))
        self.check_served(wake)

    @precondition(lambda self: self.leased or self.idle)
    @rule(data=st.data(), limit=st.integers(1, 4))
    def relimit(self, data: st.DataObject, limit: int) -> None:
        # 6: a key that is not remembered has no limit yet, and gets its new one when it turns up.
        key = data.draw(st.sampled_from(self.KEYS))
        self.limits[key] = limit
        wake, close = self.ledger.relimit(key, self.now)
        surplus = len(self.leased_of(key)) - self.to_be_closed(key) + len(self.idle_of(key)) - limit
        retired = [self.take_idle(0, key=key) for _ in range(min(surplus, len(self.idle_of(key))))]
        assert [(permit.item, permit.key) for permit in close] == retired
        for permit in close:
            self.note_closing(permit, key)
        self.check_served(wake)

    @precondition(lambda self: self.leased or self.idle)
    @rule(suspended=st.sampled_from([True, False, False]))
    def suspend_or_resume(self, suspended: bool) -> None:
        self.suspended = suspended
        if suspended:
            self.ledger.suspended = True
            return
        wake, close = self.ledger.resume(self.now)
        assert list(close) == []
        self.check_served(wake)

    def start_anew(self, kept: list[Permit[Thing]]) -> None:
        """As a forked process does: only some of the leased permits are held by somebody who is there."""
        wake = self.ledger.reset(kept)
        waiters = [permit for queue in self.queues.values() for permit in queue]
        assert sorted(wake, key=id) == sorted(waiters, key=id)
        gone = [permit for permit in self.leased if permit not in kept]
        assert {permit.state for permit in (*gone, *waiters)} <= {RETURNED}
        self.returned += (*gone, *waiters)
        self.leased = kept
        self.idle, self.closing = [], []
        for queue in self.queues.values():
            queue.clear()

    @rule(seconds=st.sampled_from([0.25, 0.5, 1.0, 3.0]))
    def let_time_pass(self, seconds: float) -> None:
        self.now += seconds

    # --- what holds after every call ---

    @invariant()
    def the_bound_holds(self) -> None:
        """1."""
        stats = self.ledger.stats()
        for key in self.KEYS:
            host = stats.hosts.get(key, HostStats(0, 0, 0, self.limits[key]))
            assert host.limit == self.limits[key]
            self.check_bound(key, host.leased + host.idle, host.idle, host.limit)
        assert stats.capacity == self.total
        self.check_bound(None, stats.leased + stats.idle, stats.idle, self.total)

    def check_bound(self, key: str | None, open_: int, idle: int, limit: int) -> None:
        """What is open is within the limit; if that was lowered, no more than was, and nothing idle is too much."""
        assert open_ <= max(limit, self.was_open[key])
        assert idle == 0 or open_ - self.to_be_closed(key) <= limit
        self.was_open[key] = open_

    @invariant()
    def no_one_waits_in_vain(self) -> None:
        """2."""
        for key, queue in self.queues.items():
            if queue and not self.suspended:
                assert not self.idle_of(key)
                leased = sum(permit.weight for permit in self.leased)
                assert len(self.leased_of(key)) >= self.limits[key] or leased >= self.total

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
        assert stats.suspended == self.suspended
        assert sorted(self.ledger.waiters(), key=id) == sorted(itertools.chain(*self.queues.values()), key=id)
        assert [item for _, item, _ in self.ledger.idle()] == [item for item, _, _ in self.idle]
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


LedgerMachine.TestCase.settings = settings(max_examples=400, stateful_step_count=50, deadline=None)
TestLedgerMachine = pytest.mark.timeout(600)(LedgerMachine.TestCase)  # to make a failure small takes its time
