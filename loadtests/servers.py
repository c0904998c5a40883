"""A real nginx on loopback, for the benchmarks and for tests that count connections at the server.

One worker process, free ports, everything it writes in a temporary directory; it runs as whoever starts
it. How exactly it can be counted (`Nginx.status`, `Nginx.requests`, `Nginx.peak`):

- One connection of our own, the *control connection*, stays open from start to stop and is subtracted
  everywhere. nginx has a single worker and takes events in the order they came, so an answer on it comes
  after everything that reached nginx before the question: requests are logged, closed connections counted
  off.
- `status()` is exact at the instant it is answered, connections that never sent a request included.
- The log holds one line per request, with the connection's serial number: the distinct numbers are
  exactly the connections that completed a request.
- `peak()` is the largest of exact samples: every request is stamped with the number of open connections
  when its head has been read and again when it is logged, idle and silent connections included. It misses
  a connection only if it was one too many just between two samples: accepted, and another one closed
  before the head of its first request was read. And it counts a connection which the client has closed
  already until nginx reads the FIN, so a client that closes one and opens the next at once can show as
  one more for that moment. Without a debug log nginx tells no more than that.
"""

from __future__ import annotations

import grp
import http.client
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Self

import attrs

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from types import TracebackType

START_TIMEOUT = 15.0
"""Seconds nginx gets to come up or go down; longer than the 2.5 it spends on a port that is taken."""

_TYPES = {
    "application/epub+zip": "epub",
    "application/gzip": "gz tgz",
    "application/javascript": "js mjs",
    "application/json": "json",
    "application/pdf": "pdf",
    "application/xml": "xml xsl",
    "application/zip": "zip",
    "font/woff2": "woff2",
    "image/gif": "gif",
    "image/jpeg": "jpg jpeg",
    "image/png": "png",
    "image/svg+xml": "svg",
    "image/x-icon": "ico",
    "text/css": "css",
    "text/html": "html htm",
    "text/plain": "txt py c h md rst",
}

_LOG_FORMAT = (
    """escape=json '{"at":"$msec","connection":"$connection","nth":"$connection_requests","""
    """"open_at_start":"$open_at_start","open_at_end":"$connections_active","status":"$status","""
    """"sent":"$body_bytes_sent","seconds":"$request_time","scheme":"$scheme","""
    """"method":"$request_method","target":"$request_uri","agent":"$http_user_agent"}'"""
)


class NginxError(RuntimeError):
    """nginx is missing, did not start, or was lost."""


@attrs.frozen(kw_only=True)
class Status:
    """nginx's own counts, the control connection left out.

    Attributes:
        active: Connections open now.
        accepted: Connections taken since the start.
        handled: The same, less those dropped for want of a slot (none, here).
        requests: Requests since the start.
        reading: Connections whose request head is being read (a fresh, silent one too).
        writing: Connections being answered.
        waiting: Idle keep-alive connections.
    """

    active: int
    accepted: int
    handled: int
    requests: int
    reading: int
    writing: int
    waiting: int


@attrs.frozen(kw_only=True)
class LoggedRequest:
    """One request as nginx logged it, when its last byte had been handed to the kernel.

    Attributes:
        at: Wall-clock seconds at the end of the request, to the millisecond.
        connection: Serial number of the connection, unique over the life of this nginx.
        nth: 1 for the first request on its connection, and so on.
        open_at_start: Connections open when the head had been read; 0 when the head was too bad to be parsed.
        open_at_end: Connections open when the request was logged.
        status: The response's status.
        sent: Body bytes sent.
        seconds: From the first byte read to the last byte sent, to the millisecond.
        scheme: "http" or "https".
        method: As received.
        target: Path and query as received.
        agent: The User-Agent field.
    """

    at: float
    connection: int
    nth: int
    open_at_start: int
    open_at_end: int
    status: int
    sent: int
    seconds: float
    scheme: str
    method: str
    target: str
    agent: str


