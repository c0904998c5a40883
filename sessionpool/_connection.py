"""One socket to one origin: opened by urllib3 (proxies, TLS), read and written our way.

urllib3's connection classes say what follows what in connecting; each wait in it is ours, within one limit: for the
name, for TCP, for the proxy's answer, for TLS. The exchange does not go through `http.client`, which costs four times
the CPU: here it is one `sendall` of a finished head and, for a small answer, one `recv`.

A deadline over the whole call (`Timeout.total`) bounds each of these waits, and what needs no waiting too: a peer that
always has something ready, or always takes something, would otherwise never be found out. It also keeps account of the
stages: resolve, connect (TCP, and a proxy's answer to CONNECT or SOCKS), tls (with the proxy too), send, head, body.
"""

from __future__ import annotations

import contextlib
import encodings.ascii  # this and the next here, not by the first connection: a process forked during it would hang
import encodings.idna  # noqa: F401
import errno
import math
import os
import re
import select
import socket
import ssl
import struct
import sys
import threading
import weakref
from _thread import start_new_thread
from collections.abc import Callable, Hashable, Iterable
from functools import partial
from http.client import HTTPException
from pathlib import Path
from sys import maxsize, platform
from typing import Any, Final, Protocol, TypeVar, cast

import attrs
from urllib3._base_connection import ProxyConfig
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    LocationParseError,
    NewConnectionError,
)
from urllib3.exceptions import (
    NameResolutionError as Urllib3NameResolutionError,
)
from urllib3.util import Url
from urllib3.util.ssl_match_hostname import CertificateError
from urllib3.util.wait import wait_for_write

from sessionpool import _socks, _wire
from sessionpool._clock import NEVER, SLICE, SYSTEM_CLOCK, Bell, Clock, Deadline
from sessionpool._config import Limits
from sessionpool._ledger import Permit
from sessionpool._stop import Stopped
from sessionpool._wire import MAX_FIELDS, MAX_HEAD, MAX_LINE, Head, find_head_end
from sessionpool.exceptions import (
    BodyTooLarge,
    ChunkedEncodingError,
    ConnectError,
    ConnectionBroken,
    ConnectTimeout,
    IncompleteRead,
    InvalidResponse,
    NameResolutionError,
    ProxyError,
    ReadTimeout,
    RequestException,
    SSLError,
    StreamConsumedError,
)

# What one recv may bring. Large enough for most whole answers; the kernel rarely has more at once.
RECEIVE: Final = 64 * 1024
# What one send is given, so that one on a blocking socket comes back in time for the read timeout to be judged.
SEND: Final = 256 * 1024
# Beyond this many seconds the system calls overflow, and nobody is left to mind.
LONGEST: Final = 2_000_000.0
# A proxy's, where its URL names none.
PROXY_PORTS: Final = {"http": 80, "https": 443, **dict.fromkeys(_socks.SCHEMES, _socks.PORT)}
R = TypeVar("R")
# RFC 9110 §15.2: a client must read past any number of 1xx; a server that sends this many means harm.
MAX_INFORMATIONAL: Final = 100
# A longer line before a chunk has an extension, of which all together may be as long as a head.
_ORDINARY_CHUNK_LINE: Final = 32


@attrs.frozen(eq=False)
class Route:
    """Where a request goes and over which sockets it may go.

    Attributes:
        key: What the limit per host counts by: `scheme://host:port`, and the proxy where there is one.
        identity: What a socket must have been opened with to be reused: TLS settings and proxy credentials.
        scheme: http or https.
        host: Lower-case name (A-label) or address, IPv6 without brackets.
        port: TCP port.
        proxy: The proxy's URL, or `None`.
        verify: True, False, a path to certificates, or an `SSLContext`.
        cert: Path to the client's certificate, or a pair of paths, certificate and key.
        partition: Whose sockets these are alone, part of `identity`; `None`: everybody's with the same settings.
        proxy_fields: More header fields for the proxy, part of `identity`: checked, and in Latin-1. They go with
            CONNECT, in place of ours of the same name, or with each request that is forwarded.
        forwarded: What a forwarded request is sent with: user and password of the proxy's URL, and `proxy_fields`.
        is_forwarding: The request itself goes to the proxy, with an absolute target (RFC 9112 §3.2.2).
    """

    key: str
    identity: Hashable
    scheme: str
    host: str
    port: int
    proxy: Url | None = None
    verify: bool | str | ssl.SSLContext = True
    cert: str | tuple[str, str] | None = None
    partition: Hashable = None
    proxy_fields: tuple[tuple[str, str], ...] = ()
    forwarded: tuple[bytes, bytes] = (b"", b"")
    is_forwarding: bool = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        forwards = self.proxy is not None and self.proxy.scheme not in _socks.SCHEMES and self.scheme == "http"
        object.__setattr__(self, "is_forwarding", forwards)


class _UnwritableError(Exception):
    """The socket takes no more."""


