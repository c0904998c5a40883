"""Headers that are sent: merging, order, values that may not be."""

from __future__ import annotations

from typing import Any

from tests.compat.sides import Row
from tests.compat.stage import Stage


def _get(**headers: Any) -> Any:
    return lambda r, s: r.get(s.url + "/a", headers={name.replace("_", "-"): value for name, value in headers.items()})


ROWS = [
    Row("headers/one", _get(X_One="1")),
    Row("headers/several-in-order", _get(B="1", A="2", C="3")),
    Row("headers/user-agent-replaced", _get(User_Agent="mine/1")),
    Row("headers/user-agent-lower-case", lambda r, s: r.get(s.url + "/a", headers={"user-agent": "mine/1"})),
    Row("headers/none-takes-out", _get(Accept=None)),
    Row("headers/none-takes-out-user-agent", _get(User_Agent=None), "no-header-instead", ("got", "seen")),
    Row("headers/none-takes-out-accept-encoding", _get(Accept_Encoding=None), "no-header-instead", ("got", "seen")),
    Row("headers/none-takes-out-connection", _get(Connection=None)),
    Row("headers/none-for-an-unknown", _get(X_Unknown=None)),
    Row("headers/none-in-another-case", lambda r, s: r.get(s.url + "/a", headers={"aCCEPT": None})),
    Row("headers/empty-value", _get(X_Empty="")),
    Row("headers/bytes-value", _get(X_Bytes=b"caf\xc3\xa9")),
    Row("headers/bytes-name", lambda r, s: r.get(s.url + "/a", headers={b"X-Bytes": b"1"})),
    Row("headers/latin-1-value", _get(X_Word="café")),
    Row("headers/value-beyond-latin-1", _get(X_Word="слово"), "header-utf-8", ("got", "seen")),
    Row("headers/inner-space", _get(X_Words="a  b\tc")),
    Row("headers/leading-space", _get(X_Word=" a"), "header-space", ("got", "seen")),
    Row("headers/trailing-space", _get(X_Word="a ")),
    Row("headers/integer-value", _get(X_Number=1)),
    Row("headers/float-value", _get(X_Number=1.5)),
    Row("headers/list-value", _get(X_Number=["1"])),
    Row("headers/line-feed-in-value", _get(X_Word="a\nb")),
    Row("headers/carriage-return-in-value", _get(X_Word="a\rb")),
    Row("headers/both-in-value", _get(X_Word="a\r\nX-Evil: 1")),
    Row("headers/folded-value", _get(X_Word="a\r\n b")),
    Row("headers/bytes-with-line-break", _get(X_Word=b"a\r\nX-Evil: 1")),
    Row("headers/line-break-in-name", lambda r, s: r.get(s.url + "/a", headers={"X-A\r\nX-Evil": "1"})),
    Row(
        "headers/nul-in-value", _get(X_Word="a\0b"), "header-names-and-values", ("got", "seen"), raises="InvalidHeader"
    ),
    Row("headers/colon-in-name", lambda r, s: r.get(s.url + "/a", headers={"X:A": "1"})),
    Row("headers/leading-space-in-name", lambda r, s: r.get(s.url + "/a", headers={" X-A": "1"})),
    Row(
        "headers/space-in-name",
        lambda r, s: r.get(s.url + "/a", headers={"X A": "1"}),
        "header-names-and-values",
        ("got", "seen"),
        raises="InvalidHeader",
    ),
    Row("headers/empty-name", lambda r, s: r.get(s.url + "/a", headers={"": "1"})),
    Row(
        "headers/unicode-name",
        lambda r, s: r.get(s.url + "/a", headers={"X-é": "1"}),
        "header-names-and-values",
        ("got", "seen"),
        raises="InvalidHeader",
    ),
    Row("headers/host-replaced", _get(Host="example.com")),
    Row("headers/host-lower-case", lambda r, s: r.get(s.url + "/a", headers={"X-A": "1", "host": "example.com"})),
    Row("headers/referer", _get(Referer="http://example.com/")),
    Row("headers/cookie-by-hand", _get(Cookie="a=1; b=2")),
    Row("headers/authorization-by-hand", _get(Authorization="Bearer abc")),
    Row("headers/connection-close", _get(Connection="close")),
    Row("headers/accept-encoding-identity", _get(Accept_Encoding="identity")),
    Row(
        "headers/content-type-with-a-form",
        lambda r, s: r.post(s.url + "/a", {"a": 1}, headers={"Content-Type": "text/x"}),
    ),
    Row(
        "headers/content-type-with-json", lambda r, s: r.post(s.url + "/a", json=1, headers={"content-type": "text/x"})
    ),
    Row("headers/content-length-wrong", lambda r, s: r.post(s.url + "/a", b"abc", headers={"Content-Length": "2"})),
    Row("headers/content-length-without-body", lambda r, s: r.post(s.url + "/a", headers={"Content-Length": "0"})),
    Row(
        "headers/content-length-on-get",
        lambda r, s: r.get(s.url + "/a", headers={"Content-Length": "0"}),
        "framing-is-ours",
        ("got", "seen"),
    ),
    Row(
        "headers/transfer-encoding-by-hand",
        lambda r, s: r.post(s.url + "/a", b"abc", headers={"Transfer-Encoding": "chunked"}, timeout=1),
        "framing-is-ours",
        ("got", "seen"),
    ),
    Row("headers/none-at-all", lambda r, s: r.get(s.url + "/a", headers=None)),
    Row("headers/empty-mapping", lambda r, s: r.get(s.url + "/a", headers={})),
    Row(
        "headers/pairs",
        lambda r, s: r.get(s.url + "/a", headers=[("X-A", "1")]),
        "wrong-types",
        raises="TypeError",
    ),
    Row(
        "headers/case-insensitive-mapping",
        lambda r, s: r.get(s.url + "/a", headers=r.structures.CaseInsensitiveDict({"X-A": "1"})),
    ),
    Row("headers/many", lambda r, s: r.get(s.url + "/a", headers={f"X-{n}": str(n) for n in range(90)})),
    Row("headers/long", _get(X_Long="x" * 8000)),
    Row("headers/not-kept-by-the-session", lambda r, s: _twice(s.session(r), s)),
    Row("headers/session-own", lambda r, s: _own(r, s, {"X-A": "1"}).get(s.url + "/a")),
    Row(
        "headers/session-and-call",
        lambda r, s: _own(r, s, {"X-A": "1", "X-B": "2"}).get(s.url + "/a", headers={"X-B": "3", "X-C": "4"}),
    ),
    Row("headers/session-other-case", lambda r, s: _own(r, s, {"X-A": "1"}).get(s.url + "/a", headers={"x-a": "2"})),
    Row("headers/session-and-none", lambda r, s: _own(r, s, {"X-A": "1"}).get(s.url + "/a", headers={"x-a": None})),
    Row("headers/session-holds-none", lambda r, s: _own(r, s, {"Accept": None}).get(s.url + "/a")),
    Row("headers/session-integer", lambda r, s: _own(r, s, {"X-A": 1}).get(s.url + "/a")),
    Row(
        "headers/session-replaced",
        lambda r, s: _replaced(r, s, {"X-Only": "1"}).get(s.url + "/a"),
        "no-header-instead",
        ("got", "seen"),
    ),
    Row(
        "headers/session-replaced-and-call",
        lambda r, s: _replaced(r, s, {"Accept-Encoding": "gzip", "User-Agent": "x"}).get(
            s.url + "/a", headers={"X-B": "1"}
        ),
    ),
    Row("headers/session-delete", lambda r, s: _without(r, s, "Accept").get(s.url + "/a")),
    Row("headers/session-names", lambda r, s: list(s.session(r).headers)),
    Row("headers/session-user-agent", lambda r, s: s.session(r).headers["User-Agent"], "user-agent"),
    Row("headers/session-accept-encoding", lambda r, s: s.session(r).headers["Accept-Encoding"], "accept-encoding"),
    Row(
        "headers/session-defaults",
        lambda r, s: {n: v for n, v in s.session(r).headers.items() if n in ("Accept", "Connection")},
    ),
    Row("headers/response-request", lambda r, s: dict(_get(X_A="1")(r, s).request.headers)["X-A"]),
]


def _own(r: Any, s: Stage, headers: Any) -> Any:
    session = s.session(r)
    session.headers.update(headers)
    return session


def _replaced(r: Any, s: Stage, headers: Any) -> Any:
    session = s.session(r)
    session.headers = headers
    return session


def _without(r: Any, s: Stage, name: Any) -> Any:
    session = s.session(r)
    del session.headers[name]
    return session


def _twice(session: Any, s: Stage) -> Any:
    session.get(s.url + "/a", headers={"X-Once": "1"})
    return session.get(s.url + "/a")
