"""Sessions: auth, cookies, hooks, adapters, prepared requests, defaults."""

from __future__ import annotations

import hashlib
import http.cookiejar
import io
import re
from typing import Any

import requests.auth
import urllib3

from tests.compat.sides import Row, given
from tests.compat.stage import Stage, generated
from tests.with_server.echo_server import Answer, Seen


def _with(session: Any, **attributes: Any) -> Any:
    for name, value in attributes.items():
        setattr(session, name, value)
    return session


def _auth(auth: Any) -> Any:
    return lambda r, s: r.get(s.url + "/a", auth=auth(r) if callable(auth) else auth)


def _cookies(*lines: Any, path: Any = "/") -> Any:
    """Have cookies set, then ask again."""

    def call(r: Any, s: Stage) -> Any:
        session = s.session(r)
        session.get(s.page(b"", *[f"Set-Cookie: {line}" for line in lines], path="/dir/set"))
        return [session.get(s.url + path).text, sorted(session.cookies.items())]

    return call


# What urllib3 would add below requests, and nothing does here: the entry `bare-prepared`.
_OWN = {"User-Agent": "me", "Accept-Encoding": "identity"}
_FIELDS = ("seen.1.headers", "seen.2.headers")
_HASHES = {"MD5": "md5", "SHA": "sha1", "SHA-256": "sha256", "SHA-512": "sha512"}
_DIGEST = 'Digest realm="here", nonce="abc", qop="auth", algorithm={}, opaque="xyz"'

