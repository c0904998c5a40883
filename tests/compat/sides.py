"""One call, made with real requests and with sessionpool: what the server saw and what the caller got, side by side.

What both sides did is turned into plain values, leaf by leaf, under names like `seen.0.headers` and `got.history`. The
few things that differ in every call are made equal in `_LEVELLED` below, the one place for that.
"""

from __future__ import annotations

import datetime as dt
import http.cookiejar
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import attrs
import requests

import sessionpool
from sessionpool.cookies import Cookie, CookieJar
from tests.compat.stage import Stage
from tests.with_server.echo_server import Seen

# What no two libraries can have in common, by field: a pattern in its value, and what stands for it on both sides. The
# entries of docs/requests.md are `user-agent`, `accept-encoding` and `multipart-boundary`.
_LEVELLED: Final = {
    "user-agent": (re.compile(r"^(python-requests|sessionpool)/[\w.]+$"), "<the library's own>"),
    "accept-encoding": (re.compile(r"^gzip, ?deflate(, ?br)?(, ?zstd)?$"), "<the library's own>"),
    "content-type": (re.compile(r"(?<=boundary=)[0-9a-f]{32}"), "<boundary>"),
}


@attrs.frozen
class Row:
    """One line of the table.

    Attributes:
        id: `subject/what is the case`.
        call: Given the library and the stage, makes the call; what it returns or raises is compared.
        differs: The entry of docs/requests.md that says why the two differ here; empty: they do not.
        where: With `differs`: where the two may differ, and at least once do; names of leaves, or how those begin.
        raises: With `differs`: the error that ours raises; empty: none.
        environment: Given the stage, the environment's variables.
    """

    id: str
    call: Callable[[Any, Stage], Any]
    differs: str = ""
    where: str | tuple[str, ...] = "got"
    raises: str = ""
    environment: Callable[[Stage], Mapping[str, str]] = lambda stage: {}


def given(call: Callable[..., Any], *more: Any) -> Callable[[Any, Stage], Any]:
    """A row's call that takes these beside the library and the stage."""
    return lambda library, stage: call(library, stage, *more)


@attrs.frozen
class Raised:
    """An error: its class and what that inherits from, by name, nearest first; the status of its response, if any."""

    names: tuple[str, ...]
    response: int | None
    message: str


Side = dict[str, Any]


def play(library: Any, row: Row, stage: Stage) -> Side:
    """Make a row's call with one library; what came of it."""
    with warnings.catch_warnings(), stage.scene(row.environment(stage)):
        warnings.simplefilter("ignore")  # unverified TLS, which both are asked for
        try:
            got = _plain(row.call(library, stage))
        except Exception as error:  # noqa: BLE001 - that is what is compared
            got = _plain(error)
    side: Side = {}
    for number, (server, seen) in enumerate(stage.log):
        side |= dict(_leaves(f"seen.{number}", {"server": server, **_request(seen, stage.hidden)}))
    side |= dict(_leaves("got", got))
    return side


def differences(theirs: Side, ours: Side) -> list[str]:
    """The leaves in which the sides are not the same."""
    missing = object()
    names = dict.fromkeys([*theirs, *ours])
    return [name for name in names if not _is_same(theirs.get(name, missing), ours.get(name, missing))]


def _is_same(theirs: Any, ours: Any) -> bool:
    """Equal; of errors: ours is caught by whoever catches theirs by name, and has the response that theirs has."""
    if isinstance(theirs, Raised) and isinstance(ours, Raised):
        return theirs.names[0] in ours.names and theirs.response in (None, ours.response)
    return type(theirs) is type(ours) and bool(theirs == ours)


def error(side: Side) -> str:
    """The name of the error that the call ended with; empty without one."""
    raised = side.get("got.raised")
    return raised.names[0] if isinstance(raised, Raised) else ""


def table(theirs: Side, ours: Side) -> str:
    """Both sides in full, for whoever looks at a failure."""
    lines = []
    differing = differences(theirs, ours)
    for name in dict.fromkeys([*theirs, *ours]):
        if name not in differing:
            lines.append(f"       {name} = {theirs[name]!r}")
        else:
            lines.append(f"THEIRS {name} = {theirs.get(name, '-')!r}")
            lines.append(f"OURS   {name} = {ours.get(name, '-')!r}")
    return "\n".join(lines)


