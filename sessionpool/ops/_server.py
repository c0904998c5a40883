"""The operations endpoint's server: answers GET and HEAD, changes nothing, and lets nobody keep it busy.

One thread accepts, and once a second has the recorder count; each request gets a thread of its own, of which there are
at most `MAX_CONNECTIONS`, and must be over within `PATIENCE`. One request per connection: who keeps a connection open
keeps a thread.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import gzip
import hmac
import http.server
import ipaddress
import json
import logging
import os
import re
import socket
import socketserver
import ssl
import threading
import weakref
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any, Final, Protocol

from sessionpool._clock import SYSTEM_CLOCK, Clock
from sessionpool._dump import PoolDump
from sessionpool._ledger import PoolStats
from sessionpool._observer import Watch
from sessionpool.ops._page import POLICY, page
from sessionpool.ops._recorder import Recorder
from sessionpool.ops._snapshot import snapshot

_log = logging.getLogger("sessionpool")

MAX_CONNECTIONS: Final = 16
PATIENCE: Final = 10.0  # seconds for one connection, from its first byte to its last
HASTE: Final = 1.0  # the same when there are too many
TICK: Final = 1.0
POLL: Final = 0.25  # how long `close` may have to wait
FRESH: Final = 0.5  # seconds for which what was found about the pool is told again: to look may be dear
MIN_GZIP: Final = 1024

Exposition = Callable[[str], tuple[bytes, str]]  # from an Accept field to the metrics and their content type
_TEXT: Final = "text/plain; charset=utf-8"
_HEADERS: Final = (
    ("Cache-Control", "no-store"),
    ("Content-Security-Policy", POLICY),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
)


class Pool(Protocol):
    """What the endpoint shows."""

    name: str
    clock: Clock
    _closed: bool

    def stats(self) -> PoolStats: ...
    def dump(self) -> PoolDump: ...


class OpsServer:
    """The operations endpoint of one pool; made by `SessionPool.serve`. Thread-safe.

    It holds the pool weakly, and goes on when that is closed, until `close`. A forked process does not serve.

    Attributes:
        port: Where it listens.
        url: Its status page.

    Args:
        pool: What to show.
        watch: Where the pool's events are told.
        port: 0 for any that is free.
        host: The address to listen on.
        names: Names by which it may be asked, besides addresses, `localhost`, `host` and this machine's name: a page of
            another site could otherwise make its own name point here, and read along in a visitor's browser.
        auth: Name and password that have to be given (Basic).
        tls: To serve HTTPS: an `ssl.SSLContext`, or the paths of a certificate and its key.
        exposition: Makes what /metrics gives; `None`: there is no such page.

    Raises:
        OSError: It cannot listen there.
        ValueError: `names` or `auth` is not what it must be.
    """

    def __init__(
        self,
        pool: Pool,
        watch: Watch,
        *,
        port: int,
        host: str,
        names: Iterable[str],
        auth: tuple[str, str] | None,
        tls: ssl.SSLContext | tuple[str, str] | None,
        exposition: Exposition | None,
    ) -> None:
        if isinstance(names, str):
            raise ValueError(f"names must be several names, such as [{names!r}]; got {names!r}")
        if auth is not None and not _is_pair(auth):
            raise ValueError("auth must be a pair of texts, name and password, with no colon in the name")
        self._pool = weakref.ref(pool)
        self._name = pool.name
        self._watch = watch
        self._clock = pool.clock
        self._exposition = exposition
        self._credentials = None if auth is None else ":".join(auth).encode()
        self._names = {"localhost", host.lower(), socket.gethostname().lower(), *(name.lower() for name in names)}
        self._recorder = Recorder(pool.clock)
        self._looking = threading.Lock()
        self._found: dict[str, Any] = {}
        self._found_at: float | None = None
        self._server = _Server(host, port, _context(tls), self)
        self.port: int = self._server.server_address[1]
        shown = f"[{host}]" if ":" in host else host
        self.url = f"{'http' if tls is None else 'https'}://{shown}:{self.port}/"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(POLL,), name=f"sessionpool-{pool.name}-ops", daemon=True
        )
        try:
            self._thread.start()
        except BaseException:  # no thread to be had
            self._server.server_close()
            raise
        _servers.add(self)
        watch.join(self._recorder)

    def __repr__(self) -> str:
        return f"<OpsServer of pool {self._name!r} at {self.url}>"

    def __enter__(self) -> OpsServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening and recording; what is being answered is cut off. Idempotent."""
        self._watch.leave(self._recorder)
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()
        self._server.cut(0.0)

    def tick(self) -> None:
        """Once a second: let the recorder count."""
        pool = self._pool()
        self._recorder.tick(None if pool is None else pool.stats())

    def answer(self, path: str, accept: str) -> tuple[int, bytes, str]:
        """Status, body and content type of one of the pages."""
        if path == "/":
            return 200, page(self._look()).encode(), "text/html; charset=utf-8"
        if path == "/stats.json":
            return 200, json.dumps(self._look(), separators=(",", ":")).encode(), "application/json"
        if path == "/metrics" and self._exposition is not None:
            return 200, *self._exposition(accept)
        if path == "/healthz":  # this process answers
            return 200, b"ok\n", _TEXT
        if path == "/readyz":  # this pool takes work
            state, _ = self._state()
            return (200, b"ready\n", _TEXT) if state == "open" else (503, f"pool is {state}\n".encode(), _TEXT)
        return 404, b"there are /, /metrics, /stats.json, /healthz and /readyz\n", _TEXT

    def is_for_us(self, host: str) -> bool:
        """Whether a Host field names this server (RFC 9110 §7.2), by an address or by a name that it may have."""
        match = re.fullmatch(r"(?:\[([0-9a-f:.]+)\]|([^\[\]:]+))(?::[0-9]*)?", host.lower())
        if match is None:
            return False
        if match[2] in self._names:
            return True
        try:
            ipaddress.ip_address(match[1] or match[2])
        except ValueError:
            return False
        return True

    def may_ask(self, authorization: str) -> bool:
        """Whether the credentials given are those that are asked for, if any are."""
        if self._credentials is None:
            return True
        scheme, _, encoded = authorization.partition(" ")
        try:
            given = base64.b64decode(encoded.strip(), validate=True) if scheme.lower() == "basic" else b""
        except (binascii.Error, ValueError):
            given = b""
        return hmac.compare_digest(given, self._credentials)

    def _state(self) -> tuple[str, Pool | None]:
        pool = self._pool()
        if pool is None or pool._closed:
            return "closed", pool
        return "suspended" if pool.stats().suspended else "open", pool

    def _look(self) -> dict[str, Any]:
        """What is known of the pool; looked up anew only if the last time is a while ago."""
        with self._looking:
            now = SYSTEM_CLOCK.now()
            if self._found_at is None or now - self._found_at > FRESH:
                state, pool = self._state()
                dump = None if pool is None else pool.dump()
                self._found = snapshot(self._name, state, self._recorder, self._clock.now(), dump)
                self._found_at = now
            return self._found

    def abandon(self) -> None:
        """In a forked process: leave the sockets to the parent."""
        self._watch.leave(self._recorder)
        self._server.abandon()


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Accepts, within bounds. Its connections are kept in a dict: single operations are atomic."""

    allow_reuse_address = os.name == "posix"  # elsewhere it would let two listen on one port
    allow_reuse_port = False
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None, owner: OpsServer) -> None:
        self.owner = owner
        self._tls = tls
        self._connections: dict[socket.socket, float] = {}
        self._ticked = SYSTEM_CLOCK.now()
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            self.address_family = found[0][0]
            super().__init__((host, port), _Handler)
            self.socket.setblocking(False)  # whoever came may be gone again before it is accepted
        except (OSError, OverflowError) as error:
            what = getattr(error, "strerror", None) or str(error)
            raise OSError(
                getattr(error, "errno", None),
                f"the operations endpoint cannot listen on port {port} of {host}: {what}; name another port, or 0 for "
                f"any that is free",
            ) from None

    def service_actions(self) -> None:
        """Between requests, several times a second."""
        now = SYSTEM_CLOCK.now()
        self.cut(PATIENCE)
        if now - self._ticked >= TICK:
            self._ticked = now
            self.owner.tick()

    def cut(self, patience: float) -> None:
        """End the connections that are older than this."""
        now = SYSTEM_CLOCK.now()
        for connection, since in self._connections.copy().items():
            if now - since >= patience:
                _shut(connection)

    def abandon(self) -> None:
        """Close this process's copies of all sockets, without a word to the other ends."""
        self.server_close()
        for connection in self._connections:
            connection.close()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, if there may be one more."""
        if len(self._connections) >= MAX_CONNECTIONS:
            self.cut(HASTE)  # whoever comes next finds room
            if self._tls is None:
                request.setblocking(False)
                with contextlib.suppress(OSError):
                    request.send(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            self.shutdown_request(request)
            return
        self._connections[request] = SYSTEM_CLOCK.now()
        super().process_request(request, client_address)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """In the thread: the TLS handshake, if there is one, and then the request."""
        if self._tls is None:
            super().finish_request(request, client_address)
            return
        since = self._connections[request]
        request.settimeout(PATIENCE)
        secure = self._tls.wrap_socket(request, server_side=True, do_handshake_on_connect=False)
        self._connections[secure] = since
        del self._connections[request]
        try:
            secure.do_handshake()
            super().finish_request(secure, client_address)
        finally:
            _shut(secure)
            secure.close()
            self._connections.pop(secure, None)

    def shutdown_request(self, request: Any) -> None:
        """Close it."""
        super().shutdown_request(request)
        self._connections.pop(request, None)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Whoever asks may go away at any time, or speak no HTTP: that is worth no more than a line for the curious."""
        _log.debug("a connection to the operations endpoint broke off", exc_info=True)


