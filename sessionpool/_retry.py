"""May a request be tried again, and when? Alone imports tenacity.

The first attempt is made without this module: it is entered when one has failed. From then on tenacity drives the loop:
it asks our functions, and the user's, whether, how often and after how long. Nothing is held meanwhile: the failed
attempt's connection has gone back before the pause begins.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, cast

import attrs
from tenacity import RetryCallState, Retrying

from sessionpool._clock import NEVER, Deadline, seconds
from sessionpool._config import _number
from sessionpool._governor import spread
from sessionpool._transport import IDEMPOTENT, Transport
from sessionpool._wire import redacted
from sessionpool.exceptions import (
    Cancelled,
    ConnectError,
    ConnectionBroken,
    ConnectTimeout,
    IncompleteRead,
    LeaseStateError,
    MaySent,
    NotSent,
    PoolClosed,
    PoolError,
    ProxyError,
    ReadTimeout,
    RequestException,
    RetryAfterTooLong,
    RetryError,
    Timeout,
)

if TYPE_CHECKING:
    from sessionpool._messages import PreparedRequest, Response

TRANSIENT: Final = (ConnectError, ConnectTimeout, ProxyError, ReadTimeout, ConnectionBroken, IncompleteRead)
# What no policy may try again: the pool's own limits, and what was decided above it.
_FINAL: Final = (PoolError, LeaseStateError, RetryError)
_LARGEST_POWER: Final = 60  # 2.0 ** 1024 overflows; any cap is reached long before
# How urllib3 counts `Retry.connect`, `read`, `status`, `other`.
_KINDS: Final = ("connect", "read", "status", "other")


@attrs.frozen(kw_only=True)
class Attempt:
    """One sending of a request, as it is told afterwards. Immutable.

    Attributes:
        number: 1 for the first.
        status: The response's; `None` if there was none.
        error: The error's class; `None` if there was a response.
        message: The error's sentence.
        seconds: How long it took.
        wait: Seconds until the next one; `None` if there was none.
        verdict: Why there was no next one: "done" (no failure), "final" (not one that is tried again), "method" (may
            not be sent twice), "body" (cannot be), "attempts", "stop", "deadline", "budget", "retry-after" or "closed";
            empty if there was one.
    """

    number: int
    status: int | None
    error: type[BaseException] | None
    message: str
    seconds: float
    wait: float | None = None
    verdict: str = ""

    @property
    def reason(self) -> str:
        """The status, or the name of the error's class."""
        return str(self.status) if self.error is None else self.error.__name__


# Verdicts on what would have been tried again but for this, in words.
_DENIALS: Final = {
    "body": "its body can be read only once, and has been",
    "attempts": "these were all that RetryPolicy.attempts allows",
    "stop": "RetryPolicy.stop ended it",
    "closed": "the pool was closed, or the thread told to stop",
    "deadline": "the pause would outlast the deadline",
    "budget": "the host's budget of retries is spent (RetryPolicy.budget)",
}


def _statuses(value: Any) -> Any:
    return frozenset(value) if isinstance(value, Iterable) and not isinstance(value, (str, bytes)) else value


def _methods(value: Any) -> Any:
    if value is None or isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        return value
    return frozenset(each.upper() if isinstance(each, str) else each for each in value)


def _errors(value: Any) -> Any:
    return (value,) if isinstance(value, type) else tuple(value) if isinstance(value, Iterable) else value


