"""The audit that every scenario ends with: permits free, nothing in use, files and threads as before.

A `Scenario` is made before anything else of a test. It makes the test's pools, and at the end it looks at each of them
twice, before and after closing it, and at what the process has open. It names what it finds: a leaked socket with its
ends, a leaked permit with its host, a leaked thread with its name.
"""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import threading
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import attrs

from sessionpool import SessionPool
from tests.helpers import eventually
from tests.scenarios.scripted import Wire

_FILES = Path("/proc/self/fd")


@attrs.frozen
class Holdings:
    """What this process has at one moment.

    Attributes:
        files: Its file descriptors, each with what the kernel calls it; a socket's name is never given twice.
        threads: Its threads.
    """

    files: frozenset[tuple[int, str]]
    threads: frozenset[threading.Thread]

    @classmethod
    def now(cls) -> Holdings:
        files = set()
        for name in os.listdir(_FILES) if _FILES.is_dir() else ():  # noqa: PTH208 - the fastest way, and done often
            with contextlib.suppress(OSError):  # the one by which the directory was read
                files.add((int(name), os.readlink(_FILES / name)))  # noqa: PTH115 - as above
        return cls(frozenset(files), frozenset(threading.enumerate()))

    def beyond(self, before: Holdings) -> list[str]:
        """What there is now and was not before, in words."""
        files = sorted(self.files - before.files)
        threads = sorted(self.threads - before.threads, key=lambda thread: thread.name)
        return [
            *(f"file descriptor {number}: {_describe_file(number, what)}" for number, what in files),
            *(f"thread {thread!r}" for thread in threads),
        ]


class Scenario:
    """One scenario's pools, and what was open before it. Made by the fixture `scenario`, which calls `check`."""

    def __init__(self) -> None:
        gc.collect()
        self._before = Holdings.now()
        self._pools: list[tuple[SessionPool, Wire | None]] = []

    @property
    def pools(self) -> list[SessionPool]:
        return [pool for pool, _ in self._pools]

    def pool(self, wire: Wire | None = None, **settings: Any) -> SessionPool:
        """A pool that is audited in the end; over a scripted wire, or over real sockets without one.

        Without retries unless asked for: what is looked at here is one attempt.
        """
        pool = SessionPool(**{"trust_env": False, "retry": None, **settings})
        if wire is not None:
            wire.plug_into(pool)
        return self.watch(pool, wire)

    def watch(self, pool: SessionPool, wire: Wire | None = None) -> SessionPool:
        """Audit a pool that was made elsewhere."""
        self._pools.append((pool, wire))
        return pool

    def check(self, within: float = 5.0) -> None:
        """Fail with all that is not as it was.

        The pools' books must be right at once. Files and threads have `within` seconds: a server of the test learns
        from the kernel that a connection has ended.
        """
        gc.collect()
        faults = [fault for pool in self.pools for fault in _in_use(pool)]
        for pool, wire in self._pools:
            pool.close(timeout=0)
            faults += _still_open(pool)
            if wire is not None and wire.open:
                faults.append(f"{wire.open} connections that were opened and never closed")
        gc.collect()
        with contextlib.suppress(AssertionError):
            eventually(lambda: not Holdings.now().beyond(self._before), within=within)
        faults += Holdings.now().beyond(self._before)
        assert not faults, "the scenario left behind:\n" + "\n".join(f"- {fault}" for fault in faults)


def _in_use(pool: SessionPool) -> list[str]:
    """What nobody should hold any more."""
    stats = pool.stats()
    faults = _not_zero(pool, leased=stats.leased, waiting=stats.waiting, leases=stats.sessions)
    for key, host in stats.hosts.items():
        faults += _not_zero(pool, key, leased=host.leased, waiting=host.waiting)
    seats = pool._seats.stats()
    for key, seat in seats.hosts.items():
        faults += _not_zero(pool, pool._seats._describe(key), leased=seat.leased, waiting=seat.waiting)
    if pool._transport.gate._ledger._turns or pool._seats._ledger._turns:
        faults.append(f"pool {pool.name!r}: a turn of nobody's")
    if sum(host.idle for host in stats.hosts.values()) != stats.idle:
        faults.append(f"pool {pool.name!r}: {stats.idle} idle in all, {stats.hosts!r} by host")
    return faults


def _still_open(pool: SessionPool) -> list[str]:
    """What a closed pool should no longer have."""
    stats = pool.stats()
    return _not_zero(pool, "after close", idle=stats.idle, leased=stats.leased, hosts=len(stats.hosts))


def _not_zero(pool: SessionPool, where: Hashable = "in all", **counts: int) -> list[str]:
    return [f"pool {pool.name!r}, {where}: {count} {name}" for name, count in counts.items() if count]


def _describe_file(number: int, what: str) -> str:
    if not what.startswith("socket:"):
        return what
    try:
        with socket.socket(fileno=os.dup(number)) as sock:
            family, kind = sock.family.name, sock.type.name
            peer = "nobody"
            with contextlib.suppress(OSError):
                peer = str(sock.getpeername() or "an end without a name")
            return f"{what} {family} {kind} {sock.getsockname() or 'without a name'} to {peer}"
    except OSError:
        return f"{what}, gone meanwhile"
