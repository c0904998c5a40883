"""What goes wrong: URLs that cannot be used, connections that fail, time-outs, answers that are broken."""

from __future__ import annotations

import gzip
import io
from typing import Any

import urllib3

from tests.compat.sides import Row
from tests.compat.stage import Pieces, Stage


def _get(url: Any, **kwargs: Any) -> Any:
    return lambda r, s: r.get(url, **kwargs)


def _raw(data: Any, **kwargs: Any) -> Any:
    return lambda r, s: r.get(s.raw(data), **kwargs)


_OK = b"HTTP/1.1 200 OK\r\n"
_QUICK = 0.1
_BODY = 0.2  # enough for the head, and the half of a body, to have come

ROWS = [
    # --- URLs ---
    Row("urls-bad/no-scheme", _get("example.com")),
    Row("urls-bad/no-scheme-path", _get("/path")),
    Row("urls-bad/no-scheme-but-port", _get("localhost:8000/a")),
    Row("urls-bad/no-scheme-but-slashes", _get("//example.com/")),
    Row("urls-bad/word", _get("word")),
    Row("urls-bad/only-scheme", _get("http://")),
    Row("urls-bad/only-scheme-tls", _get("https://")),
    Row("urls-bad/no-host-but-path", _get("http:///path")),
    Row("urls-bad/no-host-but-port", _get("http://:80/")),
    Row("urls-bad/one-slash", _get("http:/example.com/")),
    Row("urls-bad/no-slash", _get("http:example.com")),
    Row("urls-bad/ftp", _get("ftp://example.com/")),
    Row("urls-bad/file", _get("file:///etc/passwd")),
    Row("urls-bad/mailto", _get("mailto:somebody@example.com")),
    Row("urls-bad/data", _get("data:text/plain,hello")),
    Row("urls-bad/unknown-scheme", _get("gopher://example.com/")),
    Row("urls-bad/like-http", _get("httpx://example.com/")),
    Row("urls-bad/unix", _get("http+unix://%2Fsocket/")),
    Row("urls-bad/wildcard", _get("http://*.example.com/")),
    Row("urls-bad/leading-dot", _get("http://.example.com/")),
    Row("urls-bad/label-too-long", _get(f"http://{'a' * 64}.example/"), "host-names", raises="InvalidURL"),
    Row("urls-bad/empty-label", _get("http://a..example/"), "host-names", raises="InvalidURL"),
    Row("urls-bad/escaped-slash-in-host", _get("http://exa%2fmple.example/"), "host-names", raises="InvalidURL"),
    Row("urls-bad/colon-but-no-scheme", _get("1http://example.com/"), "no-scheme", raises="MissingSchema"),
    Row("urls-bad/bytes-that-are-no-text", _get(b"http://example.com/\xff"), "bytes-no-text", raises="InvalidURL"),
    Row("urls-bad/label-not-idna", _get("http://\u2603\u200d.example/")),
    Row("urls-bad/space-in-host", _get("http://exa mple.com/")),
    Row("urls-bad/port-a-word", _get("http://127.0.0.1:http/")),
    Row("urls-bad/port-too-large", _get("http://127.0.0.1:65536/")),
    Row("urls-bad/port-negative", _get("http://127.0.0.1:-1/")),
    Row("urls-bad/port-0", _get("http://127.0.0.1:0/")),
    Row("urls-bad/open-bracket", _get("http://[::1/")),
    Row("urls-bad/brackets-around-a-name", _get("http://[example]/")),
    Row("urls-bad/brackets-empty", _get("http://[]/")),
    Row("urls-bad/line-break-in-host", _get("http://exa\nmple.com/")),
    Row("urls-bad/nul-in-host", _get("http://exa\0mple.com/")),
    Row("urls-bad/backslash-in-host", _get("http://example.invalid\\@127.0.0.1/"), "backslash", raises="InvalidURL"),
    Row("urls-bad/number", _get(5)),
    Row("urls-bad/prepared-none", lambda r, s: r.Request("GET").prepare()),
    Row("urls-bad/prepared-no-scheme", lambda r, s: r.Request("GET", "example.com").prepare()),
    # --- connections ---
    Row("connections/refused", lambda r, s: r.get(s.dead)),
    Row("connections/refused-post", lambda r, s: r.post(s.dead, data="x")),
    Row("connections/unknown-name", _get("http://x.invalid/")),
    Row("connections/unknown-name-tls", _get("https://x.invalid/")),
    Row("connections/refused-has-request", lambda r, s: _caught(lambda: r.get(s.dead)).request.url),
    Row("connections/refused-is-oserror", lambda r, s: isinstance(_caught(lambda: r.get(s.dead)), OSError)),
    Row("connections/closed-at-once", _raw(b"")),
    Row("connections/closed-in-the-status-line", _raw(b"HTTP/1.1 2")),
    Row("connections/closed-in-the-head", _raw(_OK + b"Content-Le"), "strict-head", raises="ConnectionBroken"),
    Row("connections/not-http", _raw(b"SSH-2.0-OpenSSH_9\r\n")),
    Row("connections/not-http-status", _raw(b"HTTP/1.1 abc OK\r\n\r\n")),
    Row("connections/http-2", _raw(b"HTTP/2 200 OK\r\nContent-Length: 0\r\n\r\n")),
    Row("connections/http-0.9", _raw(b"<html>hello</html>")),
    Row("connections/line-too-long", _raw(_OK + b"X: " + b"x" * 70_000 + b"\r\n\r\n"), "head-limits"),
    Row(
        "connections/too-many-fields",
        _raw(_OK + b"".join(b"X-%d: 1\r\n" % n for n in range(120)) + b"\r\n"),
        "head-limits",
    ),
    Row("connections/field-without-colon", _raw(_OK + b"Nonsense\r\nContent-Length: 0\r\n\r\n"), "line-without-colon"),
    Row("connections/tls-to-plain", lambda r, s: r.get(s.url.replace("http:", "https:"))),
    Row("connections/plain-to-tls", lambda r, s: r.get(s.tls.replace("https:", "http:"))),
    # --- TLS ---
    Row("tls/unverified", lambda r, s: r.get(s.tls, verify=False)),
    Row("tls/authority", lambda r, s: r.get(s.tls, verify=s.ca)),
    Row("tls/not-trusted", lambda r, s: r.get(s.tls)),
    Row("tls/no-such-file", lambda r, s: r.get(s.tls, verify="/no/such/file.pem")),
    Row("tls/no-such-certificate", lambda r, s: r.get(s.tls, verify=s.ca, cert="/no/such/file.pem")),
    Row("tls/no-such-key", lambda r, s: r.get(s.tls, verify=s.ca, cert=(s.ca, "/no/such/key.pem"))),
    Row("tls/wrong-name", lambda r, s: r.get(s.tls.replace("127.0.0.1", "localhost"), verify=s.ca)),
    Row("tls/session-verify", lambda r, s: _with(s.session(r), verify=s.ca).get(s.tls)),
    Row(
        "tls/session-unverified-call-says-otherwise",
        lambda r, s: _with(s.session(r), verify=False).get(s.tls, verify=s.ca),
    ),
    Row("tls/session-unverified", lambda r, s: _with(s.session(r), verify=False).get(s.tls)),
    Row("tls/requests-ca-bundle", lambda r, s: r.get(s.tls), environment=lambda s: {"REQUESTS_CA_BUNDLE": s.ca}),
    Row("tls/curl-ca-bundle", lambda r, s: r.get(s.tls), environment=lambda s: {"CURL_CA_BUNDLE": s.ca}),
    Row(
        "tls/ca-bundle-not-trusted",
        lambda r, s: _with(s.session(r), trust_env=False).get(s.tls),
        environment=lambda s: {"REQUESTS_CA_BUNDLE": s.ca},
    ),
    Row(
        "tls/ca-bundle-and-unverified",
        lambda r, s: r.get(s.tls, verify=False),
        environment=lambda s: {"REQUESTS_CA_BUNDLE": "/no/such/file.pem"},
    ),
    Row(
        "tls/ca-bundle-and-session-unverified",
        lambda r, s: _with(s.session(r), verify=False).get(s.tls),
        "ca-bundle-and-verify",
        ("got", "seen"),
        environment=lambda s: {"REQUESTS_CA_BUNDLE": "/no/such/file.pem"},
    ),
    Row("tls/verify-none", lambda r, s: r.get(s.tls, verify=None)),
    # --- time-outs ---
    Row("timeouts/read", lambda r, s: r.get(s.raw(b"", held=True), timeout=_QUICK)),
    Row("timeouts/read-of-a-pair", lambda r, s: r.get(s.raw(b"", held=True), timeout=(5, _QUICK))),
    Row("timeouts/read-in-the-head", lambda r, s: r.get(s.raw(_OK, held=True), timeout=_QUICK)),
    Row(
        "timeouts/read-in-the-body",
        lambda r, s: r.get(s.raw(_OK + b"Content-Length: 9\r\n\r\nhalf", held=True), timeout=_BODY),
        "body-timeout",
        raises="ReadTimeout",
    ),
    Row(
        "timeouts/read-in-a-stream",
        lambda r, s: list(
            r.get(s.raw(_OK + b"Content-Length: 9\r\n\r\nhalf", held=True), timeout=_BODY, stream=True).iter_content(9)
        ),
        "body-timeout",
        raises="ReadTimeout",
    ),
    Row("timeouts/connect", lambda r, s: r.get(s.deaf, timeout=_QUICK)),
    Row("timeouts/connect-of-a-pair", lambda r, s: r.get(s.deaf, timeout=(_QUICK, 5))),
    Row("timeouts/connect-is-both", lambda r, s: _kinds(r, _caught(lambda: r.get(s.deaf, timeout=_QUICK)))),
    Row(
        "timeouts/read-is-no-connection-error",
        lambda r, s: _kinds(r, _caught(lambda: r.get(s.raw(b"", held=True), timeout=_QUICK))),
    ),
    Row("timeouts/enough", lambda r, s: r.get(s.page(), timeout=30)),
    Row("timeouts/integer", lambda r, s: r.get(s.page(), timeout=30)),
    Row("timeouts/pair", lambda r, s: r.get(s.page(), timeout=(30, 30.5))),
    Row("timeouts/pair-with-none", lambda r, s: r.get(s.page(), timeout=(None, 30))),
    Row("timeouts/pair-of-nones", lambda r, s: r.get(s.page(), timeout=(None, None))),
    Row("timeouts/none", lambda r, s: r.get(s.page(), timeout=None)),
    Row("timeouts/list", lambda r, s: r.get(s.page(), timeout=[30, 30])),
    Row(
        "timeouts/urllib3",
        lambda r, s: r.get(s.page(), timeout=urllib3.Timeout(connect=5, read=5)),
        "timeout-urllib3",
        ("got", "seen"),
        raises="ValueError",
    ),
    Row("timeouts/triple", lambda r, s: r.get(s.page(), timeout=(1, 2, 3))),
    Row("timeouts/single", lambda r, s: r.get(s.page(), timeout=(1,))),
    Row("timeouts/zero", lambda r, s: r.get(s.page(), timeout=0)),
    Row("timeouts/negative", lambda r, s: r.get(s.page(), timeout=-1)),
    Row("timeouts/pair-with-zero", lambda r, s: r.get(s.page(), timeout=(0, 1))),
    Row("timeouts/word", lambda r, s: r.get(s.page(), timeout="soon")),
    Row("timeouts/number-as-text", lambda r, s: r.get(s.page(), timeout="5")),
    Row("timeouts/boolean", lambda r, s: r.get(s.page(), timeout=True)),
    # --- broken answers ---
    Row("broken/body-too-short", _raw(_OK + b"Content-Length: 9\r\n\r\nshort")),
    Row(
        "broken/body-too-short-streamed",
        lambda r, s: list(r.get(s.raw(_OK + b"Content-Length: 9\r\n\r\nshort"), stream=True).iter_content(2)),
    ),
    Row("broken/body-too-long", _raw(_OK + b"Content-Length: 2\r\n\r\nlonger")),
    Row("broken/body-of-204", _raw(b"HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nbody")),
    Row("broken/body-of-304", _raw(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n")),
    Row("broken/length-negative", _raw(_OK + b"Content-Length: -1\r\n\r\n"), "strict-head", raises="InvalidResponse"),
    Row(
        "broken/length-a-word", _raw(_OK + b"Content-Length: many\r\n\r\nbody"), "strict-head", raises="InvalidResponse"
    ),
    Row("broken/length-twice-the-same", _raw(_OK + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nok")),
    Row(
        "broken/length-twice",
        _raw(_OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nok"),
        "strict-head",
        raises="InvalidResponse",
    ),
    Row(
        "broken/length-with-chunks",
        _raw(_OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
    ),
    Row("broken/chunk-size", _raw(_OK + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\nok\r\n0\r\n\r\n")),
    Row(
        "broken/chunk-size-negative",
        _raw(_OK + b"Transfer-Encoding: chunked\r\n\r\n-2\r\nok\r\n0\r\n\r\n"),
        "chunk-sizes",
        raises="ChunkedEncodingError",
    ),
    Row("broken/chunk-size-empty", _raw(_OK + b"Transfer-Encoding: chunked\r\n\r\n\r\nok\r\n0\r\n\r\n")),
    Row("broken/chunk-cut", _raw(_OK + b"Transfer-Encoding: chunked\r\n\r\n9\r\nhalf")),
    Row("broken/chunks-without-end", _raw(_OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")),
    Row("broken/chunk-extension", _raw(_OK + b"Transfer-Encoding: chunked\r\n\r\n2;a=b\r\nok\r\n0\r\n\r\n")),
    Row("broken/chunk-trailer", _raw(_OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-A: 1\r\n\r\n")),
    Row("broken/chunk-too-long", _raw(_OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nlonger\r\n0\r\n\r\n")),
    Row(
        "broken/chunk-streamed",
        lambda r, s: list(
            r.get(s.raw(_OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\nzz\r\n"), stream=True).iter_content(2)
        ),
    ),
    Row(
        "broken/coding-unknown",
        _raw(_OK + b"Transfer-Encoding: rot13\r\n\r\nbody"),
        "strict-head",
        raises="InvalidResponse",
    ),
    Row("broken/bare-line-feeds", _raw(b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok")),
    Row(
        "broken/gzip-chunk-cut",
        _raw(
            _OK
            + b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % 60
            + gzip.compress(b"x" * 900, mtime=0)[:20]
        ),
    ),
    Row(
        "broken/upload-cut",
        lambda r, s: r.post(s.url + "/a", data=_Failing(b"some")),
        "upload-errors",
        raises="OSError",
    ),
    Row("broken/upload-generator", lambda r, s: r.post(s.url + "/a", data=_failing())),
    Row("broken/upload-not-bytes", lambda r, s: r.post(s.url + "/a", data=Pieces(1, 2))),
    # --- the errors themselves ---
    Row(
        "errors/is-both-names",
        lambda r, s: [
            getattr(r, name) is getattr(r.exceptions, name)
            for name in (
                "ConnectionError",
                "ConnectTimeout",
                "HTTPError",
                "ReadTimeout",
                "RequestException",
                "TooManyRedirects",
                "URLRequired",
                "JSONDecodeError",
            )
        ],
    ),
    Row("errors/made-by-hand", lambda r, s: _made(r, s)),
    Row("errors/made-with-request", lambda r, s: r.exceptions.HTTPError("bad", request=5).request),
    Row("errors/http-error-parts", lambda r, s: _http_error(r, s)),
    Row("errors/http-error-text", lambda r, s: str(_caught(r.get(s.page(status=404)).raise_for_status))),
    Row(
        "errors/http-error-text-500",
        lambda r, s: str(_caught(r.get(s.page(status=500, reason="Oh No")).raise_for_status)),
    ),
    Row(
        "errors/http-error-text-with-a-query",
        lambda r, s: str(_caught(r.get(s.page(status=404), params={"token": "x"}).raise_for_status)),
        "no-secrets-in-errors",
    ),
    Row(
        "errors/bad-json-has-response",
        lambda r, s: _caught(r.get(s.page(b"{")).json).response is None,
        "error-response",
    ),
]


class _Failing(io.BytesIO):
    def read(self, size: Any = -1) -> Any:
        raise OSError("the disk is gone")


def _failing() -> Any:
    yield b"one"
    raise KeyError("two")


def _caught(call: Any) -> Any:
    try:
        return call()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is compared
        return error


def _with(session: Any, **attributes: Any) -> Any:
    for name, value in attributes.items():
        setattr(session, name, value)
    return session


def _kinds(r: Any, error: Any) -> Any:
    names = ("RequestException", "ConnectionError", "Timeout", "ConnectTimeout", "ReadTimeout", "HTTPError")
    return [name for name in names if isinstance(error, getattr(r.exceptions, name))]


def _made(r: Any, s: Stage) -> Any:
    error = r.exceptions.HTTPError("bad", response=r.get(s.page(status=404)))
    return [str(error), error.response.status_code, error.request.url]


def _http_error(r: Any, s: Stage) -> Any:
    error = _caught(r.get(s.page(status=404)).raise_for_status)
    return [error.response.status_code, error.request.method, error.request.url]
