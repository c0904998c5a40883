r"""Who holds what and who is next: the pool's bookkeeping, without lock, clock or I/O.

A *permit* is the right to have one item (a connection) open for a key (a host). It is asked for, perhaps waits, is
leased, and is given back with its item (which then lies *idle*, ready for the next) or without. The ledger only
decides; `Gate` asks it under one lock and does what it said after the lock is free.

    NEW --request--> LEASED --release--> RETURNED
        \--> WAITING --(served)--> LEASED
                     \--withdraw--> RETURNED

What holds after every call (`tests/test_ledger.py` checks this list against a model):

1.  Per key, leased + idle <= limit; over all keys, leased + idle <= total. A leased permit counts from the moment it is
    granted, whether or not its item is open yet. An item that is to be closed counts until it is: it is leased, with a
    permit of its own, to whoever closes it. When a limit is lowered below that, exactly what is too much is to be
    closed, idle items first, then what comes back; until it holds again, no more is open under it than was.
2.  No one waits in vain: if a key has a waiter, then the ledger is suspended, or none of the key's items is idle and
    either all that its limit allows are leased, or all that the total allows are leased.
3.  Waiters of one key are served in the order they came. Keys that wait for the total are served in turn.
4.  Of idle items the newest that fits is taken first (the warmest works), the oldest is closed first (the coldest
    goes).
5.  An item is handed only to a permit of its own key and identity, and is idle, leased with one permit, or forgotten.
6.  A key with nothing leased, idle or waiting is not remembered.

Items of one key may differ in *identity* (TLS settings, proxy credentials): they share the key's limit, and nothing
else.
"""

from __future__ import annotations

import enum
import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, Protocol, TypeVar

import attrs

if TYPE_CHECKING:
    from sessionpool._clock import Baton


class Item(Protocol):
    """What can be kept idle. Compared and hashed as an object, not by value."""

    @property
    def identity(self) -> Hashable: ...


T = TypeVar("T", bound=Item)


class State(enum.Enum):
    """Where a permit stands; see the module's diagram."""

    NEW = enum.auto()
    WAITING = enum.auto()
    LEASED = enum.auto()
    RETURNED = enum.auto()


# Python 3.11 finds an enum's member by failing to find an attribute first: 1.5 µs, eight times a request.
NEW, WAITING, LEASED, RETURNED = State


@attrs.define(eq=False)
class Permit(Generic[T]):
    """The right to one item; made by whoever wants it, written to only under the gate's lock until it is leased.

    Attributes:
        key: What the limit counts by.
        identity: Which items it can use.
        thread: Ident of the thread that asked, or took it over; 0 for one under which an item is closed.
        bound: Only that thread can give it back; false once it goes with an object that any thread may have.
        item: The item that came with it, or that its holder opened; `None` if there is none yet.
        evicted: The permit of an idle item that made room for this one; the holder closes that item, and returns that
            permit, before it opens its own.
        weight: What it counts of the total: 0 if its place has been passed on.
        since: The instant it was granted; while it waits, the instant it was asked for.
        baton: Released when a waiter may go on.
    """

    key: Hashable
    identity: Hashable
    thread: int
    bound: bool = True
    state: State = NEW
    item: T | None = None
    evicted: Permit[T] | None = None
    weight: int = 1
    since: float = 0.0
    baton: Baton | None = None


class Actions(NamedTuple, Generic[T]):
    """What is to be done once the lock is free: let these permits go on, close these permits' items and return them."""

    wake: Sequence[Permit[T]] = ()
    close: Sequence[Permit[T]] = ()


NOTHING: Final[Actions[Any]] = Actions()


@attrs.frozen
class HostStats:
    """Connections of one host at one moment."""

    leased: int
    idle: int
    waiting: int
    limit: int


@attrs.frozen
class PoolStats:
    """The pool at one moment.

    Attributes:
        leased: Connections in use, being opened included.
        idle: Connections that lie ready.
        waiting: Threads that wait for one.
        capacity: `Limits.total`; `None` for no limit.
        peak: Most that were ever open or being opened at once.
        opened: Connections opened since the start.
        reused: Times an idle connection was taken and used since the start.
        hosts: The same per host, for hosts that have any.
        suspended: Nothing is granted until `resume`.
        sessions: Sessions leased now.
        reclaimed: Leases that were not released but lost, and were taken back by the collector or because their thread
            had ended, since the start.
        sleeping: Threads that pause before a request, for backoff, cool-down or rate, and hold no connection.
    """

    leased: int
    idle: int
    waiting: int
    capacity: int | None
    peak: int
    opened: int
    reused: int
    hosts: Mapping[Hashable, HostStats]
    suspended: bool = False
    sessions: int = 0
    reclaimed: int = 0
    sleeping: int = 0


