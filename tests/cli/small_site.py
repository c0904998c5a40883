"""A site on loopback that counts what it is asked for, and the command as a process, for the tests beside it."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeAlias

import sessionpool

ROOT = Path(sessionpool.__file__).parents[1]

Answer: TypeAlias = str | tuple[int, dict[str, str], bytes] | None


class Site:
    """A small site.

    Attributes:
        pages: Path to a page's HTML, or to (status, header fields, body), or to `None`: the connection is closed.
        first: Path to answers that are given before that of `pages`, each once.
        held: Paths that are answered only once they have been taken out of here.
        endless: Paths whose body goes on and on, a byte at a time.
        asked: Every path that was asked for, in order.
        times: When that was.
        agents: The User-Agent of each.
        peak: The most connections that were open at once.
    """

    def __init__(self) -> None:
        self.pages: dict[str, Answer] = {}
        self.first: dict[str, list[Answer]] = {}
        self.held: set[str] = set()
        self.endless: set[str] = set()
        self.asked: list[str] = []
        self.agents: list[str] = []
        self.times: list[float] = []
        self.peak = 0
        self._open = 0
        self._changed = threading.Condition()
        self._closing = False
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                with site._changed:
                    site._open += 1
                    site.peak = max(site.peak, site._open)

            def finish(self) -> None:
                with site._changed:
                    site._open -= 1
                super().finish()

            def handle(self) -> None:
                with contextlib.suppress(OSError):  # the client is gone, as after a kill
                    super().handle()

            def do_GET(self) -> None:
                with site._changed:
                    site.asked.append(self.path)
                    site.times.append(time.monotonic())
                    site.agents.append(self.headers["User-Agent"] or "")
                    site._changed.notify_all()
                    site._changed.wait_for(lambda: self.path not in site.held or site._closing)
                    ahead = site.first.get(self.path)
                    page = ahead.pop(0) if ahead else site.pages.get(self.path, (404, {}, b"no such page"))
                if page is None:
                    self.close_connection = True
                    return
                status, fields, body = (
                    (200, {"Content-Type": "text/html"}, page.encode()) if isinstance(page, str) else page
                )
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **fields}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)
                while self.path in site.endless and not site._closing:
                    self.wfile.write(b".")
                    time.sleep(0.01)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def wait_for(self, state: Callable[[Site], bool]) -> None:
        """Block until the requests so far satisfy `state`; fail after a while."""
        with self._changed:
            assert self._changed.wait_for(lambda: state(self), timeout=30), self.asked

    def wait_for_requests(self, number: int) -> None:
        """Block until so many requests have come."""
        self.wait_for(lambda site: len(site.asked) >= number)

    def release(self) -> None:
        """Answer what is held."""
        with self._changed:
            self.held.clear()
            self._changed.notify_all()

    def forget(self) -> None:
        """Begin to count anew."""
        with self._changed:
            self.asked.clear()
            self.times.clear()
            self.agents.clear()

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def busy(status: int = 503, wait: int | None = None) -> tuple[int, dict[str, str], bytes]:
    """An answer that says: not now."""
    return status, {} if wait is None else {"Retry-After": str(wait)}, b"busy"


def redirect(target: str, status: int = 302) -> tuple[int, dict[str, str], bytes]:
    return status, {"Location": target}, b""


class Outcome:
    """What a command did.

    Attributes:
        code: Its exit code.
        text: Standard output.
        said: Standard error.
    """

    def __init__(self, code: int, text: str, said: str) -> None:
        self.code, self.text, self.said = code, text, said

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]


class Process:
    """`sessionpool ...` in a process of its own, to be interrupted or killed."""

    def __init__(self, *words: object, stdin: int | None = subprocess.DEVNULL) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sessionpool", *map(str, words)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def write(self, text: str) -> None:
        """Give it a piece of its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(text)
        self._process.stdin.flush()

    def read_line(self) -> str:
        """The next line of its standard output."""
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def hear_line(self) -> str:
        """The next line of its standard error."""
        assert self._process.stderr is not None
        return self._process.stderr.readline()

    def hang_up(self, stream: str) -> None:
        """Close this end of a pipe: "stdin" or "stdout"."""
        getattr(self._process, stream).close()
        setattr(self._process, stream, None)

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def send_to_another_thread(self, number: signal.Signals) -> None:
        """Send a signal to one of its threads that is not the main one, as the system may do with any (Linux)."""
        pid = self._process.pid
        other = max(int(thread.name) for thread in Path(f"/proc/{pid}/task").iterdir())
        assert other != pid
        assert ctypes.CDLL(None).tgkill(pid, other, number) == 0

    def wait(self) -> None:
        """Wait for its end with all its pipes open."""
        self._process.wait(30)

    def end(self, timeout: float = 30) -> Outcome:
        """Wait for its end."""
        text, said = self._process.communicate(timeout=timeout)
        return Outcome(self._process.returncode, text or "", said)

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


def eventually(state: Callable[[], bool]) -> None:
    """Wait for a state that nothing announces."""
    deadline = time.monotonic() + 30
    while not state():
        assert time.monotonic() < deadline, "the state was not reached"
        time.sleep(0.005)
