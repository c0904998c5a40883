"""The surface: what is public is complete, documented, pickles where it must, and does what the README says."""

from __future__ import annotations

import inspect
import pickle
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sessionpool
from sessionpool import Limits, PoolStats, PreparedRequest, Response, Session, SessionPool, exceptions
from sessionpool._ledger import HostStats
from sessionpool._messages import CaseInsensitiveDict
from sessionpool._urls import parse_target
from sessionpool.cli._origin import OriginServer

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
VERBS = ["delete", "get", "head", "options", "patch", "post", "put"]


@pytest.fixture(scope="module")
def theirs() -> Any:
    """The yardstick."""
    return pytest.importorskip("requests", reason="requests, with which we are compared, is not installed")


def run(code: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in an interpreter of its own, where a warning is an error."""
    return subprocess.run(
        [sys.executable, "-W", "error", *options, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# --- names ---


def test_all_is_sorted_and_complete() -> None:
    """`__all__` has every public name of the package, once and in order."""
    public = {
        name
        for name, value in vars(sessionpool).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }

    assert sessionpool.__all__ == sorted(set(sessionpool.__all__))
    assert public <= set(sessionpool.__all__)
    assert {"auth", "cookies", "exceptions", "__version__"} <= set(sessionpool.__all__)
    assert all(hasattr(sessionpool, name) for name in sessionpool.__all__)


@pytest.mark.parametrize("module", ["auth", "cookies"])
def test_public_modules_say_what_is_public(module: str) -> None:
    """Where a module has an `__all__`, it is in order and every name in it is there and its own."""
    public = getattr(sessionpool, module)

    assert sorted(public.__all__) == public.__all__ or sorted(public.__all__, key=str.lower) == public.__all__
    for name in public.__all__:
        assert getattr(public, name).__module__ == public.__name__


def test_nothing_is_public_by_accident() -> None:
    """Modules without an underscore are the ones that are meant to be imported by name."""
    modules = {path.stem for path in (ROOT / "sessionpool").glob("[!_]*.py")}

    for_requests_users = {"hooks", "models", "sessions", "status_codes", "structures", "utils"}
    assert modules == {"adapters", "auth", "cookies", "exceptions", "metrics", "testing"} | for_requests_users
    assert (ROOT / "sessionpool" / "py.typed").exists()


def test_the_version_is_one() -> None:
    """A version as PEP 440 writes it."""
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc|\.dev)\d+)?", sessionpool.__version__)


@pytest.mark.parametrize("module", ["sessionpool", "sessionpool.testing", "sessionpool.auth", "sessionpool.exceptions"])
def test_importing_costs_little(module: str) -> None:
    """No library of an extra, no HTTP client of others, no thread, nothing said."""
    unwanted = ["rich", "selectolax", "protego", "requests", "httpx", "aiohttp", "asyncio", "pytest", "trustme"]
    done = run(
        f"import sys, threading, {module}\n"
        f"print([name for name in {unwanted!r} if name in sys.modules], threading.active_count())",
        "-I" if _is_installed() else "-B",
    )

    assert (done.stdout, done.stderr) == ("[] 1\n", "")


def _is_installed() -> bool:
    return subprocess.run([sys.executable, "-I", "-c", "import sessionpool"], capture_output=True).returncode == 0


# --- docstrings ---


def documented() -> Iterator[tuple[str, Any]]:
    """Everything public with a docstring of its own to have: names, and the public members of classes."""
    modules = [sessionpool.auth, sessionpool.cookies, sessionpool.exceptions]
    yield "sessionpool", sessionpool
    for module in modules:
        yield module.__name__, module
    things = {name: getattr(sessionpool, name) for name in sessionpool.__all__}
    for module in modules:
        things |= {
            f"{module.__name__}.{name}": value for name, value in vars(module).items() if not name.startswith("_")
        }
    for name, thing in things.items():
        if not (inspect.isclass(thing) or inspect.isfunction(thing)) or "sessionpool" not in thing.__module__:
            continue
        yield name, thing
        if inspect.isclass(thing):
            # What it inherits from a class of ours is its own for a user, and is told to him in the same way.
            ours = [vars(base) for base in reversed(thing.__mro__) if base.__module__.startswith("sessionpool")]
            for member, value in {name: value for each in ours for name, value in each.items()}.items():
                if not member.startswith("_") and (
                    inspect.isfunction(value) or isinstance(value, (property, classmethod))
                ):
                    yield f"{name}.{member}", value


DOCUMENTED = dict(documented())


@pytest.mark.parametrize("thing", DOCUMENTED.values(), ids=DOCUMENTED)
def test_what_is_public_is_documented(thing: Any) -> None:
    """A docstring of its own that opens with a sentence, useful alone and short enough for one line."""
    first = (thing.__doc__ or "").strip().partition("\n")[0]

    assert len(first) > 10
    assert first.endswith((".", ":", "?")), first


# --- errors ---

ERRORS = {
    name: value
    for name, value in vars(exceptions).items()
    if isinstance(value, type)
    and issubclass(value, Exception)
    and not issubclass(value, Warning)
    and not name.startswith("_")
}
STATS = PoolStats(
    leased=1,
    idle=2,
    waiting=3,
    capacity=4,
    peak=5,
    opened=6,
    reused=7,
    hosts={"http://h:80": HostStats(leased=1, idle=2, waiting=3, limit=4)},
)
OWN: dict[str, dict[str, Any]] = {
    "PoolTimeout": {"stats": STATS},
    "IncompleteRead": {"received": 3, "expected": 10},
}


def example(name: str) -> Any:
    """An exception of that class with everything that one may carry."""
    request = PreparedRequest("POST", parse_target("http://example.com/a"), CaseInsensitiveDict({"X-One": "1"}))
    request.set_body(b"body", None, None)
    response = Response()
    response.status_code, response.url, response._content = 404, "http://example.com/a", b"gone"
    response.request = request
    if not issubclass(ERRORS[name], exceptions.RequestException):
        return ERRORS[name]("what happened")
    args = ("what happened", '{"a": ', 6) if name == "JSONDecodeError" else ("what happened",)
    make: Any = ERRORS[name]
    error: Any = make(*args, request=request, response=response, **OWN.get(name, {}))
    error.item = "http://example.com/a"  # as `map` does
    error.add_note("while working on it")
    return error


@pytest.mark.parametrize("name", ERRORS)
def test_errors_pickle(name: str) -> None:
    """To another process an exception goes with its message and all its attributes."""
    before = example(name)
    after = pickle.loads(pickle.dumps(before))

    assert type(after) is type(before)
    assert (str(after), after.args) == (str(before), before.args)
    for attribute, value in OWN.get(name, {}).items():
        assert getattr(after, attribute) == value
    if issubclass(ERRORS[name], exceptions.RequestException):
        assert (after.response.status_code, after.response.content) == (404, b"gone")
        assert (after.request.method, after.request.url, after.request.body) == (
            "POST",
            "http://example.com/a",
            b"body",
        )
        assert after.request.headers["x-one"] == "1"
        assert after.item == before.item
        assert after.__notes__ == ["while working on it"]
    if name == "JSONDecodeError":
        assert (after.msg, after.doc, after.pos, after.lineno) == ("what happened", '{"a": ', 6, 1)


def test_what_is_on_a_connection_does_not_pickle() -> None:
    """A pool says why, instead of failing on some lock inside."""
    with SessionPool() as pool, pytest.raises(TypeError, match="SessionPool cannot be pickled"):
        pickle.dumps(pool)


def test_settings_pickle() -> None:
    """What a pool is made from goes to another process, where the pool is made."""
    for setting in (Limits(per_host=3), sessionpool.Timeout(total=5)):
        assert pickle.loads(pickle.dumps(setting)) == setting


def test_every_error_says_whether_it_may_be_sent_again() -> None:
    """What is raised for the way to the server is NotSent or MaySent, and never both."""
    decided = {
        name: (issubclass(error, exceptions.NotSent), issubclass(error, exceptions.MaySent))
        for name, error in ERRORS.items()
    }
    undecided = {name for name, (not_sent, may_sent) in decided.items() if not (not_sent or may_sent)}

    assert (True, True) not in decided.values()
    assert undecided == {
        "RequestException", "Timeout", "ConnectionError",  # stand for several
        "RetryError", "RetryAfterTooLong", "HTTPError", "TooManyRedirects", "InsecureRedirect",  # there was an answer
        "ContentDecodingError",
        "StreamConsumedError", "JSONDecodeError", "InvalidJSONError",
        "LeaseStateError", "LeaseReleasedError", "WrongThreadError",  # the caller's mistakes
        "URLRequired", "MissingSchema", "InvalidSchema", "InvalidURL", "InvalidProxyURL", "InvalidHeader",
        "UnrewindableBodyError",
    }  # fmt: skip


# --- as in requests ---


def test_except_clauses_carry_over(theirs: Any) -> None:
    """Whatever an `except` of requests catches, the same `except` of ours catches."""
    shared = {
        name: value
        for name, value in vars(theirs.exceptions).items()
        if isinstance(value, type) and issubclass(value, theirs.RequestException)
    }

    assert shared.keys() <= ERRORS.keys()
    for name, error in shared.items():
        for other, base in {**shared, "OSError": OSError, "ValueError": ValueError, "TypeError": TypeError}.items():
            if issubclass(error, base):
                assert issubclass(ERRORS[name], ERRORS.get(other, base)), f"{name} is a {other} in requests"


def test_the_errors_at_the_top_are_those_below() -> None:
    """What requests has at top level is there too, but `Timeout`, which here is the setting."""
    for name in (
        "ConnectTimeout",
        "ConnectionError",
        "HTTPError",
        "JSONDecodeError",
        "ReadTimeout",
        "RequestException",
        "TooManyRedirects",
        "URLRequired",
    ):
        assert getattr(sessionpool, name) is getattr(exceptions, name)
    assert sessionpool.Timeout(read=5).read == 5
    assert issubclass(exceptions.Timeout, exceptions.RequestException)


def names_of(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


def test_calls_carry_over(theirs: Any) -> None:
    """The parameters of the session's calls are those of requests, in the same order; one is ours, and the last."""
    assert names_of(Session.request) == [*names_of(theirs.Session.request), "retry"]
    for verb in VERBS:
        assert names_of(getattr(Session, verb)) == names_of(getattr(theirs.Session, verb))
        assert names_of(getattr(SessionPool, verb)) == names_of(getattr(Session, verb))
        assert names_of(getattr(sessionpool, verb)) == names_of(getattr(theirs, verb))


@pytest.mark.parametrize("name", ["PreparedRequest", "Request", "Response", "Session"])
def test_attributes_carry_over(name: str, theirs: Any) -> None:
    """What requests' objects have, ours have."""
    expected = {each for each in dir(getattr(theirs, name)()) if not each.startswith("_")}

    assert expected <= set(dir(getattr(sessionpool, name)()))


def test_codes(theirs: Any) -> None:
    """The names of status codes, in either case and by key, mean what they mean in requests."""
    codes = sessionpool.codes

    assert (codes.ok, codes.OK, codes["not_found"], codes.get("nothing")) == (200, 200, 404, None)
    with pytest.raises(AttributeError, match="nonsense"):
        codes.nonsense  # noqa: B018 - raises
    odd = "request_uri_too_long"  # 414 (RFC 9110 §15.5.15) goes by that name too; requests has a 122 of old under it
    shared = {name: code for name, code in vars(theirs.codes).items() if name in vars(codes) and name.lower() != odd}
    assert len(shared) > 100
    assert {name: vars(codes)[name] for name in shared} == shared


# --- the README ---

BLOCKS = (
    re.findall(r"^```python\n(.*?)^```", README.read_text("utf-8"), re.DOTALL | re.MULTILINE) if README.exists() else []
)


def test_the_readme_has_examples() -> None:
    """There is something to be run."""
    assert len(BLOCKS) >= 3
    assert "SessionPool(" in BLOCKS[0]
    assert len(BLOCKS[0].splitlines()) <= 14


@pytest.mark.parametrize("code", BLOCKS, ids=range(1, len(BLOCKS) + 1))
def test_the_readmes_examples_run(code: str) -> None:
    """Each is whole, runs without an error or a warning, and leaves nothing open."""
    with OriginServer.start() as origin:
        code = code.replace("https://example.com", origin.url)
        assert "://" not in code.replace(origin.url, ""), "an example may use https://example.com alone"
        done = run(code)
        counts = origin.counts()

    assert (done.returncode, done.stderr) == (0, "")
    assert counts.rejected == 0
    assert counts.requests > 0
    assert counts.open == 0
