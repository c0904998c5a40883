"""When a session is worn out: the rules, and what each session has been through.

A retired session serves its lease to the end. The next lease finds it retired and begins another in its place, or says
that there is none. Everything here is pure: `now` is a number, and who is told of it is the session's business.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Literal

import attrs

from sessionpool._config import _number
from sessionpool.exceptions import (
    ChunkedEncodingError,
    ConnectionError,
    PoolError,
    RequestException,
    RetryError,
    ThrottleTimeout,
    Timeout,
)

_HEALING: Final = 0.5  # what `mark_good` takes off the score: it takes two good ones to make up for a bad one


def _as_tuple(value: Any) -> Any:
    """Any iterable as a tuple; anything else is left to the validator."""
    return tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else value


@attrs.frozen(kw_only=True)
class Health:
    """When a session is worn out and retired: its lease goes on to its end, and the next one gets another session.

    Attributes:
        blocked: Statuses that retire a session at once. Not 429: it asks the client to slow down, whoever it is.
        max_score: The score that retires it: `Session.mark_bad` adds 1, `Session.mark_good` takes 0.5 off, down to 0.
        max_age: Seconds since it began, looked at when it is leased; `None` for no limit.
        max_uses: Requests, redirects and retries included; `None` for no limit.
        max_errors: Requests that failed on the way, in all: the connection, its time-outs, a body cut short. Not those
            answered with 5xx: the server's troubles are the same for everybody. `None` for no limit.
        on_retire: What the next `lease(key)` gets: "replace", a blank session; "refuse", `IdentityRetiredError` until
            `SessionPool.forget` is called. A thread's own session is replaced either way.
    """

    blocked: tuple[int, ...] = attrs.field(default=(401, 403), converter=_as_tuple)
    max_score: float = attrs.field(default=3.0, validator=_number(0, exclusive=True))
    max_age: float | None = attrs.field(default=None, validator=_number(0, exclusive=True))
    max_uses: int | None = attrs.field(default=None, validator=_number(1, integer=True))
    max_errors: int | None = attrs.field(default=None, validator=_number(1, integer=True))
    on_retire: Literal["replace", "refuse"] = attrs.field(default="replace")

    @blocked.validator
    def _check_blocked(self, _: attrs.Attribute[Any], value: object) -> None:
        if not isinstance(value, tuple) or not all(type(each) is int and 100 <= each <= 599 for each in value):
            raise ValueError(f"Health.blocked must be statuses such as (401, 403); got {value!r}")
        if 429 in value:
            raise ValueError("Health.blocked must not hold 429: it slows the host down, and does not burn the session")

    @on_retire.validator
    def _check_on_retire(self, _: attrs.Attribute[Any], value: object) -> None:
        if value not in ("replace", "refuse"):
            raise ValueError(f"Health.on_retire must be 'replace' or 'refuse'; got {value!r}")


# For sessions that nobody gave a `Health`: what is marked by hand counts, what is answered does not.
BY_HAND: Final = Health(blocked=())


@attrs.define(eq=False)
class Record:
    """What one session has been through. Confined to whoever may use the session.

    The methods that may retire it say whether they did just now, so that it is told once.

    Attributes:
        settings: The rules.
        began: The instant the session was made.
        score: See `Health.max_score`.
        uses: Requests so far.
        errors: Those of them that failed on the way.
        retired: Why it was retired; `None` while it is fit. One of few texts, unless a user said why.
        ended: The instant it was retired.
        is_blocked: It was retired for how it was answered, by status, by score or by hand, not for its age or use.
    """

    settings: Health
    began: float
    score: float = 0.0
    uses: int = 0
    errors: int = 0
    retired: str | None = None
    ended: float = 0.0
    is_blocked: bool = False

    def mark_good(self) -> None:
        """Something went well."""
        self.score = max(0.0, self.score - _HEALING)

    def mark_bad(self, now: float) -> bool:
        """Something went badly."""
        self.score += 1
        limit = self.settings.max_score
        return self.score >= limit and self.retire(f"max_score={limit:g}", now, is_blocked=True)

    def note(self, outcome: int | BaseException, now: float) -> bool:
        """A request has ended: with this status, or with this error."""
        settings = self.settings
        self.uses += 1
        if isinstance(outcome, int):
            if outcome in settings.blocked:
                return self.retire(f"status {outcome}", now, is_blocked=True)
        elif _is_failure(outcome):
            self.errors += 1
            if settings.max_errors is not None and self.errors >= settings.max_errors:
                return self.retire(f"max_errors={settings.max_errors}", now)
        if settings.max_uses is not None and self.uses >= settings.max_uses:
            return self.retire(f"max_uses={settings.max_uses}", now)
        return False

    def note_age(self, now: float) -> bool:
        """It is about to be leased."""
        limit = self.settings.max_age
        return limit is not None and now - self.began >= limit and self.retire(f"max_age={limit:g} s", now)

    def retire(self, reason: str, now: float, *, is_blocked: bool = False) -> bool:
        """Its lease is the last one, for this reason; the first reason stays."""
        if self.retired is not None:
            return False
        self.ended, self.is_blocked = now, is_blocked
        self.retired = reason  # last: whoever is interrupted before has retired nothing
        return True


def _is_failure(error: BaseException) -> bool:
    """Whether an error is one of the way to the server and back, not of the pool or its governor."""
    if isinstance(error, (PoolError, RetryError, ThrottleTimeout)):
        return False
    return isinstance(error, RequestException) and isinstance(error, (ConnectionError, Timeout, ChunkedEncodingError))