class Connection:
    """An open socket with what has been read from it and not used. Confined to the holder of its permit.

    Attributes:
        identity: See `Route`.
        host: The route's key, for errors.
        opened: The instant it was opened.
        uses: Requests sent so far.
        permit: That of the request under way, or of the last one; set by who sends, for others to see whose it is.
        answered: A byte of the current response has come.
        unsent: Not a byte of the current request has left.
    """

    __slots__ = (
        "__weakref__",
        "_armed_for",
        "_at",
        "_buffer",
        "_clock",
        "_deadline",
        "_expires",
        "_idle_limit",
        "_idle_until",
        "_longest",
        "_max_uses",
        "_read_timeout",
        "_readable",
        "_send_error",
        "_shutdown_reason",
        "_slice",
        "_socket",
        "_spent",
        "_transport_socket",
        "_urllib3",
        "answered",
        "host",
        "identity",
        "opened",
        "permit",
        "unsent",
        "uses",
    )

    def __init__(
        self,
        connected: HTTPConnection,
        route: Route,
        clock: Clock,
        *,
        opened: float,
        expires: float,
        max_uses: int | None,
        idle_limit: float,
    ) -> None:
        self.identity = route.identity
        self.host = route.key
        self.opened = opened
        self.uses = 0
        self.permit: Permit[Connection] | None = None
        self.answered = False
        self.unsent = False
        self._clock = clock
        self._urllib3 = connected
        self._socket: socket.socket = connected.sock
        # urllib3's SSLTransport (TLS within TLS, to an https proxy) is no socket, and has one.
        self._transport_socket: socket.socket = getattr(self._socket, "socket", self._socket)
        self._readable = _readability(self._transport_socket)
        self._buffer = b""  # what has been received and not been used begins at _at
        self._at = 0
        self._read_timeout: float | None = None
        self._armed_for: float | None = -1.0  # the read timeout that the socket is set for; none at first
        self._slice = -1.0  # what it is set to
        # A call that urllib3's SSLTransport has begun cannot be taken up again, so there it may block to the end.
        self._longest = SLICE if isinstance(self._socket, socket.socket) else LONGEST
        self._deadline: Deadline
        self._expires = expires
        self._max_uses = max_uses
        self._idle_limit = idle_limit
        self._idle_until = 0.0
        self._send_error: OSError | None = None
        self._shutdown_reason = ""
        self._spent = False  # it carries no request after this one
        _open[weakref.ref(self, _close_dropped)] = connected

    # --- life ---

    def unusable(self, now: float) -> str:
        """Why this idle connection may not carry another request, or an empty string.

        Readable while idle means stale: the server has closed it, or sends what nobody asked for.
        """
        if now >= self._expires or now >= self._idle_until or self.uses == self._max_uses:
            return "expired"
        return "stale" if self._readable() and not self._has_but_tickets() else ""

    def _has_but_tickets(self) -> bool:
        """Readable, after a handshake and before the first request, for nothing but TLS's own: takes that in.

        With TLS 1.3 session tickets follow the handshake (RFC 8446 §4.6.1); usually the first response comes with them.
        """
        if self.uses or not isinstance(self._socket, ssl.SSLSocket):
            return False
        self._armed_for = self._slice = -1.0
        try:
            self._socket.settimeout(0)
            self._socket.recv(1)
        except ssl.SSLWantReadError:
            return True
        except OSError:
            pass
        return False

    def rest(self, head: Head, now: float) -> bool:
        """Get ready to lie idle after a complete response; False if this connection has to be closed instead."""
        # Bytes beyond the body are nobody's answer: RFC 9112 §9.2 forbids to take them for the next one.
        if not head.reusable or self._at < len(self._buffer) or self._spent:
            return False
        if head.idle_limit is not None:
            self._idle_limit = min(self._idle_limit, head.idle_limit - 1.0)
        self._idle_until = now + self._idle_limit
        return True

    def lie_idle(self, now: float) -> None:
        """Be ready for a first request until the idle limit has passed."""
        self._idle_until = now + self._idle_limit

    @property
    def is_retired(self) -> bool:
        """It carries no further request."""
        return self._spent

    def retire(self) -> None:
        """Carry no further request; the one under way ends as it would. Thread-safe."""
        self._spent = True
        self._expires = -math.inf

    @property
    def died_idle(self) -> bool:
        """The exchange failed before a byte of the response came, and not because this side cut it."""
        return not self.answered and not self._shutdown_reason

    def close(self) -> None:
        """Close the socket; idempotent."""
        self._urllib3.close()

    def shutdown(self, reason: str) -> None:
        """Make whoever reads or writes here fail at once with `reason`. Thread-safe, unlike the rest."""
        self._shutdown_reason = reason
        self._spent = True
        with contextlib.suppress(OSError):  # closed meanwhile
            # Not SSLSocket's own: it takes the TLS state away from under the thread that reads.
            socket.socket.shutdown(self._transport_socket, socket.SHUT_RDWR)

    def disown(self, reason: str) -> None:
        """Close this process's copy of a socket that belongs to the parent it was forked from.

        Not a word to the server: neither `shutdown` nor TLS's close_notify, for the parent goes on using it.
        """
        self._shutdown_reason = reason
        self._spent = True
        self._buffer, self._at = b"", 0
        with contextlib.suppress(OSError):
            self.close()

    # --- one exchange ---

    def send(
        self,
        head: bytes,
        body: bytes | Iterable[bytes] | None,
        length: int | None,
        read_timeout: float | None,
        deadline: Deadline,
    ) -> int:
        """Write a request; how many bytes it has.

        An iterable body goes chunked, or, with `length`, as that many bytes. A server that answers before it has read
        everything and closes makes the writing fail; its answer is read all the same (`read_head`), and only if there
        is none the failure is raised.

        Raises:
            ConnectionBroken: Not one byte could be written to a connection that was used before; `unsent` is set.
            ReadTimeout: The server took nothing in time.
        """
        self.uses += 1
        self.answered = False
        self._read_timeout = read_timeout
        self._deadline = deadline
        if deadline is not NEVER:
            now = self._clock.now()
            deadline.enter("send", now)
            if now >= deadline.at:
                late = ConnectTimeout(f"the deadline ({deadline.limit}) passed before anything was sent to {self.host}")
                raise deadline.blame(late, now)
            self._arm()
        elif read_timeout != self._armed_for:
            self._arm()
        first = head
        if body is not None and isinstance(body, bytes) and len(head) + len(body) <= RECEIVE:
            first, body = head + body, None
        try:
            try:
                accepted = self._socket.send(first)
            except _TIMED_OUT:
                accepted = self._again(self._socket.send, first, "took nothing")
        except ReadTimeout:
            raise
        except OSError as error:
            if self.uses > 1:
                # Of what a call to send fails with, the kernel has taken nothing; TLS may have made several calls.
                self.unsent = self._socket is self._transport_socket and not isinstance(self._socket, ssl.SSLSocket)
                raise self._broken(f"broke the connection: {_reason(error)}") from error
            # A new connection's first word may be why: a TLS alert, a refusal.
            self._send_error, self._spent = error, True
            return 0
        try:
            if accepted < len(first):
                self._write(first[accepted:])
            if body is None:
                return len(first)
            if isinstance(body, bytes):
                self._write(body)
                return len(first) + len(body)
            return len(first) + self._write_stream(body, length)
        except _UnwritableError:
            pass  # read_head looks for an answer first
        return len(first)

    def read_head(self, method: str) -> Head:
        """Read the head of the response, past any 1xx.

        Raises:
            ConnectionBroken: The connection ended first; `answered` says whether anything came.
            InvalidResponse: What came is not HTTP/1, or its head is too large.
            ReadTimeout: Nothing came in time.
        """
        if self._deadline is not NEVER:
            self._deadline.enter("head", self._clock.now())
        data = self._receive(RECEIVE)
        interim = 0
        while interim < MAX_INFORMATIONAL:
            begin = find_head_end(data)
            while begin < 0:
                if not data:
                    raise self._broken("closed the connection without answering")
                self.answered = True
                if len(data) > MAX_HEAD:
                    raise self._oversized()
                if data[:5] != b"HTTP/"[: len(data)]:
                    return _wire.parse_head(data, method, self.host)  # raises, and shows what came
                more = self._receive(RECEIVE)
                if not more:
                    raise self._broken(f"closed the connection in the middle of the header, after {len(data)} bytes")
                seen = len(data)
                data += more
                begin = find_head_end(data, max(seen - 2, 0))
            self.answered = True
            if begin > MAX_HEAD:
                raise self._oversized()
            head = _wire.parse_head(data[:begin], method, self.host)
            if head.status >= 200:
                self._buffer, self._at = data, begin
                if self._deadline is not NEVER:
                    self._deadline.enter("body", self._clock.now())
                return head
            if head.status == 101:
                raise InvalidResponse(f"{self.host} switched protocols (101) without being asked to")
            interim += 1
            data = data[begin:] or self._receive(RECEIVE)
        raise InvalidResponse(f"{self.host} sent {MAX_INFORMATIONAL} interim responses (1xx) and no final one")

    def take(self, limit: int) -> bytes:
        """At least one and at most `limit` bytes of what comes next; empty at the end of the connection."""
        data, at = self._buffer, self._at
        left = len(data) - at
        if left == 0:
            data, at = self._receive(min(max(limit, RECEIVE), 4 * RECEIVE)), 0
            left = len(data)
        elif self._deadline is not NEVER:
            self._stay_in_time()  # a slow reader may have enough here for longer than it has time
        if left <= limit:
            self._buffer, self._at = b"", 0
            return data[at:] if at else data
        self._buffer, self._at = data, at + limit
        return data[at : at + limit]

    def take_line(self) -> bytes:
        """The next line with its end; what there is of it at the end of the connection."""
        data, at = self._buffer, self._at
        while (end := data.find(b"\n", at, at + MAX_LINE)) < 0:
            data, at = data[at:], 0
            if len(data) >= MAX_LINE:
                raise ChunkedEncodingError(f"{self.host} sent a chunk line of more than {MAX_LINE} bytes")
            more = self._receive(RECEIVE)
            if not more:
                self._buffer, self._at = b"", 0
                return data
            data += more
        self._buffer, self._at = data, end + 1
        return data[at : end + 1]

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        sent = 0
        try:
            while sent < len(view):
                if self._deadline is not NEVER:
                    self._stay_in_time()
                    self._arm()
                piece = view[sent : sent + SEND]
                try:
                    sent += self._socket.send(piece)
                except _TIMED_OUT:
                    sent += self._again(self._socket.send, piece, "took nothing")
        except OSError as error:
            if isinstance(error, ReadTimeout) and (error.stage or not self._readable()):
                raise  # for an answer that is there already there is time, unless the deadline has passed
            self._send_error, self._spent = error, True
            raise _UnwritableError from error

    def _write_stream(self, chunks: Iterable[bytes], length: int | None) -> int:
        sent = 0
        for chunk in chunks:
            if not chunk:
                continue  # an empty chunk would end a chunked body (RFC 9112 §7.1)
            sent += len(chunk)
            if length is not None and sent > length:
                break
            self._write(chunk if length is not None else b"%x\r\n%b\r\n" % (len(chunk), chunk))
        if length is None:
            self._write(b"0\r\n\r\n")
        elif sent != length:
            more = "more than " if sent > length else ""
            raise RequestException(
                f"the body for {self.host} has {more}{min(sent, length)} bytes where Content-Length promised {length}"
            )
        return sent

    def _receive(self, size: int) -> bytes:
        if self._deadline is not NEVER:  # else it stays as `send` set it
            self._stay_in_time()
            self._arm()
        try:
            try:
                data = self._socket.recv(size)
            except _TIMED_OUT:
                data = self._again(self._socket.recv, size, "sent nothing")
        except ReadTimeout:
            raise
        except OSError as error:
            raise self._broken(f"broke the connection: {_reason(error)}") from error
        if not data and self._shutdown_reason:
            raise self._broken("")  # an end that this side made is not the end of a body
        return data

    def _stay_in_time(self) -> None:
        """Raise if the deadline has passed: a peer that is always ready makes no call wait, and so none notice."""
        now = self._clock.now()
        if now >= self._deadline.at:
            raise self._late("had not answered in full", now)

    def _late(self, what: str, now: float) -> ReadTimeout:
        error = ReadTimeout(f"{self.host} {what} before the deadline ({self._deadline.limit})")
        return self._deadline.blame(error, now)

    def _arm(self, waited: float = 0.0) -> None:
        """Set how long the socket's next call may block, if that is not what it is set to: never longer than a slice.

        `waited`: for how long the server has done nothing already.
        """
        timeout = self._read_timeout
        left = math.inf if timeout is None else timeout - waited
        if self._deadline is not NEVER:
            left = min(left, self._deadline.at - self._clock.now())
        length = min(max(left, 1e-6), self._longest)  # 0 would mean not to block at all
        if length != self._slice:
            _set_timeout(self._socket, length)
            self._slice = length
        # What a deadline has cut short, or the last slice, is not what the next request will want.
        self._armed_for = timeout if self._deadline is NEVER and not waited else -1.0

    def _again(self, call: Callable[[Any], R], argument: Any, what: str) -> R:
        """Repeat a call that came to the end of its slice until it succeeds.

        Raises:
            ReadTimeout: The read timeout or the deadline has passed; it names the server and `what` it did.
        """
        waited = 0.0
        if _is_of_the_kernel(sys.exc_info()[1]):
            raise  # noqa: PLE0704 - called by whoever caught it
        while True:
            waited += self._slice
            if self._read_timeout is not None and waited >= self._read_timeout - 1e-6:
                raise ReadTimeout(f"{self.host} {what} for {self._read_timeout:g} s (Timeout.read)") from None
            if self._deadline is not NEVER and (now := self._clock.now()) >= self._deadline.at:
                raise self._late(what, now) from None
            self._arm(waited)
            try:
                result = call(argument)
            except _TIMED_OUT as error:
                if _is_of_the_kernel(error):
                    raise
                continue
            self._arm()
            return result

    def _oversized(self) -> InvalidResponse:
        return InvalidResponse(f"{self.host} sent a header of more than {MAX_HEAD} bytes")

    def _broken(self, how: str) -> ConnectionBroken:
        if self._shutdown_reason:
            return ConnectionBroken(f"the connection to {self.host} was cut: {self._shutdown_reason}")
        if self._send_error is not None:
            how += f" (and took only part of the request: {self._send_error})"
        return ConnectionBroken(f"{self.host} {how}")