ROWS = [
    # --- auth ---
    Row("auth/pair", _auth(("user", "password"))),
    Row("auth/basic", _auth(lambda r: r.auth.HTTPBasicAuth("user", "password"))),
    Row("auth/unicode", _auth(("üser", "pässword"))),
    Row("auth/beyond-latin-1", _auth(("юзер", "пароль")), "basic-utf-8", ("got", "seen")),
    Row("auth/bytes", _auth((b"user", b"p\xff"))),
    Row("auth/empty-password", _auth(("user", ""))),
    Row("auth/empty-user", _auth(("", "password"))),
    Row("auth/colon-in-password", _auth(("user", "pass:word"))),
    Row("auth/numbers", _auth((1, 2)), "basic-numbers", ("got", "seen"), raises="ValueError"),
    Row("auth/list", _auth(["user", "password"]), "auth-list", ("got", "seen")),
    Row("auth/triple", _auth(("a", "b", "c")), "auth-wrong-type", raises="ValueError"),
    Row("auth/text", _auth("user:password"), "auth-wrong-type", raises="ValueError"),
    Row("auth/empty-text", _auth(""), "auth-wrong-type", ("got", "seen"), raises="ValueError"),
    Row("auth/proxy", _auth(lambda r: r.auth.HTTPProxyAuth("user", "password"))),
    Row(
        "auth/over-the-header",
        lambda r, s: r.get(s.url + "/a", auth=("user", "password"), headers={"Authorization": "Bearer x"}),
    ),
    Row("auth/callable", lambda r, s: r.get(s.url + "/a", auth=_stamped)),
    Row("auth/callable-changes-url", lambda r, s: r.get(s.url + "/a", auth=_sent_elsewhere)),
    Row("auth/callable-changes-body", lambda r, s: r.post(s.url + "/a", data="x", auth=_rewritten)),
    Row("auth/callable-makes-a-body", lambda r, s: r.post(s.url + "/a", auth=_rewritten)),
    Row("auth/callable-sees", lambda r, s: _seen_by_auth(r, s)),
    Row(
        "auth/callable-returns-none",
        lambda r, s: r.get(s.url + "/a", auth=lambda request: None),
        "wrong-types",
        raises="TypeError",
    ),
    Row("auth/callable-raises", lambda r, s: r.get(s.url + "/a", auth=_refusing)),
    Row("auth/base-class", lambda r, s: r.get(s.url + "/a", auth=_handler(r)())),
    Row("auth/base-class-unfinished", lambda r, s: r.get(s.url + "/a", auth=r.auth.AuthBase())),
    Row(
        "auth/equal",
        lambda r, s: [
            r.auth.HTTPBasicAuth("a", "b") == r.auth.HTTPBasicAuth("a", "b"),
            r.auth.HTTPBasicAuth("a", "b") != r.auth.HTTPBasicAuth("a", "c"),
        ],
    ),
    Row(
        "auth/requests-own-handler",
        lambda r, s: r.get(s.url + "/a", auth=requests.auth.HTTPBasicAuth("user", "password")),
    ),
    Row("auth/url", lambda r, s: r.get(s.url.replace("//", "//user:pass%20word@") + "/a")),
    Row(
        "auth/url-without-password",
        lambda r, s: r.get(s.url.replace("//", "//user@") + "/a"),
        "userinfo-without-password",
        ("got", "seen"),
    ),
    Row("auth/url-empty-user", lambda r, s: r.get(s.url.replace("//", "//:password@") + "/a")),
    Row("auth/url-escaped", lambda r, s: r.get(s.url.replace("//", "//us%40er:p%3Aw%2F@") + "/a")),
    Row(
        "auth/url-and-argument",
        lambda r, s: r.get(s.url.replace("//", "//user:password@") + "/a", auth=("other", "one")),
    ),
    Row(
        "auth/url-and-session",
        lambda r, s: _with(s.session(r), auth=("other", "one")).get(s.url.replace("//", "//user:password@") + "/a"),
    ),
    Row("auth/session", lambda r, s: _with(s.session(r), auth=("user", "password")).get(s.url + "/a")),
    Row(
        "auth/session-and-call",
        lambda r, s: _with(s.session(r), auth=("user", "password")).get(s.url + "/a", auth=("other", "one")),
    ),
    Row("auth/session-as-it-was-set", lambda r, s: _with(s.session(r), auth=("user", "password")).auth),
    Row(
        "auth/session-and-header",
        lambda r, s: _with(s.session(r), auth=("user", "password")).get(s.url + "/a", headers={"Authorization": "x"}),
    ),
    Row("auth/netrc", lambda r, s: r.get(_netrc(s) + "/a"), environment=lambda s: {"NETRC": str(s.tmp / "netrc")}),
    Row("auth/netrc-in-home", lambda r, s: r.get(_netrc(s, ".netrc") + "/a")),
    Row(
        "auth/netrc-not-trusted",
        lambda r, s: (_netrc(s), _with(s.session(r), trust_env=False).get(s.url + "/a"))[1],
        environment=lambda s: {"NETRC": str(s.tmp / "netrc")},
    ),
    Row(
        "auth/netrc-and-argument",
        lambda r, s: r.get(_netrc(s) + "/a", auth=("user", "password")),
        environment=lambda s: {"NETRC": str(s.tmp / "netrc")},
    ),
    Row(
        "auth/netrc-and-session",
        lambda r, s: (_netrc(s), _with(s.session(r), auth=("user", "password")).get(s.url + "/a"))[1],
        environment=lambda s: {"NETRC": str(s.tmp / "netrc")},
    ),
    Row(
        "auth/netrc-and-header",
        lambda r, s: r.get(_netrc(s) + "/a", headers={"Authorization": "Bearer x"}),
        "netrc-and-header",
        ("got", "seen"),
        environment=lambda s: {"NETRC": str(s.tmp / "netrc")},
    ),
    Row(
        "auth/netrc-of-another",
        lambda r, s: (_netrc(s), r.get(s.other + "/a"))[1],
        environment=lambda s: {"NETRC": str(s.tmp / "netrc")},
    ),
    Row(
        "auth/netrc-redirect",
        lambda r, s: (_netrc(s), r.get(s.moved(s.url + "/b", on="other")))[1],
        environment=lambda s: {"NETRC": str(s.tmp / "netrc")},
    ),
    Row(
        "auth/netrc-missing", lambda r, s: r.get(s.url + "/a"), environment=lambda s: {"NETRC": str(s.tmp / "nothing")}
    ),
    *(
        Row(
            f"digest/{name}",
            given(lambda r, s, algorithm: _digest(r, s, _DIGEST.format(algorithm)), algorithm),
            "digest-fields",
            _FIELDS,
        )
        for name, algorithm in (("md5", "MD5"), ("sha", "SHA"), ("sha-256", "SHA-256"), ("sha-512", "SHA-512"))
    ),
    Row("digest/md5-sess", lambda r, s: _digest(r, s, _DIGEST.format("MD5-sess")), "digest-fields", _FIELDS),
    Row("digest/without-qop", lambda r, s: _digest(r, s, 'Digest realm="here", nonce="abc"')),
    Row(
        "digest/two-qops",
        lambda r, s: _digest(r, s, 'Digest realm="here", nonce="abc", qop="auth,auth-int"'),
        "digest-fields",
        _FIELDS,
    ),
    Row(
        "digest/unknown-algorithm",
        lambda r, s: _digest(r, s, _DIGEST.format("ROT13")),
        "digest-unknown",
        ("got", "seen"),
    ),
    Row(
        "digest/post",
        lambda r, s: _digest(r, s, _DIGEST.format("MD5"), method="POST", data="x"),
        "digest-fields",
        _FIELDS,
    ),
    Row(
        "digest/file",
        lambda r, s: _digest(r, s, _DIGEST.format("MD5"), method="POST", data=io.BytesIO(b"again")),
        "digest-fields",
        _FIELDS,
    ),
    Row(
        "digest/wrong-password",
        lambda r, s: _digest(r, s, _DIGEST.format("MD5"), accepts=False),
        "digest-fields",
        _FIELDS,
    ),
    Row("digest/not-asked-for", lambda r, s: r.get(s.page(), auth=r.auth.HTTPDigestAuth("user", "password"))),
    Row("digest/basic-asked-for", lambda r, s: _digest(r, s, 'Basic realm="here"')),
    Row("digest/second-request", lambda r, s: _digest_twice(r, s), "digest-fields", _FIELDS),
    Row(
        "digest/cookie-of-the-challenge",
        lambda r, s: _digest(r, s, _DIGEST.format("MD5"), fields=[("Set-Cookie", "seen=yes; Path=/")]),
        "digest-fields",
        _FIELDS,
    ),
    # --- cookies ---
    Row("cookies/call", lambda r, s: r.get(s.url + "/a", cookies={"a": "1"})),
    Row("cookies/call-several", lambda r, s: r.get(s.url + "/a", cookies={"b": "1", "a": "2"})),
    Row("cookies/call-jar", lambda r, s: r.get(s.url + "/a", cookies=_jar(r))),
    Row("cookies/call-standard-jar", lambda r, s: r.get(s.url + "/a", cookies=_standard_jar())),
    Row("cookies/call-empty", lambda r, s: r.get(s.url + "/a", cookies={})),
    Row("cookies/call-not-kept", lambda r, s: _call_not_kept(s.session(r), s)),
    Row(
        "cookies/call-over-session",
        lambda r, s: _own_cookies(s.session(r), a="1", b="2").get(s.url + "/a", cookies={"b": "3"}),
    ),
    Row("cookies/call-and-header", lambda r, s: r.get(s.url + "/a", cookies={"a": "1"}, headers={"Cookie": "b=2"})),
    Row(
        "cookies/session-and-header",
        lambda r, s: _own_cookies(s.session(r), a="1").get(s.url + "/a", headers={"Cookie": "b=2"}),
    ),
    Row("cookies/call-odd-values", lambda r, s: r.get(s.url + "/a", cookies={"a": "x y", "b": '"q"', "c": ""})),
    Row(
        "cookies/call-semicolon",
        lambda r, s: r.get(s.url + "/a", cookies={"a": "1; b=2"}),
        "cookie-values",
        ("got", "seen"),
        raises="ValueError",
    ),
    Row("cookies/call-number", lambda r, s: r.get(s.url + "/a", cookies={"a": 1}), "cookie-values", raises="TypeError"),
    Row("cookies/call-none", lambda r, s: r.get(s.url + "/a", cookies={"a": None}), "cookie-values", ("got", "seen")),
    Row("cookies/set", _cookies("a=1")),
    Row("cookies/set-root", _cookies("a=1; Path=/")),
    Row("cookies/set-several", _cookies("a=1; Path=/", "b=2; Path=/")),
    Row("cookies/set-path", _cookies("a=1; Path=/dir", path="/dir/x")),
    Row("cookies/set-path-elsewhere", _cookies("a=1; Path=/dir", path="/other")),
    Row("cookies/set-default-path", _cookies("a=1", path="/dir/x")),
    Row("cookies/set-path-boundary", _cookies("a=1; Path=/dir", path="/directory")),
    Row("cookies/set-longest-path-first", _cookies("a=1; Path=/", "b=2; Path=/dir", path="/dir/x")),
    Row("cookies/set-expired", _cookies("a=1; Path=/", "a=1; Path=/; Max-Age=0"), "cookies-6265bis", ("got", "seen")),
    Row("cookies/set-expires-past", _cookies("a=1; Path=/; Expires=Thu, 01 Jan 1970 00:00:00 GMT")),
    Row("cookies/set-expires-future", _cookies("a=1; Path=/; Expires=Fri, 01 Jan 2100 00:00:00 GMT")),
    Row("cookies/set-max-age-over-expires", _cookies("a=1; Path=/; Max-Age=99; Expires=Thu, 01 Jan 1970 00:00:00 GMT")),
    Row("cookies/set-secure-over-http", _cookies("a=1; Path=/; Secure"), "cookies-6265bis", ("got", "seen")),
    Row("cookies/set-http-only", _cookies("a=1; Path=/; HttpOnly; SameSite=Lax")),
    Row("cookies/set-quoted", _cookies('a="x y"; Path=/')),
    Row("cookies/set-equals-in-value", _cookies("a=b=c; Path=/")),
    Row("cookies/set-empty-value", _cookies("a=; Path=/")),
    Row("cookies/set-without-value", _cookies("flag; Path=/"), "cookies-6265bis", ("got", "seen")),
    Row("cookies/set-foreign-domain", _cookies("a=1; Path=/; Domain=example.com")),
    Row("cookies/set-comma-in-value", _cookies("a=1,2; Path=/")),
    Row("cookies/set-replaced", _cookies("a=1; Path=/", "a=2; Path=/")),
    Row("cookies/set-unicode", _cookies("a=gr\xc3\xb6\xc3\x9fe; Path=/")),
    Row("cookies/over-redirect", lambda r, s: s.session(r).get(s.moved("/b", 302, "Set-Cookie: a=1; Path=/"))),
    Row("cookies/over-redirect-one-off", lambda r, s: r.get(s.moved("/b", 302, "Set-Cookie: a=1; Path=/"))),
    Row(
        "cookies/over-redirect-changed",
        lambda r, s: s.session(r).get(
            s.moved(s.moved("/b", 302, "Set-Cookie: a=2; Path=/", path="/c"), 302, "Set-Cookie: a=1; Path=/")
        ),
    ),
    Row(
        "cookies/over-redirect-in-history",
        lambda r, s: [x.cookies.get_dict() for x in r.get(s.moved("/b", 302, "Set-Cookie: a=1; Path=/")).history],
    ),
    Row("cookies/over-redirect-of-the-call", lambda r, s: r.get(s.moved("/b"), cookies={"a": "1"})),
    Row(
        "cookies/over-redirect-elsewhere",
        lambda r, s: r.get(s.moved(s.other + "/b"), cookies={"a": "1"}),
        "call-cookies-elsewhere",
        ("got", "seen"),
    ),
    Row(
        "cookies/session-elsewhere",
        lambda r, s: _with(s.session(r), cookies=r.cookies.cookiejar_from_dict({"a": "1"})).get(
            s.moved(s.other + "/b")
        ),
    ),
    Row("cookies/not-to-another-host", lambda r, s: _set_here_ask_there(s.session(r), s)),
    Row("cookies/to-another-port", lambda r, s: _set_here_ask_other_port(s.session(r), s)),
    Row(
        "cookies/response",
        lambda r, s: r.get(s.page(b"", "Set-Cookie: a=1; Path=/", "Set-Cookie: b=2; Path=/")).cookies.get_dict(),
    ),
    Row(
        "cookies/response-attributes",
        lambda r, s: r.get(s.page(b"", "Set-Cookie: a=1; Path=/; Secure; Domain=127.0.0.1")),
        "cookies-6265bis",
    ),
    Row("cookies/response-get", lambda r, s: r.get(s.page(b"", "Set-Cookie: a=1")).cookies["a"]),
    Row("cookies/response-missing", lambda r, s: r.get(s.page()).cookies["a"]),
    Row("cookies/session-by-item", lambda r, s: _by_item(s.session(r), s)),
    Row(
        "cookies/session-by-mapping",
        lambda r, s: _with(s.session(r), cookies={"a": "1"}).get(s.url + "/a"),
        "session-cookies-mapping",
        ("got", "seen"),
    ),
    Row("cookies/session-update", lambda r, s: _own_cookies(s.session(r), a="1", b="2").get(s.url + "/a")),
    Row("cookies/session-clear", lambda r, s: _cleared(s.session(r), s)),
    Row("cookies/session-standard-jar", lambda r, s: _with(s.session(r), cookies=_standard_jar()).get(s.url + "/a")),
    Row("cookies/jar-set-with-domain", lambda r, s: _set_by_hand(r, s, domain="127.0.0.1", path="/")),
    Row("cookies/jar-set-with-other-domain", lambda r, s: _set_by_hand(r, s, domain="example.com", path="/")),
    Row("cookies/jar-set-with-path", lambda r, s: _set_by_hand(r, s, path="/else")),
    Row("cookies/jar-mapping", lambda r, s: _mapping(r)),
    Row(
        "cookies/jar-get-dict",
        lambda r, s: [_jar(r).get_dict(), _jar(r).get_dict(domain="a.example"), _jar(r).get_dict(path="/p")],
    ),
    Row(
        "cookies/jar-lists",
        lambda r, s: [_jar(r).list_domains(), _jar(r).list_paths(), _jar(r).multiple_domains()],
        "multiple-domains",
    ),
    Row("cookies/jar-conflict", lambda r, s: _conflict(r)["a"]),
    Row("cookies/jar-conflict-get", lambda r, s: _conflict(r).get("a")),
    Row("cookies/jar-conflict-resolved", lambda r, s: _conflict(r).get("a", domain="b.example")),
    Row("cookies/jar-missing", lambda r, s: _jar(r)["nothing"]),
    Row("cookies/jar-get-default", lambda r, s: _jar(r).get("nothing", "default")),
    Row("cookies/jar-set-none-removes", lambda r, s: _removed(r)),
    Row("cookies/jar-delete", lambda r, s: _deleted(r)),
    Row("cookies/jar-pop", lambda r, s: [(jar := _jar(r)).pop("a"), jar.pop("nothing", "default"), jar.get_dict()]),
    Row("cookies/jar-copy", lambda r, s: [(jar := _jar(r)).copy().get_dict() == jar.get_dict(), jar.copy() is jar]),
    Row("cookies/jar-update-jar", lambda r, s: _updated(r)),
    Row("cookies/jar-contains", lambda r, s: ["a" in _jar(r), "nothing" in _jar(r), len(_jar(r))]),
    Row("cookies/jar-iterate", lambda r, s: sorted(cookie.name for cookie in _jar(r))),
    Row("cookies/jar-clear-one", lambda r, s: [(jar := _jar(r)).clear("a.example", "/p", "c"), jar.get_dict()]),
    Row(
        "cookies/jar-is-standard",
        lambda r, s: isinstance(r.cookies.RequestsCookieJar(), http.cookiejar.CookieJar),
        "own-jar",
    ),
    Row("cookies/from-dict", lambda r, s: r.cookies.cookiejar_from_dict({"a": "1"}).get_dict()),
    Row(
        "cookies/from-dict-into",
        lambda r, s: r.cookies.cookiejar_from_dict({"a": "2", "b": "3"}, cookiejar=_jar(r)).get_dict(),
    ),
    Row(
        "cookies/from-dict-no-overwrite",
        lambda r, s: r.cookies.cookiejar_from_dict({"a": "2", "b": "3"}, cookiejar=_jar(r), overwrite=False).get_dict(),
    ),
    Row("cookies/from-none", lambda r, s: r.cookies.cookiejar_from_dict(None).get_dict()),
    Row("cookies/to-dict", lambda r, s: r.utils.dict_from_cookiejar(_jar(r))),
    Row("cookies/add-dict", lambda r, s: r.utils.add_dict_to_cookiejar(_jar(r), {"z": "9"}).get_dict()),
    Row(
        "cookies/create",
        lambda r, s: [
            getattr(r.cookies.create_cookie("a", "1", domain="a.example", path="/p", secure=True), name)
            for name in ("name", "value", "domain", "path", "secure")
        ],
    ),
    Row("cookies/merge", lambda r, s: r.cookies.merge_cookies(_jar(r), {"z": "9"}).get_dict()),
    # --- hooks ---
    Row("hooks/call", lambda r, s: _hooked(r, s, lambda log: {"hooks": {"response": log}})),
    Row("hooks/call-list", lambda r, s: _hooked(r, s, lambda log: {"hooks": {"response": [log, log]}})),
    Row("hooks/every-hop", lambda r, s: _hooked(r, s, lambda log: {"hooks": {"response": log}}, s.hops(2))),
    Row(
        "hooks/replaces",
        lambda r, s: r.get(s.page(), hooks={"response": lambda response, **kwargs: r.get(s.url + "/b")}).text,
    ),
    Row("hooks/changes", lambda r, s: r.get(s.page(), hooks={"response": _stamp_response}).headers["X-Stamp"]),
    Row(
        "hooks/in-order",
        lambda r, s: r.get(s.page(), hooks={"response": [_append("a"), _append("b")]}).headers["X-Order"],
    ),
    Row("hooks/raises", lambda r, s: r.get(s.page(), hooks={"response": _refusing_response})),
    Row("hooks/keywords", lambda r, s: _hook_keywords(r, s)),
    Row("hooks/unknown-event", lambda r, s: r.get(s.page(), hooks={"request": print})),
    Row("hooks/session", lambda r, s: _session_hook(s.session(r), s)),
    Row("hooks/session-and-call", lambda r, s: _both_hooks(s.session(r), s), "hooks-of-both"),
    Row("hooks/session-default", lambda r, s: s.session(r).hooks),
    Row("hooks/sends-again", lambda r, s: r.get(s.page(), hooks={"response": _once_more}).text),
    Row(
        "hooks/with-history",
        lambda r, s: [
            x.status_code for x in r.get(s.page(status=503), hooks={"response": _once_more_with_history}).history
        ],
    ),
    Row("hooks/register", lambda r, s: _registered(r, s)),
    Row("hooks/deregister", lambda r, s: _deregistered(r)),
    Row("hooks/register-unknown", lambda r, s: r.Request("GET", s.url).register_hook("request", print)),
    Row("hooks/default", lambda r, s: r.hooks.default_hooks()),
    # --- prepared requests ---
    Row("prepared/plain", lambda r, s: r.Request("GET", "http://example.com/a b?x=1#f").prepare()),
    Row(
        "prepared/everything",
        lambda r, s: r.Request(
            "post",
            "http://example.com/",
            headers={"X-A": "1"},
            data={"a": "1"},
            params={"p": "2"},
            auth=("u", "p"),
            cookies={"c": "3"},
        ).prepare(),
    ),
    Row("prepared/json", lambda r, s: r.Request("PUT", "http://example.com/", json={"a": 1}).prepare()),
    Row(
        "prepared/files", lambda r, s: r.Request("POST", "http://example.com/", files={"f": ("a.txt", b"x")}).prepare()
    ),
    Row("prepared/not-http", lambda r, s: r.Request("GET", "mailto:somebody@example.com").prepare().url),
    Row(
        "prepared/repr",
        lambda r, s: [
            repr(r.Request("GET", "http://example.com/")),
            repr(r.Request("GET", "http://example.com/").prepare()),
        ],
    ),
    Row(
        "prepared/request-defaults",
        lambda r, s: [
            getattr(r.Request("GET", "http://example.com/"), name)
            for name in ("method", "url", "headers", "files", "data", "json", "params", "auth", "cookies", "hooks")
        ],
    ),
    Row(
        "prepared/path-url",
        lambda r, s: [
            r.Request("GET", url).prepare().path_url
            for url in ("http://example.com", "http://example.com/?a", "http://example.com/a;b?c#d")
        ],
    ),
    Row(
        "prepared/session",
        lambda r, s: _rich(s.session(r)).prepare_request(
            r.Request("GET", "http://example.com/", headers={"X-B": "2"}, params={"q": "1"})
        ),
    ),
    Row(
        "prepared/session-auth",
        lambda r, s: (
            _rich(s.session(r))
            .prepare_request(r.Request("GET", "http://example.com/", auth=("other", "one")))
            .headers["Authorization"]
        ),
    ),
    Row(
        "prepared/session-cookies",
        lambda r, s: (
            _rich(s.session(r))
            .prepare_request(r.Request("GET", "http://example.com/", cookies={"b": "2"}))
            .headers["Cookie"]
        ),
    ),
    Row(
        "prepared/send",
        lambda r, s: s.session(r).send(r.Request("POST", s.url + "/a", data={"a": "1"}, headers=_OWN).prepare()),
    ),
    Row(
        "prepared/send-gets-no-defaults",
        lambda r, s: _rich(s.session(r)).send(r.Request("GET", s.url + "/a").prepare()),
        "bare-prepared",
        "seen",
    ),
    Row(
        "prepared/send-prepared-by-session",
        lambda r, s: (session := _rich(s.session(r))).send(session.prepare_request(r.Request("GET", s.url + "/a"))),
    ),
    Row("prepared/send-changed", lambda r, s: s.session(r).send(_changed(r, s))),
    Row(
        "prepared/send-twice",
        lambda r, s: [
            (session := s.session(r)).send(prepared := r.Request("GET", s.url + "/a", headers=_OWN).prepare()).text,
            session.send(prepared).text,
        ],
    ),
    Row("prepared/send-follows", lambda r, s: s.session(r).send(r.Request("GET", s.hops(2), headers=_OWN).prepare())),
    Row(
        "prepared/send-does-not-follow",
        lambda r, s: s.session(r).send(r.Request("GET", s.hops(2), headers=_OWN).prepare(), allow_redirects=False),
    ),
    Row("prepared/send-keeps-cookies", lambda r, s: _sent_cookies(s.session(r), r, s)),
    Row("prepared/send-unprepared", lambda r, s: s.session(r).send(r.Request("GET", s.url + "/a"))),
    Row(
        "prepared/send-timeout",
        lambda r, s: s.session(r).send(r.Request("GET", s.raw(b"", held=True), headers=_OWN).prepare(), timeout=0.05),
    ),
    Row(
        "prepared/send-stream",
        lambda r, s: list(
            s.session(r).send(r.Request("GET", s.page(), headers=_OWN).prepare(), stream=True).iter_content(2)
        ),
    ),
    Row(
        "prepared/send-tls",
        lambda r, s: s.session(r).send(r.Request("GET", s.tls + "/a", headers=_OWN).prepare(), verify=s.ca),
    ),
    Row(
        "prepared/send-tls-session",
        lambda r, s: _with(s.session(r), verify=s.ca).send(r.Request("GET", s.tls + "/a", headers=_OWN).prepare()),
    ),
    Row(
        "prepared/send-proxies",
        lambda r, s: s.session(r).send(
            r.Request("GET", s.other + "/a", headers=_OWN).prepare(), proxies={"http": s.url}
        ),
    ),
    Row(
        "prepared/send-hooks",
        lambda r, s: (
            s.session(r)
            .send(r.Request("GET", s.page(), hooks={"response": _stamp_response}, headers=_OWN).prepare())
            .headers["X-Stamp"]
        ),
    ),
    Row(
        "prepared/send-generator",
        lambda r, s: s.session(r).send(r.Request("POST", s.url + "/a", data=generated(b"one"), headers=_OWN).prepare()),
    ),
    Row(
        "prepared/empty",
        lambda r, s: [(p := r.PreparedRequest()).method, p.url, p.headers, p.body, p.hooks],
        "prepared-empty",
    ),
    Row("prepared/by-parts", lambda r, s: _by_parts(r)),
    Row("prepared/by-prepare", lambda r, s: _by_prepare(r)),
    Row("prepared/body-again", lambda r, s: _body_again(r)),
    Row("prepared/url-again", lambda r, s: _url_again(r)),
    Row("prepared/content-length", lambda r, s: _content_length(r)),
    Row(
        "prepared/copy",
        lambda r, s: r.Request("POST", "http://example.com/", data="x", headers={"X-A": "1"}).prepare().copy(),
    ),
    Row("prepared/copy-is-independent", lambda r, s: _copied(r)),
    Row("prepared/url-set", lambda r, s: _url_set(r, s)),
    Row("prepared/method-none", lambda r, s: r.Request(None, "http://example.com/").prepare().method),
    Row(
        "prepared/merged-settings",
        lambda r, s: _with(
            s.session(r), verify="/ca", cert="/cert", stream=True, proxies={"http": "http://p.example"}
        ).merge_environment_settings("http://example.com/", {}, None, None, None),
    ),
    Row(
        "prepared/merged-settings-over",
        lambda r, s: _with(s.session(r), verify="/ca").merge_environment_settings(
            "http://example.com/", {"http": "http://q.example"}, True, False, "/c"
        ),
    ),
    # --- sessions ---
    Row(
        "sessions/attributes",
        lambda r, s: [
            getattr(s.session(r), name)
            for name in ("auth", "proxies", "hooks", "params", "stream", "verify", "cert", "max_redirects", "trust_env")
        ],
    ),
    Row("sessions/cookies", lambda r, s: len(s.session(r).cookies)),
    Row("sessions/adapters", lambda r, s: list(s.session(r).adapters)),
    Row("sessions/context", lambda r, s: _in_context(r, s)),
    Row("sessions/used-after-close", lambda r, s: _after_close(s.session(r), s)),
    Row("sessions/unknown-attribute", lambda r, s: s.session(r).nothing),
    Row("sessions/own-attribute", lambda r, s: _with(s.session(r), my_name="x").my_name),
    Row("sessions/subclass", lambda r, s: _subclassed(r, s)),
    Row("sessions/sessions-module", lambda r, s: r.sessions.Session is r.Session),
    Row("sessions/keep-alive", lambda r, s: _connections(s.session(r), s)),
    # --- adapters ---
    Row(
        "adapters/get",
        lambda r, s: [
            type(s.session(r).get_adapter(url)).__name__
            for url in ("http://a.example/", "https://a.example/", "HTTP://A.EXAMPLE/")
        ],
    ),
    Row("adapters/none-for-it", lambda r, s: s.session(r).get_adapter("ftp://a.example/")),
    Row("adapters/mounted", lambda r, s: _mounted(r, s)),
    Row("adapters/mount-order", lambda r, s: _mount_order(r, s)),
    Row("adapters/longest-wins", lambda r, s: _longest(r, s)),
    Row("adapters/own", lambda r, s: _own_adapter(r, s)),
    Row("adapters/own-scheme", lambda r, s: _own_scheme(r, s)),
    Row(
        "adapters/redirect-to-own-scheme",
        lambda r, s: _led_elsewhere(r, s),
        "redirect-scheme",
        ("got", "seen"),
        raises="InvalidSchema",
    ),
    Row("adapters/own-send", lambda r, s: _own_send(r, s)),
    Row("adapters/add-headers", lambda r, s: _add_headers(r, s)),
    Row(
        "adapters/settings",
        lambda r, s: r.adapters.HTTPAdapter(pool_connections=5, pool_maxsize=5, pool_block=True).max_retries is None,
        "adapter-retries",
    ),
    Row("adapters/retries-number", lambda r, s: _retrying(r, s, 2).get(s.dead)),
    Row("adapters/retry-statuses", lambda r, s: _retry_statuses(r, s, [503, 503, 200], 3)),
    Row("adapters/retry-statuses-used-up", lambda r, s: _retry_statuses(r, s, [503, 503, 503], 2)),
    Row(
        "adapters/retry-statuses-returned",
        lambda r, s: _retry_statuses(r, s, [503, 503, 503], 2, raise_on_status=False),
    ),
    Row("adapters/retry-post-not", lambda r, s: _retry_statuses(r, s, [503, 200], 2, method="POST")),
    Row(
        "adapters/retry-post-allowed",
        lambda r, s: _retry_statuses(r, s, [503, 200], 2, method="POST", allowed_methods=None),
    ),
    Row("adapters/retry-not-listed", lambda r, s: _retry_statuses(r, s, [500, 200], 2)),
    Row("adapters/base-class", lambda r, s: r.adapters.BaseAdapter().send(None)),
    Row("adapters/close", lambda r, s: r.adapters.HTTPAdapter().close()),
    Row("adapters/session-closes", lambda r, s: _closes(r, s)),
]


