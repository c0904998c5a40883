"""Running a function over many items on worker threads, with results as they come and never too many at once."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Generic, TypeVar

from sessionpool import _wire
from sessionpool._clock import SLICE

R = TypeVar("R")


class Results(Iterator[R], Generic[R]):
    """The results of one `SessionPool.map`; made there. Confined to the thread that iterates.

    Items are taken from their iterable in the iterating thread, a few ahead of what has been yielded (twice the number
    of workers), so that a million items need no memory and a generator of items needs no lock.

    Args:
        run: Called in a worker thread with an item.
        items: May be endless.
        workers: Threads.
        ordered: Yield in the order of the items instead of as they finish.
        return_exceptions: Yield an exception in place of a result instead of raising it.
    """

    def __init__(
        self,
        run: Callable[[Any], R],
        items: Iterable[Any],
        *,
        workers: int,
        ordered: bool,
        return_exceptions: bool,
        thread_name: str,
    ) -> None:
        self._run = run
        self._items = iter(items)
        self._window = 2 * workers
        self._ordered = ordered
        self._return_exceptions = return_exceptions
        self._executor = ThreadPoolExecutor(workers, thread_name)
        self._process = os.getpid()
        self._outstanding: deque[Future[R]] = deque()  # in order of the items
        self._finished: SimpleQueue[Future[R]] = SimpleQueue()
        self._waiting = 0  # handed to workers and not yielded
        self._exhausted = False

    def __iter__(self) -> Results[R]:
        return self

    def __next__(self) -> R:
        if self._process != os.getpid():
            raise RuntimeError(
                "this map was begun in the process that this one was forked from, and its workers are there; begin "
                "another here"
            )
        try:
            self._hand_out()
            if not self._waiting:
                raise StopIteration
            future = self._outstanding.popleft() if self._ordered else self._first_finished()
            error = outcome(future)
            self._waiting -= 1
            if error is None:
                return future.result()
            if self._return_exceptions and isinstance(error, Exception):
                return error  # type: ignore[return-value]  # what return_exceptions asks for
            if isinstance(error, StopIteration):
                # Raised as it is, it would pass for the end of the results.
                raise RuntimeError("the function raised StopIteration") from error
            raise error
        except BaseException:
            # Also the end, a KeyboardInterrupt while waiting, and a failure of the items themselves.
            self.close()
            raise

    def __del__(self) -> None:
        if hasattr(self, "_executor"):
            self.close()

    def close(self) -> None:
        """Hand out nothing more; items in the hands of workers are finished, their results dropped. Idempotent."""
        self._exhausted = True
        self._waiting = 0
        if self._process != os.getpid():
            return  # its locks may be held for ever
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _first_finished(self) -> Future[R]:
        while True:
            with contextlib.suppress(Empty):
                return self._finished.get(timeout=SLICE)

    def _hand_out(self) -> None:
        while not self._exhausted and self._waiting < self._window:
            try:
                item = next(self._items)
            except StopIteration:
                self._exhausted = True
                return
            try:
                future = self._executor.submit(self._run, item)
            except RuntimeError as error:
                if threading.current_thread().daemon and "shutdown" in str(error):
                    # The program has ended, and so does this thread: without a word, as out of any other wait.
                    raise SystemExit from None
                raise
            self._waiting += 1
            if self._ordered:
                self._outstanding.append(future)
            else:
                future.add_done_callback(self._finished.put)


def outcome(future: Future[Any]) -> BaseException | None:
    """What a future's function raised, `None` if nothing; waits for its end."""
    while True:
        with contextlib.suppress(TimeoutError):
            return future.exception(SLICE)


class Naming:
    """Attaches an item to the exception that leaves the block: as `.item`, and as a note that shows no secret of a URL.

    A class, because `contextlib.contextmanager` sets an attribute of the exception, and some take none.
    """

    def __init__(self, item: Any) -> None:
        self._item = item

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            return
        item = self._item
        shown = f"an item of type {type(item).__name__} (see .item)"
        if isinstance(item, str):
            shown = _wire.redacted(item)
        elif isinstance(item, (int, float)):
            shown = repr(item)
        with contextlib.suppress(AttributeError, TypeError):
            error.item = item  # type: ignore[attr-defined]
            error.add_note(f"while working on {shown:.300}")
