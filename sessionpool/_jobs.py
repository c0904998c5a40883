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
from sessionpool._clock import SLICE, Clock
from sessionpool._stop import Shift, Stopped
from sessionpool.exceptions import Cancelled, PoolClosed

R = TypeVar("R")


class Crew:
    """Those who work on the items of one map, so that they can be stopped. Thread-safe, without a lock.

    Args:
        clock: For the instants at which they begin.
        stopped: Where to note who is to stop.
        rouse: Wakes those noted there, wherever they are blocked.
        reason: Why, for errors.
    """

    def __init__(self, clock: Clock, stopped: Stopped, rouse: Callable[[], None], reason: str) -> None:
        self._clock = clock
        self._stopped = stopped
        self._rouse = rouse
        self._reason = reason
        self._is_stopped = False
        # Single dict operations are atomic, with and without a GIL.
        self._shifts: dict[Shift, None] = {}

    def shift(self) -> Shift:
        """One for the item that this thread is about to begin."""
        return Shift(self._clock.now())

    def begin(self, shift: Shift) -> None:
        """This thread begins an item; whether or not this raises, it has to `end` that.

        Raises:
            Cancelled: `stop` came first.
        """
        self._shifts[shift] = None
        if self._is_stopped:  # after becoming visible; see `_stop`
            raise Cancelled(f"{self._reason} before the item was begun")

    def end(self, shift: Shift) -> None:
        """This thread has ended its item, somehow."""
        self._stopped.end(shift)
        self._shifts.pop(shift, None)

    def stop(self) -> None:
        """Make them fail in whatever they do; takes no lock, so that a finalizer may call it. Idempotent."""
        self._is_stopped = True
        for shift in list(self._shifts):
            self._stopped.stop(shift, self._reason)
        self._rouse()

    def check(self) -> None:
        """Raise `Cancelled` if the calling thread is to stop, as a worker of another map."""
        shift = self._stopped.shift_of(threading.get_ident())
        if shift is not None:
            raise Cancelled(f"{shift.reason} in the wait for results of another")


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
        cancel: Stop the workers when it ends before its end.
        crew: The workers.
        is_closed: Whether the pool is, so that nothing new is to be begun.
        name: The pool's.
    """

    def __init__(
        self,
        run: Callable[[Any], R],
        items: Iterable[Any],
        *,
        workers: int,
        ordered: bool,
        return_exceptions: bool,
        cancel: bool,
        crew: Crew,
        is_closed: Callable[[], bool],
        name: str,
    ) -> None:
        self._run = run
        self._cancel = cancel
        self._crew = crew
        self._is_closed = is_closed
        self._name = name
        self._items = iter(items)
        self._window = 2 * workers
        self._ordered = ordered
        self._return_exceptions = return_exceptions
        self._executor = ThreadPoolExecutor(workers, f"sessionpool-{name}-map")
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
            future = self._next_finished()
            error = future.exception()
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
        """Hand out nothing more; idempotent.

        With `cancel` the workers are stopped, and this does not wait until they have; without, the items in their hands
        are finished. Their results are dropped.
        """
        self._exhausted = True
        self._waiting = 0
        if self._process != os.getpid():
            return  # its locks may be held for ever
        if self._cancel:
            self._crew.stop()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _next_finished(self) -> Future[R]:
        while True:
            self._crew.check()
            with contextlib.suppress(Empty, TimeoutError):
                if not self._ordered:
                    return self._finished.get(timeout=SLICE)
                self._outstanding[0].exception(SLICE)
                return self._outstanding.popleft()

    def _hand_out(self) -> None:
        while not self._exhausted and self._waiting < self._window:
            is_closed = self._is_closed()
            if is_closed and self._waiting:
                return  # what has been begun comes to its end, and to the consumer
            try:
                item = next(self._items)
            except StopIteration:
                self._exhausted = True
                return
            if is_closed:
                with Naming(item):
                    raise PoolClosed(f"pool {self._name!r} is closed; the item was not begun")
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