# The collector finalizes what hangs together in any order, and a socket that it comes to before the connection warns
# that nobody closed it. So what a connection has open hangs on this too, and is closed when the connection has gone:
# with a pool that was dropped, or at the interpreter's end.
_open: dict[weakref.ref[Connection], HTTPConnection] = {}


def _close_dropped(
    gone: weakref.ref[Connection], opened: dict[weakref.ref[Connection], HTTPConnection] = _open
) -> None:
    connected = opened.pop(gone, None)
    if connected is not None:
        connected.close()


class Releasable(Protocol):
    """A lease that lasts as long as a stream."""

    def release(self) -> None: ...
    def abandon(self) -> None: ...
    def unbind(self) -> None: ...


class Owner(Protocol):
    """Who lent the connection and takes it back."""

    limits: Limits

    def take_back(
        self, permit: Permit[Connection], connection: Connection, head: Head, *, complete: bool, received: int
    ) -> None: ...
    def reclaim(self, permit: Permit[Connection], connection: Connection) -> None: ...


class Reply:
    """What one attempt brought: the head, and the body still to be read, without its framing.

    A readable for urllib3's decoders. Confined to the lease's thread. When the last byte has been read, or on `close`,
    the connection goes back to its owner; if the reply is dropped unread, the collector gives the permit back.

    Attributes:
        head: The head.
        elapsed: Seconds from asking for a connection to the end of the head.
        permit: What the connection was had by.
        sent: Bytes of the request, chunk framing not counted.
        received: Bytes of the body so far.
        complete: The body has been read to its end.
        trailers: The trailer section of a chunked body (RFC 9112 §7.1.2), once it has ended.
        limits: How large the body may be; as they were when it came.
    """

    __slots__ = (
        "__weakref__",
        "_connection",
        "_extensions",
        "_lease",
        "_left",
        "_owner",
        "complete",
        "elapsed",
        "head",
        "limits",
        "permit",
        "received",
        "sent",
        "trailers",
    )

    def __init__(
        self,
        connection: Connection,
        head: Head,
        permit: Permit[Connection],
        owner: Owner,
        elapsed: float,
        sent: int,
    ) -> None:
        self._connection = connection
        self.permit = permit
        self._owner: Owner | None = owner  # None once the connection has gone back
        # Bytes to come, of the current chunk if chunked; None: until the connection ends.
        self._left: int | None = 0 if head.chunked else head.length
        self.limits = owner.limits
        self.head = head
        self.elapsed = elapsed
        self.sent = sent
        self.received = 0
        self.complete = False
        self.trailers: _wire.Fields = ()
        self._extensions = 0  # bytes of the lines that have one
        self._lease: Releasable | None = None
        if self._left == 0 and not head.chunked:
            self._end(complete=True)

    def unbind(self) -> None:
        """It is a stream, to be read by its thread or by another that has the response."""
        self.permit.bound = False

    def keep(self, lease: Releasable) -> None:
        """Release `lease` when the body has ended; now, if it has.

        Until then whoever has the response may read it, in whatever thread.
        """
        if self._owner is None:
            lease.release()
        else:
            self._lease = lease
            self.permit.bound = False
            lease.unbind()

    @property
    def host(self) -> str:
        """The route's key, for errors."""
        return self._connection.host

    @property
    def ended(self) -> bool:
        """The connection has gone back."""
        return self._owner is None

    @property
    def closed(self) -> bool:
        """The body has been read to its end; false for one that was given up, whose reading has to fail."""
        return self.complete

    def read(self, amt: int | None = None) -> bytes:
        """`amt` bytes, fewer at the end; everything, without `amt`."""
        wanted = maxsize if amt is None else amt
        piece = self.read1(wanted)
        if self._owner is None or len(piece) == amt:
            return piece
        pieces = [piece]
        while (wanted := wanted - len(piece)) > 0 and (piece := self.read1(wanted)):
            pieces.append(piece)
        return b"".join(pieces)

    def read1(self, amt: int = RECEIVE) -> bytes:
        """What has come, at most `amt` bytes, blocking only for the first; empty at the end.

        Raises:
            IncompleteRead: The connection ended before the body did.
            ChunkedEncodingError: The chunks are not framed as they must be.
            BodyTooLarge: It has, or is said to have, more bytes than `Limits.max_body`.
            ReadTimeout: Nothing came in time.
        """
        if self._owner is None:
            if not self.complete:
                raise StreamConsumedError(f"the response of {self._connection.host} was closed before it was read")
            return b""
        try:
            left = self._left
            if left == 0:  # between two chunks
                left = self._left = self._read_chunk_size()
                if left == 0:
                    self._read_trailers()
                    self._end(complete=True)
                    return b""
            most = self.limits.max_body
            if most is not None and left is not None and self.received + left > most:
                raise self._too_large(self.received + left, most)
            piece = self._connection.take(amt if left is None or left > amt else left)
            size = len(piece)
            self.received += size
            if size == left:
                if self.head.chunked:
                    self._left = 0
                    self._read_chunk_end()
                else:
                    self._end(complete=True)
            elif left is None:
                if not piece:
                    self._end(complete=True)
                elif most is not None and self.received > most:
                    raise self._too_large(self.received, most)
            elif not piece:
                raise self._incomplete(f"{self._connection.host} closed the connection")
            else:
                self._left = left - size
        except ConnectionBroken as error:
            self._end(complete=False)
            raise self._incomplete(str(error)) from error
        except BaseException:
            self._end(complete=False)
            raise
        return piece

    def close(self) -> None:
        """Give the connection back now; one with unread bytes is closed, since they would be the next answer."""
        self._end(complete=False)

    def abandon(self) -> None:
        """Give the connection back from a finalizer: without waiting for a lock, without calling a user's code."""
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.reclaim(self.permit, self._connection)
            if self._lease is not None:
                self._lease.abandon()

    def __del__(self) -> None:
        if getattr(self, "_owner", None) is not None:
            self.abandon()

    def _read_chunk_size(self) -> int:
        line = self._connection.take_line()
        if not line.endswith(b"\r\n"):
            if not line.endswith(b"\n"):
                raise self._incomplete(f"{self._connection.host} closed the connection")
            self._distrust()
        if len(line) > _ORDINARY_CHUNK_LINE:
            self._extensions += len(line)
            if self._extensions > MAX_HEAD:
                raise ChunkedEncodingError(f"{self._connection.host} sent more than {MAX_HEAD} bytes before its chunks")
        return _wire.parse_chunk_size(line, self._connection.host)

    def _read_chunk_end(self) -> None:
        line = self._connection.take_line()
        if line == b"\r\n":
            return
        if line in (b"", b"\r"):
            raise self._incomplete(f"{self._connection.host} closed the connection")
        if line != b"\n":
            raise ChunkedEncodingError(f"{self._connection.host} sent a chunk longer than its size (RFC 9112 §7.1)")
        self._distrust()

    def _read_trailers(self) -> None:
        host = self._connection.host
        lines: list[bytes] = []
        size = 0
        while (line := self._connection.take_line()) not in (b"\r\n", b"\n"):
            if not line.endswith(b"\n"):
                raise self._incomplete(f"{host} closed the connection")
            lines.append(line)
            size += len(line)
            if size > MAX_HEAD or len(lines) > MAX_FIELDS:
                raise ChunkedEncodingError(f"{host} sent trailers of more than {MAX_HEAD} bytes or {MAX_FIELDS} fields")
        if line == b"\n":
            self._distrust()
        if lines:
            self.trailers = _wire.parse_trailers(lines, host)

    def _distrust(self) -> None:
        """Let nothing follow on a connection whose chunks are framed by lines that end with a bare LF.

        Old servers write such lines, and http.client reads them; h11 and llhttp do not. RFC 9112 §2.2 allows it for
        the header alone: where the body ends is then a question in which a proxy before the server may differ.
        """
        self._connection.retire()

    def _too_large(self, size: int, most: int) -> BodyTooLarge:
        return BodyTooLarge(
            f"{self._connection.host} sends a body of at least {size} bytes, and is to send {most} at most"
            " (Limits.max_body)",
            size=size,
            limit=most,
        )

    def _incomplete(self, how: str) -> IncompleteRead:
        expected = self.head.length
        promised = "its last chunk" if expected is None else f"all of {expected}"
        return IncompleteRead(
            f"{how}: {self.received} bytes of the body came, not {promised}",
            received=self.received,
            expected=expected,
        )

    def _end(self, *, complete: bool) -> None:
        owner, self._owner = self._owner, None
        if owner is not None:
            self.complete = complete
            try:
                owner.take_back(self.permit, self._connection, self.head, complete=complete, received=self.received)
            except BaseException:  # Ctrl-C on the way; giving back twice is harmless, not at all is not
                owner.reclaim(self.permit, self._connection)
                raise
            if self._lease is not None:
                self._lease.release()