class QueueFullError(Exception):
    """`max_waiting` permits are waiting already."""


def _closing(key: Hashable, item: T) -> Permit[T]:
    """A permit under which an item is closed."""
    return Permit(key, item.identity, 0, state=RETURNED, item=item)


NOBODY: Final[OrderedDict[Any, None]] = OrderedDict()  # the queue of every host that nobody waits for; never changed


class _Host(Generic[T]):
    """One key's permits and items."""

    __slots__ = ("closing", "idle", "key", "leased", "limit", "waiters")

    def __init__(self, key: Hashable, limit: int) -> None:
        self.key = key
        self.limit = limit
        self.leased: dict[Permit[T], None] = {}  # in the order granted, so the first is the longest held
        self.closing = 0  # how many of them are leased to whoever closes their items
        self.idle: list[T] = []  # oldest first
        # Oldest first; O(1) to leave from the middle. Made when somebody waits, for it costs as much as all the rest.
        self.waiters: OrderedDict[Permit[T], None] = NOBODY

    @property
    def is_full(self) -> bool:
        """Nothing can be granted by what others give up under the total, only by what comes back here."""
        return len(self.leased) >= self.limit and not self.idle

    @property
    def is_empty(self) -> bool:
        return not (self.leased or self.idle or self.waiters)


