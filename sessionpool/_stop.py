"""Threads that are told to stop: what they ask for, and what they wait for, fails at once.

It takes no lock, so that a finalizer can do it too. Who stops a thread notes that in `Stopped` first, and then looks
wherever a thread may be blocked (asleep, in a queue, dialling, on a connection) and wakes it there. Who is about to
block makes itself visible there first, and then looks into `Stopped`. So one of the two sees the other, whatever the
order, and nobody has to look twice.
"""

from __future__ import annotations

from threading import get_ident


class Shift:
    """One thread's work on one item, which can be stopped. Begun and ended by that thread.

    Idents of threads are used again. So a thread is not stopped by its ident alone, but in its shift: that is over
    before the thread ends, and what was leased before it began is not of it.

    Attributes:
        thread: The thread's ident.
        began: The instant it began.
        reason: Why it is to stop; empty until it is told to.
        is_over: It has ended.
    """

    __slots__ = ("__weakref__", "began", "is_over", "reason", "thread")

    def __init__(self, began: float) -> None:
        self.thread = get_ident()
        self.began = began
        self.reason = ""
        self.is_over = False


class Stopped(dict[Shift, None]):
    """The shifts that have been told to stop and are not over: nearly always none. Thread-safe.

    A dictionary, because each request asks whether it is empty, which costs least so; and its single operations are
    atomic, with and without a GIL.
    """

    def stop(self, shift: Shift, reason: str) -> None:
        """From now on the shift's thread is to stop; whoever calls this then wakes it wherever it may be blocked."""
        shift.reason = reason
        self[shift] = None
        if shift.is_over:  # meanwhile, and `end` may have come before
            self.pop(shift, None)

    def end(self, shift: Shift) -> None:
        """The shift is over: its thread may do as it likes."""
        shift.is_over = True  # before looking; see `stop`
        self.pop(shift, None)

    def shift_of(self, thread: int) -> Shift | None:
        """The shift in which the thread with that ident is to stop; `None` if it may go on."""
        for shift in self.copy():
            if shift.thread == thread and not shift.is_over:
                return shift
        return None
