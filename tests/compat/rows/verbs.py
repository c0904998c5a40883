"""Verbs, one-off functions and what goes into the query."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import PurePosixPath
from typing import Any

from tests.compat.sides import Row, given
from tests.compat.stage import Stage

ROWS = [
    *(
        Row(f"verbs/one-off-{verb}", given(lambda r, s, verb: getattr(r, verb)(s.url + "/a"), verb))
        for verb in ("get", "options", "head", "post", "put", "patch", "delete")
    ),
    *(
        Row(f"verbs/session-{verb}", given(lambda r, s, verb: getattr(s.session(r), verb)(s.url + "/a"), verb))
        for verb in ("get", "options", "head", "post", "put", "patch", "delete")
    ),
    *(
        Row(f"verbs/request-{method}", given(lambda r, s, method: r.request(method, s.url + "/a"), method))
        for method in ("get", "Post", "PROPFIND", "purge", "M-SEARCH")
    ),
    Row("verbs/request-by-keyword", lambda r, s: r.request(method="GET", url=s.url + "/a")),
    Row("verbs/session-request-by-keyword", lambda r, s: s.session(r).request(method="POST", url=s.url + "/a")),
    Row("verbs/method-as-bytes", lambda r, s: r.request(b"GET", s.url + "/a")),
    Row("verbs/method-with-a-space", lambda r, s: r.request("GET /x", s.url + "/a")),
    Row(
        "verbs/method-empty",
        lambda r, s: r.request("", s.url + "/a"),
        "method-token",
        ("got", "seen"),
        raises="InvalidHeader",
    ),
    Row("verbs/method-with-a-line-break", lambda r, s: r.request("GET\r\nA: b", s.url + "/a")),
    Row("verbs/get-with-a-body", lambda r, s: r.get(s.url + "/a", data=b"body")),
    Row("verbs/get-with-json", lambda r, s: r.get(s.url + "/a", json={"a": 1})),
    Row("verbs/delete-with-a-body", lambda r, s: r.delete(s.url + "/a", data={"a": "b"})),
    Row("verbs/head-with-redirects", lambda r, s: r.head(s.hops(2), allow_redirects=True)),
    Row("verbs/head-does-not-follow", lambda r, s: r.head(s.hops(2))),
    Row("verbs/session-head-does-not-follow", lambda r, s: s.session(r).head(s.hops(2))),
    Row("verbs/options-follows", lambda r, s: r.options(s.hops(1))),
    Row("verbs/post-positional-data", lambda r, s: r.post(s.url + "/a", {"a": "b"})),
    Row("verbs/post-positional-json", lambda r, s: r.post(s.url + "/a", None, {"a": "b"})),
    Row("verbs/put-positional-data", lambda r, s: r.put(s.url + "/a", b"x")),
    Row("verbs/patch-positional-data", lambda r, s: r.patch(s.url + "/a", b"x")),
    Row("verbs/get-positional-params", lambda r, s: r.get(s.url + "/a", {"a": "b"})),
    Row("verbs/unknown-keyword", lambda r, s: r.get(s.url + "/a", colour="red")),
    Row("verbs/url-missing", lambda r, s: r.get()),
    Row("verbs/url-none", lambda r, s: r.get(None)),
    Row("verbs/url-empty", lambda r, s: r.get("")),
    Row("verbs/url-as-bytes", lambda r, s: r.get((s.url + "/a?b=c").encode())),
    Row("verbs/url-as-an-object", lambda r, s: r.get(_Written(s.url + "/a"))),
    Row("verbs/session-url-as-bytes", lambda r, s: s.session(r).get((s.url + "/a?b=c").encode())),
    Row("verbs/one-off-session", lambda r, s: type(r.session()).__name__),
    # --- params ---
    Row("params/mapping", lambda r, s: r.get(s.url + "/a", params={"a": "1", "b": "2"})),
    Row("params/pairs", lambda r, s: r.get(s.url + "/a", params=[("a", "1"), ("a", "2")])),
    Row("params/tuple-of-pairs", lambda r, s: r.get(s.url + "/a", params=(("a", "1"), ("b", "2")))),
    Row("params/list-as-value", lambda r, s: r.get(s.url + "/a", params={"a": [1, 2], "b": ("x", "y")})),
    Row("params/empty-list-as-value", lambda r, s: r.get(s.url + "/a", params={"a": [], "b": "1"})),
    Row("params/set-as-value", lambda r, s: r.get(s.url + "/a", params={"a": {"x"}})),
    Row("params/generator-as-value", lambda r, s: r.get(s.url + "/a", params={"a": (str(n) for n in range(3))})),
    Row("params/mapping-as-value", lambda r, s: r.get(s.url + "/a", params={"a": {"x": 1, "y": 2}})),
    Row("params/none-as-value", lambda r, s: r.get(s.url + "/a", params={"a": None, "b": "1"})),
    Row("params/none-in-a-list", lambda r, s: r.get(s.url + "/a", params={"a": ["1", None]})),
    Row("params/only-none", lambda r, s: r.get(s.url + "/a", params={"a": None})),
    Row("params/numbers-and-booleans", lambda r, s: r.get(s.url + "/a", params={"a": 1, "b": 1.5, "c": True})),
    Row("params/number-as-name", lambda r, s: r.get(s.url + "/a", params={1: "one"})),
    Row("params/bytes", lambda r, s: r.get(s.url + "/a", params={b"a": b"\xff b"})),
    Row("params/object-as-value", lambda r, s: r.get(s.url + "/a", params={"a": PurePosixPath("/x y")})),
    Row("params/unicode", lambda r, s: r.get(s.url + "/a", params={"ключ": "значение", "é": "ü"})),
    Row("params/space-and-plus", lambda r, s: r.get(s.url + "/a", params={"a": "x y+z"})),
    Row("params/reserved", lambda r, s: r.get(s.url + "/a", params={"a": "&=?/#:;,@!$'()*[]~-._"})),
    Row("params/percent", lambda r, s: r.get(s.url + "/a", params={"a": "100%", "b": "%41"})),
    Row("params/line-break", lambda r, s: r.get(s.url + "/a", params={"a": "x\r\ny"})),
    Row("params/empty-value", lambda r, s: r.get(s.url + "/a", params={"a": ""})),
    Row("params/empty-name", lambda r, s: r.get(s.url + "/a", params={"": "a"})),
    Row("params/string", lambda r, s: r.get(s.url + "/a", params="a=1&b=2")),
    Row("params/string-not-encoded", lambda r, s: r.get(s.url + "/a", params="x y=é")),
    Row(
        "params/string-with-percent",
        lambda r, s: r.get(s.url + "/a", params="a=%41%2f%zz"),
        "percent-upper-case",
        ("got", "seen"),
    ),
    Row("params/bytes-string", lambda r, s: r.get(s.url + "/a", params=b"a=1")),
    Row("params/string-empty", lambda r, s: r.get(s.url + "/a", params="")),
    Row("params/mapping-empty", lambda r, s: r.get(s.url + "/a", params={})),
    Row("params/after-a-query", lambda r, s: r.get(s.url + "/a?x=1", params={"a": "2"})),
    Row("params/after-a-query-without-value", lambda r, s: r.get(s.url + "/a?x", params={"a": "2"})),
    Row("params/after-an-empty-query", lambda r, s: r.get(s.url + "/a?", params={"a": "2"})),
    Row("params/after-an-open-query", lambda r, s: r.get(s.url + "/a?x=1&", params={"a": "2"})),
    Row("params/with-a-hash", lambda r, s: r.get(s.url + "/a", params="a#b"), "params-hash", ("got", "seen")),
    Row("params/before-a-fragment", lambda r, s: r.get(s.url + "/a#there", params={"a": "2"})),
    Row("params/same-name-in-the-url", lambda r, s: r.get(s.url + "/a?a=1", params={"a": "2"})),
    Row("params/ordered", lambda r, s: r.get(s.url + "/a", params=OrderedDict([("z", "1"), ("a", "2")]))),
    Row("params/not-iterable", lambda r, s: r.get(s.url + "/a", params=5)),
    Row("params/not-pairs", lambda r, s: r.get(s.url + "/a", params=["abc", "def"])),
    Row("params/on-post", lambda r, s: r.post(s.url + "/a", params={"a": "1"}, data={"b": "2"})),
    Row("params/on-a-bare-host", lambda r, s: r.get(s.url, params={"a": "1"})),
    Row("params/not-repeated-over-redirects", lambda r, s: r.get(s.moved("/b"), params={"a": "1"})),
    Row("params/session", lambda r, s: _with_params(r, s, {"a": "1"}).get(s.url + "/a")),
    Row(
        "params/session-and-call",
        lambda r, s: _with_params(r, s, {"a": "1", "b": "2"}).get(s.url + "/a", params={"b": "3", "c": "4"}),
    ),
    Row(
        "params/session-and-none",
        lambda r, s: _with_params(r, s, {"a": "1", "b": "2"}).get(s.url + "/a", params={"a": None}),
    ),
    Row(
        "params/session-and-pairs",
        lambda r, s: _with_params(r, s, {"a": "1"}).get(s.url + "/a", params=[("b", "2"), ("b", "3")]),
    ),
    Row("params/session-and-string", lambda r, s: _with_params(r, s, {"a": "1"}).get(s.url + "/a", params="b=2")),
    Row("params/session-list", lambda r, s: _with_params(r, s, {"a": [1, 2]}).get(s.url + "/a")),
    Row("params/session-is-not-changed", lambda r, s: _params_after(r, s)),
]


class _Written:
    """Something that is a URL when written out."""

    def __init__(self, url: Any) -> None:
        self._url = url

    def __str__(self) -> Any:
        return self._url


def _with_params(r: Any, s: Stage, params: Any) -> Any:
    session = s.session(r)
    session.params = params
    return session


def _params_after(r: Any, s: Stage) -> Any:
    session = _with_params(r, s, {"a": "1"})
    session.get(s.url + "/a", params={"b": "2"})
    return session.params