class Connector:
    """Opens connections. Thread-safe: it shares only TLS contexts, which are never changed once made."""

    def __init__(self, clock: Clock, stopped: Stopped) -> None:
        self._clock = clock
        self._stopped = stopped
        self._is_cut = False
        self._contexts: dict[Hashable, ssl.SSLContext] = {}
        self._making = threading.Lock()
        self._dialing: dict[_Dial, None] = {}

    def connect(self, route: Route, timeout: float | None, deadline: Deadline) -> HTTPConnection:
        """A connected urllib3 connection, TLS done and the proxy's tunnel open.

        Raises:
            ConnectTimeout, NameResolutionError, ConnectError, SSLError, ProxyError: It could not be had; the request
                was not sent.
        """
        dial = _Dial(self._clock, timeout, deadline)
        self._dialing[dial] = None
        if self._is_cut or self._stopped.shift_of(dial.thread) is not None:  # after becoming visible; see `_stop`
            dial.cut()
        try:
            connection = self._prepare(route, dial)
            try:
                connection.connect()
            except BaseException as error:  # noqa: BLE001 - raised again, perhaps as another
                is_at_proxy = route.proxy is not None and not connection.has_connected_to_proxy
                connection.close()
                own = self._translate(error, route, dial, is_at_proxy=is_at_proxy)
                try:
                    if own is error:
                        raise
                    raise own from error
                finally:
                    del own  # which refers to this frame
        finally:
            self._dialing.pop(dial, None)  # in a process forked meanwhile it is not there
            dial.close()
        sock = connection.sock
        if hasattr(sock, "suppress_ragged_eofs"):
            # Without close_notify an end may be an attacker's: it must not pass for the end of a body (RFC 9112 §9.8).
            sock.suppress_ragged_eofs = False
            protocol: str | None = sock.selected_alpn_protocol()  # type: ignore[union-attr]  # TLS, as was just asked
            if protocol not in (None, "http/1.1"):
                connection.close()
                raise SSLError(f"TLS with {route.key} agreed on another protocol than HTTP/1.1 (ALPN)")
        return connection

    def cut(self) -> None:
        """Make every connecting fail at once, now and later."""
        self._is_cut = True
        for dial in list(self._dialing):
            dial.cut()

    def rouse(self) -> None:
        """Make the connecting of those fail that are to stop; takes no lock, so that a finalizer may call it."""
        for dial in list(self._dialing):
            if self._stopped.shift_of(dial.thread) is not None:
                dial.cut()

    def forget(self) -> None:
        """Make TLS contexts anew when they are needed next, from what the files of certificates hold then."""
        with self._making:
            self._contexts.clear()

    def restart(self) -> None:
        """Begin anew in a forked process: the threads that were connecting are the parent's."""
        self._making = threading.Lock()
        for dial in list(self._dialing):
            dial.disown()
        self._dialing.clear()

    def _prepare(self, route: Route, dial: _Dial) -> _Plain | _Secure:
        """A connection that knows where to go; its `connect` goes there."""
        proxy = route.proxy
        if proxy is None or proxy.scheme in _socks.SCHEMES:
            # To urllib3, a server behind SOCKS is one like any other; see `_Tcp._new_conn`.
            host, port, proxy, config = route.host, route.port, None, None
            context = self._watched(route, route.cert, dial) if route.scheme == "https" else None
        else:
            host, port = proxy.host or "", proxy.port or PROXY_PORTS[proxy.scheme or "http"]
            # The client's certificate is for the server; whose proxy this is need not know who asks.
            first = self._watched(route, None, dial) if proxy.scheme == "https" else None
            context = first if route.is_forwarding else self._watched(route, route.cert, dial)
            config = ProxyConfig(
                ssl_context=first, use_forwarding_for_https=False, assert_hostname=None, assert_fingerprint=None
            )
        connection: _Plain | _Secure
        if context is None:
            connection = _Plain(host, port, proxy=proxy, proxy_config=config)
        else:
            connection = _Secure(host, port, ssl_context=context, proxy=proxy, proxy_config=config)
        connection.route, connection.dial = route, dial
        if proxy is not None and not route.is_forwarding:
            authority = f"[{route.host}]:{route.port}" if ":" in route.host else f"{route.host}:{route.port}"
            # With `Host`, for which http.client would else look for the host's name in IDNA, and perhaps in vain.
            connection.set_tunnel(route.host, route.port, {"Host": authority}, scheme=proxy.scheme or "http")
        return connection

    def _watched(self, route: Route, cert: str | tuple[str, str] | None, dial: _Dial) -> ssl.SSLContext:
        return cast(ssl.SSLContext, _Watched(self._context(route, cert), dial))

    def _context(self, route: Route, cert: str | tuple[str, str] | None) -> ssl.SSLContext:
        verify = route.verify
        if isinstance(verify, ssl.SSLContext):
            if cert is not None:
                raise ValueError("give the client's certificate to the SSLContext itself, not as cert= beside it")
            return verify
        key = (verify, cert)
        with self._making:  # 15 ms each: 32 threads that start together must not all make the same one
            context = self._contexts.get(key)
            if context is None:
                context = self._contexts[key] = _make_context(verify, cert, route.key)
        return context

    def _translate(self, error: BaseException, route: Route, dial: _Dial, *, is_at_proxy: bool) -> BaseException:
        target = route.key
        if isinstance(error, (NameResolutionError, ConnectTimeout)):
            return error  # of the target's name, which was looked up for a proxy
        if isinstance(error, (ssl.SSLError, CertificateError)):
            if is_at_proxy:
                return ProxyError(f"no way to {target}: TLS with the proxy failed: {_reason(error)}")
            return SSLError(f"TLS with {target} failed: {_reason(error)}")
        # urllib3 derives its NewConnectionError (refused, unreachable) from its ConnectTimeoutError.
        timed_out = isinstance(error, ConnectTimeoutError) and not isinstance(error, NewConnectionError)
        if timed_out or isinstance(error, TimeoutError):
            return dial.late(target, target if route.proxy is None else f"the proxy of {target}")
        if route.proxy is not None and isinstance(error, (HTTPError, HTTPException, OSError)):
            own = ProxyError(f"no way to {target}: {_reason(error.__cause__ or error)}")
            own.status = getattr(error, "status", None)
            return own
        if isinstance(error, Urllib3NameResolutionError):
            return _unresolved(target, error)
        if isinstance(error, (HTTPError, LocationParseError)):
            return ConnectError(f"{target} cannot be connected: {_reason(error.__cause__ or error)}")
        if isinstance(error, OSError):
            return ConnectError(f"{target} cannot be connected: {_reason(error)}")
        if isinstance(error, UnicodeError):
            return NameResolutionError(f"the name of {target} cannot be resolved: {error}")
        return error