def _stamped(request: Any) -> Any:
    request.headers["X-Stamp"] = f"{request.method} {request.path_url}"
    return request


def _sent_elsewhere(request: Any) -> Any:
    request.url = request.url.replace("/a", "/b")
    return request


def _rewritten(request: Any) -> Any:
    request.body = b"another body"
    return request


def _refusing(request: Any) -> Any:
    raise KeyError("no password")


def _handler(r: Any) -> Any:
    class Token(r.auth.AuthBase):  # type: ignore[misc]  # of either library
        def __call__(self, request: Any) -> Any:
            request.headers["X-Token"] = "1"
            return request

    return Token


def _seen_by_auth(r: Any, s: Stage) -> Any:
    seen = []

    def look(request: Any) -> Any:
        seen.extend([request.method, request.url, request.body, request.headers["Content-Length"]])
        return request

    r.post(s.url + "/a", data=b"xyz", auth=look)
    return seen


def _netrc(s: Stage, name: Any = "netrc") -> Any:
    (s.tmp / name).write_text("machine 127.0.0.1\nlogin from\npassword netrc\n")
    (s.tmp / name).chmod(0o600)
    if name != "netrc":
        s.once((s.tmp / name).unlink)
    return s.url


def _is_right(seen: Seen) -> bool:
    """Whether a request carries the answer to a challenge (RFC 7616 §3.4.1)."""
    said = dict(re.findall(r'(\w+)="?([^",]*)', seen.header("authorization") or ""))
    if "response" not in said:
        return False
    name, session, _ = said.get("algorithm", "MD5").partition("-sess")

    def hashed(*parts: str) -> str:
        return hashlib.new(_HASHES[name], ":".join(parts).encode()).hexdigest()

    secret = hashed("user", "here", "password")
    if session:
        secret = hashed(secret, said["nonce"], said["cnonce"])
    middle = [said["nonce"], said["nc"], said["cnonce"], said["qop"]] if "qop" in said else [said["nonce"]]
    return bool(hashed(secret, *middle, hashed(seen.method, said["uri"])) == said["response"])


