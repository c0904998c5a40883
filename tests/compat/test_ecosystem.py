"""The ecosystem of requests on our sessions: real auth objects, bodies and tools, against servers that verify."""

from __future__ import annotations

import hashlib
import hmac
import io
import json
import re
from base64 import b64encode
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, parse_qsl, quote

import pytest

import sessionpool
from sessionpool import Limits, Session, SessionPool
from tests.helpers import in_thread
from tests.with_server.echo_server import Answer, EchoServer, Seen, echo, page, redirect
from tests.with_server.test_proxy import Proxy

requests = pytest.importorskip("requests", reason="requests is not installed")

PLAIN = {"User-Agent": "x", "Accept-Encoding": "identity"}  # where requests' defaults are not ours


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "request_method"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def server() -> Iterator[EchoServer]:
    with EchoServer() as server:
        yield server


@pytest.fixture
def session() -> Iterator[Session]:
    with Session() as session:
        session.retry = None
        yield session


@pytest.fixture
def plain() -> Iterator[Any]:
    """requests as it is, to compare with."""
    with requests.Session() as session:
        yield session


# --- requests-oauthlib's OAuth1 ---


class OAuth1Server:
    """Answers with 200 what `oauthlib`'s own server side finds rightly signed, and with 401 what it does not.

    Attributes:
        nonces: Of what was rightly signed.
    """

    def __init__(self, server: EchoServer) -> None:
        oauth1 = pytest.importorskip("oauthlib.oauth1")

        class Validator(oauth1.RequestValidator):  # type: ignore[misc, name-defined]  # untyped
            enforce_ssl = False
            allowed_signature_methods = ("HMAC-SHA1", "HMAC-SHA256", "PLAINTEXT")
            client_key_length = 3, 30
            access_token_length = 3, 30
            dummy_client = "dummy"

            def validate_timestamp_and_nonce(
                self, client_key: str, timestamp: str, nonce: str, *_: Any, **__: Any
            ) -> bool:
                return True

            def validate_client_key(self, client_key: str, request: Any) -> bool:
                return client_key == "client"

            def get_client_secret(self, client_key: str, request: Any) -> str:
                return "client's & secret"

            def get_access_token_secret(self, client_key: str, token: str, request: Any) -> str:
                return "token's secret"

        self._endpoint = oauth1.SignatureOnlyEndpoint(Validator())
        self._url = server.url
        self.nonces: list[str] = []
        self.answer: Callable[[Seen], Answer] = echo

    def __call__(self, seen: Seen) -> Answer:
        valid, request = self._endpoint.validate_request(
            self._url + seen.target, seen.method, seen.body.decode(), dict(seen.headers)
        )
        if not valid:
            return Answer(b"not signed", 401)
        self.nonces.append(request.nonce)
        return self.answer(seen)


def oauth1(**kwargs: Any) -> Any:
    library = pytest.importorskip("requests_oauthlib")
    given = {"client_secret": "client's & secret", "resource_owner_key": "token"}
    return library.OAuth1("client", **{**given, "resource_owner_secret": "token's secret", **kwargs})


FORM: dict[str, Any] = {"data": {"b": ["2 3", "ü&="], "a": "1"}}
SIGNED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "query": ("GET", "/a%20b/ü?b=2&a=1%202&a=&c=%26", {}),
    "params": ("GET", "/", {"params": {"z": ["1", "ü +"], "a~": "*"}}),
    "form": ("POST", "/?q=1", FORM),
    "json": ("POST", "/", {"json": {"a": "1"}}),
    "bytes": ("PUT", "/", {"data": b"a=1&b=2"}),
    "delete": ("DELETE", "/", {}),
    "headers": ("GET", "/", {"headers": {"X-Own": "1", "Accept": None}}),
}


@pytest.mark.parametrize("where", ["AUTH_HEADER", "QUERY"])
@pytest.mark.parametrize("case", SIGNED.values(), ids=SIGNED)
def test_oauth1_signs_what_is_sent(
    case: tuple[str, str, dict[str, Any]], where: str, server: EchoServer, session: Session
) -> None:
    """The server's side of `oauthlib` finds the signature right, in the header or in the query."""
    method, path, options = case
    verify = OAuth1Server(server)
    server.answers[path.partition("?")[0].replace("ü", "%C3%BC")] = verify
    answer = session.request(method, server.url + path, auth=oauth1(signature_type=where), **options)
    (seen,) = server.seen

    assert answer.status_code == 200, answer.text
    assert ("oauth_signature" in seen.target) == (where == "QUERY")
    assert (seen.header("authorization") or "").startswith("OAuth ") == (where == "AUTH_HEADER")


