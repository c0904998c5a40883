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
from sessionpool._config import _is_bool, _number
from sessionpool._governor import spread
from sessionpool._transport import IDEMPOTENT, Transport
from sessionpool._wire import redacted
from sessionpool.exceptions import (
    Cancelled,
    ChunkedEncodingError,
    ConnectError,
    ConnectionBroken,
    ConnectTimeout,
    IncompleteRead,
    InvalidResponse,
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
        number: 1 for the first of those that were looked at: of the first that failed.
        status: The response's; `None` if there was none.
        error: The error's class; `None` if there was a response.
        message: The error's sentence.
        seconds: How long it took.
        wait: Seconds until the next one; `None` if there was none.
        verdict: Why there was no next one: "done" (no failure), "final" (not one that is tried again), "method" (may
            not be sent twice), "body" (cannot be), "attempts", "stop", "deadline", "budget", "retry-after", "closed" or
            "not sent" (the next one was not, though the server had seen this one); empty if there was one.
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
    "not sent": "the next one could not be sent",
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
    if value is not None and (not callable(value) or isinstance(value, type)):  # tenacity's classes are called first
        raise ValueError(
            f"RetryPolicy.{attribute.name} must be an object that is called with a RetryCallState, such as tenacity's, "
            f"or None; got {value!r}"
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
        attempts: How many failures end it, over a call with its redirects; `None`: as `stop` and the deadline say. 3,
            or `None` if there is a `stop`.
        backoff: Seconds; the pause after failure *n* is drawn evenly from 0 to `backoff * 2**(n - 1)`.
        cap: Seconds, the longest pause that is drawn.
        statuses: Responses to be tried again.
        errors: Classes of errors to be tried again.
        methods: Methods that may be sent twice; `None`: all.
        retry_after_max: Seconds; a host that asks to wait longer (`Retry-After`) ends in `RetryAfterTooLong` at once.
        budget: Retries to one host, by all threads together, as a share of the requests to it of the last ten seconds,
            and 10 more; beyond that failures are final. `None`: no such bound.
        raise_on_status: Raise `RetryError` instead of returning the response that it gave up on.
        stop: A tenacity `stop`, which ends it.
        wait: A tenacity `wait`, instead of the backoff.
        retry: A tenacity `retry`: what it says yes to is tried again as well, if `methods` and the body allow. It then
            sees every response, good ones too.
        before_sleep: A tenacity hook, called before each pause.
    """

    stop: Callable[[RetryCallState], bool] | None = attrs.field(default=None, validator=_function)
    attempts: int | None = attrs.field(validator=_number(1, integer=True))
    backoff: float = attrs.field(default=0.1, validator=_number(0))
    cap: float = attrs.field(default=20.0, validator=_number(0))
    statuses: frozenset[int] = attrs.field(default=frozenset({429, 502, 503, 504}), converter=_statuses)
    errors: tuple[type[BaseException], ...] = attrs.field(default=TRANSIENT, converter=_errors)
    methods: frozenset[str] | None = attrs.field(default=IDEMPOTENT, converter=_methods)
    retry_after_max: float | None = attrs.field(default=60.0, validator=_number(0))
    budget: float | None = attrs.field(default=0.2, validator=_number(0))
    raise_on_status: bool = attrs.field(default=False, validator=_is_bool)
    wait: Callable[[RetryCallState], float] | None = attrs.field(default=None, validator=_function)
    retry: Callable[[RetryCallState], bool] | None = attrs.field(default=None, validator=_function)
    before_sleep: Callable[[RetryCallState], None] | None = attrs.field(default=None, validator=_function)

    @attempts.default
    def _three_unless_stopped(self) -> int | None:
        return 3 if self.stop is None else None

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

    def wants(self, outcome: Response | BaseException) -> bool:
        """Whether this is a failure that is tried again, if method and body allow."""
        if isinstance(outcome, BaseException):
            return isinstance(outcome, self.errors) and not isinstance(outcome, _FINAL)
        return outcome.status_code in self.statuses

    def objection(self, prepared: PreparedRequest, outcome: Response | BaseException) -> str:
        """Why this request may not be sent again after such a failure, as in `Attempt.verdict`; empty if it may."""
        if isinstance(outcome, NotSent):
            return ""  # what was not sent has not been read either: the body is opened when there is a connection
        is_safe = self.methods is None or prepared.method in self.methods
        # draft-ietf-httpapi-idempotency-key-header: the server takes two with the same key for one.
        if not is_safe and not prepared.has_field("idempotency-key"):
            return "method"
        return "" if prepared.is_replayable else "body"


def as_policy(value: Any) -> RetryPolicy | None:
    """A policy from what a user may give: a `RetryPolicy`, urllib3's `Retry`, or `None` for no retries.

    Raises:
        ValueError: It is none of these.
    """
    if value is None or isinstance(value, RetryPolicy):
        return value
    if type(value).__module__.partition(".")[0] == "urllib3" and hasattr(value, "status_forcelist"):
        return _translated(value)
    raise ValueError(
        "retry must be a sessionpool.RetryPolicy, urllib3's Retry (no subclass, whose methods would not be called), or "
        f"None for no retries; got {value!r}"
    )


def counted(retries: int) -> RetryPolicy:
    """What requests makes of `max_retries=3`."""
    return _translated(_Counted(total=retries, read=None if retries else False))


@attrs.frozen(kw_only=True)
class _Counted:
    """urllib3's `Retry` as it is made from a number."""

    total: int
    read: bool | None
    connect: None = None
    status: None = None
    other: None = None
    status_forcelist: tuple[int, ...] = ()
    allowed_methods: frozenset[str] = IDEMPOTENT
    backoff_factor: float = 0.0
    backoff_max: float = 120.0
    backoff_jitter: float = 0.0
    retry_after_max: float = 21_600.0
    respect_retry_after_header: bool = True
    raise_on_status: bool = True


def _translated(theirs: Any) -> RetryPolicy:
    """urllib3's `Retry` in our terms, with its rules: no budget, no jitter unless asked for, a status raises.

    Ours remain: a `Retry-After` that is too long ends it, instead of being cut short; and one that came is heeded.
    """
    return RetryPolicy(
        attempts=None if theirs.total is None else int(theirs.total) + 1,
        statuses=theirs.status_forcelist or (),
        errors=(*TRANSIENT, ChunkedEncodingError, InvalidResponse),
        methods=theirs.allowed_methods or None,
        retry_after_max=theirs.retry_after_max,
        budget=None,
        raise_on_status=theirs.raise_on_status,
        stop=_TheirStop(tuple((kind, getattr(theirs, kind)) for kind in _KINDS)),
        wait=_TheirWait(theirs.backoff_factor, theirs.backoff_max, theirs.backoff_jitter),
        retry=_asks_to_wait if theirs.total and theirs.respect_retry_after_header else None,
    )


@attrs.frozen
class _TheirStop:
    """How often each kind of failure may happen."""

    bounds: tuple[tuple[str, int | None], ...]

    def __call__(self, state: RetryCallState) -> bool:
        kinds = [_kind(attempt) for attempt in cast("list[Attempt]", state.args[0])]
        return any(bound is not None and kinds.count(kind) > int(bound) for kind, bound in self.bounds)


@attrs.frozen
class _TheirWait:
    """The factor, doubled each time, from the second retry on."""

    factor: float
    most: float
    jitter: float

    def __call__(self, state: RetryCallState) -> float:
        if state.attempt_number <= 1:
            return 0.0
        pause = self.factor * 2.0 ** min(state.attempt_number - 1, _LARGEST_POWER)
        return min(self.most, pause + random.random() * self.jitter)  # noqa: S311 - no secret


def _kind(attempt: Attempt) -> str:
    if attempt.error is None:
        return "status"
    if issubclass(attempt.error, NotSent):
        return "connect"
    return "read" if issubclass(attempt.error, MaySent) else "other"


def _asks_to_wait(state: RetryCallState) -> bool:
    """It came with a `Retry-After`."""
    return _asked(state) is not None


def _outcome(state: RetryCallState) -> Any:
    """The response, or the error."""
    assert state.outcome is not None
    return state.outcome.exception() or state.outcome.result()


def _asked(state: RetryCallState) -> float | None:
    """Seconds that a response asks to wait."""
    outcome = _outcome(state)
    return None if isinstance(outcome, BaseException) else outcome.retry_after


class _Interrupted(Exception):
    """The pause before another attempt was cut short."""


class _TooLate(Exception):
    """There is no time for the pause any more."""


class _NotSentAgain(Exception):
    """A later attempt ended for good without being sent, and the server may have seen an earlier one."""


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
        self._seen: Response | BaseException | None = None
        self._state: RetryCallState | None = None

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """All so far."""
        return tuple(self._attempts)

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

        attempt.__qualname__ = self._what  # for tenacity's `before_sleep_log`
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
        except _TooLate:
            return self._end("deadline")
        except _NotSentAgain:
            return self._end("not sent")
        finally:
            if self._state is not None:  # interrupted before
                self._state.outcome = None
            self._last = self._seen = None

    # --- asked by tenacity, in this order ---

    def _is_retried(self, state: RetryCallState) -> bool:
        now = self._clock.now()
        self._state = state
        state.start_time, state.outcome_timestamp = self._call_began, now  # on our clock, for `stop_after_delay`
        state.attempt_number = self._failures + 1  # also after a redirect
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
        verdict = self._judge(state, outcome)
        if isinstance(outcome, NotSent):
            if verdict and self._seen is not None:
                raise _NotSentAgain
        else:
            self._seen = outcome
        if verdict:
            self._conclude(outcome, verdict)
            return False
        self._failures += 1
        return True

    def _judge(self, state: RetryCallState, outcome: Response | BaseException) -> str:
        """Why this is not tried again; empty if it may be."""
        policy = self._policy
        is_error = isinstance(outcome, BaseException)
        if not policy.wants(outcome):
            if is_error and (isinstance(outcome, _FINAL) or not isinstance(outcome, Exception)):
                return "final"
            if policy.retry is None or not policy.retry(state):
                return "final" if is_error else "done"
        if isinstance(outcome, Timeout) and outcome.stage:
            return "deadline"
        return policy.objection(self._prepared, outcome)

    def _pause(self, state: RetryCallState) -> float:
        asked = _asked(state)
        if asked:
            # Those who were told the same at the same time must not all come back at the same time; but at least half
            # of what the deadline leaves after it is the attempt's own.
            left = max(self._deadline.at - self._clock.now() - asked, 0.0)
            return asked + random.uniform(0.0, min(spread(asked), left / 2))  # noqa: S311 - no secret
        policy = self._policy
        if policy.wait is None:
            return policy.pause(self._failures)
        pause = policy.wait(state)
        if not isinstance(pause, (int, float)) or not pause >= 0:
            raise ValueError(f"RetryPolicy.wait must return seconds, a number of at least 0; it returned {pause!r}")
        return pause

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
            if now + seconds >= self._deadline.at:  # the hook, or the body, took what was left
                raise _TooLate
            self._deadline.enter("backoff", now)
        try:
            self._transport.sleepers.sleep(now + seconds)
        except (PoolClosed, Cancelled) as error:
            raise _Interrupted from error

    def _give_up(self, _: RetryCallState) -> Response:
        return self._end(self._verdict)

    # --- the end ---

    def _end(self, verdict: str) -> Response:
        """What was last is what it ends with, or the last before that which the server may have seen."""
        outcome = self._last
        why = _DENIALS[verdict]
        if isinstance(outcome, NotSent) and self._seen is not None:
            # Whoever catches `NotSent` sends it once more, and that may be once too often.
            outcome = self._seen
            why += f" ({self._attempts[-1].reason}: {self._attempts[-1].message})"
        assert outcome is not None
        self._conclude(outcome, verdict, why)
        if isinstance(outcome, BaseException):
            try:
                raise outcome
            finally:
                del outcome  # which refers to this frame
        if self._policy.raise_on_status or verdict == "closed":
            error = RetryError(
                f"{self._what} was answered with {outcome.status_code} and is not sent again: {why}",
                request=self._prepared,
                response=outcome,
            )
            error.attempts = tuple(self._attempts)
            raise error
        return outcome

    @property
    def _what(self) -> str:
        return f"{self._prepared.method} {redacted(self._prepared.url)}"

    def _conclude(self, outcome: Response | BaseException, verdict: str, why: str = "") -> None:
        self._attempts[-1] = attrs.evolve(self._attempts[-1], verdict=verdict)
        if not isinstance(outcome, BaseException) or isinstance(outcome, RequestException):
            outcome.attempts = tuple(self._attempts)
        if verdict in _DENIALS:
            self._transport.watch.tell("denied", self._host, verdict)
            if isinstance(outcome, BaseException):
                outcome.add_note(f"not tried again after attempt {len(self._attempts)}: {why or _DENIALS[verdict]}")

    def _too_long(self, asked: float, limit: str) -> RetryAfterTooLong:
        response = self._last
        assert response is not None
        assert not isinstance(response, BaseException)  # only a response asks
        response.close()  # a stream's body may take longer than there is time
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
