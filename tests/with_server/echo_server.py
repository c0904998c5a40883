"""Servers for tests, on loopback, made of the standard library: one that echoes, and one that only counts.

`EchoServer` says back what it was asked, keeps what it has seen, and gives the answers a test hands it. Each of its
connections has a thread, so that an answer may wait for the test. `CountingServer` knows how many connections were open
at once over several addresses, exactly: it has a single thread, which reads the ends that have come before it accepts.
"""

from __future__ import annotations

import contextlib
import io
import json
import selectors
import socket
import socketserver
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from typing import Self
from urllib.parse import parse_qsl

import attrs

Pairs = tuple[tuple[str, str], ...]


@attrs.frozen(kw_only=True)
class Seen:
    """One request as it arrived.

    Attributes:
        method: As sent.
        target: As sent: path and query, or an absolute URL for a proxy.
        headers: Names and values in order, as sent.
        body: Without its framing.
        chunked: The body came in chunks.
        connection: Number of the connection, from 1.
        nth: 1 for the first request on its connection.
    """

    method: str
    target: str
    headers: Pairs
    body: bytes
    chunked: bool
    connection: int = 0
    nth: int = 0

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> list[tuple[str, str]]:
        return parse_qsl(self.target.partition("?")[2], keep_blank_values=True)

    def all(self, name: str) -> list[str]:
        """The values of every field of that name."""
        return [value for each, value in self.headers if each.lower() == name.lower()]

    def header(self, name: str) -> str | None:
        """The value of a field, joined where it came several times; `None` without one."""
        return ", ".join(self.all(name)) if self.all(name) else None

    @property
    def cookies(self) -> list[tuple[str, str]]:
        """The cookies sent, in order."""
        pairs = [pair.strip().partition("=") for line in self.all("cookie") for pair in line.split(";")]
        return [(name, value) for name, _, value in pairs]


@attrs.frozen
class Answer:
    """What to say: a body of several pieces goes chunked, each piece as it comes.

    `Content-Length` is added unless `headers` says how the body is framed; a header's value goes out as Latin-1.
    """

    body: bytes | Iterable[bytes] = b""
    status: int = 200
    headers: Iterable[tuple[str, str]] = ()
    reason: str | None = None


def echo(seen: Seen) -> Answer:
    """What was asked, as JSON."""
    said = {
        "method": seen.method,
        "target": seen.target,
        "args": seen.query,
        "headers": seen.headers,
        "cookies": dict(seen.cookies),
        "body": seen.body.decode("latin-1"),
    }
    return Answer(json.dumps(said).encode(), headers=[("Content-Type", "application/json")])


def redirect(location: str, status: int = 302, *headers: tuple[str, str]) -> Answer:
    """An answer that sends the client elsewhere."""
    return Answer(b"over there", status, [("Location", location), ("Content-Type", "text/plain"), *headers])


def page(text: str = "hello", content_type: str = "text/plain; charset=utf-8") -> Answer:
    """A page of text."""
    return Answer(text.encode(), headers=[("Content-Type", content_type)])


def set_cookies(*lines: str) -> Answer:
    """An answer that sets cookies, a `Set-Cookie` field each."""
    return Answer(b"eat", headers=[("Set-Cookie", line) for line in lines])


class BadMessage(Exception):
    """The client sent what is no request."""


def read_request(stream: io.BufferedIOBase) -> Seen | None:
    """The next request, `None` if the client has nothing more to say."""
    line = stream.readline()
    if not line:
        return None
    try:
        method, target, _ = line.decode("latin-1").split(" ")
    except ValueError:
        raise BadMessage(f"no request line: {line!r}") from None
    headers = []
    while (line := stream.readline()) not in (b"\r\n", b""):
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon or not line.endswith(b"\r\n"):
            raise BadMessage(f"no header line: {line!r}")
        headers.append((name, value.strip(" \t\r\n")))
    fields = {name.lower(): value for name, value in headers}
    chunked = fields.get("transfer-encoding", "").lower() == "chunked"
    length = int(fields.get("content-length", 0))
    body = b"".join(_chunks(stream)) if chunked else stream.read(length)
    if not chunked and len(body) < length:
        raise BadMessage(f"{len(body)} of {length} bytes")
    return Seen(method=method, target=target, headers=tuple(headers), body=body, chunked=chunked)