def test_oauth1_in_the_body(server: EchoServer, session: Session) -> None:
    """The signature joins the form, whose length is told anew."""
    server.answers["/"] = verify = OAuth1Server(server)
    answer = session.post(server.url + "/", auth=oauth1(signature_type="BODY"), **FORM)
    (seen,) = server.seen

    assert answer.status_code == 200
    assert len(verify.nonces) == 1
    assert "oauth_signature" in parse_qs(seen.body.decode())
    assert seen.header("content-length") == str(len(seen.body))
    assert seen.header("authorization") is None


@pytest.mark.parametrize("method", ["HMAC-SHA1", "HMAC-SHA256", "PLAINTEXT"])
def test_oauth1_by_each_method(method: str, server: EchoServer, session: Session) -> None:
    """All that a shared secret can sign with."""
    server.answers["/"] = OAuth1Server(server)

    assert session.get(server.url + "/", auth=oauth1(signature_method=method)).status_code == 200


def test_oauth1_with_the_wrong_secret(server: EchoServer, session: Session) -> None:
    """So that the server is known to look."""
    server.answers["/"] = OAuth1Server(server)

    assert session.get(server.url + "/", auth=oauth1(client_secret="guessed")).status_code == 401


def test_oauth1_of_a_pool(server: EchoServer) -> None:
    """One object may sign for all threads; each request has a nonce of its own."""
    server.answers["/"] = verify = OAuth1Server(server)
    with SessionPool(auth=oauth1(), trust_env=False, retry=None) as pool:
        calls = [in_thread(lambda: [pool.get(server.url + "/").status_code for _ in range(5)]) for _ in range(4)]

        assert [call.get() for call in calls] == [[200] * 5] * 4
    assert len(set(verify.nonces)) == 20


# --- requests-aws4auth ---

SECRET = "aws secret"


def aws_signature(seen: Seen) -> str | None:
    """The signature that the request should have, by AWS's rules (Signature Version 4), from what arrived."""
    said = re.fullmatch(
        r"AWS4-HMAC-SHA256 Credential=id/([^,]*), SignedHeaders=([^,]*), Signature=(\w+)",
        seen.header("authorization") or "",
    )
    if said is None or seen.header("x-amz-content-sha256") != hashlib.sha256(seen.body).hexdigest():
        return None
    scope, names, signature = said.groups()
    path, _, query = seen.target.partition("?")
    pairs = sorted((quote(k, safe="-_.~"), quote(v, safe="-_.~")) for k, v in parse_qsl(query, keep_blank_values=True))
    fields = "".join(f"{name}:{' '.join((seen.header(name) or '').split())}\n" for name in names.split(";"))
    asked = [seen.method, quote(path, safe="/~"), "&".join(f"{k}={v}" for k, v in pairs), fields, names]
    asked.append(hashlib.sha256(seen.body).hexdigest())
    digest = hashlib.sha256("\n".join(asked).encode()).hexdigest()
    key = f"AWS4{SECRET}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    text = "\n".join(["AWS4-HMAC-SHA256", seen.header("x-amz-date") or "", scope, digest])
    right = hmac.digest(key, text.encode(), "sha256").hex()
    return signature if signature == right and "host" in names.split(";") else None


AWS: dict[str, tuple[str, str, Callable[[], dict[str, Any]]]] = {
    "get": ("GET", "/", dict),
    "query": ("GET", "/bucket/key?b=2&a=1%202&a=&c=%26", dict),
    "params": ("GET", "/", lambda: {"params": {"z": ["1", "ü +"], "a~": "*"}}),
    "path": ("GET", "/a%20b/%C3%BC", dict),
    "bytes": ("PUT", "/", lambda: {"data": b"\0\xff"}),
    "text": ("POST", "/", lambda: {"data": "grüße"}),
    "form": ("POST", "/", lambda: {"data": {"a": "1"}}),
    "json": ("POST", "/", lambda: {"json": {"a": "1"}}),
    "file": ("PUT", "/", lambda: {"data": io.BytesIO(b"from a file")}),
    "own header": ("GET", "/", lambda: {"headers": {"x-amz-meta-note": "a  b"}}),
}


