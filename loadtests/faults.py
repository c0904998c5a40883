"""A TCP proxy that breaks what it carries, in front of an echo server that is killed and started again.

    client -> proxy, one process, one thread -> echo server, its child, killed with SIGKILL when told to

`FaultyOrigin.start()` starts both. The proxy listens on the same port of several loopback addresses, so that a client
sees several hosts, and carries each client's connection over one of its own to the echo server.

What the server answers can be checked by itself. Every request has a *token* in its path, used once; the answer repeats
it in `X-Token`, tells length and digest of the body it received, and its own body is either the request's or
`pattern(token, size)`. So no byte of one answer can pass for another's.

What the proxy does to an exchange is planned by the seed, the token and how often that token has come (`planned`): the
same requests meet the same faults, in whatever order threads send them. It keeps a record of what it did, and answers
`why(...)`: what was done to this token, or, if that never came, to its host at that time.

How it counts (`counts`): a connection is one from its accept until its client's end has arrived, which on Linux is
asked of the kernel: there the end is known before anybody reads it. So a client that closes one and then opens another
never counts as two. Nor does a connection count whose client has closed it before all that it had sent was taken: its
end comes behind that (`late` tells how often that made a difference). What the proxy has reset itself no longer counts
either, for nobody can tell when the client closes that. It counts when it has accepted, and when a request begins; an
excess that comes and goes between two counts is missed.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import heapq
import itertools
import json
import os
import random
import selectors
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Self
from urllib.parse import parse_qsl

# What is done to an exchange: how often, and in words for whoever reads the results.
FAULTS: Final[Mapping[str, tuple[float, str]]] = {
    "latency": (0.02, "delayed the answer"),
    "trickle": (0.008, "sent the answer in drops"),
    "reset-request": (0.006, "reset the connection when the request came"),
    "reset-answer": (0.006, "reset the connection instead of the answer"),
    "cut-head": (0.006, "cut the header off"),
    "cut-body": (0.008, "cut the body off"),
    "hole": (0.0015, "said nothing"),
    "stall": (0.0015, "stopped in the middle of the answer"),
    "garbage": (0.003, "answered something that is not HTTP"),
    "ghost": (0.006, "sent an answer nobody asked for behind the right one"),
    "fin": (0.008, "half-closed the connection after the last answer"),
    "close": (0.006, "closed the connection after the last answer"),
    "reset-idle": (0.006, "reset the connection after the last answer"),
}
# What is done to a connection as soon as it has been accepted.
ACCEPT_FAULTS: Final[Mapping[str, tuple[float, str]]] = {
    "reset-accept": (0.02, "reset the connection on accepting it"),
    "close-accept": (0.02, "closed the connection on accepting it"),
}
# What is done when told to.
KILLED: Final = "killed the server"
DARK: Final = "let the host go dark"
# What is nobody's plan, on a machine that is busy with other things, and is told of a request that nothing else was
# done to: the time from its arrival to its answer.
SLOW: Final = "took long over it by itself"
SLOW_SECONDS: Final = 0.25

# Nobody who is left without an answer is left so for ever.
HOLE_SECONDS: Final = 15.0
# Tokens whose story is kept; questions come right after the error.
KEPT: Final = 50_000
# An unasked answer must arrive together with the right one: what comes later may be taken for the next answer, and no
# client could know better.
GHOST_LIMIT: Final = 16_000
GHOST: Final = b"HTTP/1.1 200 OK\r\nX-Token: ghost\r\nContent-Length: 5\r\n\r\nghost"
GARBAGE: Final = b"\x15\x03\x01\x00\x02\x02\x28 ceci n'est pas une reponse\r\n\r\n"
IDEMPOTENT: Final = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})  # RFC 9110 §9.2.2

_RECEIVE: Final = 256 * 1024
# Of <netinet/tcp.h>: the states in which the client's end has not come.
_CLIENT_OPEN: Final = frozenset({1, 3, 4, 5})
_RESET: Final = struct.pack("ii", 1, 0)


class FaultsError(RuntimeError):
    """The proxy or its server could not be started, or was lost."""


def pattern(token: str, size: int) -> bytes:
    """`size` bytes that no other token has."""
    unit = f"{token};".encode("ascii")
    return (unit * (size // len(unit) + 1))[:size]


def digest(data: bytes) -> str:
    """What tells one body from another."""
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def planned(
    faults: Mapping[str, tuple[float, str]], seed: int, what: str, factor: float
) -> tuple[str | None, random.Random]:
    """The fault that is planned for `what`, and the dice for its details; `factor` times as many as the table says."""
    rng = random.Random(f"{seed}/{what}")
    thrown = rng.random()
    for name, (share, _) in faults.items():
        thrown -= share * factor
        if thrown < 0:
            return name, rng
    return None, rng


# --- the echo server ---


def serve(port: int) -> None:
    """Answer on 127.0.0.1:`port` until standard input ends; a thread per connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    listener = socket.create_server(("127.0.0.1", port), backlog=1024)
    print("listening", flush=True)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=_serve_connection, args=(sock,), daemon=True).start()


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