class _Dial:
    """A connecting under way: its one limit, and how others cut it off. The latter is thread-safe.

    Attributes:
        limit: The instant until which it may take, on the system's clock, as it is the system that is waited for.
        bell: Rung when there is something new for the thread that connects, which waits for no socket.
    """

    def __init__(self, clock: Clock, timeout: float | None, deadline: Deadline) -> None:
        now = clock.now()
        self.thread = threading.get_ident()
        self._clock = clock
        self._call = deadline
        self._deadline = Deadline.after(timeout, now, "Timeout.connect").earlier(deadline)
        self.limit = SYSTEM_CLOCK.now() + min(max(self._deadline.at - now, 1e-6), LONGEST)
        self.bell = Bell()
        self._stage = ""
        self._socket: socket.socket | None = None
        self._number = -1
        self._is_cut = False
        self.enter("connect")

    def enter(self, stage: str) -> None:
        """From now on the time goes into this stage."""
        self._stage = stage
        if self._call is not NEVER:
            self._call.enter(stage, self._clock.now())

    def late(self, target: str, first: str) -> ConnectTimeout:
        """The error of a connecting to `target`, `first` to that host, whose time is over."""
        what = f"the name of {first} was not resolved" if self._stage == "resolve" else f"{target} was not connected"
        error = ConnectTimeout(f"{what} in time ({self._deadline.limit})")
        if SYSTEM_CLOCK.now() < self.limit:  # the system has given up first
            return error
        return self._deadline.blame(error, self._clock.now())

    @property
    def left(self) -> float:
        """For how long a call may block that cannot be done in slices."""
        return max(self.limit - SYSTEM_CLOCK.now(), 1e-3)

    def patiently(self, sock: socket.socket, call: Callable[..., R], *arguments: Any) -> R:
        """The result of a call on this socket that waits, in slices, until the limit."""
        while (left := self.limit - SYSTEM_CLOCK.now()) > 0:
            sock.settimeout(max(min(left, SLICE), 1e-3))
            try:
                return call(*arguments)  # begins where it was when the slice was over
            except TimeoutError as error:
                if _is_of_the_kernel(error):
                    raise
        raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))

    def check(self) -> None:
        """Raise if it has been cut off."""
        if self._is_cut:
            raise ConnectionAbortedError(errno.ECONNABORTED, "cut off by close()")

    def watch(self, sock: socket.socket) -> None:
        """From now on this socket is meant; raises if it is too late already."""
        # A duplicate, because TLS takes the descriptor over into an object that only it knows until it is ready.
        self._socket, self._number = sock.dup(), sock.fileno()
        self.check()

    def cut(self) -> None:
        """Make whoever connects it fail at once."""
        self._is_cut = True  # before looking: who has no socket yet will look here when it has
        self.bell.release()
        with contextlib.suppress(OSError, AttributeError):
            self._socket.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]  # none yet: AttributeError

    def disown(self) -> None:
        """Close a forked process's copies; the thread that knows the descriptor is not there to do it."""
        number = self._number
        self.close()
        if number >= 0:
            with contextlib.suppress(OSError):
                os.close(number)

    def close(self) -> None:
        """Connected, or failed: let go of it, before the descriptor can become another's."""
        self._number = -1
        sock, self._socket = self._socket, None
        if sock is not None:
            sock.close()