@pytest.mark.parametrize("case", AWS.values(), ids=AWS)
def test_aws4auth_signs_what_is_sent(
    case: tuple[str, str, Callable[[], dict[str, Any]]], server: EchoServer, session: Session
) -> None:
    """Its signature is the one that the arrived request should have, `Host` with its port included."""
    aws = pytest.importorskip("requests_aws4auth")
    method, path, options = case
    session.auth = aws.AWS4Auth("id", SECRET, "eu-west-1", "es")
    session.request(method, server.url + path, **options())
    (seen,) = server.seen

    assert aws_signature(seen)
    assert not seen.chunked


# --- requests' own ---


def basic(user: str, password: str) -> str:
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


def test_basic_auth(server: EchoServer, session: Session) -> None:
    """By call, and of the session."""
    session.get(server.url, auth=requests.auth.HTTPBasicAuth("ada", "pw"))
    session.auth = requests.auth.HTTPBasicAuth("bob", "pw")
    session.get(server.url)

    assert [seen.header("authorization") for seen in server.seen] == [basic("ada", "pw"), basic("bob", "pw")]


def test_proxy_auth(server: EchoServer, session: Session) -> None:
    """It is for the proxy alone."""
    with Proxy(password="ada:pw") as proxy:
        session.proxies = {"http": proxy.url}
        answer = session.get(server.url + "/", auth=requests.auth.HTTPProxyAuth("ada", "pw"))

    assert answer.status_code == 200
    assert server.seen[0].header("proxy-authorization") is None


class DigestServer:
    """Lets `ada` in with `pw`, by Digest (RFC 7616) with qop=auth; its nonces are numbered and count their uses."""

    def __init__(self, algorithm: str = "MD5", field: str = "WWW-Authenticate", status: int = 401) -> None:
        self._algorithm = algorithm
        self._field = field
        self._status = status
        self.counts: list[str] = []

    def __call__(self, seen: Seen) -> Answer:
        answer = "authorization" if self._status == 401 else "proxy-authorization"
        said = requests.utils.parse_dict_header((seen.header(answer) or "").removeprefix("Digest "))
        if said.get("response") == self._response(seen, said):
            self.counts.append(said["nc"])
            return echo(seen)
        challenge = f'Digest realm="here", nonce="n1", qop="auth", algorithm={self._algorithm}, opaque="o"'
        return Answer(b"who?", self._status, [(self._field, challenge), ("Set-Cookie", "challenged=1")])

    def _response(self, seen: Seen, said: dict[str, str]) -> str:
        name = self._algorithm.lower().removesuffix("-sess").replace("-", "")

        def digest(text: str) -> str:
            return hashlib.new(name, text.encode()).hexdigest()

        who = digest("ada:here:pw")
        if self._algorithm.endswith("-sess"):
            who = digest(f"{who}:n1:{said.get('cnonce')}")
        what = digest(f"{seen.method}:{seen.target}")
        return digest(f"{who}:n1:{said.get('nc')}:{said.get('cnonce')}:auth:{what}")


@pytest.mark.parametrize("algorithm", ["MD5", "MD5-sess", "SHA-256", "SHA-512"])
def test_digest_auth(algorithm: str, server: EchoServer, session: Session) -> None:
    """requests' handler answers the challenge over the same connection, and the next request at once."""
    server.answers["/"] = verify = DigestServer(algorithm)
    session.auth = requests.auth.HTTPDigestAuth("ada", "pw")
    first = session.get(server.url + "/", params={"a": "b c"})
    second = session.get(server.url + "/")

    assert [first.status_code, second.status_code] == [200, 200]
    assert [each.status_code for each in first.history] == [401]
    assert second.history == []
    assert verify.counts == ["00000001", "00000002"]
    assert len(server.seen) == 3
    assert server.accepted == 1


