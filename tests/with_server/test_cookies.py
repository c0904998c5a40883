"""Cookies over the wire: what a session sends and keeps, whose jar it may be, and what a full one costs."""

from __future__ import annotations

import gc
import http.cookiejar
import itertools
import statistics
import sys
import urllib.request
from collections.abc import Callable, Iterator
from http.cookies import SimpleCookie
from types import FrameType
from typing import Any

import pytest
import requests
import requests.cookies

import sessionpool
from sessionpool import Session, SessionPool
from sessionpool.cookies import CookieJar, create_cookie, extract_cookies_to_jar
from tests.with_server.echo_server import EchoServer, redirect, set_cookies
from tests.with_server.raw_server import Peer, Step, expect, repeatedly, response, serving

HOST = "127.0.0.1"
REQUESTS = 30


@pytest.fixture
def server() -> Iterator[EchoServer]:
    with EchoServer() as server:
        yield server


@pytest.fixture
def session() -> Iterator[Session]:
    with Session() as session:
        yield session


def sent(server: EchoServer) -> list[tuple[str, str]]:
    """The cookies of the request that came last, by name."""
    return sorted(server.seen[-1].cookies)


# --- whose jar it may be ---


def foreign(jar: Any) -> Any:
    """A jar of others, with a cookie for the server's host, one for another, and one for all."""
    create = requests.cookies.create_cookie
    jar.set_cookie(create("here", "1", domain=HOST, path="/in"))
    jar.set_cookie(create("elsewhere", "1", domain="example.com"))
    jar.set_cookie(create("everywhere", "1"))
    return jar


def own() -> CookieJar:
    jar = CookieJar()
    jar.set("here", "1", domain=HOST, path="/in")
    jar.set("elsewhere", "1", domain="example.com")
    jar.set("everywhere", "1")
    return jar


@pytest.mark.parametrize(
    "jar",
    [
        own,
        lambda: foreign(requests.cookies.RequestsCookieJar()),
        lambda: foreign(requests.Session().cookies),
        lambda: foreign(http.cookiejar.CookieJar()),
        lambda: foreign(http.cookiejar.MozillaCookieJar("nowhere")),
        lambda: foreign(http.cookiejar.LWPCookieJar()),
    ],
    ids=["own", "requests", "requests' session", "standard library", "Mozilla", "LWP"],
)
@pytest.mark.parametrize("how", ["session", "call", "pool"])
def test_a_jar_of_others_goes_to_the_same_hosts(
    how: str, jar: Callable[[], Any], server: EchoServer, session: Session
) -> None:
    """A jar of requests or the standard library does for a session, a pool or a call; hosts and paths stay theirs."""
    if how == "session":
        session.cookies = jar()
        session.get(f"{server.url}/in/side")
    elif how == "call":
        session.get(f"{server.url}/in/side", cookies=jar())
        assert len(session.cookies) == 0
    else:
        with SessionPool(cookies=jar()) as pool:
            pool.get(f"{server.url}/in/side")
    assert sent(server) == [("everywhere", "1"), ("here", "1")]


@pytest.mark.parametrize(
    "cookies",
    [{"a": "1", "b": "2"}, [("a", "1"), ("b", "2")], SimpleCookie("a=1; b=2"), {"a": "1", "b": "2", "none": None}],
    ids=["mapping", "pairs", "SimpleCookie", "with None"],
)
def test_names_and_values_go_everywhere(cookies: Any, server: EchoServer, session: Session) -> None:
    """Names and values, however they are written down, go with the call; None as a value means none."""
    session.get(server.url, cookies=cookies)
    assert sent(server) == [("a", "1"), ("b", "2")]

    session.cookies = cookies
    session.get(server.url)
    assert sent(server) == [("a", "1"), ("b", "2")]