class _Lookup:
    """A name that is being looked up, in a thread of its own, for all who want it at this moment. Thread-safe.

    Nothing ends the system's function before it ends by itself. So those who want the name wait beside it, each as
    long as it may; a resolver that hangs costs one thread for a name, and not one for a request.
    """

    def __init__(self, name: str, port: int) -> None:
        self._wanted = name, port
        self._bells: dict[Bell, None] = {}  # single dict operations are atomic, with and without a GIL
        self._answer: list[Any] | Exception | None = None

    @classmethod
    def join(cls, name: str, port: int) -> _Lookup:
        """The look-up of this name that is under way, or one begun now."""
        own = cls(name, port)
        try:
            shared = _lookups.setdefault(own._wanted, own)
            if shared is own:
                try:
                    # Not threading's, which waits for the thread to have begun: an interrupt there may come out as a
                    # RuntimeError of its lock.
                    start_new_thread(own._run, ())
                except RuntimeError:  # no thread is to be had, as at the interpreter's end
                    own._run()
        except BaseException:
            own._end(None)  # perhaps nobody looks now: who waits already joins another in a slice's time
            raise
        return shared

    def wait(self, bell: Bell, limit: float) -> list[Any] | Exception | None:
        """The addresses, or why there are none; `None` if neither came within a slice, or the bell was rung."""
        self._bells[bell] = None
        try:
            if self._answer is None:  # after becoming visible: who answers sets it before looking who waits
                SYSTEM_CLOCK.wait(bell, min(limit, SYSTEM_CLOCK.now() + SLICE))
        finally:
            self._bells.pop(bell, None)
        return self._answer

    def _run(self) -> None:
        try:
            self._end(socket.getaddrinfo(*self._wanted, 0, socket.SOCK_STREAM))
        except Exception as error:  # noqa: BLE001 - handed to whoever waits
            self._end(error.with_traceback(None))

    def _end(self, answer: list[Any] | Exception | None) -> None:
        if _lookups.get(self._wanted) is self:
            _lookups.pop(self._wanted, None)
        self._answer = answer
        for bell in list(self._bells):
            bell.release()


# Those under way, in all pools. Not a cache: what has been found is for those who were waiting for it.
_lookups: dict[tuple[str, int], _Lookup] = {}

if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_lookups.clear)  # their threads are the parent's


