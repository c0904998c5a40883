"""A server that plays scripts, byte by byte, and misbehaves as told; with a pool to play against, and an audit.

A script is a list of steps for one connection; the connections take the scripts in order. What a script does not
foresee is a failure: a request too many, a connection too many, a client that goes away where a request was due.
A script that ends without closing leaves the connection open and answers nothing more.

    with playing([expect("GET / "), send(response(b"hello"))]) as (pool, server):
        answer = pool.get(server.url)

How many connections are open is asked of the kernel, not counted along: a client's end is in the state of the server's
socket before any thread here has woken to read it.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import select
import socket
import ssl
import struct
import termios
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs
import pytest

from sessionpool import SessionPool
from sessionpool._connection import Connection
from tests.helpers import PATIENCE, eventually

# Of <netinet/tcp.h>: the states in which neither end has closed, and those in which the client knows that we have.
_BOTH_OPEN = frozenset({1, 3})
_FIN_ARRIVED = frozenset({5, 6, 7})


class Gone(Exception):
    """The client has closed, or the server is being closed: the script ends here."""


@attrs.frozen(kw_only=True)
class Request:
    """One request as it arrived.

    Attributes:
        line: The request line.
        fields: Names and values, as sent.
        body: Without its framing.
        wire: The body with its framing.
        connection: Number of the connection, from 1.
    """

    line: str
    fields: tuple[tuple[str, str], ...]
    body: bytes = b""
    wire: bytes = b""
    connection: int

    def all(self, name: str) -> list[str]:
        """The values of every field of that name."""
        return [value for each, value in self.fields if each.lower() == name.lower()]

    @property
    def method(self) -> str:
        return self.line.partition(" ")[0]


Step = Callable[["Peer"], object]
Script = Sequence[Step]


# --- steps ---


def expect(line: str = "", *, body: bytes | None = None, head_only: bool = False) -> Step:
    """Read a request whose line begins with `line`, and whose body, read unless `head_only`, is `body`."""

    def step(peer: Peer) -> None:
        request = peer.read_request(head_only=head_only)
        assert request.line.startswith(line), f"expected {line!r}, got {request.line!r}"
        assert body is None or request.body == body, f"expected {body!r}, got {request.body!r}"

    return step


def send(*pieces: bytes) -> Step:
    """Send each piece by a call of its own, the next when the last has arrived."""

    def step(peer: Peer) -> None:
        for piece in pieces[:-1]:
            peer.send(piece)
            peer.wait_until_arrived()
        for piece in pieces[-1:]:
            peer.send(piece)

    return step


def send_with_end(data: bytes) -> Step:
    """Send the data and the end of the connection in one segment, and go on reading. Not over TLS."""

    def step(peer: Peer) -> None:
        peer.socket.sendall(data, getattr(socket, "MSG_MORE", 0))
        peer.half_close()

    return step


def send_bytewise(data: bytes) -> Step:
    """Send each byte by a call of its own, the next when the last has arrived."""
    return send(*(data[at : at + 1] for at in range(len(data))))


def repeatedly(*steps: Step) -> Step:
    """Do these steps for each request, until the client closes instead of sending one."""

    def step(peer: Peer) -> None:
        while True:
            if not peer.buffer:
                peer.fill()
            for each in steps:
                each(peer)

    return step


def trickle(piece: bytes) -> Step:
    """Send a piece, wait a moment, and so on until the client has had enough."""

    def step(peer: Peer) -> None:
        while True:
            peer.send(piece)
            peer.wait(threading.Event(), 0.01)

    return step


def flood(piece: bytes) -> Step:
    """Send a piece again and again, as fast as the client takes it, until it has had enough."""

    def step(peer: Peer) -> None:
        while not peer.server.closing:
            peer.send(piece)

    return step


def pause(seconds: float) -> Step:
    """Be slow."""
    return lambda peer: peer.wait(threading.Event(), seconds)


def close(peer: Peer) -> None:
    """Close in order (over TLS: without its goodbye), and go on when the client has been told."""
    peer.half_close()
    peer.close()


def abandon(peer: Peer) -> None:
    """Close with what the client sent unread, as a server does that dies: the kernel answers with RST."""
    peer.wait_until_readable()
    peer.close()


def reset(peer: Peer) -> None:
    """Send RST."""
    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def half_close(peer: Peer) -> None:
    """Say that nothing more will be sent, and go on reading."""
    peer.half_close()


def close_notify(peer: Peer) -> None:
    """Say goodbye as TLS does, without waiting for the client's."""
    assert isinstance(peer.socket, ssl.SSLSocket)
    peer.socket.settimeout(0)
    with contextlib.suppress(OSError):  # it has been sent; whatever the client has to say, it is not waited for
        peer.socket.unwrap()
    peer.socket.settimeout(PATIENCE)