def _digest(
    r: Any, s: Stage, challenge: Any, *, method: Any = "GET", accepts: Any = True, fields: Any = (), **kwargs: Any
) -> Any:
    def answer(seen: Any) -> Any:
        if accepts and _is_right(seen):
            return Answer(b"welcome")
        return Answer(b"who?", 401, [("WWW-Authenticate", challenge), *fields])

    response = r.request(method, s.script("/secret", answer), auth=r.auth.HTTPDigestAuth("user", "password"), **kwargs)
    s.hidden["authorization"] = r'(cnonce|response)="\w+"'
    return [response.status_code, response.text, [each.status_code for each in response.history]]


def _digest_twice(r: Any, s: Stage) -> Any:
    auth = r.auth.HTTPDigestAuth("user", "password")
    session = _with(s.session(r), auth=auth)

    def answer(seen: Any) -> Any:
        if _is_right(seen):
            return Answer(b"welcome")
        return Answer(b"who?", 401, [("WWW-Authenticate", _DIGEST.format("MD5"))])

    url = s.script("/secret", answer)
    s.hidden["authorization"] = r'(cnonce|response)="\w+"'
    return [session.get(url).text, session.get(url).text]


def _jar(r: Any) -> Any:
    jar = r.cookies.RequestsCookieJar()
    jar.set("a", "1")
    jar.set("b", "2", domain="127.0.0.1", path="/")
    jar.set("c", "3", domain="a.example", path="/p")
    return jar