def test_digest_auth_and_cookies(server: EchoServer, session: Session) -> None:
    """What the challenge set is kept, and goes with the answer to it."""
    server.answers["/"] = DigestServer()
    session.get(server.url + "/", auth=requests.auth.HTTPDigestAuth("ada", "pw"))

    assert session.cookies.get("challenged") == "1"
    assert [dict(seen.cookies) for seen in server.seen] == [{}, {"challenged": "1"}]


@pytest.mark.parametrize(
    "body",
    [lambda: b"body", lambda: io.BytesIO(b"body"), lambda: _at(io.BytesIO(b"no body"), 3)],
    ids=["bytes", "file", "file from the middle"],
)
def test_digest_auth_with_a_body(body: Callable[[], Any], server: EchoServer, session: Session) -> None:
    """It is sent twice, from where it began."""
    server.answers["/"] = DigestServer()
    answer = session.put(server.url + "/", data=body(), auth=requests.auth.HTTPDigestAuth("ada", "pw"))

    assert answer.status_code == 200
    assert [seen.body for seen in server.seen] == [b"body", b"body"]


def _at(file: io.BytesIO, position: int) -> io.BytesIO:
    file.seek(position)
    return file


def test_digest_auth_with_the_wrong_password(server: EchoServer, session: Session) -> None:
    """Asked once more, and not for ever; the next call tries again."""
    server.answers["/"] = DigestServer()
    session.auth = requests.auth.HTTPDigestAuth("ada", "guessed")
    statuses = [session.get(server.url + "/").status_code for _ in range(2)]

    assert statuses == [401, 401]
    assert len(server.seen) in (3, 4)  # whether it remembers the nonce


def test_digest_auth_as_a_stream(server: EchoServer, session: Session) -> None:
    """The challenge's connection is free for the answer."""
    server.answers["/"] = DigestServer()
    with SessionPool(limits=Limits(per_host=1), trust_env=False, retry=None) as pool:
        digest = requests.auth.HTTPDigestAuth("ada", "pw")
        with pool.get(server.url + "/", auth=digest, stream=True) as answer:
            assert (answer.status_code, answer.json()["method"]) == (200, "GET")
        assert pool.stats().leased == 0


def test_digest_auth_over_redirects(server: EchoServer, session: Session) -> None:
    """Where one leads to is asked as well."""
    server.answers["/"] = redirect("/end")
    server.answers["/end"] = DigestServer()
    answer = session.get(server.url + "/", auth=requests.auth.HTTPDigestAuth("ada", "pw"))

    assert answer.status_code == 200
    assert [seen.path for seen in server.seen] == ["/", "/end", "/end"]


def test_digest_auth_of_a_pool(server: EchoServer) -> None:
    """One object for many threads, which it keeps apart itself."""
    server.answers["/"] = DigestServer()
    with SessionPool(auth=requests.auth.HTTPDigestAuth("ada", "pw"), trust_env=False, retry=None) as pool:
        calls = [in_thread(lambda: [pool.get(server.url + "/").status_code for _ in range(3)]) for _ in range(4)]

        assert [call.get() for call in calls] == [[200] * 3] * 4
    assert len(server.seen) == 4 * (1 + 3)


# --- requests-toolbelt ---


@pytest.mark.parametrize("scheme", ["basic", "digest"])
def test_toolbelt_guesses_the_auth(scheme: str, server: EchoServer, session: Session) -> None:
    """By what the server asks for."""
    toolbelt = pytest.importorskip("requests_toolbelt")

    def ask(seen: Seen) -> Answer:
        if seen.header("authorization") == basic("ada", "pw"):
            return echo(seen)
        return Answer(b"who?", 401, [("WWW-Authenticate", 'Basic realm="here"')])

    server.answers["/"] = ask if scheme == "basic" else DigestServer()
    answer = session.post(server.url + "/", data=io.BytesIO(b"body"), auth=toolbelt.GuessAuth("ada", "pw"))

    assert answer.status_code == 200
    assert [each.status_code for each in answer.history] == [401]
    assert [seen.body for seen in server.seen] == [b"body", b"body"]


def test_toolbelt_answers_a_proxys_challenge(server: EchoServer, session: Session) -> None:
    """`HTTPProxyDigestAuth`, as a server plays the proxy."""
    digest = pytest.importorskip("requests_toolbelt.auth.http_proxy_digest")
    server.answers["http://example.invalid/"] = DigestServer("MD5", "Proxy-Authenticate", 407)
    session.proxies = {"http": server.url}
    session.get("http://example.invalid/", auth=digest.HTTPProxyDigestAuth("ada", "pw"))

    assert [bool(seen.header("proxy-authorization")) for seen in server.seen] == [False, True]