def _serve_connection(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with contextlib.suppress(OSError, EOFError), sock, sock.makefile("rb") as file:
        while line := file.readline(65_536):
            method, target, _ = line.decode("latin-1").split(" ", 2)
            fields: dict[str, str] = {}
            while (line := file.readline(65_536)) not in (b"\r\n", b""):
                name, _, value = line.decode("latin-1").partition(":")
                fields[name.lower()] = value.strip()
            answer, keep = _answer(method, target, fields, _read_body(file, fields))
            sock.sendall(answer)
            if not keep:
                return


def _read_body(file: Any, fields: Mapping[str, str]) -> bytes:
    def exactly(size: int) -> bytes:
        data: bytes = file.read(size)
        if len(data) < size:
            raise EOFError
        return data

    if fields.get("transfer-encoding") != "chunked":
        return exactly(int(fields.get("content-length", "0")))
    pieces = []
    while True:
        line = file.readline(64)
        if not line:
            raise EOFError
        size = int(line, 16)
        if not size:
            break
        pieces.append(exactly(size))
        exactly(2)
    exactly(2)
    return b"".join(pieces)


def _answer(method: str, target: str, fields: Mapping[str, str], received: bytes) -> tuple[bytes, bool]:
    """The whole answer as bytes, and whether the connection goes on after it."""
    path, _, query = target.partition("?")
    _, kind, token = path.split("/")
    asked = dict(parse_qsl(query))
    who = fields.get("x-who", "")
    cookies = dict(pair.split("=", 1) for pair in fields.get("cookie", "").split("; ") if "=" in pair)
    keep = asked.get("as") != "close"
    head = [
        f"X-Token: {token}",
        f"X-Method: {method}",
        f"X-Who: {who}",
        f"X-Received: {len(received)}",
        f"X-Digest: {digest(received)}",
        f"X-Cookie-Back: {cookies.get('who', '-')}",
    ]
    if kind == "redirect":
        status, body, form = f"{asked['status']} Elsewhere", b"elsewhere", "plain"
        head.append(f"Location: http://{asked['to']}/echo/{token}r?{query}")
    else:
        status, form = "200 OK", asked.get("as", "plain")
        body = received if "echo" in asked else pattern(token, int(asked.get("size", "0")))
        if "set" in asked:
            head.append(f"Set-Cookie: who={who}.{token}; Path=/")
    if "gzip" in form:
        head.append("Content-Encoding: gzip")
        body = gzip.compress(body, 1, mtime=0)
    if method == "DELETE":
        status, body = "204 No Content", b""
    elif "chunked" in form:
        head.append("Transfer-Encoding: chunked")
        if method != "HEAD":
            body = _chunked(body)
    else:
        head.append(f"Content-Length: {len(body)}")
    if method == "HEAD":
        body = b""
    # For the proxy, so that it knows where the answer ends without taking it apart.
    head.append(f"X-Wire: {len(body)}")
    if not keep:
        head.append("Connection: close")
    return "\r\n".join([f"HTTP/1.1 {status}", *head, "", ""]).encode("latin-1") + body, keep


def _chunked(body: bytes) -> bytes:
    sizes = itertools.cycle([7, 1000, 1, 8192])
    pieces: list[bytes] = []
    at = 0
    while at < len(body):
        piece = body[at : at + next(sizes)]
        pieces.append(b"%x\r\n%b\r\n" % (len(piece), piece))
        at += len(piece)
    return b"".join(pieces) + b"0\r\n\r\n"


# --- the proxy ---


class Seen:
    """What is known of one token: how often it came, and what was done to it the last time."""

    __slots__ = ("answered", "arrivals", "came", "did")

    def __init__(self) -> None:
        self.arrivals = 0
        self.came = 0.0  # the last one
        self.answered: float | None = None
        self.did: list[str] = []


class Happening(NamedTuple):
    """Something done to a host, or to all of them (`host` empty), until some instant."""

    host: str
    ended: float
    did: str


class Exchange:
    """One request on its way, and what has come of its answer."""

    __slots__ = ("answer", "came", "fault", "rng", "token", "total")

    def __init__(self, token: str, fault: str | None, rng: random.Random) -> None:
        self.token = token
        self.fault = fault
        self.rng = rng
        self.answer = bytearray()  # all of it if there is a fault to make, else only until its header is whole
        self.came = 0
        self.total = -1  # bytes; unknown until its header is whole

    @property
    def is_complete(self) -> bool:
        return self.came == self.total


class Link:
    """A client's connection, and the one to the server that goes with it."""

    __slots__ = (
        "after",
        "client",
        "ended",
        "exchange",
        "host",
        "inbox",
        "is_half_closed",
        "kept_waiting",
        "out",
        "server",
        "server_out",
        "token",
    )

    def __init__(self, client: socket.socket, host: str) -> None:
        self.client = client
        self.host = host
        self.server: socket.socket | None = None
        self.exchange: Exchange | None = None
        self.inbox = bytearray()  # of a request whose header is not whole
        self.out = bytearray()  # to the client
        self.server_out = bytearray()
        self.after: Callable[[], None] | None = None  # to be done when `out` is empty
        self.token = ""  # of the last request
        self.kept_waiting = ""  # what was done to it before it was accepted
        self.is_half_closed = False
        self.ended = False

    def is_open(self) -> bool:
        """Whether the client has not closed it."""
        if self.ended:
            return False
        if not hasattr(socket, "TCP_INFO"):
            return True
        try:
            return self.client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] in _CLIENT_OPEN
        except OSError:
            return False


