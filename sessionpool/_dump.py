"""A pool as it is at one moment, in full, for the person who has to find out why it stands still."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import attrs

if TYPE_CHECKING:
    from types import FrameType

    from sessionpool._connection import Connection
    from sessionpool._gate import Books
    from sessionpool._governor import HostState
    from sessionpool._ledger import Permit, PoolStats
    from sessionpool._pool import Hold

# Where a thread is, is told by its innermost line outside of these: not by the line of `ssl` in which it reads.
_INNER: Final = sys.stdlib_module_names | {__name__.partition(".")[0], "tenacity", "urllib3"}


@attrs.frozen
class LeaseDump:
    """A session that is leased.

    Attributes:
        key: The identity's name; `None` for a thread's own session and a fresh one.
        thread: Name of the thread that holds it.
        ident: Its ident.
        age: Seconds since it was leased.
        where: File, line and function that thread is in now, outside of this package and the standard library; empty
            if it has ended.
        ended: The thread has ended: what it left is held by a response that others have.
    """

    key: Hashable
    thread: str
    ident: int | None
    age: float
    where: str
    ended: bool = False


@attrs.frozen
class WaiterDump:
    """A thread that waits.

    Attributes:
        what: What for: a host, or a session.
        thread, ident, where: As in `LeaseDump`.
        age: Seconds since it asked.
    """

    what: str
    thread: str
    ident: int | None
    age: float
    where: str


@attrs.frozen
class ConnectionDump:
    """A connection, or one being opened.

    Attributes:
        host: Scheme, host, port, and the proxy where there is one.
        state: "leased", "opening", "idle", or "closing".
        age: Seconds since it was opened; `None` while it is being.
        since: Seconds that it has been in this state.
        uses: Requests it has carried.
        thread, ident, where: As in `LeaseDump`, of who uses it; empty if it is idle.
    """

    host: str
    state: str
    age: float | None
    since: float
    uses: int
    thread: str
    ident: int | None
    where: str


@attrs.frozen
class PoolDump:
    """Everything a pool holds at one moment; `str()` makes it a text.

    Attributes:
        name: The pool's.
        stats: The counts.
        leases: The longest held first.
        waiters: The longest waiting of each host first.
        connections: Those in use first, then the idle ones.
        hosts: What the governor knows of hosts that it holds back at this moment.
    """

    name: str
    stats: PoolStats
    leases: Sequence[LeaseDump]
    waiters: Sequence[WaiterDump]
    connections: Sequence[ConnectionDump]
    hosts: Mapping[str, HostState]

    def __str__(self) -> str:
        stats = self.stats
        capacity = "" if stats.capacity is None else f" of {stats.capacity}"
        head = (
            f"pool {self.name!r}{', suspended: nothing is granted before resume()' if stats.suspended else ''}: "
            f"{_count(len(self.leases), 'lease')}, {_count(len(self.waiters), 'waiter')}, {stats.leased + stats.idle}"
            f"{capacity} connections open ({stats.leased} leased, {stats.idle} idle)"
            f"{f', {stats.sleeping} pausing' if stats.sleeping else ''}"
        )
        lines = [head]
        for key, host in stats.hosts.items():
            lines.append(
                f"  host {key}: {host.leased + host.idle} of {host.limit} open ({host.leased} leased, {host.idle} idle)"
                f", {_count(host.waiting, 'waiter')}"
            )
        for key, state in self.hosts.items():
            lines.append(f"  host {key}: {', '.join(_restraints(state))}")
        for lease in self.leases:
            what = "a thread's own or a fresh session" if lease.key is None else f"the session of {lease.key!r}"
            ended = ", which has ended" if lease.ended else ""
            lines.append(f"  lease {lease.age:.1f} s: {what}, by {lease.thread}{ended}{_at(lease.where)}")
        lines += [
            f"  waiter {each.age:.1f} s: for {each.what}, {each.thread}{_at(each.where)}" for each in self.waiters
        ]
        for each in self.connections:
            age = "" if each.age is None else f", {each.age:.1f} s old, {_count(each.uses, 'use')}"
            who = f", by {each.thread}{_at(each.where)}" if each.thread else ""
            lines.append(f"  connection {each.state} {each.since:.1f} s: {each.host}{age}{who}")
        return "\n".join(lines)


def take(
    name: str,
    stats: PoolStats,
    connections: Books[Connection],
    seats: Books[Any],
    holds: Sequence[Hold],
    hosts: Mapping[str, HostState],
    describe: Callable[[Any], str],
) -> PoolDump:
    """The dump of a pool from its counts, its two gates' books and what is held."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    frames = _frames()
    now = connections.now

    def who(ident: int | None) -> tuple[str, int | None, str]:
        return names.get(ident, "a thread that has ended"), ident, _place(frames.get(ident or 0))

    def lease(hold: Hold) -> LeaseDump:
        thread = hold.thread
        ended = not thread.is_alive()  # and its ident may be another's
        where = "" if ended else _place(frames.get(thread.ident or 0))
        return LeaseDump(hold.key, thread.name, thread.ident, now - hold.since, where, ended)

    def connection(permit: Permit[Connection]) -> ConnectionDump:
        item = permit.item
        state = "opening" if item is None else "leased" if permit.thread else "closing"
        age, uses = (None, 0) if item is None else (now - item.opened, item.uses)
        user = who(permit.thread) if permit.thread else ("", None, "")
        return ConnectionDump(str(permit.key), state, age, now - permit.since, uses, *user)

    return PoolDump(
        name=name,
        stats=stats,
        leases=[lease(hold) for hold in sorted(holds, key=lambda hold: hold.since)],
        waiters=[
            WaiterDump(text(permit.key), *who(permit.thread)[:2], now - permit.since, who(permit.thread)[2])
            for text, books in ((describe, seats), (str, connections))
            for permit in books.waiting
        ],
        connections=[
            *map(connection, connections.leased),
            *(
                ConnectionDump(str(key), "idle", now - item.opened, now - since, item.uses, "", None, "")
                for key, item, since in connections.idle
            ),
        ],
        hosts={key: state for key, state in hosts.items() if _restraints(state)},
    )


def _restraints(state: HostState) -> list[str]:
    """What holds requests to a host back."""
    found = []
    if state.cool_down:
        found.append(f"cools down for another {state.cool_down:.1f} s")
    if state.circuit not in ("", "closed"):
        found.append(f"circuit {state.circuit}")
    if state.limit is not None:
        found.append(f"held to {_count(state.limit, 'connection')}")
    if state.interval:
        found.append(f"one request every {state.interval:.3g} s")
    return found


def _frames() -> Mapping[int, FrameType]:
    """Where each thread is, by its ident."""
    # Python 3.11 takes a lock for this that the collector needs too, and may run the collector meanwhile: for ever.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return sys._current_frames()
    finally:
        if was_enabled:
            gc.enable()


def _place(frame: Any) -> str:
    """Where a thread is, in a user's code if it is in any."""
    innermost = frame
    while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in _INNER:
        frame = frame.f_back
    frame = frame or innermost
    return "" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _at(where: str) -> str:
    return f" at {where}" if where else ""
