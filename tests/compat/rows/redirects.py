"""Redirects: methods, bodies, headers, where they lead, how many."""

from __future__ import annotations

import io
from typing import Any

from tests.compat.sides import Row, given
from tests.compat.stage import Stage, generated

_CODES = (301, 302, 303, 307, 308)
_FIELDS = ("seen.1.headers", "got.request.headers")


def _follow(to: Any, **kwargs: Any) -> Any:
    """A redirect to `to`, in which `{url}`, `{other}` and `{dead}` are filled in."""
    return lambda r, s: r.get(
        s.moved(to.format(url=s.url, other=s.other, dead=s.dead, tls=s.tls), path="/dir/moved"), **kwargs
    )


ROWS = [
    *(
        Row(
            f"redirects/{code}-{method}",
            given(lambda r, s, code, method: r.request(method, s.moved("/b", code)), code, method),
        )
        for code in _CODES
        for method in ("GET", "POST", "PUT", "DELETE", "HEAD")
        if (code, method) != (301, "PUT")
    ),
    Row("redirects/301-PUT", lambda r, s: r.put(s.moved("/b", 301)), "redirect-content-length", _FIELDS),
    *(
        Row(
            f"redirects/{code}-with-a-form",
            given(lambda r, s, code: r.post(s.moved("/b", code), data={"a": "1"}), code),
        )
        for code in _CODES
    ),
    *(
        Row(f"redirects/{code}-put-json", given(lambda r, s, code: r.put(s.moved("/b", code), json={"a": 1}), code))
        for code in _CODES
        if code != 301
    ),
    Row(
        "redirects/301-put-json",
        lambda r, s: r.put(s.moved("/b", 301), json={"a": 1}),
        "redirect-content-length",
        _FIELDS,
    ),
    *(
        Row(
            f"redirects/{code}-not-followed",
            given(lambda r, s, code: r.post(s.moved("/b", code), data="x", allow_redirects=False), code),
        )
        for code in _CODES
    ),
    *(
        Row(
            f"redirects/{code}-is-none",
            given(lambda r, s, code: r.get(s.page(b"", "Location: /b", status=code, reason="Odd")), code),
        )
        for code in (300, 304, 305, 306)
    ),
    *(
        Row(f"redirects/{code}-without-location", given(lambda r, s, code: r.get(s.page(b"", status=code)), code))
        for code in (301, 302, 307)
    ),
    Row("redirects/201-with-location", lambda r, s: r.post(s.page(b"", "Location: /b", status=201))),
    Row("redirects/chain", lambda r, s: r.get(s.hops(5))),
    Row("redirects/chain-history-of-history", lambda r, s: [[len(x.history) for x in r.get(s.hops(3)).history]]),
    Row("redirects/history-is-new", lambda r, s: r.get(s.page()).history),
    Row(
        "redirects/history-requests",
        lambda r, s: [(x.request.method, x.request.url) for x in r.post(s.hops(2)).history],
    ),
    Row("redirects/history-content", lambda r, s: [x.content for x in r.get(s.hops(2)).history]),
    Row("redirects/history-headers", lambda r, s: [x.headers["Location"] for x in r.get(s.hops(2)).history]),
    Row("redirects/too-many", lambda r, s: _limited(r, s, 3).get(s.hops(4))),
    Row("redirects/just-enough", lambda r, s: _limited(r, s, 3).get(s.hops(3))),
    Row("redirects/none-allowed", lambda r, s: _limited(r, s, 0).get(s.hops(1))),
    Row("redirects/endless", lambda r, s: r.get(s.moved("/moved"))),
    Row("redirects/too-many-response", lambda r, s: _too_many(r, s)),
    Row("redirects/not-followed", lambda r, s: r.get(s.hops(1), allow_redirects=False)),
    Row("redirects/next", lambda r, s: r.get(s.moved("/b"), allow_redirects=False).next),
    Row("redirects/next-sent", lambda r, s: _step_by_step(s.session(r), s)),
    Row("redirects/next-after-following", lambda r, s: r.get(s.hops(1)).next),
    Row("redirects/next-of-none", lambda r, s: r.get(s.page(), allow_redirects=False).next),
    Row("redirects/302-then-307", lambda r, s: r.post(s.moved(s.moved("/b", 307, path="/c"), 302), data="x")),
    Row("redirects/307-then-303", lambda r, s: r.post(s.moved(s.moved("/b", 303, path="/c"), 307), data="x")),
    # --- where to ---
    Row("redirects/relative", _follow("b")),
    Row("redirects/relative-up", _follow("../b")),
    Row("redirects/relative-far-up", _follow("../../../b")),
    Row("redirects/relative-dot", _follow("./b")),
    Row("redirects/relative-query", _follow("?a=1")),
    Row("redirects/relative-to-a-directory", lambda r, s: r.get(s.moved("b", path="/dir/"))),
    Row("redirects/scheme-relative", lambda r, s: r.get(s.moved(s.url.removeprefix("http:") + "/b"))),
    Row("redirects/absolute", _follow("{url}/b")),
    Row("redirects/other-host", _follow("{other}/b")),
    Row("redirects/empty-location", lambda r, s: r.get(s.moved(""))),
    Row("redirects/fragment-of-the-request", lambda r, s: r.get(s.moved("/b") + "#here")),
    Row("redirects/fragment-of-the-location", _follow("/b#there")),
    Row("redirects/fragment-of-both", lambda r, s: r.get(s.moved("/b#there") + "#here")),
    Row("redirects/fragment-over-two", lambda r, s: r.get(s.hops(2) + "#here")),
    Row("redirects/fragment-only", lambda r, s: r.get(s.moved("#there"), timeout=2)),
    Row("redirects/fragment-set-on-the-way", lambda r, s: r.get(s.moved(s.moved("/b", path="/c") + "#there"))),
    Row("redirects/space-in-location", _follow("/a b")),
    Row("redirects/utf-8-location", lambda r, s: r.get(s.moved("/größe".encode().decode("latin-1")))),
    Row("redirects/latin-1-location", lambda r, s: r.get(s.moved("/gr\xf6\xdfe")), "location-latin-1", ("got", "seen")),
    Row("redirects/escaped-location", _follow("/a%20b?x=%41%2f"), "percent-upper-case"),
    Row("redirects/dots-in-absolute-location", _follow("{url}/a/../b/./c"), "dot-segments", ("got", "seen")),
    Row("redirects/double-slash-path", _follow("{url}//b")),
    Row("redirects/port-0", _follow("http://127.0.0.1:0/")),
    Row("redirects/refused", _follow("{dead}/")),
    Row("redirects/not-http", _follow("ftp://example.com/")),
    Row("redirects/mailto", _follow("mailto:somebody@example.com")),
    Row("redirects/javascript", _follow("javascript:alert(1)")),
    Row("redirects/bad-port", _follow("http://127.0.0.1:port/")),
    Row("redirects/no-host", _follow("http:///b"), "bad-location", ("got", "seen"), raises="InvalidURL"),
    Row("redirects/bad-brackets", _follow("http://[::1/")),
    Row("redirects/bad-label", _follow("http://*.example.com/"), "bad-location", raises="InvalidURL"),
    Row("redirects/unknown-name", _follow("http://x.invalid/")),
    Row("redirects/not-followed-bad-place", _follow("http://*.example.com/", allow_redirects=False), "bad-location"),
    Row("redirects/userinfo", lambda r, s: r.get(s.moved(s.url.replace("//", "//user:password@") + "/b"))),
    Row("redirects/from-userinfo", lambda r, s: r.get(s.moved("/b").replace("//", "//user:password@"))),
    Row(
        "redirects/from-userinfo-to-another",
        lambda r, s: r.get(s.moved(s.other + "/b").replace("//", "//user:password@")),
    ),
    Row(
        "redirects/https-to-http",
        lambda r, s: r.get(s.moved(s.url + "/b", on="tls"), verify=s.ca),
        "https-to-http",
        ("got", "seen"),
        raises="InsecureRedirect",
    ),
    Row("redirects/http-to-https", lambda r, s: r.get(s.moved(s.tls + "/b"), verify=s.ca)),
    # --- what goes with it ---
    Row("redirects/headers-follow", lambda r, s: r.get(s.moved("/b"), headers={"X-A": "1", "Accept": "text/html"})),
    Row("redirects/headers-follow-elsewhere", lambda r, s: r.get(s.moved(s.other + "/b"), headers={"X-A": "1"})),
    Row(
        "redirects/host-header",
        lambda r, s: r.get(s.moved("/b"), headers={"Host": "example.com"}),
        "redirect-host",
        ("got", "seen"),
    ),
    Row("redirects/auth-follows", lambda r, s: r.get(s.moved("/b"), auth=("user", "password"))),
    Row("redirects/auth-not-elsewhere", lambda r, s: r.get(s.moved(s.other + "/b"), auth=("user", "password"))),
    Row(
        "redirects/authorization-not-elsewhere",
        lambda r, s: r.get(s.moved(s.other + "/b"), headers={"Authorization": "Bearer x"}),
    ),
    Row("redirects/authorization-follows", lambda r, s: r.get(s.moved("/b"), headers={"Authorization": "Bearer x"})),
    Row(
        "redirects/api-key-not-elsewhere",
        lambda r, s: r.get(s.moved(s.other + "/b"), headers={"X-Api-Key": "x"}),
        "redirect-secrets",
        ("got", "seen"),
    ),
    Row("redirects/api-key-follows", lambda r, s: r.get(s.moved("/b"), headers={"X-Api-Key": "x"})),
    Row("redirects/session-auth-follows", lambda r, s: _with_auth(r, s).get(s.moved("/b"))),
    Row("redirects/session-auth-not-elsewhere", lambda r, s: _with_auth(r, s).get(s.moved(s.other + "/b"))),
    Row(
        "redirects/session-auth-there-and-back",
        lambda r, s: _with_auth(r, s).get(s.moved(s.moved(s.url + "/b", on="other", path="/c"))),
    ),
    Row("redirects/proxy-authorization", lambda r, s: r.get(s.moved("/b"), headers={"Proxy-Authorization": "Basic x"})),
    Row("redirects/cookie-header", lambda r, s: r.get(s.moved("/b"), headers={"Cookie": "a=1"})),
    Row("redirects/content-type-dropped", lambda r, s: r.post(s.moved("/b"), b"x", headers={"Content-Type": "text/x"})),
    Row(
        "redirects/content-type-kept", lambda r, s: r.post(s.moved("/b", 307), b"x", headers={"Content-Type": "text/x"})
    ),
    Row("redirects/params-not-again", lambda r, s: _with_params(r, s).get(s.moved("/b"))),
    Row("redirects/file", lambda r, s: r.post(s.moved("/b", 307), data=s.file(b"again"))),
    Row("redirects/file-from-the-middle", lambda r, s: r.post(s.moved("/b", 307), data=_at(s.file(b"again"), 2))),
    Row("redirects/bytes-io", lambda r, s: r.post(s.moved("/b", 308), data=io.BytesIO(b"again"))),
    Row("redirects/bytes-io-dropped", lambda r, s: r.post(s.moved("/b", 302), data=io.BytesIO(b"again"))),
    Row("redirects/multipart", lambda r, s: r.post(s.moved("/b", 307), files={"f": b"x"})),
    Row(
        "redirects/generator",
        lambda r, s: r.post(s.moved("/b", 307), data=generated(b"once")),
        "unrewindable",
        ("got", "seen"),
        raises="UnrewindableBodyError",
    ),
    Row("redirects/generator-dropped", lambda r, s: r.post(s.moved("/b", 303), data=generated(b"once"))),
    Row("redirects/stream-without-seek", lambda r, s: r.post(s.moved("/b", 307), data=_Told(b"once"))),
    Row("redirects/stream-that-cannot-tell", lambda r, s: r.post(s.moved("/b", 307), data=_Untold(b"once"))),
    Row("redirects/streamed", lambda r, s: r.get(s.hops(2), stream=True)),
    Row("redirects/body-of-the-redirect", lambda r, s: r.get(s.script("/moved", s_answer(s)))),
    Row(
        "redirects/broken-body-of-the-redirect",
        lambda r, s: r.get(s.raw(b"HTTP/1.1 302 Found\r\nLocation: /b\r\nContent-Length: 9\r\n\r\nshort")),
    ),
    Row(
        "redirects/broken-gzip-of-the-redirect",
        lambda r, s: r.get(s.page(b"not gzip", "Location: /b", "Content-Encoding: gzip", status=302)),
    ),
    Row("redirects/session-target", lambda r, s: _target(s.session(r), s)),
    Row("redirects/session-target-of-none", lambda r, s: _target_of_none(s.session(r), s)),
    Row("redirects/resolve-by-hand", lambda r, s: _resolve(s.session(r), s)),
    Row("redirects/resolve-by-hand-requests", lambda r, s: _resolve_requests(s.session(r), s)),
    *(
        Row(
            f"redirects/strip-auth-{number}",
            given(lambda r, s, old, new: s.session(r).should_strip_auth(old, new), old, new),
        )
        for number, (old, new) in enumerate(
            [
                ("http://a.example/x", "http://a.example/y"),
                ("http://a.example/", "http://b.example/"),
                ("http://a.example/", "https://a.example/"),
                ("https://a.example/", "http://a.example/"),
                ("http://a.example:80/", "https://a.example:443/"),
                ("http://a.example:8080/", "https://a.example/"),
                ("http://a.example/", "http://a.example:80/"),
                ("http://a.example:1/", "http://a.example:2/"),
                ("http://A.example/", "http://a.example/"),
                ("http://a.example/", "http://sub.a.example/"),
            ],
            1,
        )
    ),
    *(
        Row(
            f"redirects/rebuild-method-{code}-{method}",
            given(lambda r, s, code, method: _rebuilt(r, s, code, method), code, method),
        )
        for code, method in ((301, "POST"), (301, "PUT"), (302, "PUT"), (302, "HEAD"), (303, "DELETE"), (307, "POST"))
    ),
]