def test_toolbelt_chooses_the_auth_by_host(server: EchoServer, session: Session) -> None:
    """`AuthHandler` looks at the request's URL."""
    handler = pytest.importorskip("requests_toolbelt.auth.handler")
    with EchoServer("127.0.0.2") as other:
        session.auth = handler.AuthHandler(
            {server.url: ("ada", "pw"), other.url: requests.auth.HTTPBasicAuth("bob", "x")}
        )
        session.get(server.url)
        session.get(other.url)
        session.get(other.url.replace("127.0.0.2", "localhost").replace(str(other.port), str(server.port)))
        seen = [*server.seen, *other.seen]

    assert [each.header("authorization") for each in seen] == [basic("ada", "pw"), None, basic("bob", "x")]


def _encoder(toolbelt: Any) -> Any:
    fields = {"field": "grüße", "file": ("ü.txt", io.BytesIO(b"x" * 200_000), "text/plain", {"X-Part": "1"})}
    return toolbelt.MultipartEncoder(fields, boundary="b")


def test_toolbelts_multipart_body(server: EchoServer, session: Session, plain: Any) -> None:
    """It is streamed with its length, to the byte as by requests."""
    toolbelt = pytest.importorskip("requests_toolbelt")
    for each in (session, plain):
        encoder = _encoder(toolbelt)
        each.post(server.url, data=encoder, headers={**PLAIN, "Content-Type": encoder.content_type})
    ours, theirs = server.seen

    assert (ours.headers, ours.body, ours.chunked) == (theirs.headers, theirs.body, theirs.chunked)
    assert not ours.chunked
    assert len(ours.body) > 200_000


def test_toolbelts_monitor_sees_the_body_go(server: EchoServer, session: Session) -> None:
    """In pieces, and to the end."""
    toolbelt = pytest.importorskip("requests_toolbelt")
    told: list[int] = []
    monitor = toolbelt.MultipartEncoderMonitor(_encoder(toolbelt), lambda each: told.append(each.bytes_read))
    session.post(server.url, data=monitor, headers={"Content-Type": monitor.content_type})
    (seen,) = server.seen

    assert told[-1] == len(seen.body) == monitor.len
    assert len(told) > 3


def test_toolbelts_streaming_iterator(server: EchoServer, session: Session) -> None:
    """A generator that knows its length is not chunked."""
    toolbelt = pytest.importorskip("requests_toolbelt")
    session.post(server.url, data=toolbelt.StreamingIterator(6, iter([b"abc", b"def"])))
    (seen,) = server.seen

    assert (seen.body, seen.chunked, seen.header("content-length")) == (b"abcdef", False, "6")