@pytest.mark.parametrize(
    ("cookies", "error", "message"),
    [
        ("a=b", TypeError, "cookies must be a mapping of names to values, pairs of those, or a jar; got str"),
        (5, TypeError, "got int"),
        (["a=b"], TypeError, "got list"),
        ({"a": 1}, TypeError, "the value of cookie 'a' must be a str; got int"),
        ({"a": b"1"}, TypeError, "the value of cookie 'a' must be a str; got bytes"),
        ({1: "a"}, TypeError, "the name of cookie 1 must be a str; got int"),
        ({"a": "1; b=2"}, ValueError, "the value of cookie 'a' cannot be sent, because of ';' at position 1"),
        ({"a=b": "1"}, ValueError, "the name of cookie 'a=b' cannot be sent, because of '=' at position 1"),
        ({"a": "1\r\nX: y"}, ValueError, "the value of cookie 'a' cannot be sent"),
        ({"a": "\u20ac"}, ValueError, "the value of cookie 'a' cannot be sent"),
    ],
)
def test_what_is_no_cookie_is_refused_before_anything_is_sent(
    cookies: Any, error: type[Exception], message: str, server: EchoServer, session: Session
) -> None:
    """One sentence says what is wrong, whether it was given to a call or a session, and nothing is sent."""
    with pytest.raises(error, match=message):
        session.get(server.url, cookies=cookies)
    with pytest.raises(error, match=message):
        session.cookies = cookies
    with pytest.raises(error, match=message):
        SessionPool(cookies=cookies)

    assert server.seen == []


# --- what servers set ---


@pytest.mark.parametrize(
    "line",
    [
        "a=1",
        "a=1; Path=/",
        "a=1; Path=/in",
        "a=1; Path=/elsewhere",
        'a="1"; Path=/',
        "a=1=2; Path=/",
        "a=1; Max-Age=3600",
        "a=1; Expires=Fri, 15 Jan 2038 08:00:00 GMT",
        "a=1; Expires=Fri, 15 Jan 2010 08:00:00 GMT",
        "a=1; Max-Age=0",
        "a=1; HttpOnly; SameSite=Lax",
        "a=1; Domain=127.0.0.1",
        "a=1; Domain=example.com",
        "a=1; Expires=Fri, 15 Jan 2010 08:00:00 GMT; Max-Age=3600",
        "a=1; Max-Age=3600; Expires=Fri, 15 Jan 2010 08:00:00 GMT",
        "a=1; Expires=Fri, 15 Jan 2010 08:00:00 GMT; Max-Age=soon",
        "a=; Path=/",
    ],
)
def test_what_a_server_sets_is_kept_and_sent_as_by_requests(line: str, server: EchoServer, session: Session) -> None:
    """Ordinary lines leave the same in the jars of the session and the response, and come back the same."""
    server.answers["/in/set"] = set_cookies(line)
    outcomes = []
    for client in (session, requests.Session()):
        answer = client.get(f"{server.url}/in/set")
        kept = [[(c.name, c.value, c.path, c.is_expired()) for c in jar] for jar in (client.cookies, answer.cookies)]
        client.get(f"{server.url}/in/ask")
        inside = sent(server)
        client.get(f"{server.url}/ask")
        outcomes.append((kept, inside, sent(server)))
        client.close()

    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize(
    ("line", "ours", "theirs"),
    [
        ("a=1; SameSite=None", [], [("a", "1")]),
        ("__Host-a=1; Path=/", [], [("__Host-a", "1")]),
        ("__Secure-a=1", [], [("__Secure-a", "1")]),
        ("a=1; Path=in", [("a", "1")], []),
        ("a=1; Version=1; Path=/; Port=80", [("a", "1")], []),
        ("nameless", [("nameless", "")], [("nameless", "")]),
    ],
)
def test_where_requests_keeps_what_browsers_do_not(
    line: str, ours: list[tuple[str, str]], theirs: list[tuple[str, str]], server: EchoServer, session: Session
) -> None:
    """What comes back by RFC 6265bis, beside what comes back from requests."""
    server.answers["/in/set"] = set_cookies(line)
    for client, expected in ((session, ours), (requests.Session(), theirs)):
        client.get(f"{server.url}/in/set")
        client.get(f"{server.url}/in/ask")
        client.close()

        assert sent(server) == expected


class Refusal(http.cookiejar.DefaultCookiePolicy):
    """What people write to have requests keep no cookies."""

    def set_ok(self, cookie: http.cookiejar.Cookie, request: urllib.request.Request) -> bool:
        return False