def _chunks(stream: io.BufferedIOBase) -> Iterator[bytes]:
    while size := _chunk_size(stream.readline()):
        yield stream.read(size)
        if stream.readline() != b"\r\n":
            raise BadMessage("a chunk of another length than its size")
    stream.readline()


def _chunk_size(line: bytes) -> int:
    try:
        return int(line, 16)
    except ValueError:
        raise BadMessage(f"no chunk size: {line!r}") from None


def write_answer(stream: io.BufferedIOBase, answer: Answer, method: str) -> None:
    """Write an answer to a request of that method."""
    reason = HTTPStatus(answer.status).phrase if answer.reason is None else answer.reason
    fields = list(answer.headers)
    framed = {name.lower() for name, _ in fields} & {"content-length", "transfer-encoding"}
    whole = answer.body if isinstance(answer.body, bytes) else None
    if not framed and answer.status not in (204, 304):
        fields.append(("Transfer-Encoding", "chunked") if whole is None else ("Content-Length", str(len(whole))))
    lines = [f"HTTP/1.1 {answer.status} {reason}", *(f"{name}: {value}" for name, value in fields), "", ""]
    stream.write("\r\n".join(lines).encode("latin-1"))
    if method != "HEAD" and answer.status not in (204, 304):
        if whole is not None:
            stream.write(whole)
        else:
            stream.flush()
            for piece in answer.body:
                assert isinstance(piece, bytes)
                stream.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                stream.flush()
            stream.write(b"0\r\n\r\n")
    stream.flush()


class Server:
    """Takes connections on a free port and gives each a thread; a context manager. Thread-safe.

    Args:
        host: The address to listen on.
        tls: Speak TLS by this context.

    Attributes:
        url: Where it listens, without a slash at the end.
        accepted: Connections taken since the start.
        failures: What went wrong in its threads, but for clients that went away; looked at on leaving the context.
    """

    def __init__(self, host: str = "127.0.0.1", *, tls: ssl.SSLContext | None = None) -> None:
        self.accepted = 0
        self.failures: list[Exception] = []
        self._tls = tls
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._threads: set[threading.Thread] = set()
        serve = self._serve

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                serve(self.request)

        class Listener(socketserver.ThreadingTCPServer):
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
            allow_reuse_address = True
            request_queue_size = 256

        self._listener = Listener((host, 0), Handler)
        self.host = host
        self.port = int(self._listener.server_address[1])
        name = f"[{host}]" if ":" in host else host
        self.url = f"{'http' if tls is None else 'https'}://{name}:{self.port}"
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(0.01,), name="server")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown()
        self._thread.join()
        self.drop_connections()
        self._listener.server_close()  # waits for the connections' threads
        assert self.failures == []

    @property
    def open(self) -> int:
        """Connections open now."""
        return len(self._sockets)

    def drop_connections(self) -> None:
        """Close every open connection, whatever is going on there, and wait for their threads to end."""
        with self._lock:
            for each in self._sockets:
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(each, socket.SHUT_RDWR)
            threads = [thread for thread in self._threads if thread.is_alive()]
            self._threads.clear()
        for thread in threads:
            thread.join(20)

    def handle(self, stream: io.BufferedIOBase, sock: socket.socket, number: int) -> None:
        """Serve one connection to its end; `stream` is over `sock`, `number` is its own, from 1."""
        raise NotImplementedError

    def _serve(self, sock: socket.socket) -> None:
        with self._lock:
            self.accepted += 1
            number = self.accepted
            self._sockets.add(sock)
            self._threads.add(threading.current_thread())
        served = sock
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                served = self._tls.wrap_socket(sock, server_side=True)  # the plain one is detached
                with self._lock:
                    self._sockets.add(served)
                    self._sockets.discard(sock)
            with served.makefile("rwb") as stream:
                self.handle(stream, served, number)
        except (OSError, BadMessage):
            pass  # the client went away, did not like our certificate, or does not speak HTTP: tests of clients do that
        except Exception as error:  # noqa: BLE001 - kept for the test
            self.failures.append(error)
        finally:
            with self._lock:
                self._sockets.discard(sock)
                self._sockets.discard(served)
            with contextlib.suppress(OSError):
                served.shutdown(socket.SHUT_RDWR)
            served.close()