def _standard_jar() -> Any:
    jar = http.cookiejar.CookieJar()
    jar.set_cookie(requests.cookies.create_cookie("std", "1", domain="127.0.0.1", path="/"))
    return jar


def _own_cookies(session: Any, **cookies: Any) -> Any:
    session.cookies.update(cookies)
    return session


def _call_not_kept(session: Any, s: Stage) -> Any:
    session.get(s.url + "/a", cookies={"a": "1"})
    return session.get(s.url + "/a")


def _by_item(session: Any, s: Stage) -> Any:
    session.cookies["a"] = "1"
    return session.get(s.url + "/a")


def _cleared(session: Any, s: Stage) -> Any:
    _own_cookies(session, a="1").cookies.clear()
    return session.get(s.url + "/a")


def _set_by_hand(r: Any, s: Stage, **where: Any) -> Any:
    session = s.session(r)
    session.cookies.set("a", "1", **where)
    return session.get(s.url + "/a")


def _set_here_ask_there(session: Any, s: Stage) -> Any:
    session.get(s.page(b"", "Set-Cookie: a=1; Path=/"))
    return session.get(s.other + "/a")


def _set_here_ask_other_port(session: Any, s: Stage) -> Any:
    session.get(s.page(b"", "Set-Cookie: a=1; Path=/"))
    return session.get(s.tls + "/a", verify=s.ca)