# --- plain values ---


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A plain value taken apart into leaves: mappings are, and lists of mappings."""
    if isinstance(value, dict) and value:
        for key, each in value.items():
            yield from _leaves(f"{name}.{key}", each)
    elif isinstance(value, list) and any(isinstance(each, (dict, list, Raised)) for each in value):
        for number, each in enumerate(value):
            yield from _leaves(f"{name}.{number}", each)
    else:
        yield name, value


def _request(seen: Seen, hidden: Mapping[str, str]) -> dict[str, Any]:
    headers, boundary = _levelled(seen.headers)
    headers = [(name, re.sub(hidden.get(name.lower(), "$^"), "<random>", value)) for name, value in headers]
    body = seen.body.replace(boundary.encode(), b"<boundary>") if boundary else seen.body
    return {
        "method": seen.method,
        "target": seen.target,
        "headers": headers,
        "body": body,
        "chunked": seen.chunked,
    }


def _levelled(fields: Any) -> tuple[list[tuple[str, Any]], str]:
    """The fields without what cannot be the same, and the boundary of the body that they describe."""
    levelled, boundary = [], ""
    for name, given in fields:
        value = given.decode("latin-1") if isinstance(given, bytes) else given
        pattern, stand_in = _LEVELLED.get(name.lower(), (None, ""))
        if pattern is not None and isinstance(value, str) and (found := pattern.search(value)):
            boundary = found[0] if stand_in == "<boundary>" else boundary
            value = pattern.sub(stand_in, value)
        levelled.append((name, value))
    return levelled, boundary


def _plain(value: Any) -> Any:
    """A value without the library that it comes from."""
    if isinstance(value, BaseException):
        names = tuple(each.__name__ for each in type(value).__mro__)
        response = getattr(value, "response", None)
        return {"raised": Raised(names, None if response is None else response.status_code, str(value))}
    if isinstance(value, (requests.Response, sessionpool.Response)):
        return _response(value)
    if isinstance(value, (requests.PreparedRequest, sessionpool.PreparedRequest)):
        return _prepared(value)
    if isinstance(value, (http.cookiejar.CookieJar, CookieJar)):
        return sorted(str(_plain(cookie)) for cookie in value)
    if isinstance(value, (http.cookiejar.Cookie, Cookie)):
        return f"{value.name}={value.value}; domain={value.domain}; path={value.path}; secure={value.secure}"
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, (set, frozenset)):
        return sorted(_plain(each) for each in value)
    if isinstance(value, Iterator):
        return [_plain(each) for each in value]
    if value is None or isinstance(value, (str, bytes, int, float, dt.timedelta)):
        return value
    return type(value).__name__


def _response(response: Any) -> dict[str, Any]:
    """Whatever can be looked at; what raises then is compared too."""
    looks: dict[str, Callable[[], Any]] = {
        "status_code": lambda: response.status_code,
        "reason": lambda: response.reason,
        "url": lambda: response.url,
        "headers": lambda: _levelled(response.headers.items())[0],
        "repr": lambda: repr(response),
        "ok": lambda: response.ok,
        "truth": lambda: bool(response),
        "content": lambda: response.content,
        "encoding": lambda: response.encoding,
        "text": lambda: response.text,
        "cookies": lambda: sorted(response.cookies.items()),
        "links": lambda: response.links,
        "is_redirect": lambda: response.is_redirect,
        "is_permanent_redirect": lambda: response.is_permanent_redirect,
        "next": lambda: response.next and (response.next.method, response.next.url),
        "elapsed": lambda: type(response.elapsed).__name__,
        "history": lambda: [(each.status_code, each.url) for each in response.history],
        "request": lambda: response.request and _prepared(response.request),
        "raise_for_status": response.raise_for_status,
    }
    looked = {}
    for name, look in looks.items():
        try:
            looked[name] = look()
        except Exception as error:  # noqa: BLE001 - compared
            looked[name] = _plain(error)
    return looked


def _prepared(request: Any) -> dict[str, Any]:
    headers, boundary = _levelled((request.headers or {}).items())
    body = request.body
    if isinstance(body, bytes) and boundary:
        body = body.replace(boundary.encode(), b"<boundary>")
    elif isinstance(body, str):
        body = body.encode()  # which of the two it is, is the entry `body-bytes` of docs/requests.md
    elif body is not None and not isinstance(body, bytes):
        body = f"<{type(body).__name__}>"
    return {
        "method": request.method,
        "url": request.url,
        "path_url": request.url and request.path_url,
        "headers": headers,
        "body": body,
    }