def discard(peer: Peer) -> None:
    """Read and forget what comes until the client has closed."""
    with contextlib.suppress(Gone):
        while True:
            peer.fill()
            peer.buffer = b""


def await_bytes(peer: Peer) -> None:
    """Wait until something has come, and leave it unread."""
    peer.wait_until_readable()


def arrived(peer: Peer) -> None:
    """Wait until what was sent lies in the client's kernel."""
    peer.wait_until_arrived()


def wait_for(event: threading.Event) -> Step:
    """Wait until the test says so."""

    def step(peer: Peer) -> None:
        while not peer.wait(event, 0.002):
            pass

    return step


def tell(event: threading.Event) -> Step:
    """Let the test know that the script has come this far."""
    return lambda _: event.set()


# --- what to send ---


def response(body: bytes = b"", *fields: str, status: str = "200 OK", version: str = "HTTP/1.1") -> bytes:
    """A response with a Content-Length."""
    return head(f"Content-Length: {len(body)}", *fields, status=status, version=version) + body


def chunked(body: bytes, *fields: str, size: int = 4) -> bytes:
    """A chunked response."""
    chunks = [body[at : at + size] for at in range(0, len(body), size)]
    framed = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return head("Transfer-Encoding: chunked", *fields) + framed + b"0\r\n\r\n"


def head(*fields: str, status: str = "200 OK", version: str = "HTTP/1.1") -> bytes:
    """The head of a response, with its empty line."""
    return "\r\n".join([f"{version} {status}", *fields, "", ""]).encode("latin-1")


# --- the server ---


class Peer:
    """The server's end of one connection. Confined to its thread, but for what is marked.

    Attributes:
        number: From 1, in the order of arrival.
        socket: The socket; TLS already wrapped.
        buffer: What has been read and not used.
        tls_error: Why the handshake failed, or `None`.
    """

    def __init__(self, server: RawServer, number: int, sock: socket.socket) -> None:
        self.server = server
        self.number = number
        self.socket = sock
        self.buffer = b""
        self.tls_error: Exception | None = None

    def run(self, script: Script) -> None:
        try:
            if isinstance(self.socket, ssl.SSLSocket):
                try:
                    self.socket.do_handshake()
                except OSError as error:
                    self.tls_error = error
                    return
            for step in script:
                step(self)
            if self.socket.fileno() >= 0:
                self._await_end()
        except Gone:
            pass
        except Exception as error:  # noqa: BLE001 - shown by the test's thread
            if not self.server.closing:
                self.server.failures.append(error)
        finally:
            self.close()

    def _await_end(self) -> None:
        while True:
            self.fill()
            surplus, self.buffer = self.buffer, b""
            assert not surplus, f"connection {self.number}: nobody expected {surplus[:200]!r}"

    @property
    def state(self) -> int:
        """The TCP state of this end; 7 for closed. Thread-safe."""
        try:
            return self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        except OSError:
            return 7

    def close(self) -> None:
        self.socket.close()

    def half_close(self) -> None:
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self.socket, socket.SHUT_WR)
            eventually(lambda: self.state in _FIN_ARRIVED)

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Wait, unless the server is being closed."""
        if self.server.closing:
            raise Gone
        return event.wait(seconds)

    def wait_until_arrived(self) -> None:
        """Until the client's kernel has acknowledged everything; or the connection is no more."""
        unacknowledged = bytearray(4)

        def acknowledged() -> bool:
            try:
                fcntl.ioctl(self.socket.fileno(), termios.TIOCOUTQ, unacknowledged)
            except (OSError, ValueError):
                return True
            return not any(unacknowledged) or self.state not in _BOTH_OPEN

        eventually(acknowledged)

    def wait_until_readable(self) -> None:
        poller = select.poll()
        poller.register(self.socket, select.POLLIN)
        assert poller.poll(PATIENCE * 1000), f"connection {self.number}: nothing came"

    def send(self, data: bytes) -> None:
        try:
            self.socket.sendall(data)
        except TimeoutError:
            raise
        except OSError:
            raise Gone from None

    def fill(self) -> None:
        """Read something into the buffer."""
        try:
            data = self.socket.recv(65536)
        except TimeoutError:
            raise
        except OSError:
            raise Gone from None
        if not data:
            raise Gone
        self.buffer += data

    def read_request(self, *, head_only: bool) -> Request:
        try:
            block = self._until(b"\r\n\r\n").decode("latin-1")
            line, *lines = block[:-4].split("\r\n")
            fields = [each.partition(":") for each in lines]
            request = Request(
                line=line,
                fields=tuple((name, value.strip(" ")) for name, _, value in fields),
                connection=self.number,
            )
            if not head_only:
                request = self._with_body(request)
        except Gone:
            assert self.server.closing, f"connection {self.number}: the client went where a request was due"
            raise
        self.server.requests.append(request)
        return request

    def _with_body(self, request: Request) -> Request:
        lengths, codings = request.all("Content-Length"), request.all("Transfer-Encoding")
        assert len(lengths) + len(codings) <= 1, f"two framings: {lengths}, {codings} (RFC 9112 §6.2)"
        if lengths:
            body = self._exactly(int(lengths[0]))
            return attrs.evolve(request, body=body, wire=body)
        if not codings:
            return request
        assert codings == ["chunked"]
        body = wire = b""
        while True:
            line = self._until(b"\r\n")
            size = int(line, 16)
            chunk = self._exactly(size + 2)
            assert chunk.endswith(b"\r\n")
            body += chunk[:-2]
            wire += line + chunk
            if size == 0:
                return attrs.evolve(request, body=body, wire=wire)

    def _until(self, mark: bytes) -> bytes:
        while mark not in self.buffer:
            self.fill()
        end = self.buffer.index(mark) + len(mark)
        return self._exactly(end)

    def _exactly(self, size: int) -> bytes:
        while len(self.buffer) < size:
            self.fill()
        taken, self.buffer = self.buffer[:size], self.buffer[size:]
        return taken


