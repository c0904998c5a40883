"""A real Chromium without a window, driven by its DevTools protocol over two pipes: no port, and no library."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.helpers import PATIENCE, in_thread

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

_FLAGS = (
    "--headless",
    "--no-sandbox",  # which root cannot have; it sees no page but ours
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)


class Browser:
    """One page in a browser. Confined to one thread.

    Attributes:
        console: What the page wrote to the console, and what the browser had to complain about.
        dialogs: Texts of alerts and the like that the page opened.
    """

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM is not None
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        null = os.open(os.devnull, os.O_RDWR)
        # They must be 3 and 4 there; by way of high numbers, for one of ours may be 3 or 4 itself.
        high = max(theirs_in, theirs_out, null, 10)
        moves = [
            *((os.POSIX_SPAWN_DUP2, null, each) for each in (0, 1, 2)),
            (os.POSIX_SPAWN_DUP2, theirs_in, high + 1),
            (os.POSIX_SPAWN_DUP2, theirs_out, high + 2),
            (os.POSIX_SPAWN_DUP2, high + 1, 3),
            (os.POSIX_SPAWN_DUP2, high + 2, 4),
            (os.POSIX_SPAWN_CLOSE, high + 1),
            (os.POSIX_SPAWN_CLOSE, high + 2),
        ]
        command = [CHROMIUM, *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
        # A session of its own: it has many processes, and all are to end with it.
        home = {**os.environ, "HOME": str(profile)}
        self._pid = os.posix_spawn(CHROMIUM, command, home, file_actions=moves, setsid=True)
        for each in (theirs_in, theirs_out, null):
            os.close(each)
        self._numbers = itertools.count(1)
        self._rest = b""
        self._session: str | None = None
        self._is_loaded = False
        self.console: list[str] = []
        self.dialogs: list[str] = []
        page = next(each for each in self.call("Target.getTargets")["targetInfos"] if each["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        """End all of its processes."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._in)
        os.close(self._out)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol; what it returned. What happened meanwhile is noted."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + PATIENCE
        while True:
            assert time.monotonic() < deadline, f"{method}: no answer within {PATIENCE:g} s"
            answer = self._read()
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result
            self._note(answer)

    def open(self, url: str) -> None:
        """Go to a page and wait until it is loaded."""
        self._is_loaded = False
        failure = self.call("Page.navigate", url=url).get("errorText")
        assert failure is None, f"{url}: {failure}"
        while not self._is_loaded:
            self._note(self._read())

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def text(self) -> str:
        """What a reader of the page sees."""
        return str(self.run("document.body.innerText"))

    def look(self, *, width: int = 1280, height: int = 800, dark: bool = False, scale: float = 1) -> None:
        """What screen and taste its user has."""
        screen = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **screen)
        taste = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[taste])

    def picture(self, *, full: bool = False) -> bytes:
        """The page as a PNG; `full`: all of it, however long."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png", captureBeyondViewport=full)["data"])

    def _note(self, message: dict[str, Any]) -> None:
        kind, params = message.get("method"), message.get("params", {})
        if kind == "Page.loadEventFired":
            self._is_loaded = True
        elif kind == "Log.entryAdded":
            self.console.append(params["entry"]["text"])
        elif kind == "Runtime.consoleAPICalled":
            self.console.append(" ".join(str(each.get("value")) for each in params["args"]))
        elif kind == "Runtime.exceptionThrown":
            self.console.append(str(params["exceptionDetails"]))
        elif kind == "Page.javascriptDialogOpening":
            self.dialogs.append(params["message"])
            number = next(self._numbers)
            answer = {"id": number, "method": "Page.handleJavaScriptDialog", "params": {"accept": True}}
            os.write(self._out, json.dumps({**answer, "sessionId": self._session}).encode() + b"\0")

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            with in_thread(os.read, self._in, 1 << 20) as read:  # so that a browser that hangs fails the test
                pass
            got = read.get()
            assert got, "the browser has gone"
            self._rest += got
        line, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message


@contextlib.contextmanager
def browsing(profile: Path) -> Iterator[Browser]:
    """A browser that is gone afterwards."""
    browser = Browser(profile)
    try:
        yield browser
    finally:
        browser.close()