class Ledger(Generic[T]):
    """The books of one pool. Confined: whoever calls holds the gate's lock.

    Args:
        limit_of: The limit for a key, asked once when the key turns up, and again by `resize` and `relimit`.
        total: The limit over all keys.
        max_waiting: How many permits may wait; `None` for any number.
        max_idle: Seconds after which an idle item is to be closed.
    """

    def __init__(
        self,
        limit_of: Callable[[Hashable], int],
        total: float,
        *,
        max_waiting: int | None = None,
        max_idle: float = math.inf,
    ) -> None:
        self.total = total
        self.max_waiting = max_waiting
        self.max_idle = max_idle
        self.open = 0
        self.waiting = 0
        self.peak = 0
        self.opened = 0
        self.reused = 0
        self.suspended = False
        self._closing = 0  # how many of the open are to be closed
        self._limit_of = limit_of
        self._hosts: dict[Hashable, _Host[T]] = {}
        self._idle: OrderedDict[T, tuple[_Host[T], float]] = OrderedDict()  # coldest first, over all keys
        # Keys with a waiter and below their own limit, that is, waiting for the total; whose turn is next, first.
        self._turns: OrderedDict[_Host[T], None] = OrderedDict()
        self._look_at = 0.0  # when to look for expired items next

    def request(self, permit: Permit[T], now: float) -> bool:
        """Lease the permit (True), or put it at the end of its key's queue (False).

        Raises:
            QueueFullError: It would have to wait and may not.
        """
        host = self._hosts.get(permit.key)
        if host is None:
            host = self._hosts[permit.key] = _Host(permit.key, self._limit_of(permit.key))
        if not host.waiters and not self.suspended and self._grant(host, permit, now):
            return True
        if self.max_waiting is not None and self.waiting >= self.max_waiting:
            self._forget_if_empty(host)
            raise QueueFullError
        permit.state = WAITING
        permit.since = now
        if host.waiters is NOBODY:
            host.waiters = OrderedDict()
        host.waiters[permit] = None
        self.waiting += 1
        if not host.is_full:
            self._turns[host] = None
        return False

    def claim(self, permit: Permit[T], most: float, now: float) -> bool:
        """Lease the permit if there is room for one more item under its key, and under `most`; without waiting.

        Unlike `request` it closes nothing to make room, and takes nothing idle.
        """
        host = self._hosts.get(permit.key) or _Host(permit.key, self._limit_of(permit.key))
        room = len(host.leased) + len(host.idle) < min(host.limit, most) and self.open < self.total
        if not room or self.suspended:
            return False
        self._hosts[permit.key] = host
        self._open_one(host, permit, now)
        return True

    def release(self, permit: Permit[T], item: T | None, now: float) -> Actions[T]:
        """Take a permit back from whatever state it is in, with its item if that can be used again.

        Returning one twice is harmless; an item that comes with it is to be closed.
        """
        if permit.state is not LEASED:
            self.withdraw(permit)
            return NOTHING if item is None else Actions(close=(_closing(permit.key, item),))
        permit.state = RETURNED
        permit.item = None
        host = self._hosts[permit.key]
        del host.leased[permit]
        if not permit.thread:  # what it came with has been closed
            host.closing -= 1
            self._closing -= permit.weight
        if item is None:
            self.open -= permit.weight
            if not host.leased:
                self._forget_if_empty(host)
        elif len(host.leased) - host.closing >= host.limit or self.open - self._closing > self.total:
            return Actions(close=(self._lease_to_close(item, host, now),))  # a limit has been lowered
        else:
            host.idle.append(item)
            self._idle[item] = (host, now)
        if host.waiters:
            self._turns[host] = None
        # Nothing is to be closed where nothing comes back: that may be a finalizer's doing, and it must not.
        look = item is not None and now >= self._look_at
        if not self._turns and not look:
            return NOTHING
        return Actions(self._serve(now), self._expire(now) if look else ())

    def note_opened(self, *, unusable: bool) -> None:
        """An item was opened for a leased permit; `unusable`: because the one that came with it could not be used."""
        self.opened += 1
        self.reused -= unusable

    def withdraw(self, permit: Permit[T]) -> bool:
        """Leave the queue: True if it was still waiting, False if it had been served (then it is leased)."""
        if permit.state is not WAITING:
            return False
        permit.state = RETURNED
        host = self._hosts[permit.key]
        del host.waiters[permit]
        self.waiting -= 1
        if not host.waiters:
            self._turns.pop(host, None)
            self._forget_if_empty(host)
        return True

    def drain(self, now: float) -> Actions[T]:
        """Send all waiters away and have all idle items closed; leased permits stay until they are released."""
        wake = list(self.waiters())
        for permit in wake:
            self.withdraw(permit)
        return Actions(wake, self.evict(now).close)

    def evict(self, now: float) -> Actions[T]:
        """Have all idle items closed."""
        return Actions(close=[self._retire(item, host, now) for item, (host, _) in list(self._idle.items())])

    def resize(self, total: float, *, max_waiting: int | None, max_idle: float, now: float) -> Actions[T]:
        """Change the limits; `limit_of` is asked for each key again. What is leased beyond a limit stays so."""
        self.total, self.max_waiting, self.max_idle = total, max_waiting, max_idle
        close: list[Permit[T]] = []
        for host in self._hosts.values():
            close += self._limit_anew(host, now)
        while self._idle and self.open - self._closing > total:
            coldest, (owner, _) = next(iter(self._idle.items()))
            close.append(self._retire(coldest, owner, now))
        return Actions(self._serve(now), close)

    def relimit(self, key: Hashable, now: float) -> Actions[T]:
        """Ask `limit_of` again for one key."""
        host = self._hosts.get(key)
        if host is None:
            return NOTHING
        close = self._limit_anew(host, now)
        return Actions(self._serve(now), close)

    def resume(self, now: float) -> Actions[T]:
        """End a suspension, in which nothing is granted, and serve who came meanwhile."""
        self.suspended = False
        return Actions(self._serve(now))

    def own_in_the_way(self, permit: Permit[T], alone: Callable[[], bool]) -> int:
        """How many permits a waiting one waits for if its own thread holds them all, so that it waits for ever; else 0.

        `alone`: whether there is no other thread, which could have what its permits went with.
        """
        host = self._hosts[permit.key]
        in_the_way = host.leased if len(host.leased) >= host.limit else self.leased()
        count = 0
        for held in in_the_way:
            if not (held.thread == permit.thread and (held.bound or alone())):
                return 0
            count += 1
        return 0 if self.suspended else count

    def reset(self, keep: Iterable[Permit[T]]) -> list[Permit[T]]:
        """Forget everything but these leased permits: in a forked process nobody else holds any. Who is to be woken."""
        wake = list(self.waiters())
        for permit in (*wake, *self.leased()):
            permit.state = RETURNED
        self._hosts.clear()
        self._idle.clear()
        self._turns.clear()
        self.open = self.waiting = self._closing = 0
        for permit in keep:
            host = self._hosts.setdefault(permit.key, _Host(permit.key, self._limit_of(permit.key)))
            self.open += 1
            self._lease(host, permit, permit.since)
        return wake

    def waiters(self) -> Iterator[Permit[T]]:
        """Every waiting permit, the longest waiting of a key first."""
        for host in self._hosts.values():
            yield from host.waiters

    def idle(self) -> Iterator[tuple[Hashable, T, float]]:
        """Every idle item with its key and the instant it became idle, the coldest first."""
        for item, (host, since) in self._idle.items():
            yield host.key, item, since

    def leased(self) -> Iterator[Permit[T]]:
        """Every leased permit."""
        for host in self._hosts.values():
            yield from host.leased

    def holders(self, key: Hashable) -> list[Permit[T]]:
        """The leased permits of one key, the longest held first."""
        host = self._hosts.get(key)
        return list(host.leased) if host else []

    def stats(self, key: Hashable | None = None) -> PoolStats:
        """All counts at this moment; with `key`, of the hosts only that one, for whoever is in a hurry."""
        hosts = self._hosts if key is None else {key: self._hosts[key]} if key in self._hosts else {}
        return PoolStats(
            leased=self.open - len(self._idle),
            idle=len(self._idle),
            waiting=self.waiting,
            capacity=None if self.total == math.inf else int(self.total),
            peak=self.peak,
            opened=self.opened,
            reused=self.reused,
            hosts={
                key: HostStats(len(host.leased), len(host.idle), len(host.waiters), host.limit)
                for key, host in hosts.items()
            },
            suspended=self.suspended,
        )

    def _limit_anew(self, host: _Host[T], now: float) -> list[Permit[T]]:
        host.limit = self._limit_of(host.key)
        if host.waiters:
            self._turns[host] = None
        surplus = len(host.leased) - host.closing + len(host.idle) - host.limit
        return [self._retire(item, host, now) for item in host.idle[: max(surplus, 0)]]

    def _serve(self, now: float) -> list[Permit[T]]:
        """Lease to waiters while there is room, one of each key in turn."""
        served: list[Permit[T]] = []
        while self._turns and not self.suspended:
            host = next(iter(self._turns))
            if host.is_full:
                del self._turns[host]  # one of its items is being closed; it comes back with that permit
                continue
            permit = next(iter(host.waiters))
            if not self._grant(host, permit, now):
                break  # The total binds, and it binds for all; this key's turn stays the next.
            del host.waiters[permit]
            self.waiting -= 1
            served.append(permit)
            del self._turns[host]
            if host.waiters and not host.is_full:
                self._turns[host] = None
        return served

    def _grant(self, host: _Host[T], permit: Permit[T], now: float) -> bool:
        """Lease `permit` if there is an item for it or room for one, made by closing an idle one where need be."""
        idle = host.idle
        # Nearly always the newest fits: the items of a key rarely differ.
        index = len(idle) - 1
        while index >= 0 and idle[index].identity != permit.identity:
            index -= 1
        if index >= 0:
            permit.item = item = idle.pop(index)
            del self._idle[item]
            self.reused += 1
        else:
            if len(host.leased) + len(idle) >= host.limit:
                if not idle:
                    return False
                permit.evicted = self._pass_on(idle[0], host, host, now)
            elif self.open >= self.total:
                if not self._idle:
                    return False
                coldest, (owner, _) = next(iter(self._idle.items()))
                permit.evicted = self._pass_on(coldest, owner, host, now)
            self.open += 1
            self.peak = max(self.peak, self.open)
        permit.state = LEASED
        permit.since = now
        host.leased[permit] = None
        return True

    def _open_one(self, host: _Host[T], permit: Permit[T], now: float) -> None:
        self.open += 1
        self.peak = max(self.peak, self.open)
        self._lease(host, permit, now)

    def _lease(self, host: _Host[T], permit: Permit[T], now: float) -> None:
        permit.state = LEASED
        permit.since = now
        host.leased[permit] = None

    def _expire(self, now: float) -> list[Permit[T]]:
        """Have the items closed that have been idle too long.

        Called once a second while items come back: so the idle keep within their age without a thread for it.
        """
        self._look_at = now + 1.0
        expired: list[Permit[T]] = []
        while self._idle:
            coldest, (owner, since) = next(iter(self._idle.items()))
            if since + self.max_idle > now:
                break
            expired.append(self._retire(coldest, owner, now))
        return expired

    def _retire(self, item: T, host: _Host[T], now: float) -> Permit[T]:
        """Lease an idle item to whoever closes it."""
        host.idle.remove(item)
        del self._idle[item]
        return self._lease_to_close(item, host, now)

    def _lease_to_close(self, item: T, host: _Host[T], now: float) -> Permit[T]:
        permit = _closing(host.key, item)
        self._lease(host, permit, now)
        host.closing += 1
        self._closing += 1
        return permit

    def _pass_on(self, item: T, owner: _Host[T], host: _Host[T], now: float) -> Permit[T]:
        """Lease an idle item of `owner` to whoever closes it, and its place to `host`."""
        permit = self._retire(item, owner, now)
        self.open -= 1
        self._closing -= 1
        if owner is host:
            del owner.leased[permit]
            owner.closing -= 1
            permit.state = RETURNED
        else:
            permit.weight = 0
        return permit

    def _forget_if_empty(self, host: _Host[T]) -> None:
        if host.is_empty:
            self._hosts.pop(host.key, None)
