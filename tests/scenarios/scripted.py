"""Connections without a network or a server's thread: the far end answers in the thread that sends.

A `Wire` takes the place of a pool's connector. Its connections are pairs of Unix sockets, so that what waits in one,
looks whether it is readable or is cut off does so for real, and the kernel's count of files stays honest. What happens
at each step is for the test to say: it may answer, raise, block, or look around. And since opening and closing are
calls, how many connections are open at once is counted exactly.
"""

from __future__ import annotations

import linecache
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import attrs

import sessionpool
from sessionpool import SessionPool
from sessionpool._clock import Deadline
from sessionpool._connection import Route


@attrs.frozen(kw_only=True)
class Asked:
    """One request as it arrived.

    Attributes:
        method: As sent.
        target: As sent.
        fields: By lower-case name.
        body: As sent.
        route: The route of the connection it came over.
        line: The connection.
    """

    method: str
    target: str
    fields: dict[str, str]
    body: bytes
    route: Route
    line: Line

    @property
    def host(self) -> str:
        return self.fields["host"]

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def cookies(self) -> dict[str, str]:
        pairs = [pair.strip().partition("=") for pair in self.fields.get("cookie", "").split(";") if pair]
        return {name: value for name, _, value in pairs}


def response(body: bytes = b"ok", *fields: str, status: str = "200 OK", length: int | None = None) -> bytes:
    """A response; with `length` it promises so many bytes of which `body` is the beginning."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *fields, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def ok(_: Asked) -> bytes:
    """The answer of who has nothing to say."""
    return response()


def _nothing(_: Any) -> None:
    pass


class Line(socket.socket):
    """The near end of a connection; the far end is played by the wire when something is sent.

    Attributes:
        far: The far end.
        route: What it was opened for.
        requests: How many have been sent over it.
    """

    def __init__(self, wire: Wire, route: Route) -> None:
        near, self.far = socket.socketpair()
        super().__init__(near.family, near.type, near.proto, near.detach())
        self.route = route
        self.requests = 0
        self._wire = wire

    def send(self, data: Any, flags: int = 0) -> int:
        self._wire.play(self, bytes(data))
        return len(data)

    def sendall(self, data: Any, flags: int = 0) -> None:
        self._wire.play(self, bytes(data))

    def recv(self, size: int, flags: int = 0) -> bytes:
        self._wire.receiving(self)
        return super().recv(size, flags)

    def close(self) -> None:
        self.far.close()
        super().close()


class _Plug:
    """What the connector gives to `Connection`, in place of urllib3's connection."""

    def __init__(self, wire: Wire, line: Line) -> None:
        self.sock = line
        self._wire: Wire | None = wire

    def close(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            self.sock.close()
            wire.note_closed(self.sock.route)


@attrs.define(eq=False)
class Wire:
    """Where a pool's requests go. Thread-safe as far as the test's own functions are.

    Attributes:
        answer: Given a request, what comes back: bytes, empty ones for the end of the connection, `None` for silence.
        connecting: Called before a connection is opened, when it is counted already; may block or raise.
        sending: Called before a request is answered; may raise.
        receiving: Called before the client waits for bytes; may raise.
        requests: Those that were answered, in that order.
        open: Connections open or being opened now.
        most_open: The most there were at once.
        most_by_key: The same per route's key.
        opened: Connections opened.
    """

    answer: Callable[[Asked], bytes | None] = ok
    connecting: Callable[[Route], object] = _nothing
    sending: Callable[[Line], object] = _nothing
    receiving: Callable[[Line], object] = _nothing
    requests: list[Asked] = attrs.field(factory=list)
    open: int = 0
    most_open: int = 0
    most_by_key: Counter[str] = attrs.field(factory=Counter)
    opened: int = 0
    _by_key: Counter[str] = attrs.field(factory=Counter)
    _lock: threading.Lock = attrs.field(factory=threading.Lock)

    def plug_into(self, pool: SessionPool) -> None:
        """Let this wire open the pool's connections."""
        pool._transport._connector = self  # type: ignore[assignment]  # all of the connector that is called here

    def connect(self, route: Route, timeout: float | None, deadline: Deadline) -> _Plug:
        """Open a connection, as `Connector.connect` does."""
        with self._lock:
            self.open += 1
            self._by_key[route.key] += 1
            self.most_open = max(self.most_open, self.open)
            self.most_by_key[route.key] = max(self.most_by_key[route.key], self._by_key[route.key])
        try:
            self.connecting(route)
            plug = _Plug(self, Line(self, route))
        except BaseException:
            self.note_closed(route)
            raise
        with self._lock:
            self.opened += 1
        return plug

    def cut(self) -> None:
        """`close` cuts what is being connected; here that is for the test to end."""

    def restart(self) -> None:
        """Nor is anything of a scripted wire's the parent's."""

    def forget(self) -> None:
        """There are no TLS contexts here."""

    def note_closed(self, route: Route) -> None:
        with self._lock:
            self.open -= 1
            self._by_key[route.key] -= 1

    def play(self, line: Line, data: bytes) -> None:
        """The far end gets `data`, one request."""
        line.requests += 1
        try:
            self.sending(line)
        except OSError:
            line.far.close()  # nor is there anything to read from a connection that takes nothing
            raise
        head, _, body = data.partition(b"\r\n\r\n")
        first, *rest = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ")
        fields = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in rest)}
        asked = Asked(method=method, target=target, fields=fields, body=body, route=line.route, line=line)
        self.requests.append(asked)
        said = self.answer(asked)
        if said == b"":
            line.far.close()
        elif said is not None:
            line.far.sendall(said)


# --- what happens in the midst of the package's own lines ---

_PACKAGE = Path(sessionpool.__file__).parent


class AtLine:
    """Does something at one line of the package, the nth that this thread runs there; made by `at_line`.

    Attributes:
        where: The file and line at which it was done; empty if there were fewer lines.
    """

    def __init__(self, number: int, action: Callable[[], object], files: frozenset[str], *, at_with: bool) -> None:
        self.where = ""
        self._left = number
        self._action = action
        self._files = files
        self._at_with = at_with

    def on_call(self, frame: FrameType, event: str, argument: object) -> Any:
        """Watch the lines of functions in those files."""
        return self._on_line if not self.where and frame.f_code.co_filename in self._files else None

    def _on_line(self, frame: FrameType, event: str, argument: object) -> Any:
        if event == "line" and not self.where and self._counts(frame):
            self._left -= 1
            if self._left <= 0:
                self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_qualname}"
                sys.settrace(None)  # of the action itself nothing is watched
                self._action()
        return self._on_line

    def _counts(self, frame: FrameType) -> bool:
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
        return self._at_with if line.startswith("with ") else "(" in line


@contextmanager
def at_line(number: int, action: Callable[[], object], *modules: str, at_with: bool = True) -> Iterator[AtLine]:
    """Do `action` just before the nth line that this thread runs in these modules of the package.

    Counted are lines with a call, for there the interpreter delivers signals and collects garbage: after a call, and
    where a function begins. `at_with=False` leaves out `with` lines. They are passed again on the way out of the
    block, and an exception put there leaves the lock locked; no signal can, since none comes between the last call of
    a block and the lock's release.

    >>> with at_line(3, gc.collect, "_gate") as point:
    ...     pool.get(url)
    """
    files = frozenset(str(_PACKAGE / f"{module}.py") for module in modules)
    point = AtLine(number, action, files, at_with=at_with)
    before = sys.gettrace()
    sys.settrace(point.on_call)
    try:
        yield point
    finally:
        sys.settrace(before)
