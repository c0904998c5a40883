"""Breaks the code on purpose, one line at a time, and looks which test notices: `python -m tests.mutants`.

Each mutant is a change that a tired person could make: waiters served last in first out, a limit off by one, a permit
not given back. It is made in a copy of the tree; the tests named with it run there until the first fails. A mutant
that no test notices ends the run with exit status 1. `test_mutants.py` checks that each of them still applies.

The table in docs/testing.md is what this prints (`--markdown`).
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import attrs

ROOT: Final = Path(__file__).parents[1]
PATIENCE: Final = 300.0  # seconds for one mutant's tests; one that hangs is one that was noticed


@attrs.frozen
class Mutant:
    """A change for the worse.

    Attributes:
        promise: What it breaks, in words.
        file: In `sessionpool/`.
        old: Text that stands there exactly once.
        new: What it is replaced by.
        tests: What is run, as arguments for pytest.
    """

    promise: str
    file: str
    old: str
    new: str
    tests: Sequence[str]


LEDGER: Final = ("tests/test_ledger.py",)
GATE: Final = ("tests/test_gate.py", "tests/scenarios")
LEASES: Final = ("tests/test_leases.py", "tests/scenarios")
LIFE: Final = ("tests/test_leases.py", "tests/with_server/test_lifecycle.py")
FORK: Final = ("tests/with_server/test_fork.py",)
RETRY: Final = ("tests/test_retry.py",)
RETRIES: Final = ("tests/with_server/test_retries.py",)
GOVERNOR: Final = ("tests/test_governor.py",)
SIGNALS: Final = ("tests/with_server/test_signals.py", "tests/test_clock.py")

MUTANTS: Final = (
    # --- fairness ---
    Mutant(
        "waiters are served in order of arrival",
        "_ledger.py",
        "permit = next(iter(host.waiters))",
        "permit = next(reversed(host.waiters))",
        LEDGER + GATE,
    ),
    Mutant(
        "what comes back goes to who waits",
        "_ledger.py",
        "        if host.waiters:\n            self._turns[host] = None\n        # Nothing",
        "        # Nothing",
        LEDGER + GATE,
    ),
    Mutant(
        "hosts that wait for the total take turns",
        "_ledger.py",
        "            served.append(permit)\n            del self._turns[host]\n",
        "            served.append(permit)\n",
        LEDGER + GATE,
    ),
    Mutant(
        "the newest idle connection is taken first",
        "_ledger.py",
        "index = len(idle) - 1\n",
        "index = 0 if idle else -1\n",
        LEDGER,
    ),
    # --- the bound ---
    Mutant(
        "no more than per_host",
        "_ledger.py",
        "if len(host.leased) + len(idle) >= host.limit:",
        "if len(host.leased) + len(idle) > host.limit:",
        LEDGER + GATE,
    ),
    Mutant(
        "idle connections count",
        "_ledger.py",
        "if len(host.leased) + len(idle) >= host.limit:",
        "if len(host.leased) >= host.limit:",
        LEDGER + GATE,
    ),
    Mutant(
        "no more than total",
        "_ledger.py",
        "elif self.open >= self.total:",
        "elif self.open > self.total:",
        LEDGER + GATE,
    ),
    Mutant(
        "what is evicted is closed before another is opened",
        "_gate.py",
        "        if permit.evicted is not None:\n            # Closed by",
        "        if False:\n            # Closed by",
        GATE,
    ),
    Mutant(
        "an item that is being closed counts until it is",
        "_ledger.py",
        "        permit = _closing(host.key, item)\n        self._lease(host, permit, now)\n",
        "        permit = _closing(host.key, item)\n        self._lease(host, permit, now)\n        self.open -= 1\n",
        LEDGER,
    ),
    Mutant(
        "sockets never cross an identity",
        "_ledger.py",
        "while index >= 0 and idle[index].identity != permit.identity:",
        "while False:",
        LEDGER,
    ),
    Mutant(
        "a host with nothing open is forgotten",
        "_ledger.py",
        "        if host.is_empty:\n            self._hosts.pop(host.key, None)",
        "        return",
        LEDGER,
    ),
    # --- giving back ---
    Mutant(
        "who gives up leaves the queue",
        "_gate.py",
        "            closed = not self._ledger.withdraw(permit)\n",
        "            closed = False\n",
        GATE,
    ),
    Mutant(
        "a grant that crosses a time-out is used",
        "_gate.py",
        "            if permit.state is LEASED:\n                return  # Served between",
        "            if False:\n                return  # Served between",
        GATE,
    ),
    Mutant(
        "any exception gives the permit back",
        "_transport.py",
        "        except BaseException:\n            try:\n                if permit.state is",
        "        except Exception:\n            try:\n                if permit.state is",
        ("tests/scenarios", "tests/with_server/test_pool.py", "tests/with_server/test_faults.py"),
    ),
    Mutant(
        "a dropped stream gives its permit back",
        "_connection.py",
        '        if getattr(self, "_owner", None) is not None:\n            self.abandon()',
        "        pass",
        ("tests/scenarios", "tests/with_server/test_pool.py"),
    ),
    Mutant(
        "a finalizer waits for no lock",
        "_gate.py",
        "while self._abandoned and self._lock.acquire(blocking=False):",
        "while self._abandoned and self._lock.acquire(timeout=3):",
        GATE,
    ),
    Mutant(
        "what a finalizer gave up is found by whoever frees the lock",
        "_gate.py",
        '        if actions is not NOTHING:\n            self._act(actions, "expired")\n        if self._abandoned:\n'
        "            self._take_back_abandoned()",
        '        if actions is not NOTHING:\n            self._act(actions, "expired")',
        GATE,
    ),
    Mutant(
        "a dropped lease is given back",
        "_pool.py",
        '        if getattr(self, "_hold", None) is not None:  # no attribute: interrupted while it was made\n'
        "            self.abandon()",
        "        pass",
        LEASES,
    ),
    Mutant(
        "a thread that ends gives its leases back",
        "_pool.py",
        "            pool._reclaim(self._thread)",
        "            pass",
        LEASES,
    ),
    Mutant(
        "a lease that was taken over does not end with its former thread",
        "_pool.py",
        "            hold.thread = here\n",
        "",
        LEASES,
    ),
    # --- life ---
    Mutant(
        "close() wakes who waits",
        "_ledger.py",
        "        return Actions(wake, self.evict(now).close)",
        "        return Actions((), self.evict(now).close)",
        GATE,
    ),
    Mutant(
        "close() cuts what is in use",
        "_transport.py",
        "            connection.shutdown(reason)",
        "            pass",
        ("tests/scenarios", "tests/with_server/test_pool.py"),
    ),
    Mutant(
        "close() cuts what is being connected",
        "_transport.py",
        "        self._connector.cut()\n",
        "",
        ("tests/with_server/test_signals.py",),
    ),
    Mutant(
        "close() in a signal handler waits for no lock of its own thread",
        "_pool.py",
        "        if _interrupts_a_lock():",
        "        if False:",
        SIGNALS,
    ),
    Mutant(
        "a raised limit serves who waits",
        "_ledger.py",
        "            close.append(self._retire(coldest, owner, now))\n        return Actions(self._serve(now), close)",
        "            close.append(self._retire(coldest, owner, now))\n        return Actions((), close)",
        LEDGER,
    ),
    Mutant(
        "what comes back beyond a lowered limit is closed",
        "_ledger.py",
        "elif len(host.leased) - host.closing >= host.limit or self.open - self._closing > self.total:",
        "elif False:",
        LEDGER + LIFE,
    ),
    Mutant(
        "what is in use at a refresh is not used again",
        "_transport.py",
        "        for connection in list(self._connections):\n            connection.retire()\n",
        "",
        LIFE,
    ),
    Mutant(
        "nothing is granted while suspended",
        "_ledger.py",
        "while self._turns and not self.suspended:",
        "while self._turns:",
        LEDGER,
    ),
    Mutant(
        "resume serves who waits",
        "_ledger.py",
        "        self.suspended = False\n        return Actions(self._serve(now))",
        "        self.suspended = False\n        return NOTHING",
        LEDGER + LIFE,
    ),
    Mutant(
        "who would wait for itself is told",
        "_gate.py",
        "                    own = self._own_in_the_way(permit)\n",
        "                    pass\n",
        LEASES,
    ),
    Mutant(
        "a stream that another thread may read is no deadlock",
        "_ledger.py",
        "held.thread == permit.thread and (held.bound or alone())",
        "held.thread == permit.thread",
        (*GATE, *LEASES),
    ),
    # --- connections ---
    Mutant(
        "only what is idempotent is sent twice",
        "_transport.py",
        "    return payload.method in IDEMPOTENT and payload.is_replayable",
        "    return payload.is_replayable",
        ("tests/scenarios", "tests/with_server/test_faults.py", "tests/with_server/test_exchange.py"),
    ),
    Mutant(
        "readable while idle means stale",
        "_connection.py",
        '        return "stale" if self._readable() and not self._has_but_tickets() else ""',
        '        return ""',
        ("tests/scenarios", "tests/with_server/test_faults.py", "tests/with_server/test_exchange.py"),
    ),
    Mutant(
        "what follows a response is not the next one",
        "_connection.py",
        "if not head.reusable or self._at < len(self._buffer) or self._spent:",
        "if not head.reusable or self._spent:",
        ("tests/scenarios", "tests/with_server/test_faults.py", "tests/with_server/test_exchange.py"),
    ),
    Mutant(
        "a read time-out is kept to, slice by slice",
        "_connection.py",
        "            waited += self._slice\n",
        "            waited = 0.0\n",
        ("tests/with_server/test_faults.py", "tests/with_server/test_exchange.py"),
    ),
    Mutant(
        "no wait blocks for long",
        "_clock.py",
        "while (left := until - time.monotonic()) > SLICE:\n            if baton.acquire(timeout=SLICE):",
        "while (left := until - time.monotonic()) > SLICE:\n            if baton.acquire(timeout=60):",
        SIGNALS,
    ),
    # --- forks ---
    Mutant(
        "a forked child has a lock of its own",
        "_gate.py",
        "        self._lock = threading.Lock()\n        self._abandoned.clear()",
        "        self._abandoned.clear()",
        FORK,
    ),
    Mutant(
        "a forked child begins without the parent's permits",
        "_gate.py",
        "        _wake(Actions(wake=self._ledger.reset(keep)))",
        "        pass",
        FORK,
    ),
    Mutant(
        "a forked child uses none of the parent's connections",
        "_transport.py",
        '            connection.disown("this process was forked, and the connection is its parent\'s")',
        "            pass",
        FORK,
    ),
    Mutant(
        "a forked child does not shut the parent's connections down",
        "_connection.py",
        "        with contextlib.suppress(OSError):\n            self.close()\n",
        "        self.shutdown(reason)\n        with contextlib.suppress(OSError):\n            self.close()\n",
        FORK,
    ),
    Mutant(
        "a forked child does not wait for the parent's threads",
        "_pool.py",
        "        self._executor = None\n        self._executor_lock = threading.Lock()\n        self._handing",
        "        self._handing",
        FORK,
    ),
    Mutant(
        "a forked child keeps the seats of whoever forked",
        "_pool.py",
        "        self._seats.restart(hold.permit for hold in self._holds if hold.permit is not None)",
        "        self._seats.restart()",
        FORK,
    ),
    # --- trying again, and hosts ---
    Mutant(
        "what the server may have seen goes again only if twice does no harm",
        "_retry.py",
        """is_safe = self.methods is None or prepared.method in self.methods""",
        """is_safe = True""",
        RETRY,
    ),
    Mutant(
        "a body that can be read once is sent once",
        "_retry.py",
        """return "" if prepared.is_replayable else "body\"""",
        """return \"\"""",
        RETRY,
    ),
    Mutant(
        "the pool's own errors are final",
        "_retry.py",
        """_FINAL: Final = (PoolError, LeaseStateError, RetryError)""",
        """_FINAL: Final = (LeaseStateError,)""",
        RETRY,
    ),
    Mutant(
        "attempts are counted over a call with its redirects",
        "_retry.py",
        """self._prepared, self._host, self._began = prepared, host, began
""",
        """self._prepared, self._host, self._began = prepared, host, began
        self._failures = 0
""",
        RETRY,
    ),
    Mutant(
        "no pause outlasts the deadline",
        "_retry.py",
        """elif (now := self._clock.now()) + pause >= self._deadline.at:""",
        """elif (now := self._clock.now()) >= self._deadline.at:""",
        RETRY,
    ),
    Mutant(
        "nothing is held in a pause",
        "_retry.py",
        """        if not isinstance(self._last, BaseException) and self._last is not None:
            self._last.finish()
""",
        "",
        RETRIES,
    ),
    Mutant(
        "close() wakes who pauses",
        "_sleep.py",
        """        self._closed = reason
        for sleeper in list(self._asleep):
            sleeper.bell.release()
""",
        """        self._closed = reason
""",
        RETRY,
    ),
    Mutant(
        "nobody asks a host before its cool-down is over",
        "_governor.py",
        """        if now < self.cool_until:
            end""",
        """        if now < self.cool_until - 1:
            end""",
        GOVERNOR,
    ),
    Mutant(
        "those that waited for a cool-down go spread",
        "_governor.py",
        """end + random.uniform(0.0, min(spread(self._length), (deadline - end) / 2))""",
        """end""",
        GOVERNOR,
    ),
    Mutant(
        "a rate is reserved, not looked at",
        "_governor.py",
        """        for schedule in schedules:
            schedule.take(slot)
""",
        """        pass
""",
        GOVERNOR,
    ),
    Mutant(
        "a retry is taken from the budget",
        "_governor.py",
        """        self._retries.add(now)
        self.owe()
""",
        """        self.owe()
""",
        GOVERNOR,
    ),
    Mutant(
        "one probe at a time",
        "_governor.py",
        """return None if self.prober in (0, thread) or now >= self._lost else 0.0""",
        """return None""",
        GOVERNOR,
    ),
    Mutant(
        "a host that is back is not overrun",
        "_governor.py",
        """            self.ceiling.start_slowly()  # now, when nothing goes, and not when it closes and everybody comes
            return told, True
""",
        """            return told, False
""",
        GOVERNOR,
    ),
    Mutant(
        "who waits for a connection is looked at again before it is sent",
        "_governor.py",
        """        if recalled is not None:
            raise recalled
""",
        "",
        (*GOVERNOR, "tests/with_server/test_storms.py"),
    ),
    Mutant(
        "what the server may have seen never ends as NotSent",
        "_retry.py",
        """        if isinstance(outcome, NotSent) and self._seen is not None:
            # Whoever""",
        """        if False:
            # Whoever""",
        RETRY,
    ),
    Mutant(
        "the table of hosts is bounded",
        "_governor.py",
        """            if len(self._table) > self._settings.hosts:
                self._table.popitem(last=False)
""",
        "",
        GOVERNOR,
    ),
    Mutant(
        "data that never ends does not outlive the deadline",
        "_connection.py",
        """            raise self._late("had not answered in full", now)
""",
        """            pass
""",
        ("tests/with_server/test_deadline.py",),
    ),
    Mutant(
        "a stopped map wakes its workers' pauses",
        "_transport.py",
        """        self.sleepers.rouse()
""",
        "",
        ("tests/test_stop.py", "tests/with_server/test_cancel.py"),
    ),
    Mutant(
        "a retired identity's next lease is blank",
        "_pool.py",
        """session is None or (session.health is not None and self._is_retired(session.health, key))""",
        """session is None""",
        ("tests/with_server/test_health.py",),
    ),
    Mutant(
        "identities never share a rotation's sockets",
        "_transport.py",
        """(url.auth, verify, files, partition, proxy_fields)""",
        """(url.auth, verify, files, proxy_fields)""",
        ("tests/with_server/test_health.py",),
    ),
    Mutant(
        "a wrong digest password ends with the 401",
        "_session.py",
        "                if replaced is not None:  # one",
        "                if replaced:  # one",
        ("tests/with_server/test_auth.py",),
    ),
    Mutant(
        "a digest is not answered to another origin",
        "auth.py",
        "return server if is_same_place(asked, server) else None",
        "return server",
        ("tests/with_server/test_auth.py",),
    ),
    Mutant(
        "a challenge is answered over the same connection",
        "auth.py",
        "        r.finish()  # its connection goes back before another is asked for\n",
        "",
        ("tests/with_server/test_auth.py",),
    ),
    Mutant(
        "what a digest remembers is bounded",
        "_digest.py",
        "self.forget(*self._counts.popitem(last=False)[0])",
        "self._counts.popitem(last=False)",
        ("tests/test_digest.py",),
    ),
    Mutant(
        "work does not grow with the jar",
        "cookies.py",
        "if guarded != name or not backwards.startswith(start):",
        "if not backwards.startswith(start):",
        ("tests/test_cookies.py",),
    ),
    Mutant(
        "what is set by hand is not evicted by servers",
        "cookies.py",
        "theirs = [kept for kept in self.domains[domain].values() if kept.accessed < _BY_HAND]",
        "theirs = list(self.domains[domain].values())",
        ("tests/test_cookies.py",),
    ),
    Mutant(
        "a body that was begun is not sent half",
        "_bodies.py",
        "elif self._begun and not self.is_replayable:",
        "elif False:",
        ("tests/test_bodies.py",),
    ),
    Mutant(
        "a file that changes while it is sent is an error",
        "_bodies.py",
        "part.length is not None and part.length != got",
        "False",
        ("tests/test_bodies.py",),
    ),
    Mutant(
        "memory stays flat while files are sent",
        "_bodies.py",
        "part.read(min(wanted, PIECE))",
        "part.read(-1)",
        ("tests/with_server/test_bodies.py",),
    ),
    Mutant(
        "no value adds a line to a part's header",
        "_wire.py",
        "if _LINE_END.search(str(value)):",
        "if False:",
        ("tests/test_bodies.py",),
    ),
    Mutant(
        "the client's certificate is not a proxy's to see",
        "_connection.py",
        "first = self._watched(route, None, dial)",
        "first = self._watched(route, route.cert, dial)",
        ("tests/with_server/test_proxy.py",),
    ),
    Mutant(
        "with socks5h the proxy looks the name up",
        "_socks.py",
        '_NAMING: Final = frozenset({"socks4a", "socks5h"})',
        '_NAMING: Final = frozenset({"socks4a"})',
        ("tests/with_server/test_socks.py",),
    ),
    Mutant(
        "headers for a proxy are part of what a socket is",
        "_transport.py",
        "(url.auth, verify, files, partition, proxy_fields)",
        "(url.auth, verify, files, partition)",
        ("tests/with_server/test_proxy.py",),
    ),
    Mutant(
        "a bomb is found out",
        "_wire.py",
        "size > ratio * self.tell()",
        "size > ratio * 1000 * self.tell()",
        ("tests/with_server/test_hostile.py",),
    ),
    Mutant(
        "a body that says it is too large is not read",
        "_connection.py",
        "self.received + left > most:",
        "self.received > most:",
        ("tests/with_server/test_hostile.py",),
    ),
    Mutant(
        "a head may have a thousand fields",
        "_wire.py",
        "MAX_FIELDS + 2:",
        "MAX_FIELDS + 3:",
        ("tests/with_server/test_hostile.py",),
    ),
    Mutant(
        "many tiny gzip members keep to the deadline",
        "_wire.py",
        "data[at : at + _GZIP_SLICE]",
        "data[at:]",
        ("tests/with_server/test_hostile.py",),
    ),
    Mutant(
        "a dropped raw body waits for no lock",
        "_wire.py",
        "    def __del__(self) -> None:",
        "    def _del(self) -> None:",
        ("tests/ext/test_requests.py",),
    ),
    Mutant(
        "the bridge leaves the thread's own session alone",
        "ext/requests.py",
        "lease(fresh=True)",
        "lease()",
        ("tests/ext/test_requests.py",),
    ),
    Mutant(
        "a redirect that a subclass sends is the call's",
        "_session.py",
        "self._followed[0] is request",
        "self._followed[0] is None",
        ("tests/with_server/test_seams.py",),
    ),
    Mutant(
        "a hook's request is within the call's deadline",
        "_session.py",
        "            self.timeout if timeout is None else self.timeout.override(timeout),\n            self.deadline,",
        "            self.timeout if timeout is None else self.timeout.override(timeout),\n            NEVER,",
        ("tests/with_server/test_adapters.py",),
    ),
)