class Proxy:
    """The proxy and, as its child, the echo server. Confined to the thread that runs it.

    Args:
        hosts: Loopback addresses to listen on.
        seed: Of the plan of faults.
        factor: How many times the faults of the tables.
    """

    def __init__(self, hosts: Sequence[str], seed: int, factor: float) -> None:
        self._hosts = hosts
        self._seed = seed
        self._factor = factor
        self._selector = selectors.DefaultSelector()
        self._links: set[Link] = set()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = itertools.count()
        self._stopping = False
        self._asked = bytearray()
        # Not from the range that the system takes for clients: an ephemeral port may be a client's while nobody
        # listens, and a connection to it may even be one to itself.
        self.port = _free_port(hosts)
        self._server_port = _free_port(["127.0.0.1"])
        self._listeners: dict[str, socket.socket] = {}
        self._server: subprocess.Popen[bytes] | None = None
        self._tokens: dict[str, Seen] = {}
        self._happenings: deque[Happening] = deque(maxlen=4096)
        self._dark: set[str] = set()
        self._is_down = False  # the server, by our doing
        self._accepted: Counter[str] = Counter()
        self._requests: Counter[str] = Counter()
        self._peaks: Counter[str] = Counter()
        self._peak = 0
        self._late = 0
        self._is_counting = False
        self._done: Counter[str] = Counter()
        self._doubled: list[str] = []

    def run(self) -> None:
        """Serve until standard input ends."""
        self._start_server()
        os.set_blocking(0, False)
        self._selector.register(0, selectors.EVENT_READ)
        try:
            while not self._stopping:
                timeout = max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None
                accepting = []
                for key, mask in self._selector.select(timeout):
                    if isinstance(key.data, Link):
                        self._link_ready(key.data, key.fileobj, mask)
                    elif isinstance(key.data, str):
                        accepting.append(key.data)
                    elif key.fileobj == 0:
                        self._read_questions()
                    else:
                        self._read_server()
                while self._timers and self._timers[0][0] <= time.monotonic():
                    heapq.heappop(self._timers)[2]()
                for host in accepting:
                    self._accept(host)
        finally:
            self._kill_server()
            for link in list(self._links):
                self._end(link)

    def _later(self, pause: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (time.monotonic() + pause, next(self._sequence), call))

    # the server

    def _start_server(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-I", __file__, "echo", str(self._server_port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._server.stdout is not None
        self._selector.register(self._server.stdout, selectors.EVENT_READ)

    def _kill_server(self) -> None:
        server, self._server = self._server, None
        if server is None:
            return
        assert server.stdin is not None
        assert server.stdout is not None
        with contextlib.suppress(KeyError):
            self._selector.unregister(server.stdout)
        server.kill()
        server.wait()
        server.stdin.close()
        server.stdout.close()

    def _read_server(self) -> None:
        """The server says that it listens, or has ended by itself."""
        assert self._server is not None
        assert self._server.stdout is not None
        said = os.read(self._server.stdout.fileno(), 100)
        self._selector.unregister(self._server.stdout)
        if said != b"listening\n":
            raise FaultsError("the echo server has ended by itself")
        for host in self._hosts:
            if host not in self._listeners:
                self._listen(host)
        if not self._is_down:
            print(json.dumps({"port": self.port}), flush=True)
        else:
            self._happened("", KILLED)
            self._is_down = False

    def restart(self, down: float) -> None:
        """Kill the server, and start it again `down` seconds later.

        Meanwhile every second host refuses connections; the others accept them, and reset them when a request comes.
        """
        if self._is_down:
            return
        self._done["restart"] += 1
        self._is_down = True
        for host in self._hosts[1::2]:
            self._stop_listening(host)
        self._kill_server()
        self._later(down, self._start_server)

    # the listeners

    def _listen(self, host: str) -> None:
        listener = self._listeners[host] = socket.create_server((host, self.port), backlog=1024)
        listener.setblocking(False)
        if host in self._dark:
            listener.listen(0)
        else:
            self._selector.register(listener, selectors.EVENT_READ, host)

    def _stop_listening(self, host: str) -> None:
        listener = self._listeners.pop(host)
        if host not in self._dark:
            self._selector.unregister(listener)
        listener.close()

    def darken(self, host: str, seconds: float) -> None:
        """Reset all that is open to a host, and let nobody in for a while, nor tell anybody so."""
        if host in self._dark:
            return
        self._done["dark"] += 1
        self._dark.add(host)
        if host in self._listeners:
            self._selector.unregister(self._listeners[host])
            self._listeners[host].listen(0)  # one may still connect, and is not accepted; the others get no answer
        for link in [link for link in self._links if link.host == host]:
            self._reset(link, DARK)

        def lighten() -> None:
            self._dark.discard(host)
            self._happened(host, DARK)
            if host in self._listeners:
                self._listeners[host].listen(1024)
                self._selector.register(self._listeners[host], selectors.EVENT_READ, host)
                self._accept(host, kept_waiting=DARK)

        self._later(seconds, lighten)

    def _accept(self, host: str, kept_waiting: str = "") -> None:
        if host in self._dark or host not in self._listeners:
            return
        new = []
        with contextlib.suppress(BlockingIOError, ConnectionError):
            while True:
                client, _ = self._listeners[host].accept()
                client.setblocking(False)
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                link = Link(client, host)
                link.kept_waiting = kept_waiting
                self._links.add(link)
                self._selector.register(client, selectors.EVENT_READ, link)
                new.append(link)
        self._count()
        for link in new:
            self._accepted[host] += 1
            what = f"connection {self._accepted[host]} of {host}"
            fault, _ = planned(ACCEPT_FAULTS, self._seed, what, self._factor)
            if fault is None:
                continue
            self._done[fault] += 1
            words = ACCEPT_FAULTS[fault][1]
            if fault == "reset-accept":
                self._reset(link, words)
            else:
                self._did(link.token, words)
                self._end(link)
            self._happened(host, words)

    def _count(self) -> None:
        open_now = [link for link in self._links if link.is_open()]
        if self._is_a_peak(open_now) and not self._is_counting:
            # Who closes before all that it sent has been taken sends the end behind it: so take it, and look again.
            self._is_counting = True
            counted = [link for link in open_now if not self._take_all(link) or link.ended or link.is_open()]
            self._is_counting = False
            self._late += len(open_now) - len(counted)
            open_now = counted
        for host, number in Counter(link.host for link in open_now).items():
            self._peaks[host] = max(self._peaks[host], number)
        self._peak = max(self._peak, len(open_now))

    def _take_all(self, link: Link) -> bool:
        """Read what a client has sent; false if that was nothing."""
        took = False
        for _ in range(100):
            try:
                data = link.client.recv(_RECEIVE)
            except OSError:
                break
            if not data:
                break
            took = True
            self._from_client(link, data)
        return took

    def _is_a_peak(self, links: Sequence[Link]) -> bool:
        by_host = Counter(link.host for link in links)
        return len(links) > self._peak or any(number > self._peaks[host] for host, number in by_host.items())

    # the links

    def _link_ready(self, link: Link, sock: Any, mask: int) -> None:
        if link.ended:
            return
        if mask & selectors.EVENT_WRITE:
            self._flush(link)
        if not mask & selectors.EVENT_READ or link.ended:
            return
        try:
            data = sock.recv(_RECEIVE)
            failed = False
        except BlockingIOError:
            return
        except OSError:
            data, failed = b"", True
        if sock is link.client:
            if data:
                self._from_client(link, data)
            else:
                self._end(link)
        elif sock is link.server:
            if data:
                self._from_server(link, data)
            else:
                self._server_ended(link, failed=failed)

    def _from_client(self, link: Link, data: bytes) -> None:
        exchange = link.exchange
        if exchange is None:
            link.inbox += data
            if b"\r\n\r\n" in link.inbox:
                self._begin(link)
        elif exchange.fault not in ("hole", "reset-request"):
            link.server_out += data
            self._flush(link)

    def _begin(self, link: Link) -> None:
        """A request's header is whole: decide what becomes of it."""
        self._count()
        request, link.inbox = link.inbox, bytearray()
        method, target, _ = request[: request.index(b"\r\n")].decode("latin-1").split(" ", 2)
        token = target.partition("?")[0].rpartition("/")[2]
        seen = self._tokens.get(token)
        if seen is None:
            seen = self._tokens[token] = Seen()
            if len(self._tokens) > KEPT:
                del self._tokens[next(iter(self._tokens))]
        seen.arrivals += 1
        seen.came, seen.answered = time.monotonic(), None
        seen.did.clear()
        if seen.arrivals > 1 and method not in IDEMPOTENT:
            self._doubled.append(f"{method} {token}")
        if link.kept_waiting:
            self._did(token, link.kept_waiting)
            link.kept_waiting = ""
        self._requests[link.host] += 1
        link.token = token
        if link.is_half_closed:  # nobody will answer
            self._did(token, FAULTS["fin"][1])
            link.exchange = Exchange(token, "hole", random.Random())
            return
        fault, rng = planned(FAULTS, self._seed, f"{token}/{seen.arrivals}", self._factor)
        link.exchange = Exchange(token, fault, rng)
        if fault in ("hole", "reset-request"):
            self._make_fault(link, fault)
            return
        if link.server is None:
            try:
                link.server = socket.create_connection(("127.0.0.1", self._server_port), 1.0)
            except OSError:
                self._reset(link, KILLED)
                return
            link.server.setblocking(False)
            link.server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._selector.register(link.server, selectors.EVENT_READ, link)
        link.server_out += request
        self._flush(link)

    def _from_server(self, link: Link, data: bytes) -> None:
        exchange = link.exchange
        assert exchange is not None, "the server answers when it is asked"
        exchange.came += len(data)
        if exchange.fault is None:
            link.out += data
        if exchange.fault is not None or exchange.total < 0:
            exchange.answer += data
        if exchange.total < 0 and (end := exchange.answer.find(b"\r\n\r\n")) >= 0:
            at = exchange.answer.index(b"X-Wire: ") + 8
            exchange.total = end + 4 + int(exchange.answer[at : exchange.answer.index(b"\r\n", at)])
        if exchange.is_complete:
            seen = self._tokens.get(exchange.token)
            if seen is not None:
                seen.answered = time.monotonic()
            if exchange.fault is None:
                link.exchange = None
            else:
                self._make_fault(link, exchange.fault)
        self._flush(link)

    def _server_ended(self, link: Link, *, failed: bool) -> None:
        """The server was killed, or has said that it closes: its end is passed on as it came."""
        self._drop_server(link)
        exchange = link.exchange
        if exchange is None:
            link.after = lambda: self._half_close(link)
            self._flush(link)
        elif not exchange.is_complete:
            self._did(exchange.token, KILLED)
            if failed:
                self._reset(link, KILLED)
                return
            if exchange.fault is not None:
                link.out += exchange.answer
            link.after = lambda: self._half_close(link)
            self._flush(link)

    def _make_fault(self, link: Link, fault: str) -> None:
        exchange = link.exchange
        assert exchange is not None
        answer, rng, words = bytes(exchange.answer), exchange.rng, FAULTS[fault][1]
        head = answer.find(b"\r\n\r\n") + 4
        if (fault == "ghost" and len(answer) > GHOST_LIMIT) or (fault == "cut-body" and len(answer) == head):
            self._play(link, [(0.0, answer)])
            return
        self._done[fault] += 1
        if fault not in ("fin", "close", "reset-idle", "ghost"):  # those meet whoever uses the connection next
            self._did(exchange.token, words)
        if fault == "hole":
            self._later(HOLE_SECONDS, lambda: self._reset(link, words))
        elif fault in ("reset-request", "reset-answer"):
            self._reset(link, words)
        elif fault == "latency":
            self._play(link, [(rng.uniform(0.005, 0.2), answer)])
        elif fault == "trickle":
            self._play(link, [(0.004, piece) for piece in _drops(answer, rng)])
        elif fault == "garbage":
            self._play(link, [(0.0, GARBAGE)], lambda: self._half_close(link))
        elif fault == "ghost":
            self._play(link, [(0.0, answer + GHOST)])
        elif fault == "stall":
            at = rng.randrange(1, len(answer))
            self._play(link, [(0.0, answer[:at])], lambda: self._later(HOLE_SECONDS, lambda: self._reset(link, words)))
        elif fault in ("cut-head", "cut-body"):
            at = rng.randrange(1, head) if fault == "cut-head" else rng.randrange(head, len(answer))
            ends: list[Callable[[Link], None]] = [self._half_close, self._end, lambda link: self._reset(link, words)]
            end = rng.choice(ends)
            self._play(link, [(0.0, answer[:at])], lambda: end(link))
        else:
            act = {"fin": self._half_close, "close": self._end, "reset-idle": lambda link: self._reset(link, words)}
            pause = rng.choice([0.0, rng.uniform(0.0, 0.005), rng.uniform(0.0, 0.05)])
            self._play(
                link,
                [(0.0, answer)],
                lambda: self._later(pause, lambda: self._meet_next(link, words, act[fault])),
                goes_on=True,
            )

    def _meet_next(self, link: Link, words: str, act: Callable[[Link], object]) -> None:
        """End a connection that carried its answer well: it lies idle, or its next request is on the way."""
        if link.ended:
            return
        # What lies in the system's buffers of the last answer, a reset takes away.
        self._did(link.token, words)
        act(link)
        self._happened(link.host, words)

    def _play(
        self,
        link: Link,
        steps: Sequence[tuple[float, bytes]],
        then: Callable[[], object] | None = None,
        *,
        goes_on: bool = False,
    ) -> None:
        """Send each piece after its pause; then the exchange is over, unless something else comes `then`."""
        if link.ended:
            return
        if steps:
            pause, piece = steps[0]

            def send() -> None:
                link.out += piece
                link.after = lambda: self._play(link, steps[1:], then, goes_on=goes_on)
                self._flush(link)

            if pause:
                self._later(pause, lambda: None if link.ended else send())
            else:
                send()
            return
        if then is None or goes_on:
            link.exchange = None
            if link.server is None:  # the server closed after its answer, or was killed
                self._half_close(link)
                return
        if then is not None:
            then()

    def _flush(self, link: Link) -> None:
        for sock, data in ((link.client, link.out), (link.server, link.server_out)):
            if link.ended or sock is None:
                continue
            if data:
                try:
                    del data[: sock.send(data)]
                except BlockingIOError:
                    pass
                except OSError:
                    # Of the server, what it said before it went is still to be read; a client that went is gone.
                    if sock is link.client:
                        self._end(link)
                        return
                    data.clear()
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if data else 0)
            if self._selector.get_key(sock).events != events:
                self._selector.modify(sock, events, link)
        if not link.out and link.after is not None and not link.ended:
            after, link.after = link.after, None
            after()

    # the ends

    def _half_close(self, link: Link) -> None:
        """Send a FIN, and go on reading until the client closes."""
        if link.ended:
            return
        link.is_half_closed = True
        link.out.clear()
        self._drop_server(link)
        with contextlib.suppress(OSError):
            link.client.shutdown(socket.SHUT_WR)

    def _reset(self, link: Link, words: str) -> None:
        if link.ended:
            return
        self._did(link.token, words)
        with contextlib.suppress(OSError):
            link.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._end(link)

    def _end(self, link: Link) -> None:
        if link.ended:
            return
        link.ended = True
        self._links.discard(link)
        self._drop_server(link)
        self._selector.unregister(link.client)
        link.client.close()

    def _drop_server(self, link: Link) -> None:
        if link.server is not None:
            self._selector.unregister(link.server)
            link.server.close()
            link.server = None
            link.server_out.clear()

    # the record

    def _did(self, token: str, words: str) -> None:
        seen = self._tokens.get(token)
        if seen is not None and words not in seen.did:
            seen.did.append(words)

    def _happened(self, host: str, words: str) -> None:
        """Something that may have met a request before it came."""
        self._happenings.append(Happening(host, time.monotonic(), words))

    def _read_questions(self) -> None:
        try:
            data = os.read(0, 65_536)
        except BlockingIOError:
            return
        if not data:
            self._stopping = True
            return
        self._asked += data
        while (end := self._asked.find(b"\n")) >= 0:
            question = json.loads(self._asked[:end])
            del self._asked[: end + 1]
            print(json.dumps(self._reply(**question)), flush=True)

    def _reply(self, do: str, **about: Any) -> dict[str, Any]:
        if do == "why":
            return self._why(**about)
        if do == "restart":
            self.restart(**about)
        elif do == "darken":
            self.darken(**about)
        return {
            "accepted": dict(self._accepted),
            "requests": dict(self._requests),
            "peaks": dict(self._peaks),
            "peak": self._peak,
            "late": self._late,
            "open": sum(link.is_open() for link in self._links),
            "faults": dict(self._done),
            "doubled": self._doubled[:20],
        }

    def _why(self, token: str, host: str, since: float) -> dict[str, Any]:
        seen = self._tokens.get(token)
        if seen is not None:
            took = (seen.answered or time.monotonic()) - seen.came
            return {"arrivals": seen.arrivals, "did": seen.did or ([SLOW] if took > SLOW_SECONDS else [])}
        # It never came, so all that can be told is what was done to its host meanwhile.
        if self._is_down:
            did = [KILLED]
        elif host in self._dark:
            did = [DARK]
        else:
            did = [each.did for each in self._happenings if each.ended >= since and each.host in ("", host)]
        return {"arrivals": 0, "did": sorted(set(did))}