class EchoServer(Server):
    """Answers each request with `answers[path]`, or says back what it was asked.

    Attributes:
        answers: By path: an answer, or a function that makes one of the request; it may wait for the test.
        seen: The requests, in the order they were complete.
    """

    def __init__(self, host: str = "127.0.0.1", *, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(host, tls=tls)
        self.answers: dict[str, Answer | Callable[[Seen], Answer]] = {}
        self.seen: list[Seen] = []

    def reset(self) -> None:
        """Forget what was seen and which answers were wanted."""
        self.answers.clear()
        self.seen.clear()

    def handle(self, stream: io.BufferedIOBase, sock: socket.socket, number: int) -> None:
        nth = 0
        while (seen := read_request(stream)) is not None:
            nth += 1
            seen = attrs.evolve(seen, connection=number, nth=nth)
            self.seen.append(seen)
            answer = self.answers.get(seen.path, echo)
            if not isinstance(answer, Answer):
                answer = answer(seen)
            write_answer(stream, answer, seen.method)
            if any(name.lower() == "connection" and value == "close" for name, value in answer.headers):
                return


class CountingServer:
    """One server on several addresses and one port; answers every request with 200 and counts. A context manager.

    One thread does everything, and looks for ended connections before it accepts one. So a client that closes a
    connection and then opens another is counted as having one.

    Args:
        hosts: The addresses, such as 127.0.0.1 and 127.0.0.2.

    Attributes:
        urls: Where it listens, in the order of the addresses.
        most_open: Connections open at one time over all addresses, at most.
        accepted: Connections taken, by address.
        requests: Requests answered, by address.
    """

    def __init__(self, *hosts: str) -> None:
        self._selector = selectors.DefaultSelector()
        self._listeners = [socket.create_server((hosts[0], 0), backlog=256)]
        self.port = int(self._listeners[0].getsockname()[1])
        self._listeners += [socket.create_server((host, self.port), backlog=256) for host in hosts[1:]]
        self.urls = [f"http://{host}:{self.port}" for host in hosts]
        self.most_open = 0
        self.accepted: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self._open: set[socket.socket] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="counting-server")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for each in [*self._open, *self._listeners]:
            each.close()
        self._selector.close()

    def _run(self) -> None:
        for listener in self._listeners:
            listener.setblocking(False)
            self._selector.register(listener, selectors.EVENT_READ)
        while not self._stop.is_set():
            ready = [key.fileobj for key, _ in self._selector.select(0.01)]
            self._read_ready()
            for each in ready:
                if each in self._listeners:
                    self._accept(each)

    def _read_ready(self) -> None:
        for key, _ in self._selector.select(0):
            if key.fileobj in self._open:
                self._read(key.fileobj)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except BlockingIOError:
                return
            self._read_ready()  # an end that was sent before this connection was opened has come before it
            self._open.add(sock)
            self.most_open = max(self.most_open, len(self._open))
            self.accepted[sock.getsockname()[0]] += 1
            self._selector.register(sock, selectors.EVENT_READ)

    def _read(self, sock: socket.socket) -> None:
        """Requests without a body come whole: a client writes them at once, and waits for the answer."""
        try:
            data = sock.recv(65536)
        except ConnectionError:
            data = b""
        if data:
            self.requests[sock.getsockname()[0]] += 1
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        else:
            self._selector.unregister(sock)
            self._open.discard(sock)
            sock.close()