class RawServer:
    """Plays one script per connection, in a thread of its own.

    Args:
        scripts: For the first connection, the second, ...
        repeat: The last script is for all that follow; otherwise one more connection is a failure.
        tls: Wrap each connection in TLS first; a handshake that fails ends it, and is no failure.
        host: The address to listen on.

    Attributes:
        requests: All that have arrived, in order.
        peers: The connections, in order.
        peak: The most that were open at once.
        failures: What went otherwise than scripted.
    """

    def __init__(
        self,
        *scripts: Script,
        repeat: bool = False,
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.requests: list[Request] = []
        self.peers: list[Peer] = []
        self.peak = 0
        self.failures: list[Exception] = []
        self.closing = False
        self._scripts = scripts
        self._repeat = repeat
        self._tls = tls
        self._threads: list[threading.Thread] = []
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family, backlog=128)
        self.host = host
        self.port: int = self._listener.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept, name="raw-server", daemon=True)
        self._accepting.start()

    @property
    def origin(self) -> str:
        """As the pool names it in statistics and errors."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self._tls else 'http'}://{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.origin}/"

    @property
    def open(self) -> int:
        """Connections that neither end has closed, at this moment."""
        return sum(peer.state in _BOTH_OPEN for peer in self.peers)

    def _settled_open(self) -> int:
        """`open`, once the FIN of a connection that the client closed before it made this one has been processed.

        On a busy machine that may come after the new connection: a socket that a thread is just using puts it off.
        """
        count = self.open
        patience = time.monotonic() + 0.1
        while count > max(self.peak, 1) and time.monotonic() < patience:
            time.sleep(0.002)
            count = min(count, self.open)
        return count

    def close(self) -> None:
        """End all connections and threads."""
        self.closing = True
        with contextlib.suppress(OSError):  # wakes accept()
            socket.create_connection(self._listener.getsockname()[:2]).close()
        self._accepting.join(PATIENCE)
        self._listener.close()
        for peer in self.peers:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(peer.socket, socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)

    def check(self) -> None:
        """Raise what went otherwise than scripted."""
        if self.failures:
            raise self.failures[0]

    def _accept(self) -> None:
        while True:
            sock, _ = self._listener.accept()
            if self.closing:
                sock.close()
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(PATIENCE)
            if self._tls is not None:
                sock = self._tls.wrap_socket(
                    sock, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=False
                )
            peer = Peer(self, len(self.peers) + 1, sock)
            self.peers.append(peer)
            self.peak = max(self.peak, self._settled_open())
            if peer.number <= len(self._scripts):
                script = self._scripts[peer.number - 1]
            elif self._repeat:
                script = self._scripts[-1]
            else:
                self.failures.append(AssertionError(f"nobody expected connection {peer.number}"))
                peer.close()
                continue
            thread = threading.Thread(target=peer.run, args=(script,), name=f"raw-server-{peer.number}", daemon=True)
            self._threads.append(thread)
            thread.start()


@contextlib.contextmanager
def deaf_listener(host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """A URL whose host answers no attempt to connect, because its queue of those is full."""
    with socket.create_server((host, port), backlog=0) as listener, contextlib.ExitStack() as attempts:
        while True:
            attempt = attempts.enter_context(socket.socket())
            attempt.settimeout(0.2)
            try:
                attempt.connect(listener.getsockname())
            except TimeoutError:
                break
        yield f"http://{host}:{listener.getsockname()[1]}/"


class Resolver:
    """Stands for the system's resolver, which for these names does not answer until it is told to.

    Attributes:
        asked: The names, in the order of the look-ups begun.
        found: What the names then stand for; an address, or what is raised.
    """

    def __init__(self, *names: str) -> None:
        self.asked: list[str] = []
        self.found: str | Exception = socket.gaierror(socket.EAI_NONAME, "nobody knows that name")
        self._names = names
        self._may_answer = threading.Event()
        self._ask = socket.getaddrinfo

    def answer(self, found: str | Exception | None = None) -> None:
        """Answer whoever has asked, and whoever will."""
        if found is not None:
            self.found = found
        self._may_answer.set()

    def __call__(self, host: Any, port: Any, family: int = 0, kind: int = 0, proto: int = 0, flags: int = 0) -> Any:
        if host in self._names and not flags & socket.AI_NUMERICHOST:
            self.asked.append(host)
            self._may_answer.wait(PATIENCE)
            if isinstance(self.found, Exception):
                raise self.found
            host = self.found
        return self._ask(host, port, family, kind, proto, flags)


@contextlib.contextmanager
def silent_resolver(*names: str) -> Iterator[Resolver]:
    """A resolver that says nothing about these names; at the end, that nobody knows them."""
    resolver = Resolver(*names)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", resolver)
        try:
            yield resolver
        finally:
            resolver.answer()


# --- a pool to play against, and the audit ---


@contextlib.contextmanager
def serving(*scripts: Script, **settings: Any) -> Iterator[RawServer]:
    """A `RawServer`, closed and checked at the end."""
    server = RawServer(*scripts, **settings)
    try:
        yield server
    finally:
        server.close()
    server.check()


@contextlib.contextmanager
def playing(
    *scripts: Script,
    repeat: bool = False,
    tls: ssl.SSLContext | None = None,
    host: str = "127.0.0.1",
    **settings: Any,
) -> Iterator[tuple[SessionPool, RawServer]]:
    """A server and a pool with these settings; at the end, unless the test has failed already, the audit."""
    files = open_files()
    gc.freeze()  # to collect what this test leaves behind takes no time if what was there before is not looked at
    try:
        with serving(*scripts, repeat=repeat, tls=tls, host=host) as server:
            with SessionPool(**{"trust_env": False, "retry": None, **settings}) as pool:
                yield pool, server
                audit(pool, server)
            eventually(lambda: server.open == 0)
        gc.collect()
        eventually(lambda: open_files() <= files)
    finally:
        gc.unfreeze()


def audit(pool: SessionPool, *servers: RawServer) -> None:
    """Nothing is leased, nobody waits, and the servers see open exactly what the pool keeps idle."""
    gc.collect()
    stats = pool.stats()
    assert (stats.leased, stats.waiting, stats.sessions) == (0, 0, 0)
    assert stats.idle == len(idle_connections(pool))
    eventually(lambda: sum(server.open for server in servers) == stats.idle - len(stale_connections(pool)))


def idle_connections(pool: SessionPool) -> list[Connection]:
    """The connections that lie idle, the coldest first."""
    return list(pool._transport.gate._ledger._idle)


def stale_connections(pool: SessionPool) -> list[Connection]:
    """Those of them that have something to read or have ended, by what the kernel says."""
    return [connection for connection in idle_connections(pool) if _has_news(connection._socket)]


def _has_news(sock: socket.socket) -> bool:
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    return bool(poller.poll(0))


def open_files() -> int:
    """How many file descriptors this process has; 0 where nobody can tell."""
    try:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - the fastest way, and no path is wanted
    except OSError:
        return 0