def _mapping(r: Any) -> Any:
    jar = _jar(r)
    return [
        sorted(jar.keys()),
        sorted(jar.values()),
        sorted(jar.items()),
        dict(jar),
        bool(r.cookies.RequestsCookieJar()),
    ]


def _conflict(r: Any) -> Any:
    jar = r.cookies.RequestsCookieJar()
    jar.set("a", "1", domain="a.example")
    jar.set("a", "2", domain="b.example")
    return jar


def _removed(r: Any) -> Any:
    jar = _jar(r)
    jar.set("a", None)
    return jar.get_dict()


def _deleted(r: Any) -> Any:
    jar = _jar(r)
    del jar["a"]
    return jar.get_dict()


def _updated(r: Any) -> Any:
    jar = r.cookies.RequestsCookieJar()
    jar.update(_jar(r))
    jar.update({"z": "9"})
    return jar.get_dict()


def _hooked(r: Any, s: Stage, how: Any, url: Any = None) -> Any:
    log = []

    def hook(response: Any, *args: Any, **kwargs: Any) -> Any:
        log.append((response.status_code, response.url))

    r.get(url or s.page(), **how(hook))
    return log


def _stamp_response(response: Any, **kwargs: Any) -> Any:
    response.headers["X-Stamp"] = "1"