def test_a_session_can_be_told_to_keep_no_cookies(server: EchoServer, session: Session) -> None:
    """With a policy that refuses, nothing is kept, not on the way through redirects either; a response still tells."""
    server.answers["/set"] = redirect("/ask", 302, ("Set-Cookie", "a=1"))
    session.cookies.set_policy(Refusal())
    session.cookies.set("mine", "1")
    answer = session.get(f"{server.url}/set")

    assert sent(server) == [("mine", "1")]
    assert answer.history[0].cookies["a"] == "1"
    assert session.cookies.keys() == ["mine"]


def test_a_fork_has_the_policy(server: EchoServer, session: Session) -> None:
    """A fork's jar refuses what the original's does."""
    server.answers["/set"] = set_cookies("a=1")
    session.cookies.set_policy(Refusal())
    twin = session.fork()
    twin.get(f"{server.url}/set")

    assert len(twin.cookies) == 0
    twin.close()


# --- other clients, and functions that go with a jar ---


def test_an_opener_shares_the_jar(server: EchoServer, session: Session) -> None:
    """An opener of the standard library sends what the session was set, and the session what the opener was."""
    server.answers["/login"] = set_cookies("sid=1; Path=/")
    server.answers["/more"] = set_cookies("theme=dark; Path=/", "of=another; Domain=example.com", "a=b; Path=/more")
    session.get(f"{server.url}/login")
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(session.cookies))  # type: ignore[arg-type]
    with opener.open(f"{server.url}/more") as answer:
        answer.read()
    assert sent(server) == [("sid", "1")]

    session.get(server.url)
    assert sent(server) == [("sid", "1"), ("theme", "dark")]
    request = urllib.request.Request(f"{server.url}/more", headers={"Cookie": "mine=1"})
    session.cookies.add_cookie_header(request)
    assert request.get_header("Cookie") == "mine=1"
    request = urllib.request.Request(f"{server.url}/more")
    session.cookies.add_cookie_header(request)
    assert sorted((request.get_header("Cookie") or "").split("; ")) == ["a=b", "sid=1", "theme=dark"]


@pytest.mark.parametrize("of", ["response", "raw"])
def test_cookies_are_taken_from_a_response(of: str, server: EchoServer, session: Session) -> None:
    """`extract_cookies_to_jar` takes in what a response sets, as by its request's URL; each field is one cookie."""
    server.answers["/in/set"] = set_cookies("a=1", "b=2; SameSite=Lax", "c=3; Domain=x.org")
    answer = session.get(f"{server.url}/in/set")
    jar = CookieJar()
    extract_cookies_to_jar(jar, answer.request, answer if of == "response" else answer.raw)

    assert [(c.name, c.domain, c.path, c.host_only) for c in jar] == [
        ("a", HOST, "/in", True),
        ("b", HOST, "/in", True),
    ]
    assert jar == answer.cookies


def test_functions_of_requests_work_on_our_jar(server: EchoServer, session: Session) -> None:
    """Libraries that were written for requests may hand our jar to requests' own functions."""
    server.answers["/set"] = set_cookies("a=1; Path=/")
    session.get(f"{server.url}/set")
    jar: Any = session.cookies
    there = requests.Session()
    asked = requests.Request("GET", f"{server.url}/x").prepare()

    assert requests.utils.dict_from_cookiejar(jar) == {"a": "1"}
    assert requests.cookies.get_cookie_header(jar, asked) == "a=1"
    requests.cookies.extract_cookies_to_jar(jar, asked, there.get(f"{server.url}/set", stream=True).raw)
    assert jar.keys() == ["a"]
    requests.cookies.remove_cookie_by_name(jar, "a")
    assert len(jar) == 0
    requests.get(f"{server.url}/x", cookies=session.cookies.to_cookiejar())
    there.close()


def test_a_session_of_requests_takes_the_cookies_over(server: EchoServer, session: Session) -> None:
    """By way of the standard library's jar the cookies of a session go on in one of requests, and back."""
    server.answers["/set"] = set_cookies("a=1; Path=/in; HttpOnly")
    session.get(f"{server.url}/set")
    session.cookies.set("b", "2", domain="example.com")
    with requests.Session() as there:
        session.cookies.to_cookiejar(there.cookies)
        there.get(f"{server.url}/in")
        assert sent(server) == [("a", "1")]

        with Session() as back:
            back.cookies = there.cookies
            assert back.cookies == session.cookies