class _Handler(http.server.BaseHTTPRequestHandler):
    """One request. Confined to its thread."""

    server: _Server
    timeout = PATIENCE
    protocol_version = "HTTP/1.1"

    def handle(self) -> None:
        """Read the request and answer it, whatever its method is called."""
        self.raw_requestline = self.rfile.readline(65537)
        if len(self.raw_requestline) > 65536:
            self.requestline, self.request_version, self.command = "", "HTTP/1.1", ""
            self.send_error(HTTPStatus.REQUEST_URI_TOO_LONG)
        elif self.raw_requestline and self.parse_request():
            status, body, kind, *extra = self._decide()
            self._send(status, body, kind, *extra)

    def _decide(self) -> tuple[Any, ...]:
        owner = self.server.owner
        hosts = self.headers.get_all("Host", [])
        if len(hosts) > 1 or (not hosts and self.request_version != "HTTP/1.0"):  # some probes are that old
            return 400, b"one Host field is needed\n", _TEXT
        if hosts and not owner.is_for_us(hosts[0].strip()):
            return 421, b"this server does not answer to that Host; see `names` of SessionPool.serve\n", _TEXT
        if not owner.may_ask(self.headers.get("Authorization", "")):
            challenge = ("WWW-Authenticate", 'Basic realm="sessionpool", charset="UTF-8"')
            return 401, b"name and password, please\n", _TEXT, challenge
        if self.command not in ("GET", "HEAD"):
            return 405, b"only GET and HEAD\n", _TEXT, ("Allow", "GET, HEAD")
        try:
            return owner.answer(self.path.partition("?")[0], ", ".join(self.headers.get_all("Accept", [])))
        except Exception:  # noqa: BLE001 - a collector in the user's registry, for one
            _log.exception("the operations endpoint could not answer")
            return 500, b"this failed; the log tells why\n", _TEXT

    def _send(self, status: int, body: bytes, kind: str, *extra: tuple[str, str]) -> None:
        fields = [*_HEADERS, ("Content-Type", kind), *extra]
        if len(body) >= MIN_GZIP:
            fields.append(("Vary", "Accept-Encoding"))
            if _takes_gzip(", ".join(self.headers.get_all("Accept-Encoding", []))):
                body = gzip.compress(body, 1)
                fields.append(("Content-Encoding", "gzip"))
        if kind.startswith(("text/plain; version", "application/openmetrics")):
            fields.append(("Vary", "Accept"))
        if self.request_version == "HTTP/0.9":  # which has no status
            self.request_version = "HTTP/1.1"
        self.send_response(status)
        for name, value in (*fields, ("Content-Length", str(len(body))), ("Connection", "close")):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """What `parse_request` makes of a request that is none."""
        self.headers = self.MessageClass()
        self._send(code, f"{HTTPStatus(code).phrase}\n".encode(), _TEXT)

    def version_string(self) -> str:
        """What the Server field says: no versions, which are nobody's business."""
        return "sessionpool"

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a scrape every few seconds is no news."""


def _is_pair(auth: object) -> bool:
    """RFC 7617 §2."""
    is_pair = isinstance(auth, tuple) and len(auth) == 2 and all(isinstance(each, str) for each in auth)
    return is_pair and ":" not in auth[0]  # type: ignore[index]


def _takes_gzip(accepted: str) -> bool:
    """RFC 9110 §12.5.3, for the one coding that there is."""
    for part in accepted.lower().split(","):
        coding, _, weight = part.replace(" ", "").partition(";")
        if coding == "gzip":
            return re.fullmatch(r"q=0(\.0*)?", weight) is None
    return False


def _context(tls: ssl.SSLContext | tuple[str, str] | None) -> ssl.SSLContext | None:
    if tls is None or isinstance(tls, ssl.SSLContext):
        return tls
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*tls)
    return context


def _shut(connection: socket.socket) -> None:
    """Wake whoever is blocked on it, and let the other end know; TLS says no goodbye, which could block."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


# For a forked process not to keep the parent's port.
_servers: weakref.WeakSet[OpsServer] = weakref.WeakSet()


def _abandon_all() -> None:
    for server in list(_servers):
        with contextlib.suppress(OSError):
            server.abandon()


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_abandon_all)