class _RefusedTunnelError(OSError):
    """The proxy answered CONNECT, and not with 2xx."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class _Tcp(HTTPConnection):
    """Dials the host's addresses one after the other within one limit; urllib3 gives each of them the whole time."""

    dial: _Dial
    route: Route

    def _addresses(self, name: str, port: int) -> list[Any]:
        name, dial = name.strip("[]"), self.dial
        try:
            return socket.getaddrinfo(name, port, 0, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST)
        except socket.gaierror:
            pass  # it is a name
        dial.enter("resolve")
        while True:
            answer = _Lookup.join(name, port).wait(dial.bell, dial.limit)
            dial.check()
            if isinstance(answer, Exception):
                raise Urllib3NameResolutionError(name, self, cast(socket.gaierror, answer)) from answer
            if answer is not None:
                dial.enter("connect")
                return answer
            if SYSTEM_CLOCK.now() >= dial.limit:
                raise ConnectTimeoutError(self, f"the name {name} was not resolved in time")

    def _new_conn(self) -> socket.socket:
        proxy = self.route.proxy
        if proxy is None or proxy.scheme not in _socks.SCHEMES:
            return self._reach(self._dns_host, self.port)
        dial = self.dial
        host = self._address_for(proxy) if _socks.wants_address(proxy) else self._dns_host
        sock = self._reach(proxy.host or "", proxy.port or PROXY_PORTS[proxy.scheme or ""])
        try:
            send, receive = partial(dial.patiently, sock, sock.send), partial(dial.patiently, sock, sock.recv)
            _socks.negotiate(proxy, host, self.port, send, receive)
        except BaseException:
            dial.close()
            sock.close()
            raise
        self._has_connected_to_proxy = True
        return sock

    def _address_for(self, proxy: Url) -> str:
        """The address that a SOCKS proxy is asked for, where it is not to look the name up itself."""
        key = self.route.key
        try:
            found = self._addresses(self._dns_host, self.port)
        except Urllib3NameResolutionError as error:
            raise _unresolved(key, error) from error
        except ConnectTimeoutError as error:
            raise self.dial.late(key, key) from error
        for family, *_, address in found:
            # The first, as others do: to try the next would take a fresh connection to the proxy.
            if family in _socks.families(proxy):
                return str(address[0])
        raise NameResolutionError(f"{key}: no address of that host can be told to this proxy; SOCKS4 knows IPv4 alone")

    def _reach(self, host: str, port: int) -> socket.socket:
        """A socket that is connected to one of the host's addresses."""
        found = self._addresses(host, port)
        limit = self.dial.limit
        failure: OSError | None = None
        try:
            for more, (family, kind, protocol, _, address) in zip(range(len(found), 0, -1), found, strict=True):
                now = SYSTEM_CLOCK.now()
                if now >= limit:
                    break
                try:
                    sock = socket.socket(family, kind, protocol)
                except OSError as error:  # a family that this system does not have
                    failure = error
                    continue
                try:
                    for option in self.socket_options or ():
                        sock.setsockopt(*option)
                    self.dial.watch(sock)
                    # An equal part of the time for each that is left: one black hole must not have it all.
                    _connect(sock, address, now + (limit - now) / more, self.dial)
                except BaseException as error:
                    self.dial.close()
                    sock.close()
                    if not isinstance(error, OSError):
                        raise
                    failure = error
                else:
                    return sock
            if failure is None or isinstance(failure, TimeoutError):
                raise ConnectTimeoutError(self, f"connection to {self.host} timed out") from failure
            raise NewConnectionError(self, str(failure)) from failure
        finally:
            failure = None  # it refers to this frame, and the frame to it

    def _tunnel(self) -> None:
        """Have the proxy open a tunnel (RFC 9110 §9.3.6); http.client would wait for each byte of its answer anew."""
        dial, sock = self.dial, self.sock
        dial.enter("connect")
        route, authority = self.route, self._tunnel_headers["Host"]  # type: ignore[attr-defined]  # see `_prepare`
        fields = [("Host", authority)]
        if route.proxy is not None and route.proxy.auth:
            fields.append(("Proxy-Authorization", _wire.basic_credentials(*_wire.userinfo(route.proxy.auth))))
        replaced = {name.lower() for name, _ in route.proxy_fields}
        fields = [*(field for field in fields if field[0].lower() not in replaced), *route.proxy_fields]
        lines = [f"CONNECT {authority} HTTP/1.1", *(f"{name}: {value}" for name, value in fields), "", ""]
        request = "\r\n".join(lines).encode("latin-1")
        while request:
            request = request[dial.patiently(sock, sock.send, request) :]
        data, end = b"", -1
        while end < 0:
            more = dial.patiently(sock, sock.recv, RECEIVE)
            if not more:
                raise OSError("it closed the connection instead of opening a tunnel")
            seen = len(data)
            data += more
            end = find_head_end(data, max(seen - 2, 0))
            if max(end, seen) > MAX_HEAD:
                raise OSError(f"it answered CONNECT with a header of more than {MAX_HEAD} bytes")
            if data[:5] != b"HTTP/"[: len(data)]:
                end = len(data)  # parse_head raises, and shows what came
        head = _wire.parse_head(data[:end], "CONNECT", self.host)
        if not 200 <= head.status < 300:
            raise _RefusedTunnelError(head.status, f"Tunnel connection failed: {head.status} {head.reason}".rstrip())
        if len(data) > end:
            raise OSError("it sent more than its answer to CONNECT")  # in the tunnel the first word is ours
        dial.enter("tls")
        sock.settimeout(dial.left)  # TLS within TLS is urllib3's, at one go


def _unresolved(target: str, error: Urllib3NameResolutionError) -> NameResolutionError:
    return NameResolutionError(f"the name of {target} cannot be resolved: {_reason(error.__cause__ or error)}")


def _connect(sock: socket.socket, address: Any, limit: float, dial: _Dial) -> None:
    """Connect until the instant `limit`; in slices, as every wait."""
    sock.setblocking(False)
    error = sock.connect_ex(address)
    dial.check()
    if error in (errno.EINPROGRESS, errno.EWOULDBLOCK):
        while not wait_for_write(sock, timeout=max(min(limit - SYSTEM_CLOCK.now(), SLICE), 0.0)):
            if SYSTEM_CLOCK.now() >= limit:
                raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:
        raise OSError(error, os.strerror(error))


class _Plain(_Tcp):
    pass


class _Secure(_Tcp, HTTPSConnection):
    pass