def _append(letter: Any) -> Any:
    def hook(response: Any, **kwargs: Any) -> Any:
        response.headers["X-Order"] = response.headers.get("X-Order", "") + letter
        return response

    return hook


def _refusing_response(response: Any, **kwargs: Any) -> Any:
    raise KeyError("no such thing")


def _hook_keywords(r: Any, s: Stage) -> Any:
    found = {}
    r.get(s.page(), hooks={"response": lambda response, **kwargs: found.update(kwargs)}, timeout=30)
    return sorted(found)


def _session_hook(session: Any, s: Stage) -> Any:
    session.hooks["response"].append(_stamp_response)
    return session.get(s.page()).headers["X-Stamp"]


def _both_hooks(session: Any, s: Stage) -> Any:
    session.hooks["response"].append(_append("session "))
    return session.get(s.page(), hooks={"response": _append("call ")}).headers["X-Order"]


def _once_more(response: Any, **kwargs: Any) -> Any:
    if response.request.headers.get("X-Again"):
        return None
    again = response.request.copy()
    again.headers["X-Again"] = "1"
    again.url = again.url.replace("/page", "/again")
    response.content  # noqa: B018 - as auth handlers do, so that the connection is free
    response.close()
    return response.connection.send(again, **kwargs)


def _once_more_with_history(response: Any, **kwargs: Any) -> Any:
    answer = _once_more(response, **kwargs)
    if answer is not None:
        answer.history.append(response)
    return answer


def _registered(r: Any, s: Stage) -> Any:
    request = r.Request("GET", s.page(), headers=_OWN)
    request.register_hook("response", _stamp_response)
    return s.session(r).send(request.prepare()).headers["X-Stamp"]


def _deregistered(r: Any) -> Any:
    request = r.Request("GET", "http://example.com/")
    request.register_hook("response", _stamp_response)
    return [
        request.deregister_hook("response", _stamp_response),
        request.deregister_hook("response", _stamp_response),
        request.hooks,
    ]


def _rich(session: Any) -> Any:
    session.cookies.set("s", "1")
    return _with(session, params={"p": "1"}, auth=("user", "password"))


def _changed(r: Any, s: Stage) -> Any:
    prepared = r.Request("POST", s.url + "/a", data="abc", headers=_OWN).prepare()
    prepared.headers["X-A"] = "1"
    prepared.body = "another"
    prepared.headers["Content-Length"] = "7"
    return prepared


def _sent_cookies(session: Any, r: Any, s: Stage) -> Any:
    session.send(r.Request("GET", s.page(b"", "Set-Cookie: a=1; Path=/"), headers=_OWN).prepare())
    return session.get(s.url + "/a")


def _by_parts(r: Any) -> Any:
    prepared = r.PreparedRequest()
    prepared.prepare_method("post")
    prepared.prepare_url("http://example.com/a", {"p": "1"})
    prepared.prepare_headers({"X-A": "1"})
    prepared.prepare_cookies({"c": "1"})
    prepared.prepare_body({"a": "1"}, None)
    prepared.prepare_auth(("user", "password"))
    prepared.prepare_hooks({"response": _stamp_response})
    return [prepared, prepared.hooks]


