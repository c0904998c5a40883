"""Other processes for tests: forked children of this one, and scripts run by an interpreter of their own."""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, NoReturn, TypeVar

from tests.helpers import PATIENCE

R = TypeVar("R")

ROOT = Path(__file__).parent.parent.parent


class Child(Generic[R]):
    """A call in a forked process, which ends with it at once, without cleaning up; made by `forked`.

    Attributes:
        pid: The process.
    """

    def __init__(self, call: Callable[[], R]) -> None:
        self._answer, tell = multiprocessing.Pipe(duplex=False)
        with warnings.catch_warnings():
            # From Python 3.12 on: that there are threads, which is what these tests are about.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            _run(call, tell)
        tell.close()
        self._is_ended = False

    def get(self) -> R:
        """Wait for the call to end; what it returned, or raise what it raised. One that hangs fails the test."""
        if not self._answer.poll(PATIENCE):
            os.kill(self.pid, signal.SIGUSR1)  # it shows where its threads are
            self._answer.poll(1.0)
            self.end()
            raise AssertionError(f"the child has no answer after {PATIENCE:g} s")
        try:
            result, error = self._answer.recv()
        except EOFError:
            raise AssertionError("the child ended without an answer") from None
        finally:
            self.end()
        if error is not None:
            raise error
        return result  # type: ignore[no-any-return]

    def end(self) -> None:
        """End the process if it has not ended; idempotent."""
        self._answer.close()
        if not self._is_ended:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self._is_ended = True


def _run(call: Callable[[], object], tell: multiprocessing.connection.Connection) -> NoReturn:
    try:
        faulthandler.register(signal.SIGUSR1, file=2)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # pytest's, for the time a test may take
        signal.alarm(int(2 * PATIENCE))  # it ends even if nobody is left to end it
        answer: tuple[object, BaseException | None]
        try:
            answer = (call(), None)
        except BaseException as error:  # noqa: BLE001 - handed to whoever asks
            error.add_note("".join(traceback.format_exception(error)))
            answer = (None, error)
        try:
            tell.send(answer)
        except Exception:  # noqa: BLE001 - it does not pickle
            tell.send((None, AssertionError(f"the child got {answer!r}")))
    finally:
        os._exit(0)


@contextlib.contextmanager
def forked(call: Callable[..., R], *args: object, **kwargs: object) -> Iterator[Child[R]]:
    """A fork of this process that calls `call(*args, **kwargs)` and ends; at the end of the block it has."""
    child = Child(lambda: call(*args, **kwargs))
    try:
        yield child
    except BaseException as error:
        with contextlib.suppress(OSError, EOFError):  # the test has failed already, and perhaps because of this process
            if child._answer.poll(0.1):
                error.add_note(f"the child got {child._answer.recv()}")
        raise
    finally:
        child.end()


def in_fork(call: Callable[..., R], *args: object, **kwargs: object) -> R:
    """What `call(*args, **kwargs)` returns in a fork of this process."""
    with forked(call, *args, **kwargs) as child:
        return child.get()


class Signpost:
    """Something that one process waits for and another, its parent or child, lets happen. Make it before the fork."""

    def __init__(self) -> None:
        self._reader, self._writer = multiprocessing.Pipe(duplex=False)

    def set(self) -> None:
        """Let it happen."""
        self._writer.send_bytes(b"!")

    def wait(self) -> None:
        """Wait for it."""
        assert self._reader.poll(PATIENCE), f"not within {PATIENCE:g} s"


def sockets() -> set[int]:
    """The sockets that this process has descriptors of, by a number that forks share."""
    found = set()
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - numbers, not paths
        with contextlib.suppress(OSError):
            kind, _, inode = os.readlink(f"/proc/self/fd/{name}").partition(":")  # noqa: PTH115
            if kind == "socket":
                found.add(int(inode.strip("[]")))
    return found


class Ended:
    """A script that has ended.

    Attributes:
        code: Its exit code.
        out: What it printed.
        err: What else it had to say.
    """

    def __init__(self, process: subprocess.CompletedProcess[str]) -> None:
        self.code = process.returncode
        self.out = process.stdout
        self.err = process.stderr

    def __repr__(self) -> str:
        return f"<exit code {self.code}, out {self.out!r}, err:\n{self.err}>"


# That forks and threads do not go well together is what some scripts are about.
QUIET = ("-X", "dev", "-W", "error", "-W", "ignore:This process:DeprecationWarning")


def script(beginning: str, code: str, *words: str, within: float = PATIENCE) -> Ended:
    """Run a script by an interpreter of its own, in development mode, with every warning an error.

    Args:
        beginning: What the script begins with.
        code: The rest of it. Either may be indented as you like.
        words: Its `sys.argv[1:]`.
        within: Seconds after which it is taken to hang, which fails the test.
    """
    running = subprocess.Popen(
        [sys.executable, *QUIET, "-c", textwrap.dedent(beginning) + textwrap.dedent(code), *words],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with running:
        try:
            out, err = running.communicate(timeout=within)
        except subprocess.TimeoutExpired:
            running.send_signal(signal.SIGABRT)  # development mode has faulthandler show where the threads are
            out, err = running.communicate()
            raise AssertionError(f"it hangs; it printed {out!r} and\n{err}") from None
    return Ended(subprocess.CompletedProcess(running.args, running.returncode, out, err))