@pytest.mark.parametrize("function", ["dump_all", "dump_response"])
def test_toolbelt_dumps(function: str, server: EchoServer, session: Session, plain: Any) -> None:
    """The same bytes as of requests' response, redirects, repeated fields and bodies included."""
    dump = pytest.importorskip("requests_toolbelt.utils.dump")
    server.answers["/"] = redirect("/end", 307, ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"))
    server.answers["/end"] = page("grüße")
    dumps = []
    for each in (session, plain):
        answer = each.post(server.url + "/?q=1", data={"a": "ü"}, headers=PLAIN)
        dumps.append(bytes(getattr(dump, function)(answer)))

    assert dumps[0] == dumps[1]
    assert dumps[0].count(b"> Set-Cookie: ") == (2 if function == "dump_all" else 0)
    assert b"< a=%C3%BC\r\n" in dumps[0]


def test_toolbelt_dumps_what_went_through_a_proxy(server: EchoServer, session: Session) -> None:
    """It asks the response's connection for the proxy, and finds that it does not tell."""
    dump = pytest.importorskip("requests_toolbelt.utils.dump")
    with Proxy() as proxy:
        told = bytes(dump.dump_all(session.get(server.url + "/x", proxies={"http": proxy.url})))

    assert told.startswith(b"< GET /x HTTP/1.1\r\n< Host: 127.0.0.1:")


def test_toolbelt_downloads(server: EchoServer, session: Session, tmp_path: Any) -> None:
    """`tee` and `stream_response_to_file` read the raw body, or its pieces."""
    downloads = pytest.importorskip("requests_toolbelt.downloadutils.stream")
    tee = pytest.importorskip("requests_toolbelt.downloadutils.tee")
    server.answers["/"] = Answer([b"abc" * 1000] * 3, headers=[("Content-Disposition", "attachment; filename=a.txt")])
    copy = io.BytesIO()
    with session.get(server.url + "/", stream=True) as answer:
        read = b"".join(tee.tee(answer, copy, chunksize=100))
    with session.get(server.url + "/", stream=True) as answer:
        path = downloads.stream_response_to_file(answer, path=str(tmp_path))

    assert read == copy.getvalue() == b"abc" * 3000
    assert (tmp_path / "a.txt").read_bytes() == read
    assert path.endswith("a.txt")


def test_toolbelt_decodes_a_multipart_response(server: EchoServer, session: Session) -> None:
    """`MultipartDecoder.from_response` needs header, content and encoding."""
    toolbelt = pytest.importorskip("requests_toolbelt")
    body = b"--b\r\nContent-Type: text/plain\r\n\r\none\r\n--b\r\n\r\ntwo\r\n--b--\r\n"
    server.answers["/"] = Answer(body, headers=[("Content-Type", "multipart/mixed; boundary=b")])
    parts = toolbelt.MultipartDecoder.from_response(session.get(server.url + "/")).parts

    assert [part.text for part in parts] == ["one", "two"]


def test_toolbelts_user_agent(server: EchoServer, session: Session) -> None:
    """A string like any other."""
    toolbelt = pytest.importorskip("requests_toolbelt")
    session.headers["User-Agent"] = toolbelt.user_agent("me", "1.0")
    session.get(server.url)

    assert (server.seen[0].header("user-agent") or "").startswith("me/1.0 ")


def test_an_adapter_of_requests_is_refused(session: Session) -> None:
    """It brings connections of its own, and responses that are none of ours: the error says what to mount."""
    with pytest.raises(ValueError, match=r"sessionpool\.adapters"):
        session.mount("http://", requests.adapters.HTTPAdapter())


# --- hooks as people write them ---


def test_hooks_that_raise_for_the_status(server: EchoServer, session: Session) -> None:
    """The most common one."""
    server.answers["/"] = Answer(b"no", 404)
    session.hooks["response"].append(lambda answer, *_, **__: answer.raise_for_status())
    with pytest.raises(sessionpool.HTTPError, match="404"):
        session.get(server.url + "/")


def test_hooks_that_replace_the_response(server: EchoServer, session: Session) -> None:
    """With one made by hand, by a name of requests' models."""

    def replace(answer: Any, **_: Any) -> Any:
        made = type(answer)()
        made.status_code, made._content, made.url = 299, answer.content + b"!", answer.url
        made.headers["X-Made"] = "1"
        return made

    server.answers["/"] = page("hello")
    session.hooks = {"response": replace}
    answer = session.get(server.url + "/")

    assert (answer.status_code, answer.text, answer.headers["x-made"]) == (299, "hello!", "1")


def test_hooks_are_called_with_requests_keywords(server: EchoServer, session: Session, plain: Any) -> None:
    """Whoever wrote `def hook(r, timeout, verify, cert, proxies, stream)` is served."""
    called: list[set[str]] = []
    for each in (session, plain):
        each.get(server.url, hooks={"response": lambda _, **kwargs: called.append(set(kwargs))})

    assert called[0] == called[1] == {"timeout", "verify", "cert", "proxies", "stream"}


def test_a_hook_that_refreshes_a_token(server: EchoServer, session: Session) -> None:
    """As in many a blog: on 401 set the header anew and send the request once more by `session.send`."""
    server.answers["/"] = lambda seen: echo(seen) if seen.header("authorization") == "Bearer new" else Answer(b"", 401)

    def refresh(answer: Any, *_: Any, **__: Any) -> Any:
        if answer.status_code != 401:
            return None
        session.headers["Authorization"] = "Bearer new"
        answer.request.headers["Authorization"] = "Bearer new"
        return session.send(answer.request, verify=True)

    session.headers["Authorization"] = "Bearer old"
    session.hooks["response"].append(refresh)
    answer = session.post(server.url + "/", data=b"body")

    assert (answer.status_code, answer.json()["body"]) == (200, "body")
    assert len(server.seen) == 2


# --- google-auth ---


def test_google_auth_over_our_session(server: EchoServer, session: Session) -> None:
    """Its `Request` takes a session to refresh tokens by, and its credentials sign for ours as an auth object."""
    transport = pytest.importorskip("google.auth.transport.requests")
    credentials = pytest.importorskip("google.oauth2.credentials")
    token = json.dumps({"access_token": "new", "token_type": "Bearer", "expires_in": 3600}).encode()
    server.answers["/token"] = Answer(token, headers=[("Content-Type", "application/json")])
    granted = credentials.Credentials(
        None, refresh_token="r", token_uri=server.url + "/token", client_id="app", client_secret="hush"
    )
    request = transport.Request(session=session.fork())

    def sign(prepared: Any) -> Any:
        granted.before_request(request, prepared.method, prepared.url, prepared.headers)
        return prepared

    answer = session.get(server.url + "/me", auth=sign)

    assert answer.json()["headers"][-1] == ["authorization", "Bearer new"]
    assert parse_qs(server.seen[0].body.decode())["refresh_token"] == ["r"]


# --- what they touch ---


def test_what_handlers_do_to_a_request(server: EchoServer, session: Session) -> None:
    """Each attribute and method that auth objects in the wild use, together."""

    def handle(r: Any) -> Any:
        assert isinstance(r.url, str)
        assert r.method == "POST"
        assert (r.path_url, r.body) == ("/a?b=c", b"x=1")
        assert "User-Agent" in r.headers
        assert r.headers.get("X-None") is None
        assert r.hooks == {"response": []}
        r.url = (r.url + "&signed=1").encode()  # as oauthlib gives it
        headers = {name.encode(): value.encode() for name, value in r.headers.items()}
        r.prepare_headers({**headers, b"X-Signed": b"1"})
        r.body = "y=22"
        r.prepare_content_length(r.body)
        r.headers.update({"X-Late": "2"})
        del r.headers["Accept"]
        r._cookies.set("c", "3")
        r.prepare_cookies(r._cookies)
        r.register_hook("response", lambda answer, **_: answer.headers.__setitem__("X-Hooked", "4"))
        return r

    answer = session.post(server.url + "/a?b=c", data={"x": "1"}, auth=handle)
    (seen,) = server.seen

    assert seen.target == "/a?b=c&signed=1"
    assert seen.body == b"y=22"
    assert [seen.header(name) for name in ("content-length", "x-signed", "x-late", "accept", "cookie")] == [
        "4",
        "1",
        "2",
        None,
        "c=3",
    ]
    assert answer.headers["X-Hooked"] == "4"


def test_a_handler_may_return_another_request(server: EchoServer, session: Session) -> None:
    """A copy, changed."""

    def handle(r: Any) -> Any:
        twin = r.copy()
        twin.headers["X-Twin"] = "1"
        return twin

    session.get(server.url, auth=handle)

    assert server.seen[0].header("x-twin") == "1"


def test_cookies_are_found_in_the_raw_response(server: EchoServer, session: Session) -> None:
    """`requests.cookies.extract_cookies_to_jar`, which handlers call, fills a jar of requests from our response."""
    server.answers["/"] = Answer(b"", headers=[("Set-Cookie", "a=1"), ("Set-Cookie", "b=2; Path=/")])
    answer = session.get(server.url + "/")
    jar = requests.cookies.RequestsCookieJar()
    requests.cookies.extract_cookies_to_jar(jar, answer.request, answer.raw)

    assert jar.get_dict() == {"a": "1", "b": "2"}


def test_the_raw_response_has_ended_when_the_body_was_read(server: EchoServer, session: Session, plain: Any) -> None:
    """Whoever reads it then, as tools do, gets nothing, and no error."""
    raws = [each.get(server.url).raw for each in (session, plain)]

    assert [(raw.read(10), raw.read(), raw.status, raw.version) for raw in raws] == [(b"", b"", 200, 11)] * 2