def test_a_cookie_file_carries_a_login_over(server: EchoServer, session: Session, tmp_path: Any) -> None:
    """What one session saved another loads, and the server knows it again."""
    server.answers["/login"] = set_cookies("sid=1; Path=/; HttpOnly; Max-Age=600", "theme=dark; Path=/")
    session.get(f"{server.url}/login")
    session.cookies.save(tmp_path / "cookies.txt")
    with Session() as other:
        other.cookies.load(tmp_path / "cookies.txt")
        other.get(server.url)
        assert sent(server) == [("sid", "1"), ("theme", "dark")]

    mozilla = http.cookiejar.MozillaCookieJar(tmp_path / "cookies.txt")
    mozilla.load(ignore_discard=True)
    assert requests.get(server.url, cookies=mozilla).ok
    assert ("sid", "1") in sent(server)


def test_a_cookie_made_by_hand_is_sent_where_it_belongs(server: EchoServer) -> None:
    """`create_cookie` and `set_cookie` of the small modules work as people call them."""
    with sessionpool.Session() as session:
        session.cookies.set_cookie(create_cookie(name="a", value="1", domain=HOST, rest={"HttpOnly": None}))
        session.cookies.set_cookie(create_cookie("b", "2", domain="example.com", discard=False, port=None))
        session.get(server.url)

    assert sent(server) == [("a", "1")]


# --- what a jar of 5,000 costs ---


def opcodes(act: Callable[[], object]) -> float:
    """Bytecodes that an act runs, the median of some: a measure of work that is the same on every machine."""
    counts = []
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        if event == "call":
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        elif event == "opcode":
            count += 1
        return trace

    for _ in range(5):
        act()  # opens the connection, and fills the caches
    before = sys.gettrace()
    gc.disable()  # finalizers of what others have left would be counted
    try:
        for _ in range(REQUESTS):
            count = 0
            sys.settrace(trace)
            act()
            sys.settrace(before)
            counts.append(count)
    finally:
        sys.settrace(before)
        gc.enable()
    return statistics.median(counts)


def filled(count: int) -> CookieJar:
    """Cookies, five for each host, one of these Secure; some are the server's host's."""
    jar = CookieJar()
    for number in range(count):
        host = HOST if number < 5 else f"h{number // 5}.example.com"
        jar.set(f"n{number % 5}", "1", domain=host, secure=number % 5 == 4)
    return jar


def answering(*lines: str) -> Step:
    """Answer with these Set-Cookie fields, in which a % stands for the number of the answer."""
    numbers = itertools.count()

    def step(peer: Peer) -> None:
        number = str(next(numbers))
        peer.send(response(b"hello", *(f"Set-Cookie: {line.replace('%', number)}" for line in lines)))

    return step


@pytest.mark.parametrize(
    ("lines", "given"),
    [
        ([], {}),
        ([], {"cookies": {"own": "1"}}),
        (["n1=1"], {}),
        (["n1=%; Path=/"], {}),
        (["n1=%; Path=/deep/down", "n0=%"], {}),
        (["new%=1", "n2=; Max-Age=0", "n2=1"], {}),
    ],
    ids=["nothing set", "own cookies", "the same", "another value", "two paths", "a new one, and one deleted"],
)
def test_a_full_jar_costs_no_more_than_a_small_one(lines: list[str], given: dict[str, Any]) -> None:
    """A request with 5,000 cookies in the jar, its response's looked at, runs 5 % more than with 5 at most."""

    def cost(count: int) -> float:
        with (
            serving([repeatedly(expect("GET / "), answering(*lines))]) as server,
            SessionPool(trust_env=False) as pool,
            pool.lease() as session,
        ):
            session.cookies = filled(count)

            def act() -> None:
                assert len(session.get(server.url, **given).cookies) >= len(lines) - 1

            work = opcodes(act)
            assert len(session.cookies) >= count
            return work

    small, full = cost(5), cost(5000)

    assert 100 < small <= full <= 1.05 * small, (small, full)
