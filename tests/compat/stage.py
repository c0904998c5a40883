"""Where both libraries play the same scene: servers that keep what arrived, and everything a row may ask of them."""

from __future__ import annotations

import contextlib
import io
import os
import select
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import attrs
import trustme

from tests.helpers import eventually
from tests.with_server.echo_server import Answer, Seen, Server, echo, read_request, redirect, write_answer

# What would reach into the comparison from outside.
_ENVIRONMENT = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "requests_ca_bundle", "curl_ca_bundle", "netrc")


@attrs.frozen
class Raw:
    """Bytes written as they are; then the connection is closed, or `held` until the client goes away."""

    data: bytes
    held: bool = False


Scripted = Answer | Raw | Callable[[Seen], Answer | Raw]


def where(seen: Seen) -> Answer:
    """What the request line said; the rest is compared as the server saw it."""
    return Answer(f"{seen.method} {seen.path}".encode(), headers=[("Content-Type", "text/plain; charset=utf-8")])


class Recorder(Server):
    """Answers by path as it was told, or says what it was asked; writes every request into the scene's log."""

    def __init__(self, name: str, log: list[tuple[str, Seen]], host: str, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(host, tls=tls)
        self.name = name
        self.answers: dict[str, Scripted] = {}
        self._log = log
        self._taken = 0
        accept = self._listener.get_request

        def get_request() -> Any:
            self._taken += 1  # before it leaves the queue, so that it is always in one of the two
            return accept()

        self._listener.get_request = get_request  # type: ignore[method-assign]  # of this one

    def handle(self, stream: io.BufferedIOBase, sock: socket.socket, number: int) -> None:
        while (seen := read_request(stream)) is not None:
            self._log.append((self.name, seen))
            answer = self.answers.get(seen.path, where)
            if not isinstance(answer, (Answer, Raw)):
                answer = answer(seen)
            if isinstance(answer, Answer):
                write_answer(stream, answer, seen.method)
                continue
            stream.write(answer.data)
            stream.flush()
            if answer.held:
                sock.recv(1)
            return

    def settle(self) -> None:
        """Wait until those that came have been taken, and be done with all that there are."""
        eventually(lambda: not select.select([self._listener], [], [], 0)[0] and self.accepted == self._taken)
        self.drop_connections()
        self.answers.clear()


class Stage:
    """The servers, and what a row does there. One row at a time.

    Attributes:
        log: Which server saw what, in order.
        url: The server; `other` is a second one at another address, `tls` one that speaks TLS by the authority `ca`.
        dead: A URL where nobody listens.
        deaf: A URL where nobody accepts.
        tmp: A directory, the home directory too.
        hidden: By field, in lower case: what of its value is random in both libraries, as a pattern.
    """

    def __init__(self, tmp: Path, exits: contextlib.ExitStack) -> None:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(tmp / "ca.pem")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        self.tmp = tmp
        self.ca = str(tmp / "ca.pem")
        self.log: list[tuple[str, Seen]] = []
        self._servers = {
            name: exits.enter_context(Recorder(name, self.log, host, tls))
            for name, host, tls in (
                ("main", "127.0.0.1", None),
                ("other", "127.0.0.2", None),
                ("tls", "127.0.0.1", context),
            )
        }
        self.url, self.other, self.tls = (server.url for server in self._servers.values())
        self.dead = f"http://127.0.0.1:{_silent_port(exits)}"
        self.deaf = f"http://127.0.0.1:{_full_port(exits)}"
        self.hidden: dict[str, str] = {}
        self._accepted = 0
        self._exits = contextlib.ExitStack()

    @contextlib.contextmanager
    def scene(self, environment: Mapping[str, str]) -> Iterator[None]:
        """Play one scene: nothing left of the last one, no environment but `environment`."""
        self.log.clear()
        self.hidden.clear()
        self._accepted = self._servers["main"].accepted
        kept = {name: value for name, value in os.environ.items() if name.lower() not in _ENVIRONMENT}
        with mock.patch.dict(os.environ, {**kept, "HOME": str(self.tmp), **environment}, clear=True), self._exits:
            yield
        for server in self._servers.values():
            server.settle()

    # --- what the servers answer ---

    def page(
        self,
        body: Any = b"hello",
        *fields: str,
        status: int = 200,
        path: str = "/page",
        on: str = "main",
        reason: str | None = None,
    ) -> str:
        """Have `path` answer so; its URL. A body of several pieces goes chunked; `fields` are lines like "Age: 1"."""
        return self.script(path, Answer(body, status, [_field(line) for line in fields], reason), on)

    def moved(self, to: str, status: int = 302, *fields: str, path: str = "/moved", on: str = "main") -> str:
        """Have `path` redirect `to` there; its URL."""
        return self.script(path, redirect(to, status, *[_field(line) for line in fields]), on)

    def hops(self, count: int, status: int = 302) -> str:
        """A chain of so many redirects; where it begins."""
        for left in range(count, 0, -1):
            self.moved(f"/hop-{left - 1}", status, path=f"/hop-{left}")
        return f"{self.url}/hop-{count}"

    def raw(self, data: bytes, *, held: bool = False, path: str = "/raw") -> str:
        """Have `path` answer with these bytes and then the connection's end, or `held` with nothing more; its URL."""
        return self.script(path, Raw(data, held))

    def script(self, path: str, answer: Scripted, on: str = "main") -> str:
        """Have `path` answer so; its URL."""
        self._servers[on].answers[path] = answer
        return self._servers[on].url + path

    def echo(self) -> str:
        """A URL that says back what it was asked, header and body included, as JSON."""
        return self.script("/echo", echo)

    @property
    def accepted(self) -> int:
        """Connections that the server has taken in this scene."""
        return self._servers["main"].accepted - self._accepted

    # --- what both libraries are given ---

    def once(self, undo: Callable[[], object]) -> None:
        """Call `undo` when the scene ends."""
        self._exits.callback(undo)

    def session(self, library: Any) -> Any:
        """A session, closed when the scene ends."""
        return self._exits.enter_context(library.Session())

    def file(self, content: bytes = b"content", name: str = "notes.txt") -> Any:
        """A file open for reading, closed when the scene ends."""
        path = self.tmp / name
        path.write_bytes(content)
        return self._exits.enter_context(path.open("rb"))


def _field(line: str) -> tuple[str, str]:
    name, _, value = line.partition(": ")
    return name, value


def _silent_port(exits: contextlib.ExitStack) -> int:
    """A port that is taken, where connections are refused."""
    holder = exits.enter_context(socket.socket())
    holder.bind(("127.0.0.1", 0))
    return int(holder.getsockname()[1])


def _full_port(exits: contextlib.ExitStack) -> int:
    """A port whose queue is full, where connections are neither accepted nor refused."""
    listener = exits.enter_context(socket.socket())
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    for _ in range(4):
        knocking = exits.enter_context(socket.socket())
        knocking.setblocking(False)
        knocking.connect_ex(listener.getsockname())
    return int(listener.getsockname()[1])


class Pieces:
    """An iterable of bytes without a length, which can be read again."""

    def __init__(self, *pieces: Any) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[Any]:
        return iter(self._pieces)


def generated(*pieces: bytes) -> Iterator[bytes]:
    """The pieces, once."""
    yield from pieces