def s_answer(s: Stage) -> Any:
    from tests.with_server.echo_server import Answer

    return Answer(b"x" * 3000, 302, [("Location", "/b")])


def _limited(r: Any, s: Stage, most: Any) -> Any:
    session = s.session(r)
    session.max_redirects = most
    return session


def _too_many(r: Any, s: Stage) -> Any:
    try:
        _limited(r, s, 1).get(s.hops(3))
    except r.TooManyRedirects as error:
        return [error.response.status_code, error.response.url, error.request.url]


def _step_by_step(session: Any, s: Stage) -> Any:
    response = session.get(s.hops(3), allow_redirects=False)
    urls = [response.url]
    while response.next is not None:
        response = session.send(response.next, allow_redirects=False)
        urls.append(response.url)
    return urls


def _with_auth(r: Any, s: Stage) -> Any:
    session = s.session(r)
    session.auth = ("user", "password")
    return session


def _with_params(r: Any, s: Stage) -> Any:
    session = s.session(r)
    session.params = {"a": "1"}
    return session


def _at(file: Any, position: Any) -> Any:
    file.seek(position)
    return file


class _Told:
    """A stream that can tell where it is and cannot go back."""

    def __init__(self, content: Any) -> None:
        self._file = io.BytesIO(content)

    def read(self, size: Any = -1) -> Any:
        return self._file.read(size)

    def tell(self) -> Any:
        return self._file.tell()

    def __iter__(self) -> Any:
        return iter(self._file)


class _Untold(_Told):
    """A stream that cannot even tell where it is."""

    def tell(self) -> Any:
        raise OSError("a pipe")


def _target(session: Any, s: Stage) -> Any:
    response = session.get(s.moved("/gr\xc3\xb6\xc3\x9fe"), allow_redirects=False)
    return session.get_redirect_target(response)


def _target_of_none(session: Any, s: Stage) -> Any:
    return session.get_redirect_target(session.get(s.page()))


def _resolve(session: Any, s: Stage) -> Any:
    response = session.get(s.hops(3), allow_redirects=False)
    return [(each.status_code, each.url) for each in session.resolve_redirects(response, response.request)]


def _resolve_requests(session: Any, s: Stage) -> Any:
    response = session.get(s.hops(3), allow_redirects=False)
    return next(session.resolve_redirects(response, response.request, yield_requests=True))


def _rebuilt(r: Any, s: Stage, code: Any, method: Any) -> Any:
    session = s.session(r)
    response = session.request(method, s.moved("/b", code), allow_redirects=False)
    prepared = response.request.copy()
    session.rebuild_method(prepared, response)
    return prepared.method