def find_nginx() -> str | None:
    """Return the path of the nginx program, None without one; Debian keeps it off a user's PATH."""
    places = [os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"]
    return shutil.which("nginx", path=os.pathsep.join(places))


def nginx_version(program: str, how: str = "-v") -> str:
    """Return what `nginx -v` says, such as "nginx/1.22.1"; with "-V" how it was built, too."""
    said = subprocess.run([program, how], capture_output=True, text=True, check=True, timeout=START_TIMEOUT)
    return said.stderr.strip().removeprefix("nginx version: ")


def json_document(size: int) -> bytes:
    """Return a JSON object of exactly `size` bytes (32 at least), the same one every time, plain ASCII.

    Raises:
        ValueError: It does not fit in `size` bytes.
    """
    head, tail = '{"size": ' + str(size) + ', "items": [', "]}"
    if size < len(head) + len(tail) + 2:
        raise ValueError(f"a JSON document cannot have {size} bytes; 32 is the least")
    items: list[str] = []
    left = size - len(head) - len(tail)
    number = 0
    while left > 120:
        item = f'{{"id": {number}, "name": "item {number * 7919 % 100_003}"}}, '
        items.append(item)
        left -= len(item)
        number += 1
    items.append('"' + "x" * (left - 2) + '"')
    return (head + "".join(items) + tail).encode("ascii")


class Nginx:
    """An nginx of one worker on free loopback ports, running inside a `with` block. Thread-safe once started.

    Args:
        root: A directory to serve; index.html stands for a directory. None serves `documents` alone.
        documents: Path -> body, served as JSON unless the path's suffix says otherwise; small ones come from
            nginx's memory, the others from files it keeps open.
        cookie_paths: Those of the documents whose every response sets the cookie `x` to a new value for all
            paths, and returns what the request's cookie `x` held in `X-Cookie-Back` (absent when nothing).
        tls: Serve the same over TLS too, at `tls_url`, with a certificate that `ca_file` verifies; needs
            trustme.
        log: Log every request: True to a file of our own, a path to that file. It costs the server time.
        cpu: Pin the worker to this CPU.
        keepalive_requests: Requests after which nginx closes a connection.
        keepalive_timeout: Seconds after which nginx closes an idle connection.
        directives: More lines for the `server` block, for what the arguments do not offer.

    Raises:
        NginxError: On entering: nginx or trustme is not installed, or nginx did not start (says why).
        ValueError: A path that nginx's configuration cannot express.
    """

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        *,
        documents: Mapping[str, bytes] | None = None,
        cookie_paths: Collection[str] = (),
        tls: bool = False,
        log: bool | str | os.PathLike[str] = False,
        cpu: int | None = None,
        keepalive_requests: int = 1_000_000_000,
        keepalive_timeout: int = 3600,
        directives: str = "",
    ) -> None:
        self._root = None if root is None else Path(root).resolve()
        self._documents = dict(documents or {})
        self._cookie_paths = frozenset(cookie_paths)
        self._tls = tls
        self._log = log
        self._cpu = cpu
        self._keepalive_requests = keepalive_requests
        self._keepalive_timeout = keepalive_timeout
        self._directives = directives
        if unknown := self._cookie_paths - self._documents.keys():
            raise ValueError(f"cookie_paths without a document: {', '.join(sorted(unknown))}")
        for path in self._documents:
            if not path.startswith("/"):
                raise ValueError(f"a document's path starts with a slash, {path!r} does not")
            _quoted(path)
        self._cleanup = ExitStack()
        self._lock = threading.Lock()  # one question at a time on the control connection
        self._asked = 0
        self._ports: list[int] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where it listens, such as "http://127.0.0.1:40123", without a slash at the end."""
        if not self._ports:
            raise NginxError("this nginx has not been started")
        return f"http://127.0.0.1:{self._ports[0]}"

    @property
    def tls_url(self) -> str:
        """The same over TLS; the certificate is good for 127.0.0.1, ::1 and localhost."""
        if not self._tls or not self._ports:
            raise NginxError("this nginx was not started, or without tls=True")
        return f"https://127.0.0.1:{self._ports[1]}"

    @property
    def ca_file(self) -> Path:
        """PEM file with the authority that verifies `tls_url`."""
        if not self._tls:
            raise NginxError("this nginx was started without tls=True")
        return self._directory / "ca.pem"

    @property
    def log_file(self) -> Path:
        """The access log, one JSON object a line."""
        if self._log is False:
            raise NginxError("this nginx was started without log=True")
        return self._directory / "access.log" if self._log is True else Path(self._log).resolve()

    @property
    def pid(self) -> int:
        """Process id of the master; the worker is its only child."""
        return self._process.pid

    def start(self) -> None:
        """Start it and return when it answers."""
        program = find_nginx()
        if program is None:
            raise NginxError(
                "nginx is not installed (looked on PATH, in /usr/sbin and /usr/local/sbin): apt-get install nginx-light"
            )
        with ExitStack() as undo:
            self._directory = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="nginx-")))
            if self._tls:
                self._make_certificates()
            # Another process may take a port between our choosing it and nginx binding it: then choose again.
            for attempt in range(1, 6):
                self._ports = _free_ports(3)
                self._status_path = "/" + secrets.token_hex(8)
                self._write_configuration(program)
                with (self._directory / "stderr").open("wb") as stderr:
                    self._process = subprocess.Popen(
                        [program, "-p", f"{self._directory}/", "-c", str(self._directory / "nginx.conf")],
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        stderr=stderr,
                        start_new_session=True,  # a Ctrl-C meant for us would stop it too early
                    )
                undo.callback(self._stop_process)
                if self._await_answer():
                    break
                said = self._errors()
                if "Address already in use" not in said or attempt == 5:
                    raise NginxError(f"nginx did not start: {said or 'it said nothing'}")
            self._cleanup = undo.pop_all()

    def stop(self) -> None:
        """Stop it, wait for its end and remove its files. Stopping twice is harmless."""
        self._cleanup.close()

    def status(self) -> Status:
        """Ask nginx for its counts; see the module's text for how exact they are.

        Raises:
            NginxError: nginx is gone.
        """
        with self._lock:
            try:
                return self._ask()
            except (OSError, http.client.HTTPException) as error:
                said = self._errors()
                raise NginxError(f"nginx does not answer on its control connection: {error!r} {said}") from error

    def requests(self) -> Iterator[LoggedRequest]:
        """Yield what has been logged, in the order in which the requests ended. Needs `log`.

        Complete for every response that a client had read to its end before the call.
        """
        self.status()  # answered after everything before it: see the module's text
        with self.log_file.open(encoding="utf-8") as lines:
            for line in lines:
                raw = json.loads(line)
                yield LoggedRequest(
                    at=float(raw["at"]),
                    connection=int(raw["connection"]),
                    nth=int(raw["nth"]),
                    open_at_start=int(raw["open_at_start"] or 1) - 1,
                    open_at_end=int(raw["open_at_end"]) - 1,
                    status=int(raw["status"]),
                    sent=int(raw["sent"]),
                    seconds=float(raw["seconds"]),
                    scheme=raw["scheme"],
                    method=raw["method"],
                    target=raw["target"],
                    agent=raw["agent"],
                )

    def peak(self) -> int:
        """Return the most connections open at once; the module's text says how exact. Needs `log`."""
        return max((max(each.open_at_start, each.open_at_end) for each in self.requests()), default=0)

    def _ask(self) -> Status:
        self._asked += 1
        self._control.request("GET", self._status_path)
        response = self._control.getresponse()
        words = response.read().decode("ascii", "replace").split()
        if response.status != 200 or words[:2] != ["Active", "connections:"]:
            raise http.client.HTTPException(f"status {response.status} on the status path")
        active, (accepted, handled, requests) = int(words[2]), map(int, words[7:10])
        return Status(
            active=active - 1,
            accepted=accepted - 1,
            handled=handled - 1,
            requests=requests - self._asked,
            reading=int(words[11]),
            writing=int(words[13]) - 1,
            waiting=int(words[15]),
        )

    def _await_answer(self) -> bool:
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline and self._process.poll() is None:
            self._control = http.client.HTTPConnection("127.0.0.1", self._ports[2], timeout=START_TIMEOUT)
            self._asked = 0
            try:
                self._ask()
            except (OSError, http.client.HTTPException, ValueError):
                # Not up yet; or someone else has the port, and nginx will exit over it.
                self._control.close()
                time.sleep(0.002)
            else:
                self._control.auto_open = 0  # a second control connection would be counted as a client's
                return True
        return False

    def _stop_process(self) -> None:
        self._control.close()
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(START_TIMEOUT)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)  # its own session: master and worker, no one else
                self._process.wait()

    def _errors(self) -> str:
        texts = (self._directory / name for name in ("stderr", "error.log"))
        lines = [line for text in texts if text.exists() for line in text.read_text("utf-8").splitlines()]
        return "; ".join(dict.fromkeys(lines[-5:]))

    def _make_certificates(self) -> None:
        try:
            import trustme
        except ImportError as error:
            raise NginxError("TLS needs trustme for the certificate: pip install trustme") from error
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self._directory / "ca.pem")
        certificate = authority.issue_cert("127.0.0.1", "::1", "localhost")
        certificate.private_key_and_cert_chain_pem.write_to_path(self._directory / "server.pem")

    def _write_configuration(self, program: str) -> None:
        built = nginx_version(program, how="-V")
        lines = [
            "daemon off;",
            "worker_processes 1;",
            "pid nginx.pid;",
            f"error_log {_quoted(self._directory / 'error.log')} error;",
        ]
        if os.geteuid() == 0:  # the worker would become nobody, who may not read our files
            lines.append(f"user {pwd.getpwuid(os.geteuid()).pw_name} {grp.getgrgid(os.getegid()).gr_name};")
        if self._cpu is not None:
            lines.append(f"worker_cpu_affinity {1 << self._cpu:b};")
        lines += [
            "events { worker_connections 16384; multi_accept on; }",
            "worker_rlimit_nofile 16500;",
            "http {",
            "types { " + " ".join(f"{kind} {suffixes};" for kind, suffixes in _TYPES.items()) + " }",
            "default_type application/octet-stream;",
            # Head and body in one write, so that a client can read both at once. Not sendfile, it sends the
            # head alone first; nor sendfile with tcp_nopush, it held the tail of 100 KiB back until the
            # client's delayed ACK: 40 ms in one request of 150.
            "sendfile off; tcp_nopush off; tcp_nodelay on; output_buffers 1 256k;",
            f"keepalive_requests {self._keepalive_requests}; keepalive_timeout {self._keepalive_timeout}s;",
            "log_not_found off; server_tokens off;",
            "client_body_temp_path body;",
        ]
        lines += [
            f"{name}_temp_path {name};"
            for name in ("proxy", "fastcgi", "uwsgi", "scgi")
            if f"--without-http_{name}_module" not in built
        ]
        if self._log is not False:
            lines.append(f"log_format requests {_LOG_FORMAT};")
        lines += [*self._server_block(), *self._status_block(), "}"]
        (self._directory / "nginx.conf").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def _server_block(self) -> Iterator[str]:
        yield f"server {{ listen 127.0.0.1:{self._ports[0]} backlog=4096;"
        if self._tls:
            yield f"listen 127.0.0.1:{self._ports[1]} ssl backlog=4096;"
            yield f"ssl_certificate {_quoted(self._directory / 'server.pem')};"
            yield f"ssl_certificate_key {_quoted(self._directory / 'server.pem')};"
        if self._log is False:
            yield "access_log off;"
        else:
            # $connections_active is read afresh wherever it stands; this keeps what it was at the start.
            yield "set $open_at_start $connections_active;"
            yield f"access_log {_quoted(self.log_file)} requests;"
        if self._root is None:
            yield "location / { return 404; }"
        else:
            yield f"root {_quoted(self._root)}; index index.html;"
        for number, (path, body) in enumerate(self._documents.items()):
            yield f"location = {_quoted(path)} {{"
            if path in self._cookie_paths:
                yield "add_header Set-Cookie 'x=$request_id; Path=/'; add_header X-Cookie-Back $cookie_x;"
            suffix = Path(path).suffix[1:]
            kind = next((kind for kind, known in _TYPES.items() if suffix in known.split()), "application/json")
            yield f"types {{}} default_type {kind};"
            if len(body) <= 2048 and body.isascii() and not set(body) & set(b"$'\\\0"):
                yield f"return 200 '{body.decode('ascii')}';"
            else:
                stored = self._directory / f"{number}.document"
                stored.write_bytes(body)
                yield f"open_file_cache max=1000; alias {_quoted(stored)};"
            yield "}"
        yield self._directives
        yield "}"

    def _status_block(self) -> Iterator[str]:
        yield f"server {{ listen 127.0.0.1:{self._ports[2]}; access_log off; keepalive_timeout 30d;"
        yield "keepalive_requests 1000000000;"
        yield f"location = {self._status_path} {{ stub_status; }}"
        yield "location / { return 404; } }"


def _quoted(text: str | os.PathLike[str]) -> str:
    text = os.fspath(text)
    if set(text) & set("\"'$\\{};\n\0"):
        raise ValueError(f"nginx's configuration cannot express {text!r}")
    return f'"{text}"'


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
