"""A server that ails as it is told, and counts: `AilingServer` starts one, a process of its own.

It answers on several addresses of 127.0.0.0/8 and one port; each address is a host with a `Mode` of its own. One thread
does everything, so that what it counts is exact: an arrival has the instant at which its last byte was read, an answer
the instant before its first byte was written, both on this server's one clock. Whoever hears an answer hears it later.

Requests have no body, and a header `X-Request-Id` by which the second sending of one is told from the first.

`Mode.keeps` is for what could not be judged otherwise: whether a request came after its client had been told to stay
away, or was on its way then. The server keeps the requests without an answer, until it is told to answer all of them at
once. If these are all that the client has threads or connections for, nothing is on its way.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import math
import os
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Self

import attrs

ROOT: Final = Path(__file__).resolve().parents[1]
PATIENCE: Final = 30.0


class AilingError(Exception):
    """The server did not start, or is gone."""


@attrs.frozen(kw_only=True)
class Mode:
    """How a host answers.

    Attributes:
        status: Of its answers; 0: none, it closes the connection.
        retry_after: Seconds, as `Retry-After` has them.
        delay: Seconds that an answer takes.
        keeps: Answer when `AilingServer.release` says so; from then on at once.
    """

    status: int = 200
    retry_after: int | None = None
    delay: float = 0.0
    keeps: bool = False


@attrs.frozen
class Arrival:
    """One request as the server saw it.

    Attributes:
        at: Seconds on the server's clock.
        host: The address it came to.
        request: Its `X-Request-Id`.
        status: Of the answer; 0 if there was none.
        retry_after: What the answer asked for.
        kept: It was one of those that were kept, and answered all at once.
        answered: When the answer was written; infinity if it was not.
    """

    at: float
    host: str
    request: str
    status: int
    retry_after: int | None
    kept: bool
    answered: float


# The server ----------------------------------------------------------------------------------------


class _Host:
    def __init__(self) -> None:
        self.mode = Mode()
        self.kept: list[tuple[socket.socket, list[Any]]] = []


class _Server:
    """In its own process; see `_main`."""

    def __init__(self, hosts: Sequence[str]) -> None:
        self._selector = selectors.DefaultSelector()
        self._hosts = {host: _Host() for host in hosts}
        self._arrivals: list[list[Any]] = []  # fields of `Arrival`; the last is set when it is answered
        self._due: list[tuple[float, int, socket.socket, list[Any]]] = []
        self._numbers = itertools.count()  # of those that are due at one instant, the first that came
        self._read: dict[socket.socket, bytes] = {}
        first = socket.create_server((hosts[0], 0), backlog=512)
        self.port = int(first.getsockname()[1])
        listeners = [first, *(socket.create_server((host, self.port), backlog=512) for host in hosts[1:])]
        for listener, host in zip(listeners, hosts, strict=True):
            listener.setblocking(False)
            self._selector.register(listener, selectors.EVENT_READ, (self._accept, host))
        self._selector.register(sys.stdin.fileno(), selectors.EVENT_READ, (self._obey, ""))
        self._orders = b""
        self._is_over = False

    def run(self) -> None:
        while not self._is_over:
            wait = max(0.0, self._due[0][0] - time.monotonic()) if self._due else None
            for key, _ in self._selector.select(wait):
                react, host = key.data
                react(key.fileobj, host)
            while self._due and self._due[0][0] <= time.monotonic():
                _, _, sock, fields = heapq.heappop(self._due)
                self._answer(sock, fields)

    def _accept(self, listener: socket.socket, host: str) -> None:
        sock, _ = listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._selector.register(sock, selectors.EVENT_READ, (self._receive, host))

    def _receive(self, sock: socket.socket, host: str) -> None:
        try:
            data = sock.recv(65536)
        except ConnectionError:
            data = b""
        if not data:
            self._close(sock)
            return
        data = self._read.pop(sock, b"") + data
        if not data.endswith(b"\r\n\r\n"):
            self._read[sock] = data
            return
        lines = data.split(b"\r\n")
        request = next((line[13:].strip().decode() for line in lines if line.lower().startswith(b"x-request-id:")), "")
        known = self._hosts[host]
        mode, now = known.mode, time.monotonic()
        fields = [now, host, request, mode.status, mode.retry_after, False, math.inf]
        self._arrivals.append(fields)
        if mode.keeps:
            known.kept.append((sock, fields))
        elif mode.delay:
            heapq.heappush(self._due, (now + mode.delay, next(self._numbers), sock, fields))
        else:
            self._answer(sock, fields)

    def _release(self, known: _Host, *, kept: bool) -> None:
        """Answer those that were kept; `kept`: so that it counts as `Arrival.kept`."""
        waiting, known.kept = known.kept, []
        for sock, fields in waiting:
            fields[5] = kept
            self._answer(sock, fields)

    def _answer(self, sock: socket.socket, fields: list[Any]) -> None:
        status, retry_after = fields[3:5]
        if not status:
            fields[6] = time.monotonic()
            self._close(sock)
            return
        asked = "" if retry_after is None else f"Retry-After: {retry_after}\r\n"
        answer = f"HTTP/1.1 {status} Whatever\r\n{asked}Content-Length: 2\r\n\r\nok".encode()
        fields[6] = time.monotonic()
        with contextlib.suppress(OSError):  # the client is gone
            sock.send(answer)

    def _close(self, sock: socket.socket) -> None:
        self._read.pop(sock, None)
        with contextlib.suppress(KeyError):
            self._selector.unregister(sock)
        sock.close()

    def _obey(self, orders: int, _: str) -> None:
        data = os.read(orders, 65536)
        self._is_over = not data
        *lines, self._orders = (self._orders + data).split(b"\n")
        for line in lines:
            order = json.loads(line)
            reply: object = time.monotonic()
            if order["do"] == "mode":
                known = self._hosts[order["host"]]
                known.mode = Mode(**order["mode"])
                self._release(known, kept=False)  # they are told what they would have been told before
            elif order["do"] == "release":
                known = self._hosts[order["host"]]
                if reply := len(known.kept) >= order["count"]:
                    known.mode = attrs.evolve(known.mode, keeps=False)
                    self._release(known, kept=True)
            elif order["do"] == "take":
                reply, self._arrivals = self._arrivals, []
            print(json.dumps(reply), flush=True)


def _main(hosts: Sequence[str]) -> None:
    server = _Server(hosts)
    print(server.port, flush=True)
    server.run()


# The handle ----------------------------------------------------------------------------------------


class AilingServer:
    """Starts the server; a context manager. To be used by one thread.

    Args:
        hosts: How many addresses, 127.0.0.1 and on.

    Attributes:
        hosts: The addresses.
        port: The one port.
    """

    def __init__(self, hosts: int = 1) -> None:
        self.hosts = [f"127.0.0.{number}" for number in range(1, hosts + 1)]
        self.port = 0

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "loadtests.ailing", *self.hosts],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a Ctrl-C meant for us would stop it too early
        )
        try:
            self.port = self._hear()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def url(self, host: str = "127.0.0.1") -> str:
        """The host's."""
        return f"http://{host}:{self.port}/"

    def set(self, mode: Mode, host: str = "127.0.0.1") -> float:
        """Let the host answer so from now on; the instant on the server's clock."""
        return float(self._ask({"do": "mode", "host": host, "mode": attrs.asdict(mode)}))

    def release(self, count: int, host: str = "127.0.0.1") -> bool:
        """Answer the requests that the host keeps, if there are so many."""
        return bool(self._ask({"do": "release", "host": host, "count": count}))

    def take(self) -> list[Arrival]:
        """What came since the last call, in order; not what has no answer yet."""
        taken: list[Any] = self._ask({"do": "take"})
        return [Arrival(*fields) for fields in taken]

    def _ask(self, order: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise AilingError(f"the server is gone: {error}") from error
        return self._hear()

    def _hear(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise AilingError("the server is gone")
        return json.loads(line)

    def _end(self) -> None:
        """It ends when nobody can tell it anything any more."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


# What the counts tell ------------------------------------------------------------------------------


def most_within(instants: Sequence[float], width: float) -> int:
    """The most of these that lie in any window of that width, its end not included."""
    ordered = sorted(instants)
    most = first = 0
    for last, at in enumerate(ordered):
        while at - ordered[first] >= width:
            first += 1
        most = max(most, last - first + 1)
    return most


def excess(instants: Sequence[float], rate: float) -> float:
    """The most by which a window of any width `w` has more than `rate * w` of these."""
    # Of the windows that end with one the worst begins with another; `lowest` is the best beginning so far.
    worst, lowest = 0.0, math.inf
    for number, at in enumerate(sorted(instants)):
        lowest = min(lowest, number - rate * at)
        worst = max(worst, number + 1 - rate * at - lowest)
    return worst


def busiest(arrivals: Sequence[Arrival], allowed: Callable[[int], float]) -> tuple[int, list[int]]:
    """The most that were unanswered at once, and the indices of those at whose arrival more were than allowed.

    `allowed`: of the number of answers given before.
    """
    answers = sorted(each.answered for each in arrivals)
    given = most = 0
    over = []
    for number, each in enumerate(sorted(arrivals, key=lambda arrival: arrival.at), 1):
        while given < len(answers) and answers[given] <= each.at:
            given += 1
        most = max(most, number - given)
        if number - given > allowed(given):
            over.append(number - 1)
    return most, over


if __name__ == "__main__":
    _main(sys.argv[1:])