class _Watched:
    """A context that urllib3 cannot change, and whose handshakes keep to a limit.

    It sets verify mode and ALPN again for each connection, and to change a context in use by another thread has crashed
    interpreters. A user's own is not ours to change at all.
    """

    def __init__(self, context: ssl.SSLContext, dial: _Dial) -> None:
        object.__setattr__(self, "_context", context)
        object.__setattr__(self, "_dial", dial)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def __setattr__(self, name: str, value: object) -> None:
        pass

    def set_alpn_protocols(self, alpn_protocols: Iterable[str]) -> None:
        """Leave them as they are."""

    def wrap_socket(self, sock: socket.socket, **options: Any) -> ssl.SSLSocket:
        """As the context does it, in slices; Ctrl-C in the handshake leaves no socket open that nobody knows."""
        context, dial = self._context, self._dial
        dial.enter("tls")
        if type(context) is not ssl.SSLContext:  # truststore's looks at the certificate right after the handshake
            sock.settimeout(dial.left)
            return cast(ssl.SSLSocket, context.wrap_socket(sock, **options))
        wrapped = context.wrap_socket(sock, do_handshake_on_connect=False, **options)
        try:
            dial.patiently(wrapped, wrapped.do_handshake)
        except BaseException:
            wrapped.close()
            raise
        return wrapped


_VERSIONS: Final = {
    ssl.PROTOCOL_TLSv1: ssl.TLSVersion.TLSv1,
    ssl.PROTOCOL_TLSv1_1: ssl.TLSVersion.TLSv1_1,
    ssl.PROTOCOL_TLSv1_2: ssl.TLSVersion.TLSv1_2,
}


def tls_context(
    verify: bool | str | ssl.SSLContext, cert: str | tuple[str, str] | None, **options: Any
) -> ssl.SSLContext:
    """A context with the TLS settings that an urllib3 `PoolManager` takes by these names.

    Raises:
        ValueError: There is an option that no context can keep to, or `verify` is a context already.
    """
    unknown = options.keys() - {"ssl_version", "ssl_minimum_version", "ssl_maximum_version", "ciphers"}
    if unknown:
        raise ValueError(
            "of an adapter's connection settings sessionpool takes ssl_context, ssl_version, ssl_minimum_version, "
            f"ssl_maximum_version and ciphers; it has no use for {', '.join(sorted(unknown))}"
        )
    if isinstance(verify, ssl.SSLContext):
        raise ValueError("the adapter's TLS settings and an SSLContext as verify= exclude each other")
    context = _make_context(verify, cert, "the hosts of an adapter")
    version = options.get("ssl_version", ssl.PROTOCOL_TLS_CLIENT)
    if version in _VERSIONS:
        context.minimum_version = context.maximum_version = _VERSIONS[version]
    elif version not in (ssl.PROTOCOL_TLS, ssl.PROTOCOL_TLS_CLIENT):
        raise ValueError(f"ssl_version must be one of ssl's PROTOCOL_TLS constants; got {version!r}")
    context.minimum_version = options.get("ssl_minimum_version", context.minimum_version)
    context.maximum_version = options.get("ssl_maximum_version", context.maximum_version)
    if "ciphers" in options:
        context.set_ciphers(options["ciphers"])
    return context


def _make_context(verify: bool | str, cert: str | tuple[str, str] | None, target: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Early Pythons 3.11 set it, and so hide that an end was not the peer's.
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    try:
        if verify is True:
            context.load_default_certs()
        elif verify is False:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif Path(verify).is_dir():
            context.load_verify_locations(capath=verify)
        else:
            context.load_verify_locations(cafile=verify)
    except OSError as error:
        raise SSLError(
            f"no TLS with {target}: verify={verify!r} holds no certificates that can be read: {_reason(error)}"
        ) from error
    if cert is not None:
        file, key = (cert, None) if isinstance(cert, str) else cert
        try:
            for each in filter(None, (file, key)):
                with Path(each).open("rb"):
                    pass  # OpenSSL would not say which of them is not there
            context.load_cert_chain(file, key, _refuse_to_ask)
        except OSError as error:
            reason = f"{error.filename}: {_reason(error)}" if error.filename else _reason(error)
            raise SSLError(
                f"no TLS with {target}: cert={cert!r} is no client certificate that can be read: {reason}"
            ) from error
    context.set_alpn_protocols(["http/1.1"])
    return context


def _refuse_to_ask() -> str:
    """Called for an encrypted key's password, which OpenSSL would else ask of the terminal, whoever sits there."""
    raise OSError("the key is encrypted; load it into an SSLContext yourself, and give that as verify=")


# What matters most for the cost of a request among many threads is how often it lets go of the GIL: each time another
# thread takes it, and getting it back costs 5 µs and more. CPython's own timeout makes each call two (poll, then recv);
# the kernel's makes it one. Not with TLS, where CPython would take the kernel's time-out for "try again".
_ON_LINUX: Final = platform == "linux"
_TIMED_OUT: Final = (TimeoutError, BlockingIOError)  # CPython's, and EAGAIN, the kernel's


def _is_of_the_kernel(error: BaseException | None) -> bool:
    """The system has given the connection up (it says so once, and then that it ended): no slice that is over."""
    return isinstance(error, OSError) and error.errno == errno.ETIMEDOUT


def _set_timeout(sock: socket.socket, timeout: float | None) -> None:
    if not _ON_LINUX or isinstance(sock, ssl.SSLSocket) or not isinstance(sock, socket.socket):
        sock.settimeout(timeout)
        return
    sock.settimeout(None)
    # 0 would mean no limit.
    microseconds = 0 if timeout is None else max(int(timeout * 1_000_000), 1)
    limit = struct.pack("@ll", *divmod(microseconds, 1_000_000))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)


_SO_MEMINFO: Final = 55  # linux/sock_diag.h; the first word is what lies in the receive queue
_TCP_ESTABLISHED: Final = b"\x01"  # the first byte of struct tcp_info; a FIN that came with data leaves no other trace
_NOTHING_QUEUED: Final = bytes(4)


def _readability(sock: socket.socket) -> Callable[[], bool]:
    """A function that says at once whether `sock` has something to read, or was ended by the peer."""
    if not hasattr(select, "poll"):
        return lambda: bool(select.select([sock], [], [], 0)[0])
    poller = select.poll()  # kept: to make one per look costs four times the look
    poller.register(sock, select.POLLIN)
    if not _ON_LINUX:
        return lambda: bool(poller.poll(0))
    option = sock.getsockopt
    socket_level, tcp_level, tcp_info = socket.SOL_SOCKET, socket.IPPROTO_TCP, socket.TCP_INFO

    def readable() -> bool:
        # getsockopt keeps the GIL, poll lets go of it. So poll is asked only when these two do not rule it out.
        try:
            if (
                option(socket_level, _SO_MEMINFO, 4) == _NOTHING_QUEUED
                and option(tcp_level, tcp_info, 1) == _TCP_ESTABLISHED
            ):
                return False
        except OSError:
            pass  # a sandbox without these options
        return bool(poller.poll(0))

    return readable


_SOURCE_LINE: Final = re.compile(r" \(_ssl\.c:\d+\)$")  # where in CPython's own code TLS failed


def _reason(error: BaseException) -> str:
    """What the system said, without the object's address and class that urllib3 puts before it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, OSError) and error.strerror:
        return _SOURCE_LINE.sub("", error.strerror)
    return _SOURCE_LINE.sub("", str(error))