def _drops(answer: bytes, rng: random.Random) -> list[bytes]:
    """An answer in at most some 60 pieces, the first ones of a byte or two."""
    pieces: list[bytes] = []
    at = 0
    while at < len(answer) and len(pieces) < 60:
        size = rng.choice([1, 1, 2, 5, 30, 200])
        pieces.append(answer[at : at + size])
        at += size
    return [*pieces, answer[at:]] if at < len(answer) else pieces


def _free_port(hosts: Sequence[str]) -> int:
    """A port that is free on all of these addresses, below those that the system gives to clients."""
    for port in random.SystemRandom().sample(range(20_000, 32_000), 100):
        with contextlib.ExitStack() as held:
            try:
                for host in hosts:
                    held.enter_context(socket.create_server((host, port)))
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL:
                    raise FaultsError(f"{host} is no address of this machine; Linux has all of 127.0.0.0/8") from None
                continue
            return port
    raise FaultsError("no free port between 20000 and 32000")


# --- the process ---


class FaultyOrigin:
    """The proxy and its server as processes, from `start` to `close`. Thread-safe.

    Attributes:
        port: The proxy's, on every one of its hosts.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.port = 0
        self._process = process
        self._lock = threading.Lock()  # one question at a time

    @classmethod
    def start(cls, hosts: Sequence[str], *, seed: int, factor: float) -> Self:
        """Start both, and return when they listen.

        Raises:
            FaultsError: They cannot be had.
        """
        process = subprocess.Popen(
            [sys.executable, "-I", __file__, "proxy", json.dumps([list(hosts), seed, factor])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a Ctrl-C meant for us would end it before it was asked for its counts
        )
        origin = cls(process)
        try:
            origin.port = origin._read()["port"]
        except BaseException:
            origin.close()
            raise
        return origin

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def why(self, token: str, host: str, since: float) -> tuple[int, list[str]]:
        """How often a token came, and what was done to it; if it never came, what was done to its host since then."""
        said = self._ask(do="why", token=token, host=host, since=since)
        return said["arrivals"], said["did"]

    def restart(self, down: float) -> None:
        """Kill the server, and start it again after `down` seconds."""
        self._ask(do="restart", down=down)

    def darken(self, host: str, seconds: float) -> None:
        """Make a black hole of a host for some seconds."""
        self._ask(do="darken", host=host, seconds=seconds)

    def counts(self) -> dict[str, Any]:
        """Connections accepted, requests, most open at once (each by host), open now, faults made, POSTs doubled."""
        return self._ask(do="counts")

    def close(self) -> None:
        """End both, and wait for their end. Idempotent."""
        with self._lock:
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
            try:
                self._process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _ask(self, **question: Any) -> dict[str, Any]:
        with self._lock:
            assert self._process.stdin is not None
            try:
                self._process.stdin.write(json.dumps(question) + "\n")
                self._process.stdin.flush()
            except (OSError, ValueError) as error:  # a broken pipe, or one that we closed
                raise FaultsError("the fault-injecting proxy has ended") from error
            return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise FaultsError("the fault-injecting proxy has ended; what it said is on standard error")
        said: dict[str, Any] = json.loads(line)
        return said


def main(arguments: Sequence[str]) -> None:
    """What the processes are started with: `proxy [[HOST, ...], SEED, FACTOR]` or `echo PORT`."""
    if arguments[0] == "echo":
        serve(int(arguments[1]))
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    hosts, seed, factor = json.loads(arguments[1])
    try:
        Proxy(hosts, seed, factor).run()
    except FaultsError as error:
        sys.exit(f"{Path(__file__).name}: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