def _function(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None and not callable(value):
        raise ValueError(
            f"RetryPolicy.{attribute.name} must be called with a RetryCallState, as tenacity's objects are, or be None;"
            f" got {value!r}"
        )


@attrs.frozen(kw_only=True)
class RetryPolicy:
    """Which failures are tried again, how often, and after which pause. Immutable.

    Connections that could not be had are tried again for any method, since nothing was sent; what may have been sent
    only for idempotent methods (RFC 9110 §9.2.2), or if the request has an `Idempotency-Key`. Never tried again are the
    pool's own errors, and bodies that cannot be sent twice. When it gives up, the last error is raised, or the last
    response returned, with the history as `.attempts`.

    `Retry-After` wins over the backoff. Nothing is held during a pause, neither connection nor place in a queue.

    Attributes:
        attempts: Sendings in all, over a call with its redirects; `None`: as many as `stop` and the deadline allow.
        backoff: Seconds; the pause after failure *n* is drawn evenly from 0 to `backoff * 2**(n - 1)`.
        cap: Seconds, the longest pause that is drawn.
        statuses: Responses to be tried again.
        errors: Classes of errors to be tried again.
        methods: Methods that may be sent twice; `None`: all.
        retry_after_max: Seconds; a host that asks to wait longer (`Retry-After`) ends in `RetryAfterTooLong` at once.
        budget: Retries to one host, by all threads together, as a share of the requests to it of the last ten seconds,
            and 10 more; beyond that failures are final. `None`: no such bound.
        raise_on_status: Raise `RetryError` instead of returning a response whose status is one of `statuses`.
        stop: A tenacity `stop`, which may end it earlier.
        wait: A tenacity `wait`, instead of the backoff.
        retry: A tenacity `retry`: what it says yes to is tried again as well, whatever method and status. It then sees
            every response, good ones too.
        before_sleep: A tenacity hook, called before each pause.
    """

    attempts: int | None = attrs.field(default=3, validator=_number(1, integer=True))
    backoff: float = attrs.field(default=0.1, validator=_number(0))
    cap: float = attrs.field(default=20.0, validator=_number(0))
    statuses: frozenset[int] = attrs.field(default=frozenset({429, 502, 503, 504}), converter=_statuses)
    errors: tuple[type[BaseException], ...] = attrs.field(default=TRANSIENT, converter=_errors)
    methods: frozenset[str] | None = attrs.field(default=IDEMPOTENT, converter=_methods)
    retry_after_max: float | None = attrs.field(default=60.0, validator=_number(0))
    budget: float | None = attrs.field(default=0.2, validator=_number(0))
    raise_on_status: bool = False
    stop: Callable[[RetryCallState], bool] | None = attrs.field(default=None, validator=_function)
    wait: Callable[[RetryCallState], float] | None = attrs.field(default=None, validator=_function)
    retry: Callable[[RetryCallState], bool] | None = attrs.field(default=None, validator=_function)
    before_sleep: Callable[[RetryCallState], None] | None = attrs.field(default=None, validator=_function)

    @statuses.validator
    def _check_statuses(self, _: attrs.Attribute[Any], value: Any) -> None:
        if not isinstance(value, frozenset) or not all(isinstance(each, int) and 100 <= each <= 599 for each in value):
            raise ValueError(f"RetryPolicy.statuses must be status codes such as {{429, 503}}; got {value!r}")

    @errors.validator
    def _check_errors(self, _: attrs.Attribute[Any], value: Any) -> None:
        is_classes = isinstance(value, tuple) and all(isinstance(each, type) for each in value)
        if not is_classes or not all(issubclass(each, Exception) for each in value):
            raise ValueError(f"RetryPolicy.errors must be exception classes such as (ConnectError,); got {value!r}")

    @methods.validator
    def _check_methods(self, _: attrs.Attribute[Any], value: Any) -> None:
        is_names = isinstance(value, frozenset) and all(isinstance(each, str) for each in value)
        if value is not None and not is_names:
            raise ValueError(f"RetryPolicy.methods must be methods such as {{'GET', 'PUT'}}, or None; got {value!r}")

    @property
    def patience(self) -> float:
        """`retry_after_max`, with no limit as infinity."""
        return math.inf if self.retry_after_max is None else self.retry_after_max

    def pause(self, failures: int) -> float:
        """Seconds to wait after so many failures of a request, at random."""
        # Full jitter: clients that failed together must not return together.
        longest = min(self.cap, self.backoff * 2.0 ** min(failures - 1, _LARGEST_POWER))
        return random.uniform(0.0, longest)  # noqa: S311 - no secret

    def objection(self, prepared: PreparedRequest, outcome: Response | BaseException) -> str:
        """Why this failure may not be tried again, as in `Attempt.verdict`; empty if it may."""
        if isinstance(outcome, BaseException):
            if not isinstance(outcome, self.errors) or isinstance(outcome, _FINAL):
                return "final"
            is_safe = isinstance(outcome, NotSent)
        else:
            if outcome.status_code not in self.statuses:
                return "done"
            is_safe = False
        is_safe_twice = is_safe or self.methods is None or prepared.method in self.methods
        # draft-ietf-httpapi-idempotency-key-header: the server takes two with the same key for one.
        if not is_safe_twice and not prepared.has_field("idempotency-key"):
            return "method"
        # What was not sent has not been read either: the body is opened when there is a connection.
        return "" if prepared.is_replayable or is_safe else "body"


def as_policy(value: Any) -> RetryPolicy | None:
    """A policy from what a user may give: a `RetryPolicy`, urllib3's `Retry`, or `None` for no retries.

    Raises:
        ValueError: It is none of these.
    """
    if value is None or isinstance(value, RetryPolicy):
        return value
    if hasattr(value, "status_forcelist") and hasattr(value, "get_backoff_time"):
        return _translated(value)
    raise ValueError(f"retry must be a sessionpool.RetryPolicy, urllib3's Retry, or None for no retries; got {value!r}")


def _kind(attempt: Attempt) -> str:
    if attempt.error is None:
        return "status"
    return (
        "connect" if issubclass(attempt.error, NotSent) else "read" if issubclass(attempt.error, MaySent) else "other"
    )


def _translated(theirs: Any) -> RetryPolicy:
    """urllib3's `Retry` in our terms, with its rules: no budget, no jitter unless asked for, a status raises."""
    bounds = {kind: getattr(theirs, kind) for kind in _KINDS}
    respects = theirs.total and theirs.respect_retry_after_header
    methods = None if not theirs.allowed_methods else frozenset(each.upper() for each in theirs.allowed_methods)

    def stop(state: RetryCallState) -> bool:
        kinds = [_kind(attempt) for attempt in cast("list[Attempt]", state.args[0])]
        return any(bound is not None and kinds.count(kind) > int(bound) for kind, bound in bounds.items())

    def wait(state: RetryCallState) -> float:
        # None before the first retry.
        if state.attempt_number <= 1:
            return 0.0
        pause = theirs.backoff_factor * 2.0 ** min(state.attempt_number - 1, _LARGEST_POWER)
        return float(min(theirs.backoff_max, pause + random.random() * theirs.backoff_jitter))  # noqa: S311

    def retry(state: RetryCallState) -> bool:
        outcome = _outcome(state)
        if not respects or getattr(outcome, "retry_after", None) is None:
            return False
        return methods is None or outcome.request.method in methods

    return RetryPolicy(
        attempts=None if theirs.total is None else int(theirs.total) + 1,
        statuses=theirs.status_forcelist or (),
        retry=retry,
        methods=methods,
        retry_after_max=theirs.retry_after_max,
        budget=None,
        raise_on_status=theirs.raise_on_status,
        stop=stop,
        wait=wait,
    )


def _outcome(state: RetryCallState) -> Any:
    """The response, or the error."""
    assert state.outcome is not None
    return state.outcome.exception() or state.outcome.result()


def _asked(state: RetryCallState) -> float | None:
    """Seconds that a response asks to wait."""
    return getattr(_outcome(state), "retry_after", None)


class _Interrupted(Exception):
    """The pause before another attempt was cut short."""


class Retries:
    """The attempts of one call, its redirects included, and the loop that makes those after a failure.

    Confined to that call. tenacity's objects, the user's among them, are called with its `RetryCallState`: `outcome`
    has the `Response` or the error, `args[0]` the list of all `Attempt`s so far.
    """

    def __init__(self, policy: RetryPolicy, transport: Transport, deadline: Deadline, began: float) -> None:
        """`began`: the instant at which the call's first failed attempt began."""
        self._policy = policy
        self._transport = transport
        self._clock = transport.clock
        self._deadline = deadline
        self._call_began = self._began = began
        self._attempts: list[Attempt] = []
        self._failures = 0
        self._verdict = ""
        self._last: Response | BaseException | None = None
        self._state: RetryCallState

    def settle(
        self,
        first: Response | RequestException,
        prepared: PreparedRequest,
        host: str,
        began: float,
        again: Callable[[], Response],
    ) -> Response:
        """The response of a request, after as many more attempts as the policy allows.

        Args:
            first: How the first attempt ended.
            prepared: The request.
            host: The route's key.
            began: The instant at which the first attempt began.
            again: Makes one more.

        Raises:
            RequestException: The last attempt's; or `RetryAfterTooLong`, or `RetryError`.
        """
        self._prepared, self._host, self._began = prepared, host, began
        ended = [first]
        del first  # an error that is referred to by a frame of its own traceback would be left to the collector

        def attempt(_: list[Attempt]) -> Response:
            if not ended:
                self._began = self._clock.now()
                return again()
            if isinstance(ended[0], RequestException):
                raise ended.pop()  # type: ignore[misc]  # as was just asked
            return ended.pop()  # type: ignore[return-value]

        loop = Retrying(
            retry=self._is_retried,
            wait=self._pause,
            stop=self._is_over,
            before_sleep=self._policy.before_sleep,
            sleep=self._sleep,
            retry_error_callback=self._give_up,
        )
        try:
            return loop(attempt, self._attempts)
        except _Interrupted:
            return self._end("closed")
        finally:
            self._state.outcome = None
            self._last = None

    # --- asked by tenacity, in this order ---

    def _is_retried(self, state: RetryCallState) -> bool:
        now = self._clock.now()
        self._state = state
        state.start_time, state.outcome_timestamp = self._call_began, now  # on our clock, for `stop_after_delay`
        outcome = _outcome(state)
        self._last = outcome
        is_error = isinstance(outcome, BaseException)
        self._attempts.append(
            Attempt(
                number=len(self._attempts) + 1,
                status=None if is_error else outcome.status_code,
                error=type(outcome) if is_error else None,
                message=str(outcome) if is_error else "",
                seconds=now - self._began,
            )
        )
        verdict = self._policy.objection(self._prepared, outcome)
        is_theirs = not isinstance(outcome, _FINAL) and (not is_error or isinstance(outcome, Exception))
        also = self._policy.retry if is_theirs else None
        if verdict not in ("", "body") and also is not None and also(state):
            verdict = "" if self._prepared.is_replayable or isinstance(outcome, NotSent) else "body"
        if not verdict and isinstance(outcome, Timeout) and outcome.stage:
            verdict = "deadline"
        if verdict:
            self._conclude(outcome, verdict)
            return False
        self._failures += 1
        return True

    def _pause(self, state: RetryCallState) -> float:
        asked = _asked(state)
        if asked:
            # Those who were told the same at the same time must not all come back at the same time; but at least half
            # of what the deadline leaves after it is the attempt's own.
            left = max(self._deadline.at - self._clock.now() - asked, 0.0)
            return asked + random.uniform(0.0, min(spread(asked), left / 2))  # noqa: S311 - no secret
        policy = self._policy
        return policy.pause(self._failures) if policy.wait is None else float(policy.wait(state))

    def _is_over(self, state: RetryCallState) -> bool:
        policy, pause, asked = self._policy, state.upcoming_sleep, _asked(state)
        if self._transport.sleepers.is_closed:
            self._verdict = "closed"
        elif policy.attempts is not None and self._failures >= policy.attempts:
            self._verdict = "attempts"
        elif policy.stop is not None and policy.stop(state):
            self._verdict = "stop"
        elif asked is not None and asked > policy.patience:
            raise self._too_long(asked, f"RetryPolicy.retry_after_max={policy.retry_after_max:g} s allows")
        elif (now := self._clock.now()) + pause >= self._deadline.at:
            if asked:
                left = max(self._deadline.at - now, 0.0)
                error = self._too_long(asked, f"the {seconds(left)} that the deadline leaves ({self._deadline.limit})")
                self._deadline.enter("backoff", now)
                raise self._deadline.blame(error, now)
            self._verdict = "deadline"
        elif not self._transport.hosts.may_retry(self._host, policy.budget):
            self._verdict = "budget"
        else:
            return False
        return True

    def _sleep(self, seconds: float) -> None:
        last = self._attempts[-1]
        self._attempts[-1] = attrs.evolve(last, wait=seconds)
        if not isinstance(self._last, BaseException) and self._last is not None:
            self._last.finish()
        self._transport.watch.tell("retrying", self._prepared.method, self._host, last.number, last.reason, seconds)
        now = self._clock.now()
        if self._deadline is not NEVER:
            self._deadline.enter("backoff", now)
        try:
            self._transport.sleepers.sleep(now + seconds)
        except (PoolClosed, Cancelled) as error:
            raise _Interrupted from error

    def _give_up(self, _: RetryCallState) -> Response:
        return self._end(self._verdict)

    # --- the end ---

    def _end(self, verdict: str) -> Response:
        """What was last is what it ends with."""
        outcome = self._last
        assert outcome is not None
        self._conclude(outcome, verdict)
        if isinstance(outcome, BaseException):
            try:
                raise outcome
            finally:
                del outcome  # which refers to this frame
        if self._policy.raise_on_status:
            tried = "once" if len(self._attempts) == 1 else f"{len(self._attempts)} times"
            error = RetryError(
                f"{self._what} was answered with {outcome.status_code}, after being sent {tried}; {_DENIALS[verdict]}",
                request=self._prepared,
                response=outcome,
            )
            error.attempts = tuple(self._attempts)
            raise error
        return outcome

    @property
    def _what(self) -> str:
        return f"{self._prepared.method} {redacted(self._prepared.url)}"

    def _conclude(self, outcome: Response | BaseException, verdict: str) -> None:
        self._attempts[-1] = attrs.evolve(self._attempts[-1], verdict=verdict)
        if not isinstance(outcome, BaseException) or isinstance(outcome, RequestException):
            outcome.attempts = tuple(self._attempts)
        if verdict in _DENIALS:
            self._transport.watch.tell("denied", self._host, verdict)
            if isinstance(outcome, BaseException):
                outcome.add_note(f"not tried again after attempt {len(self._attempts)}: {_DENIALS[verdict]}")

    def _too_long(self, asked: float, limit: str) -> RetryAfterTooLong:
        response = self._last
        assert response is not None
        assert not isinstance(response, BaseException)  # only a response asks
        response.finish()
        error = RetryAfterTooLong(
            f"{self._host} asks to wait {seconds(asked)} before {self._what} is sent again "
            f"({response.status_code}, Retry-After), longer than {limit}",
            seconds=asked,
            request=self._prepared,
            response=response,
        )
        self._attempts[-1] = attrs.evolve(self._attempts[-1], verdict="retry-after")
        error.attempts = tuple(self._attempts)
        self._transport.watch.tell("denied", self._host, "retry-after")
        return error