def apply(mutant: Mutant, tree: Path) -> None:
    """Make the change in a copy of the project.

    Raises:
        ValueError: The code is no longer what the mutant changes.
    """
    path = tree / "sessionpool" / mutant.file
    text = path.read_text("utf-8")
    if text.count(mutant.old) != 1:
        raise ValueError(f"{mutant.file} holds {text.count(mutant.old)} times, not once: {mutant.old!r}")
    path.write_text(text.replace(mutant.old, mutant.new), "utf-8")


def judge(mutant: Mutant) -> str:
    """The test that failed, "hangs", or an empty string if none noticed."""
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / "project"
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".*", "__pycache__", "results", "build", "dist"))
        apply(mutant, tree)
        tests = [name for name in mutant.tests if (tree / name).exists()]
        command = [sys.executable, "-m", "pytest", "-x", "-q", "--timeout=60", "-p", "no:cacheprovider", *tests]
        try:
            ended = subprocess.run(
                command,
                cwd=tree,
                env={**os.environ, "PYTHONPATH": str(tree)},
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return "hangs"
        if ended.returncode == 0:
            return ""
        failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", ended.stdout, re.MULTILINE)
        if failed is None and "Timeout" in ended.stdout + ended.stderr:
            hung = re.findall(r"in (test_\w+)", ended.stdout + ended.stderr)
            return f"{hung[0]} (hangs)" if hung else "hangs"
        return failed[1] if failed else f"ended with {ended.returncode}: {ended.stdout[-300:]}"


def main() -> int:
    """Try them all; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("words", nargs="*", metavar="WORD", help="only mutants whose promise holds one of these")
    parser.add_argument("--markdown", action="store_true", help="print rows for docs/testing.md")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="so many at once (default: %(default)s)")
    args = parser.parse_args()
    chosen = [each for each in MUTANTS if not args.words or any(word in each.promise for word in args.words)]
    survived = 0
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as executor:
        for mutant, test in _in_order(chosen, executor):
            survived += not test
            noticed = test or "NOBODY NOTICED"
            if args.markdown:
                print(f"| {mutant.promise} | `{mutant.file}` | `{noticed}` |", flush=True)
            else:
                print(f"{mutant.promise}  [{mutant.file}]\n    {noticed}", flush=True)
    print(f"{len(chosen)} mutants, {survived} not noticed", file=sys.stderr)
    return 1 if survived else 0


def _in_order(chosen: Sequence[Mutant], executor: concurrent.futures.Executor) -> Iterator[tuple[Mutant, str]]:
    return zip(chosen, executor.map(judge, chosen), strict=True)


if __name__ == "__main__":
    sys.exit(main())
