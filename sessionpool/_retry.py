"""May a request be tried again, and when? Alone imports tenacity."""

from __future__ import annotations

import attrs


@attrs.frozen
class Attempt:
    """One sending of a request, as it is told afterwards.

    Attributes:
        number: 1 for the first.
        outcome: The response's status, or the error's class and sentence.
        seconds: How long it took.
        wait: Seconds waited before the next one; `None` if there was none.
        verdict: Why there was no next one; empty if there was.
    """

    number: int
    outcome: int | str
    seconds: float
    wait: float | None = None
    verdict: str = ""