def _by_prepare(r: Any) -> Any:
    prepared = r.PreparedRequest()
    prepared.prepare(method="PUT", url="http://example.com/", json={"a": 1}, headers={"X-A": "1"})
    return prepared


def _body_again(r: Any) -> Any:
    prepared = r.Request("POST", "http://example.com/", data="abc").prepare()
    prepared.prepare_body(b"longer than before", None)
    return prepared


def _url_again(r: Any) -> Any:
    prepared = r.Request("POST", "http://example.com/", data="abc").prepare()
    prepared.prepare_url("http://example.org/x", {"a": "1"})
    return prepared


def _content_length(r: Any) -> Any:
    prepared = r.Request("POST", "http://example.com/").prepare()
    prepared.prepare_content_length(b"abcd")
    return prepared.headers["Content-Length"]


def _copied(r: Any) -> Any:
    prepared = r.Request("GET", "http://example.com/", headers={"X-A": "1"}).prepare()
    twin = prepared.copy()
    twin.headers["X-A"] = "2"
    twin.url = "http://example.org/"
    return prepared


def _url_set(r: Any, s: Stage) -> Any:
    prepared = r.Request("GET", "http://example.com/", headers=_OWN).prepare()
    prepared.url = s.url + "/a"
    return s.session(r).send(prepared)


def _in_context(r: Any, s: Stage) -> Any:
    with r.Session() as session:
        return session.get(s.page())


def _after_close(session: Any, s: Stage) -> Any:
    session.close()
    return session.get(s.page())


def _subclassed(r: Any, s: Stage) -> Any:
    class Prefixed(r.Session):  # type: ignore[misc]  # of either library
        def __init__(self) -> None:
            super().__init__()
            self.prefix = s.url
            self.headers["X-Sub"] = "1"

        def request(self, method: Any, url: Any, **kwargs: Any) -> Any:
            return super().request(method, self.prefix + url, **kwargs)

    with Prefixed() as session:
        return session.get("/a")


def _connections(session: Any, s: Stage) -> Any:
    numbers = []

    def answer(seen: Any) -> Any:
        numbers.append(seen.method)
        return Answer(b"ok")

    url = s.script("/a", answer)
    for _ in range(3):
        session.get(url)
    return [numbers, s.accepted]


def _mounted(r: Any, s: Stage) -> Any:
    session = s.session(r)
    adapter = r.adapters.HTTPAdapter()
    session.mount(s.url, adapter)
    return [
        session.get_adapter(s.url + "/a") is adapter,
        session.get_adapter(s.other) is adapter,
        session.get(s.url + "/a").text,
    ]


def _mount_order(r: Any, s: Stage) -> Any:
    session = s.session(r)
    for prefix in ("http://a.example", "https://longer.example/path", "http://"):
        session.mount(prefix, r.adapters.HTTPAdapter())
    return list(session.adapters)


def _longest(r: Any, s: Stage) -> Any:
    session = s.session(r)
    short, long = r.adapters.HTTPAdapter(), r.adapters.HTTPAdapter()
    session.mount("http://a.example/x", long)
    session.mount("http://a.example/", short)
    return [session.get_adapter("http://a.example/x/y") is long, session.get_adapter("http://a.example/y") is short]


def _fixed(r: Any) -> Any:
    class Fixed(r.adapters.BaseAdapter):  # type: ignore[misc]  # of either library
        def send(
            self,
            request: Any,
            stream: Any = False,
            timeout: Any = None,
            verify: Any = True,
            cert: Any = None,
            proxies: Any = None,
        ) -> Any:
            response = r.models.Response()
            response.status_code = 200
            response.url = request.url
            response.request = request
            response.raw = io.BytesIO(f"{request.method} {request.url}".encode())
            return response

        def close(self) -> None:
            pass

    return Fixed()


def _own_adapter(r: Any, s: Stage) -> Any:
    session = s.session(r)
    session.mount("http://fixed.example/", _fixed(r))
    return session.get("http://fixed.example/a", params={"b": "1"}).text


def _own_scheme(r: Any, s: Stage) -> Any:
    session = s.session(r)
    session.mount("memory://", _fixed(r))
    return session.get("memory://anything/at all").text


def _led_elsewhere(r: Any, s: Stage) -> Any:
    session = s.session(r)
    session.mount("memory://", _fixed(r))
    return session.get(s.moved("memory://secrets/all")).text


def _own_send(r: Any, s: Stage) -> Any:
    class Stamping(r.adapters.HTTPAdapter):  # type: ignore[misc]  # of either library
        def send(self, request: Any, **kwargs: Any) -> Any:
            request.headers["X-Stamp"] = "1"
            response = super().send(request, **kwargs)
            response.headers["X-Answer-Stamp"] = "2"
            return response

    session = s.session(r)
    session.mount("http://", Stamping())
    return session.get(s.url + "/a")


def _add_headers(r: Any, s: Stage) -> Any:
    class Adding(r.adapters.HTTPAdapter):  # type: ignore[misc]  # of either library
        def add_headers(self, request: Any, **kwargs: Any) -> Any:
            request.headers["X-Added"] = ",".join(sorted(kwargs))

    session = s.session(r)
    session.mount("http://", Adding())
    return session.get(s.url + "/a")


def _retrying(r: Any, s: Stage, retries: Any) -> Any:
    session = s.session(r)
    session.mount("http://", r.adapters.HTTPAdapter(max_retries=retries))
    return session


def _retry_statuses(r: Any, s: Stage, statuses: Any, total: Any, *, method: Any = "GET", **kwargs: Any) -> Any:
    left = iter(statuses)
    retry = urllib3.Retry(
        total=total - 1 if statuses[-1] != 200 else total, status_forcelist=[503], backoff_factor=0, **kwargs
    )
    url = s.script("/a", lambda seen: Answer(b"x", next(left)))
    return _retrying(r, s, retry).request(method, url).status_code


def _closes(r: Any, s: Stage) -> Any:
    closed = []
    adapter = _fixed(r)
    adapter.close = lambda: closed.append(1)
    session = s.session(r)
    session.mount("memory://", adapter)
    session.close()
    return closed
