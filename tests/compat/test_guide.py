"""What requests' guide shows, in our own words: each example runs with requests, and with only the import changed.

In the guide's order: its Quickstart, its Advanced Usage, its page on authentication. In each, `requests` is the library
that it is run with, and the only one; what it talks to are servers on this machine.
"""

from __future__ import annotations

import base64
import codecs
import collections
import contextlib
import datetime as dt
import gzip
import hashlib
import importlib
import io
import json
import re
import socket
import ssl
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import trustme
from urllib3 import PoolManager
from urllib3.util import Retry

from tests.with_server.echo_server import Answer, EchoServer, Seen, Server, page, redirect, set_cookies
from tests.with_server.test_proxy import Proxy

pytestmark = [
    # Of requests, which leaves sockets to the collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

TEXT = "Ein Müßiggänger\nlöffelt Suppe\n"
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256))


# --- what the examples talk to ---


def told(data: Any, *fields: tuple[str, str], status: int = 200) -> Answer:
    return Answer(json.dumps(data).encode(), status, [("Content-Type", "application/json"), *fields])


def stocktaking(seen: Seen) -> Answer:
    """What was asked, sorted."""
    said = seen.header("content-type") or ""
    args = parse_qs(seen.target.partition("?")[2], keep_blank_values=True)
    is_form = said.startswith("application/x-www-form-urlencoded")
    return told(
        {
            "method": seen.method,
            "args": args,
            "headers": {name.title(): value for name, value in seen.headers},
            "order": [name for name, _ in seen.headers],
            "cookies": dict(seen.cookies),
            "form": parse_qs(seen.body.decode(), keep_blank_values=True) if is_form else _parts(said, seen.body)[0],
            "files": _parts(said, seen.body)[1],
            "data": seen.body.decode("latin-1"),
            "chunked": seen.chunked,
            "connection": seen.connection,
        }
    )


def _parts(content_type: str, body: bytes) -> tuple[dict[str, str], list[list[str]]]:
    """The fields and the files (field, name, type, content) of a multipart body."""
    fields, files = {}, []
    if found := re.fullmatch(r"multipart/form-data; boundary=(\S+)", content_type):
        for part in body.split(b"--" + found[1].encode())[1:-1]:
            head, _, content = part.partition(b"\r\n\r\n")
            text = head.decode()
            field = re.search(r' name="([^"]*)"', text)
            name = re.search(r'filename="([^"]*)"', text)
            kind = re.search(r"Content-Type: (\S+)", text)
            value = content.removesuffix(b"\r\n").decode("latin-1")
            assert field is not None
            if name is None:
                fields[field[1]] = value
            else:
                files.append([field[1], name[1], kind[1] if kind else "", value])
    return fields, files


def stored_cookies(seen: Seen) -> Answer:
    return told({"cookies": dict(seen.cookies)})


def guarded(seen: Seen) -> Answer:
    """For ada with the password lovelace (RFC 7617)."""
    wanted = "Basic " + base64.b64encode(b"ada:lovelace").decode()
    if seen.header("authorization") != wanted:
        return Answer(b"who?", 401, [("WWW-Authenticate", 'Basic realm="here"')])
    return told({"user": "ada"})


def digested(seen: Seen) -> Answer:
    """For ada with the password lovelace (RFC 7616 with MD5 and auth)."""
    said = dict(re.findall(r'(\w+)="?([^",]*)"?', seen.header("authorization") or ""))
    if said:

        def md5(text: str) -> str:
            return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()

        user, place = md5("ada:here:lovelace"), md5(f"{seen.method}:{said['uri']}")
        expected = md5(f"{user}:{said['nonce']}:{said['nc']}:{said['cnonce']}:{said['qop']}:{place}")
        if said["response"] == expected and said["uri"] == seen.target:
            return told({"user": said["username"]})
    challenge = 'Digest realm="here", nonce="abc", qop="auth", algorithm=MD5, opaque="xyz"'
    return Answer(b"who?", 401, [("WWW-Authenticate", challenge)])


def commit(seen: Seen) -> Answer:
    """A service for commits and comments on them."""
    limit = ("X-RateLimit-Remaining", "4995")
    if seen.method == "OPTIONS":
        return Answer(b"", 200, [("Allow", "GET, HEAD, POST, PATCH, DELETE")])
    if seen.method == "GET":
        return told({"sha": "a050", "author": {"name": "Ada"}}, limit)
    if seen.method == "HEAD":
        return Answer(b"", 200, [limit])
    if guarded(seen).status == 401:
        return told({"message": "who?"}, status=401)
    if seen.method == "DELETE":
        return Answer(b"", 204, [("Status", "204 No Content")])
    return told(json.loads(seen.body), limit, status=201 if seen.method == "POST" else 200)


class Faltering:
    """Fails so often with that status, and answers then."""

    def __init__(self, failures: int, status: int = 503) -> None:
        self.left = failures
        self._status = status

    def __call__(self, seen: Seen) -> Answer:
        self.left -= 1
        return Answer(b"", self._status) if self.left >= 0 else told({"left": self.left})


class Site(EchoServer):
    """Answers as a service for tests of clients does.

    Attributes:
        release: Set at the end; until then `/slow` says nothing.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls=tls)
        self.release = threading.Event()
        lines = [json.dumps({"id": each}).encode() + b"\n" for each in range(3)]
        self.answers |= {
            "/anything": stocktaking,
            "/collection": stocktaking,
            "/text": page(TEXT),
            "/text-without-charset": page(TEXT, "text/plain"),
            "/picture": Answer(
                PICTURE, headers=[("Content-Type", "image/png"), ("ETag", '"1"'), ("X-Powered-By", "hand")]
            ),
            "/gzip": Answer(gzip.compress(TEXT.encode()), headers=[("Content-Encoding", "gzip")]),
            "/deflate": Answer(zlib.compress(TEXT.encode()), headers=[("Content-Encoding", "deflate")]),
            "/events": told([{"id": 1, "actor": {"login": "ada"}}]),
            "/no-content": Answer(b"", 204),
            "/broken-json": Answer(b"{", headers=[("Content-Type", "application/json")]),
            "/refused": told({"error": "no"}, status=403),
            "/missing": Answer(b"not here", 404),
            "/old": redirect("/new", 301),
            "/new": page("new"),
            "/round": redirect("/round"),
            "/cookies": stored_cookies,
            "/cookies/elsewhere": stored_cookies,
            "/cookies/set": set_cookies("flavour=oat; Path=/"),
            "/cookies/set-and-go": redirect("/cookies", 302, ("Set-Cookie", "flavour=oat; Path=/")),
            "/slow": self._slowly,
            "/lines": Answer(lines, headers=[("Content-Type", "application/json")]),
            "/lines-of-text": Answer([TEXT.encode()], headers=[("Content-Type", "text/plain; charset=utf-8")]),
            "/guarded": guarded,
            "/digested": digested,
            "/commits/a050": commit,
            "/pages": page_with_links(),
        }  # fmt: skip

    def _slowly(self, seen: Seen) -> Answer:
        self.release.wait(20)
        return page("at last")

    def __exit__(self, *exit: object) -> None:
        self.release.set()
        super().__exit__(*exit)


def page_with_links() -> Answer:
    following, last = '</pages?page=2&per_page=10>; rel="next"', '</pages?page=7&per_page=10>; rel="last"'
    return Answer(b"[]", headers=[("Link", f"{following}, {last}")])


@pytest.fixture(params=["requests", "sessionpool"])
def requests(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The library, with the modules that the guide imports from."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "requests_ca_bundle", "curl_ca_bundle", "netrc"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for part in ("auth", "adapters", "exceptions", "cookies"):
        importlib.import_module(f"{request.param}.{part}")
    return importlib.import_module(request.param)


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as site:
        yield site


@pytest.fixture
def url(site: Site) -> str:
    return site.url


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return str(tmp_path / "ca.pem")


@pytest.fixture
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def secure(server_tls: ssl.SSLContext) -> Iterator[Site]:
    with Site(tls=server_tls) as site:
        yield site


# --- Quickstart: make a request ---


def test_making_a_request(requests: Any, url: str) -> None:
    """There is a function for every method."""
    for name, send in [
        ("GET", requests.get),
        ("POST", requests.post),
        ("PUT", requests.put),
        ("PATCH", requests.patch),
        ("DELETE", requests.delete),
        ("OPTIONS", requests.options),
    ]:
        assert send(f"{url}/anything").json()["method"] == name
    r = requests.post(f"{url}/anything", data={"key": "value"})
    assert r.json()["form"] == {"key": ["value"]}
    r = requests.head(f"{url}/text")
    assert r.ok
    assert r.content == b""


# --- Quickstart: passing parameters in URLs ---


def test_passing_parameters(requests: Any, url: str) -> None:
    """As a dictionary, whose lists repeat a name and whose None leaves one out."""
    r = requests.get(f"{url}/anything", params={"key1": "value1", "key2": "value2"})
    assert r.url == f"{url}/anything?key1=value1&key2=value2"
    r = requests.get(f"{url}/anything", params={"key1": "value1", "key2": ["value2", "value3"], "key3": None})
    assert r.url == f"{url}/anything?key1=value1&key2=value2&key2=value3"
    assert r.json()["args"] == {"key1": ["value1"], "key2": ["value2", "value3"]}


# --- Quickstart: response content ---


def test_reading_text(requests: Any, url: str) -> None:
    """Decoded by what the server says it is, until somebody knows better."""
    r = requests.get(f"{url}/text")
    assert r.text == TEXT
    assert r.encoding == "utf-8"
    r.encoding = "ISO-8859-1"
    assert r.text == TEXT.encode().decode("latin-1")


def test_an_encoding_of_ones_own(requests: Any, url: str) -> None:
    """What is registered with `codecs` can be set as the encoding."""

    def shouting(name: str) -> codecs.CodecInfo | None:
        if name != "shouting":
            return None
        return codecs.CodecInfo(
            name=name,
            encode=lambda text, errors="strict": (text.lower().encode(), len(text)),
            decode=lambda data, errors="strict": (bytes(data).decode().upper(), len(data)),
        )

    codecs.register(shouting)
    try:
        r = requests.get(f"{url}/new")
        r.encoding = "shouting"
        assert r.text == "NEW"
    finally:
        codecs.unregister(shouting)


# --- Quickstart: binary response content ---


def test_reading_bytes(requests: Any, url: str) -> None:
    """As they are, for whatever reads a file."""
    r = requests.get(f"{url}/picture")
    assert r.content == PICTURE
    assert io.BytesIO(r.content).read(8) == b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_transfer_codings_are_undone(coding: str, requests: Any, url: str) -> None:
    """What was compressed on the way is not compressed in `content`."""
    r = requests.get(f"{url}/{coding}")
    assert r.headers["content-encoding"] == coding
    assert r.content == TEXT.encode()


# --- Quickstart: JSON response content ---


def test_reading_json(requests: Any, url: str) -> None:
    """Decoded, or an error that is both the library's and json's."""
    assert requests.get(f"{url}/events").json()[0]["actor"]["login"] == "ada"
    for path in ("/no-content", "/broken-json"):
        r = requests.get(url + path)
        with pytest.raises(requests.exceptions.JSONDecodeError) as raised:
            r.json()
        assert isinstance(raised.value, ValueError)
        assert isinstance(raised.value, requests.exceptions.RequestException)


def test_json_tells_nothing_about_success(requests: Any, url: str) -> None:
    """An error may come as JSON too, so the status is to be looked at."""
    r = requests.get(f"{url}/refused")
    assert r.json() == {"error": "no"}
    with pytest.raises(requests.HTTPError):
        r.raise_for_status()


# --- Quickstart: raw response content ---


def test_reading_the_raw_stream(requests: Any, url: str) -> None:
    """The first bytes as they come from the socket."""
    r = requests.get(f"{url}/picture", stream=True)
    assert r.raw.status == 200
    assert r.raw.read(10) == PICTURE[:10]
    r.close()


def test_saving_what_is_streamed(requests: Any, url: str, tmp_path: Path) -> None:
    """Piece by piece; decoded, which the raw stream is not."""
    r = requests.get(f"{url}/gzip", stream=True)
    with (tmp_path / "saved").open("wb") as fd:
        for chunk in r.iter_content(chunk_size=8):
            assert len(chunk) <= 8
            fd.write(chunk)
    assert (tmp_path / "saved").read_bytes() == TEXT.encode()
    r = requests.get(f"{url}/gzip", stream=True)
    assert gzip.decompress(r.raw.read()) == TEXT.encode()


# --- Quickstart: custom headers ---


def test_headers_of_ones_own(requests: Any, url: str) -> None:
    """As str or bytes, over those that are sent anyway."""
    r = requests.get(f"{url}/anything", headers={"user-agent": "my-app/0.0.1", "X-Raw": b"bytes"})
    assert r.json()["headers"]["User-Agent"] == "my-app/0.0.1"
    assert r.json()["headers"]["X-Raw"] == "bytes"
    assert r.request.headers["User-Agent"] == "my-app/0.0.1"


def test_what_goes_over_a_header(requests: Any, url: str) -> None:
    """`auth` goes over `Authorization`, and the length is what it is."""
    headers = {"Authorization": "Bearer old", "Content-Length": "9999"}
    r = requests.post(f"{url}/anything", headers=headers, auth=("ada", "lovelace"), data=b"four")
    assert r.json()["headers"]["Authorization"].startswith("Basic ")
    assert r.json()["headers"]["Content-Length"] == "4"


# --- Quickstart: more complicated POST requests ---


def test_posting_a_form(requests: Any, url: str) -> None:
    """From a dictionary, from pairs, from a dictionary of lists."""
    r = requests.post(f"{url}/anything", data={"key1": "value1", "key2": "value2"})
    assert r.json()["form"] == {"key1": ["value1"], "key2": ["value2"]}
    r1 = requests.post(f"{url}/anything", data=[("key", "a"), ("key", "b")])
    r2 = requests.post(f"{url}/anything", data={"key": ["a", "b"]})
    assert r1.json()["form"] == r2.json()["form"] == {"key": ["a", "b"]}
    assert r1.json()["data"] == r2.json()["data"]


def test_posting_text_and_json(requests: Any, url: str) -> None:
    """A string goes as it is, `json` is encoded; beside `data` or `files` it does not count."""
    payload = {"some": "data", "umlaut": "ä"}
    r = requests.post(f"{url}/anything", data=json.dumps(payload))
    assert json.loads(r.json()["data"]) == payload
    assert "Content-Type" not in r.json()["headers"]
    r = requests.post(f"{url}/anything", json=payload)
    assert json.loads(r.json()["data"]) == payload
    assert r.json()["headers"]["Content-Type"] == "application/json"
    r = requests.post(f"{url}/anything", data={"a": 1}, json=payload)
    assert r.json()["form"] == {"a": ["1"]}
    r = requests.post(f"{url}/anything", files={"file": "content"}, json=payload)
    assert r.json()["files"] == [["file", "file", "", "content"]]


# --- Quickstart: POST a multipart-encoded file ---


def test_posting_a_file(requests: Any, url: str, tmp_path: Path) -> None:
    """An open one; with a name, a type and headers of its own; or made of a string."""
    (tmp_path / "report.xls").write_bytes(b"cells")
    with (tmp_path / "report.xls").open("rb") as file:
        r = requests.post(f"{url}/anything", files={"file": file})
    assert r.json()["files"] == [["file", "report.xls", "", "cells"]]
    with (tmp_path / "report.xls").open("rb") as file:
        files = {"file": ("other.xls", file, "application/vnd.ms-excel", {"Expires": "0"})}
        r = requests.post(f"{url}/anything", files=files, data={"note": "mine"})
    assert r.json()["files"] == [["file", "other.xls", "application/vnd.ms-excel", "cells"]]
    assert r.json()["form"] == {"note": "mine"}
    assert "Expires: 0\r\n" in r.json()["data"]
    r = requests.post(f"{url}/anything", files={"file": ("report.csv", "some,data\nanother,row\n")})
    assert r.json()["files"] == [["file", "report.csv", "", "some,data\nanother,row\n"]]


# --- Quickstart: response status codes ---


def test_looking_at_the_status(requests: Any, url: str) -> None:
    """By number, by name, or by an error if it is one."""
    r = requests.get(f"{url}/text")
    assert r.status_code == 200
    assert r.status_code == requests.codes.ok
    assert r.raise_for_status() is None
    bad = requests.get(f"{url}/missing")
    assert bad.status_code == requests.codes.not_found == requests.codes["not_found"]
    assert not bad
    with pytest.raises(requests.exceptions.HTTPError, match="404") as raised:
        bad.raise_for_status()
    assert raised.value.response is bad


# --- Quickstart: response headers ---


def test_looking_at_the_header(requests: Any, url: str) -> None:
    """In whatever case, and with several fields of a name as one."""
    r = requests.get(f"{url}/picture")
    assert r.headers["Content-Type"] == r.headers["content-type"] == r.headers.get("CONTENT-TYPE") == "image/png"
    assert r.headers["x-powered-by"] == "hand"
    assert r.headers.get("x-other") is None


# --- Quickstart: cookies ---


def test_cookies(requests: Any, url: str) -> None:
    """Those that came, those that go, and those that go to some path only."""
    r = requests.get(f"{url}/cookies/set")
    assert r.cookies["flavour"] == "oat"
    r = requests.get(f"{url}/cookies", cookies={"cookies_are": "working"})
    assert r.json() == {"cookies": {"cookies_are": "working"}}
    jar = requests.cookies.RequestsCookieJar()
    jar.set("tasty_cookie", "yum", domain="127.0.0.1", path="/cookies")
    jar.set("gross_cookie", "blech", domain="127.0.0.1", path="/elsewhere")
    r = requests.get(f"{url}/cookies", cookies=jar)
    assert r.json() == {"cookies": {"tasty_cookie": "yum"}}


# --- Quickstart: redirection and history ---


def test_redirects(requests: Any, url: str) -> None:
    """They are followed, and kept in the history, oldest first; unless they are not to be."""
    r = requests.get(f"{url}/old")
    assert (r.url, r.status_code) == (f"{url}/new", 200)
    assert [(each.status_code, each.url) for each in r.history] == [(301, f"{url}/old")]
    r = requests.get(f"{url}/old", allow_redirects=False)
    assert r.status_code == 301
    assert r.history == []
    r = requests.head(f"{url}/old")
    assert r.status_code == 301
    r = requests.head(f"{url}/old", allow_redirects=True)
    assert r.url == f"{url}/new"
    assert len(r.history) == 1


# --- Quickstart: timeouts, errors and exceptions ---


def test_timeouts(requests: Any, url: str) -> None:
    """A server that says nothing is not waited for."""
    with pytest.raises(requests.exceptions.Timeout) as raised:
        requests.get(f"{url}/slow", timeout=0.05)
    assert isinstance(raised.value, requests.exceptions.ReadTimeout)


def test_errors(requests: Any, url: str) -> None:
    """Each has its name, and all have one base."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))  # taken, and nobody listens
        with pytest.raises(requests.exceptions.ConnectionError) as refused:
            requests.get(f"http://127.0.0.1:{holder.getsockname()[1]}/")
    with pytest.raises(requests.exceptions.TooManyRedirects) as round_and_round:
        requests.get(f"{url}/round")
    with pytest.raises(requests.exceptions.HTTPError) as missing:
        requests.get(f"{url}/missing").raise_for_status()
    for raised in (refused, round_and_round, missing):
        assert isinstance(raised.value, requests.exceptions.RequestException)
        assert raised.value.request.url.startswith("http://127.0.0.1:")


# --- Advanced: session objects ---


def test_a_session_keeps_cookies(requests: Any, url: str) -> None:
    """Those that a response sets go with the next request."""
    s = requests.Session()
    s.get(f"{url}/cookies/set-and-go")
    r = s.get(f"{url}/cookies")
    assert r.json() == {"cookies": {"flavour": "oat"}}
    assert s.cookies["flavour"] == "oat"
    s.close()


def test_a_session_has_defaults(requests: Any, url: str) -> None:
    """What it says goes with every request, beside what the call says."""
    s = requests.Session()
    s.auth = ("ada", "lovelace")
    s.headers.update({"x-test": "true"})
    s.params = {"lang": "de"}
    r = s.get(f"{url}/anything", headers={"x-test2": "true"}, params={"page": 2})
    assert r.json()["headers"]["X-Test"] == r.json()["headers"]["X-Test2"] == "true"
    assert r.json()["args"] == {"lang": ["de"], "page": ["2"]}
    assert s.get(f"{url}/guarded").json() == {"user": "ada"}
    s.close()


def test_what_a_call_says_is_not_kept(requests: Any, url: str) -> None:
    """Its cookies go with it alone."""
    with requests.Session() as s:
        assert s.get(f"{url}/cookies", cookies={"from-my": "browser"}).json() == {"cookies": {"from-my": "browser"}}
        assert s.get(f"{url}/cookies").json() == {"cookies": {}}


def test_cookies_put_into_a_session(requests: Any, url: str) -> None:
    """By hand, with the functions for that."""
    with requests.Session() as s:
        s.cookies.set("mine", "1")
        s.cookies.update({"yours": "2"})
        requests.utils.add_dict_to_cookiejar(s.cookies, {"ours": "3"})
        assert s.get(f"{url}/cookies").json()["cookies"] == {"mine": "1", "yours": "2", "ours": "3"}
        assert requests.utils.dict_from_cookiejar(s.cookies) == {"mine": "1", "yours": "2", "ours": "3"}


def test_a_value_is_left_out_of_a_call(requests: Any, url: str) -> None:
    """None takes out what the session would send."""
    with requests.Session() as s:
        s.headers["x-test"] = "true"
        s.params = {"lang": "de", "page": 1}
        r = s.get(f"{url}/anything", headers={"x-test": None}, params={"lang": None})
        assert "X-Test" not in r.json()["headers"]
        assert r.json()["args"] == {"page": ["1"]}
        assert s.headers["x-test"] == "true"


# --- Advanced: request and response objects ---


def test_what_was_sent_and_what_came(requests: Any, url: str) -> None:
    """A response has its header, and that of the request it answers."""
    r = requests.get(f"{url}/picture")
    assert r.headers["ETag"] == '"1"'
    assert r.request.headers["Accept"] == "*/*"
    assert r.request.method == "GET"
    assert (r.request.url, r.request.path_url, r.request.body) == (f"{url}/picture", "/picture", None)
    assert isinstance(r.elapsed, dt.timedelta)


# --- Advanced: prepared requests ---


def test_a_prepared_request(requests: Any, url: str) -> None:
    """Made, changed, and sent."""
    s = requests.Session()
    req = requests.Request("POST", f"{url}/anything", data={"a": 1}, headers={"X-One": "1", "X-Two": "2"})
    prepped = req.prepare()
    prepped.body = "No, I want exactly this as the body."
    prepped.headers["Content-Length"] = str(len(prepped.body))
    del prepped.headers["X-Two"]
    resp = s.send(prepped, stream=False, verify=True, proxies={}, cert=None, timeout=5)
    assert resp.status_code == 200
    assert resp.json()["data"] == "No, I want exactly this as the body."
    assert resp.json()["headers"]["X-One"] == "1"
    assert "X-Two" not in resp.json()["headers"]
    s.close()


def test_a_request_prepared_by_a_session(requests: Any, url: str) -> None:
    """It has what the session knows."""
    s = requests.Session()
    s.headers["X-Session"] = "1"
    s.cookies.set("mine", "1")
    prepped = s.prepare_request(requests.Request("GET", f"{url}/anything", params={"a": "b"}))
    prepped.headers["X-Late"] = "1"
    resp = s.send(prepped, timeout=5)
    assert resp.json()["args"] == {"a": ["b"]}
    assert resp.json()["headers"]["X-Session"] == resp.json()["headers"]["X-Late"] == "1"
    assert resp.json()["cookies"] == {"mine": "1"}
    s.close()


def test_the_environment_and_a_prepared_request(
    requests: Any, secure: Site, ca_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the environment says of certificates has to be merged by hand."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", ca_file)
    s = requests.Session()
    prepped = s.prepare_request(requests.Request("GET", f"{secure.url}/text"))
    settings = s.merge_environment_settings(prepped.url, {}, None, None, None)
    resp = s.send(prepped, **settings)
    assert resp.status_code == 200
    s.close()


# --- Advanced: SSL certificate verification, client-side certificates ---


def test_certificates_are_verified(requests: Any, secure: Site, ca_file: str) -> None:
    """By the authorities that are known, or that are named for a call or for a session."""
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(f"{secure.url}/text")
    assert requests.get(f"{secure.url}/text", verify=ca_file).text == TEXT
    with requests.Session() as s:
        s.verify = ca_file
        assert s.get(f"{secure.url}/text").text == TEXT


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
def test_certificates_are_not_verified(requests: Any, secure: Site) -> None:
    """If that is what is wanted."""
    assert requests.get(f"{secure.url}/text", verify=False).text == TEXT


def test_client_certificates(
    requests: Any, server_tls: ssl.SSLContext, authority: trustme.CA, ca_file: str, tmp_path: Path
) -> None:
    """As two files, or as one with both; for a call or for a session."""
    leaf = authority.issue_cert("ada@example.com")
    leaf.private_key_pem.write_to_path(tmp_path / "client.key")
    leaf.cert_chain_pems[0].write_to_path(tmp_path / "client.cert")
    leaf.private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")
    authority.configure_trust(server_tls)
    server_tls.verify_mode = ssl.CERT_REQUIRED
    with Site(tls=server_tls) as site:
        pair = (str(tmp_path / "client.cert"), str(tmp_path / "client.key"))
        assert requests.get(f"{site.url}/text", cert=pair, verify=ca_file).text == TEXT
        with requests.Session() as s:
            s.cert = str(tmp_path / "client.pem")
            s.verify = ca_file
            assert s.get(f"{site.url}/text").text == TEXT
        with pytest.raises(OSError, match="wrong_path"):
            requests.get(f"{site.url}/text", cert="/wrong_path/client.pem", verify=ca_file)
        with pytest.raises(requests.exceptions.ConnectionError):
            requests.get(f"{site.url}/text", verify=ca_file)


# --- Advanced: body content workflow, keep-alive ---


def test_the_body_is_read_when_it_is_wanted(requests: Any, site: Site) -> None:
    """With `stream`, only the head is waited for; on leaving, the connection is done with."""
    r = requests.get(f"{site.url}/picture", stream=True)
    assert int(r.headers["content-length"]) < 1000
    assert r.content == PICTURE
    with requests.get(f"{site.url}/picture", stream=True) as r:
        assert r.status_code == 200


def test_connections_are_kept(requests: Any, site: Site) -> None:
    """Requests of a session go over one connection, as long as each body is read."""
    with requests.Session() as s:
        for _ in range(3):
            s.get(f"{site.url}/text")
        s.get(f"{site.url}/text", stream=True).content  # noqa: B018 - reads it
        s.get(f"{site.url}/text")
    assert {seen.connection for seen in site.seen} == {1}


# --- Advanced: streaming uploads, chunk-encoded requests ---


def test_streaming_an_upload(requests: Any, url: str, tmp_path: Path) -> None:
    """A file goes as it is read, with its length."""
    (tmp_path / "massive-body").write_bytes(b"x" * 100_000)
    with (tmp_path / "massive-body").open("rb") as f:
        r = requests.post(f"{url}/anything", data=f)
    assert r.json()["data"] == "x" * 100_000
    assert r.json()["headers"]["Content-Length"] == "100000"
    assert not r.json()["chunked"]


def test_sending_and_reading_chunks(requests: Any, url: str) -> None:
    """A generator goes in chunks; chunks are got as they came."""

    def gen() -> Iterator[bytes]:
        yield b"hi"
        yield b"there"

    r = requests.post(f"{url}/anything", data=gen())
    assert r.json()["data"] == "hithere"
    assert r.json()["chunked"]
    assert r.json()["headers"]["Transfer-Encoding"] == "chunked"
    r = requests.get(f"{url}/lines", stream=True)
    assert [json.loads(chunk) for chunk in r.iter_content(chunk_size=None)] == [{"id": 0}, {"id": 1}, {"id": 2}]


# --- Advanced: POST multiple multipart-encoded files ---


def test_posting_several_files(requests: Any, url: str) -> None:
    """Of one field, as a list."""
    files = [
        ("images", ("foo.png", io.BytesIO(b"foo"), "image/png")),
        ("images", ("bar.png", io.BytesIO(b"bar"), "image/png")),
    ]
    r = requests.post(f"{url}/anything", files=files)
    assert r.json()["files"] == [["images", "foo.png", "image/png", "foo"], ["images", "bar.png", "image/png", "bar"]]


# --- Advanced: event hooks ---


def test_hooks(requests: Any, url: str) -> None:
    """Functions that see each response: of a call, several, and of a session."""
    seen: list[str] = []

    def note(r: Any, *args: Any, **kwargs: Any) -> None:
        seen.append(r.url)

    def mark(r: Any, *args: Any, **kwargs: Any) -> Any:
        r.hook_called = True
        return r

    requests.get(f"{url}/text", hooks={"response": note})
    assert seen == [f"{url}/text"]
    r = requests.get(f"{url}/text", hooks={"response": [note, mark]})
    assert r.hook_called
    assert len(seen) == 2
    with requests.Session() as s:
        s.hooks["response"].append(note)
        s.get(f"{url}/old")
    assert seen[2:] == [f"{url}/old", f"{url}/new"]


def test_a_hook_may_replace_the_response(requests: Any, url: str) -> None:
    """What it returns is what the caller gets."""

    def another(r: Any, *args: Any, **kwargs: Any) -> Any:
        return requests.get(f"{url}/new")

    assert requests.get(f"{url}/text", hooks={"response": another}).text == "new"


# --- Advanced: custom authentication ---


def test_auth_of_ones_own(requests: Any, url: str) -> None:
    """An object that is called with the request before it goes."""

    class PizzaAuth(requests.auth.AuthBase):  # type: ignore[misc]  # whichever library's
        def __init__(self, username: str) -> None:
            self.username = username

        def __call__(self, r: Any) -> Any:
            r.headers["X-Pizza"] = self.username
            return r

    r = requests.get(f"{url}/anything", auth=PizzaAuth("ada"))
    assert r.json()["headers"]["X-Pizza"] == "ada"
    assert "Authorization" not in r.json()["headers"]


# --- Advanced: streaming requests ---


def test_lines(requests: Any, url: str) -> None:
    """One after another, as they come; as text if asked for; and on from where one was."""
    r = requests.get(f"{url}/lines", stream=True)
    assert [json.loads(line)["id"] for line in r.iter_lines() if line] == [0, 1, 2]
    r = requests.get(f"{url}/lines-of-text", stream=True)
    if r.encoding is None:
        r.encoding = "utf-8"
    assert list(r.iter_lines(decode_unicode=True)) == TEXT.splitlines()
    r = requests.get(f"{url}/lines", stream=True)
    lines = r.iter_lines()
    first_line = next(lines)
    assert [json.loads(first_line), *(json.loads(line) for line in lines)] == [{"id": 0}, {"id": 1}, {"id": 2}]


# --- Advanced: proxies ---


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy(password="ada:lovelace") as proxy:
        yield proxy


def test_proxies(
    requests: Any, site: Site, secure: Site, ca_file: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a call, for a session, for a host, and from the environment."""
    through = proxy.url.replace("://", "://ada:lovelace@")
    proxies = {"http": through, "https": through}
    r = requests.get(f"{site.url}/anything", proxies=proxies)
    assert r.json()["headers"]["Via"] == "1.1 test"
    assert "Proxy-Authorization" not in r.json()["headers"]
    assert requests.get(f"{secure.url}/text", proxies=proxies, verify=ca_file).text == TEXT
    assert [seen.method for seen in proxy.seen] == ["GET", "CONNECT"]
    with requests.Session() as s:
        s.proxies.update(proxies)
        assert "Via" in s.get(f"{site.url}/anything").json()["headers"]
    r = requests.get(f"{site.url}/anything", proxies={"http://127.0.0.1": through, "http": "http://127.0.0.1:1"})
    assert "Via" in r.json()["headers"]
    monkeypatch.setenv("HTTP_PROXY", through)
    monkeypatch.setenv("http_proxy", through)
    with requests.Session() as s:
        assert "Via" in s.get(f"{site.url}/anything").json()["headers"]
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with requests.Session() as s:
        assert "Via" not in s.get(f"{site.url}/anything").json()["headers"]


class Socks(Server):
    """A SOCKS 5 proxy without a password (RFC 1928) that leads every host to one port's server on loopback."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def handle(self, stream: io.BufferedIOBase, sock: socket.socket, number: int) -> None:
        assert stream.read(1) == b"\x05"
        stream.read(stream.read(1)[0])
        stream.write(b"\x05\x00")
        stream.flush()
        _, _, _, kind = stream.read(4)
        host = socket.inet_ntoa(stream.read(4)) if kind == 1 else stream.read(stream.read(1)[0]).decode()
        port = int.from_bytes(stream.read(2), "big")
        self.asked.append(host)
        with socket.create_connection(("127.0.0.1", port)) as upstream:
            stream.write(b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x00")
            stream.flush()
            back = threading.Thread(target=_pour, args=(upstream, sock))
            back.start()
            _pour(sock, upstream)
            back.join()


def _pour(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for each in (source, sink):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


def test_socks(requests: Any, site: Site) -> None:
    """With the name looked up here, or there."""
    pytest.importorskip("socks")
    with Socks() as socks:
        here, there = (f"{scheme}://{socks.host}:{socks.port}" for scheme in ("socks5", "socks5h"))
        port = urlsplit(site.url).port
        assert requests.get(f"http://localhost:{port}/text", proxies={"http": here}).text == TEXT
        assert requests.get(f"http://far.invalid:{port}/text", proxies={"http": there}).text == TEXT
        assert socks.asked == ["127.0.0.1", "far.invalid"]


# --- Advanced: compliance ---


def test_text_without_a_charset(requests: Any, url: str) -> None:
    """Until somebody sets it: a guess from the body is at hand."""
    r = requests.get(f"{url}/text-without-charset")
    assert r.apparent_encoding is not None
    r.encoding = "utf-8"
    assert r.text == TEXT
    r.encoding = r.apparent_encoding
    assert "Suppe" in r.text


# --- Advanced: HTTP verbs, custom verbs, link headers ---


def test_verbs(requests: Any, url: str) -> None:
    """A service is asked what it can, read, written to, corrected, and cleared."""
    where = f"{url}/commits/a050"
    r = requests.get(where)
    assert r.status_code == requests.codes.ok
    assert r.headers["content-type"] == "application/json"
    assert r.json()["author"] == {"name": "Ada"}
    assert "POST" in requests.options(where).headers["allow"]
    body = json.dumps({"body": "Sounds great!"})
    assert requests.post(where, data=body).status_code == 401
    auth = requests.auth.HTTPBasicAuth("ada", "lovelace")
    r = requests.post(where, data=body, auth=auth)
    assert r.status_code == 201
    assert r.json()["body"] == "Sounds great!"
    r = requests.patch(where, data=json.dumps({"body": "Sounds good."}), auth=auth)
    assert r.json()["body"] == "Sounds good."
    r = requests.delete(where, auth=auth)
    assert r.status_code == 204
    assert r.headers["status"] == "204 No Content"
    assert requests.head(where, auth=auth).headers["x-ratelimit-remaining"] == "4995"


def test_a_verb_of_ones_own(requests: Any, site: Site) -> None:
    """Any token will do."""
    r = requests.request("MKCOL", f"{site.url}/collection", data=b"what")
    assert r.json()["method"] == "MKCOL"
    assert r.json()["data"] == "what"


def test_links(requests: Any, url: str) -> None:
    """The `Link` header taken apart, by relation."""
    r = requests.head(f"{url}/pages")
    assert r.links["next"] == {"url": "/pages?page=2&per_page=10", "rel": "next"}
    assert r.links["last"] == {"url": "/pages?page=7&per_page=10", "rel": "last"}


# --- Advanced: transport adapters, automatic retries ---


def test_an_adapter_for_some_urls(requests: Any, site: Site) -> None:
    """The longest prefix decides who sends."""
    sent: list[str] = []

    class Noting(requests.adapters.HTTPAdapter):  # type: ignore[misc]  # whichever library's
        def send(self, request: Any, **kwargs: Any) -> Any:
            sent.append(request.path_url)
            return super().send(request, **kwargs)

    with requests.Session() as s:
        s.mount(f"{site.url}/picture", Noting())
        assert isinstance(s.get_adapter(f"{site.url}/picture"), Noting)
        assert not isinstance(s.get_adapter(f"{site.url}/text"), Noting)
        assert s.get(f"{site.url}/picture").content == PICTURE
        assert s.get(f"{site.url}/text").text == TEXT
    assert sent == ["/picture"]


def test_an_adapter_for_another_scheme(requests: Any) -> None:
    """An adapter answers what no server does."""

    class Memory(requests.adapters.BaseAdapter):  # type: ignore[misc]  # whichever library's
        def send(self, request: Any, **kwargs: Any) -> Any:
            response = requests.Response()
            response.status_code, response.url, response.request = 200, request.url, request
            response.raw = io.BytesIO(b"from memory")
            return response

        def close(self) -> None:
            pass

    with requests.Session() as s:
        s.mount("memory://", Memory())
        r = s.get("memory://shelf/1")
        assert (r.url, r.status_code, r.text) == ("memory://shelf/1", 200, "from memory")
        with pytest.raises(requests.exceptions.InvalidSchema):
            s.get("disk://shelf/1")


@pytest.mark.parametrize("failures", [2, 3])
def test_retries(failures: int, requests: Any, site: Site) -> None:
    """Some statuses are tried again, so often, for the methods named."""
    site.answers["/faltering"] = Faltering(failures)
    retries = Retry(total=2, backoff_factor=0, status_forcelist=[502, 503, 504], allowed_methods={"POST"})
    with requests.Session() as s:
        s.mount("http://", requests.adapters.HTTPAdapter(max_retries=retries))
        if failures == 2:
            assert s.post(f"{site.url}/faltering", data=b"again").json() == {"left": -1}
        else:
            with pytest.raises(requests.exceptions.RetryError):
                s.post(f"{site.url}/faltering", data=b"again")
        assert s.get(f"{site.url}/faltering").status_code == 200
    assert [seen.body for seen in site.seen[:3]] == [b"again"] * 3
    assert len(site.seen) == 4


def test_retries_as_a_number(requests: Any, site: Site) -> None:
    """Of connections that could not be made; what was answered is not tried again."""
    site.answers["/faltering"] = Faltering(1)
    with requests.Session() as s:
        s.mount("http://", requests.adapters.HTTPAdapter(max_retries=3))
        assert s.get(f"{site.url}/faltering").status_code == 503
    assert len(site.seen) == 1


# --- Advanced: an adapter that chooses the TLS version ---


def test_an_adapter_with_tls_settings_of_its_own(
    requests: Any, server_tls: ssl.SSLContext, authority: trustme.CA
) -> None:
    """A context handed on to the pool manager is what the connections use."""

    class Aged(requests.adapters.HTTPAdapter):  # type: ignore[misc]  # whichever library's
        def init_poolmanager(self, *args: Any, **kwargs: Any) -> Any:
            context = ssl.create_default_context()
            authority.configure_trust(context)
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            return super().init_poolmanager(*args, ssl_context=context, **kwargs)

    _takes_tls_settings(requests, server_tls, Aged)


def test_an_adapter_with_a_pool_manager_of_its_own(requests: Any, server_tls: ssl.SSLContext, ca_file: str) -> None:
    """The guide's own way: the adapter makes the pool manager."""

    class Aged(requests.adapters.HTTPAdapter):  # type: ignore[misc]  # whichever library's
        def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **kwargs: Any) -> None:
            self.poolmanager = PoolManager(
                num_pools=connections,
                maxsize=maxsize,
                block=block,
                ssl_maximum_version=ssl.TLSVersion.TLSv1_2,
            )

    _takes_tls_settings(requests, server_tls, Aged, verify=ca_file)


def _takes_tls_settings(requests: Any, server_tls: ssl.SSLContext, adapter: Callable[[], Any], **kwargs: Any) -> None:
    with Site(tls=server_tls) as site, requests.Session() as s:
        s.mount(site.url, adapter())
        assert s.get(f"{site.url}/text", **kwargs).text == TEXT
    server_tls.minimum_version = ssl.TLSVersion.TLSv1_3
    with Site(tls=server_tls) as site, requests.Session() as s:
        s.mount(site.url, adapter())
        with pytest.raises(requests.exceptions.SSLError):
            s.get(f"{site.url}/text", **kwargs)


# --- Advanced: header ordering, timeouts ---


def test_the_order_of_headers(requests: Any, url: str) -> None:
    """A session's own mapping says in which order they go, before those of the call."""
    with requests.Session() as s:
        s.headers = collections.OrderedDict([("X-B", "1"), ("X-A", "2"), ("Accept", "*/*")])
        r = s.get(f"{url}/anything", headers=collections.OrderedDict([("X-D", "3"), ("X-C", "4")]))
    order = [name for name in r.json()["order"] if name in {"X-A", "X-B", "X-C", "X-D", "Accept"}]
    assert order == ["X-B", "X-A", "Accept", "X-D", "X-C"]


@pytest.mark.parametrize("timeout", [5, (3.05, 27), (None, 5), None])
def test_timeouts_in_all_forms(timeout: Any, requests: Any, url: str) -> None:
    """One number, one for connecting and one for reading, or none."""
    assert requests.get(f"{url}/text", timeout=timeout).text == TEXT


def test_a_timeout_for_reading_alone(requests: Any, url: str) -> None:
    """The second of the pair."""
    with pytest.raises(requests.exceptions.ReadTimeout):
        requests.get(f"{url}/slow", timeout=(5, 0.05))


# --- Authentication ---


def test_basic_authentication(requests: Any, url: str) -> None:
    """As an object, or short as a pair; without it, one is asked who one is."""
    assert requests.get(f"{url}/guarded").status_code == 401
    assert requests.get(f"{url}/guarded", auth=requests.auth.HTTPBasicAuth("ada", "lovelace")).json() == {"user": "ada"}
    assert requests.get(f"{url}/guarded", auth=("ada", "lovelace")).json() == {"user": "ada"}
    with_user = url.replace("://", "://ada:lovelace@")
    assert requests.get(f"{with_user}/guarded").json() == {"user": "ada"}


def test_netrc_authentication(requests: Any, url: str, tmp_path: Path) -> None:
    """Who asks is looked up where nobody says; what is said goes over it."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1\nlogin ada\npassword lovelace\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert requests.get(f"{url}/guarded").json() == {"user": "ada"}
    assert requests.get(f"{url}/guarded", auth=("eve", "evil")).status_code == 401
    with requests.Session() as s:
        s.trust_env = False
        assert s.get(f"{url}/guarded").status_code == 401


def test_digest_authentication(requests: Any, url: str) -> None:
    """The challenge is answered, and what led there is in the history."""
    auth = requests.auth.HTTPDigestAuth("ada", "lovelace")
    r = requests.get(f"{url}/digested?a=1", auth=auth)
    assert r.json() == {"user": "ada"}
    assert [each.status_code for each in r.history] == [401]
    with requests.Session() as s:
        s.auth = auth
        assert [s.get(f"{url}/digested").status_code for _ in range(2)] == [200, 200]
    assert requests.get(f"{url}/digested", auth=requests.auth.HTTPDigestAuth("ada", "wrong")).status_code == 401


def test_a_new_form_of_authentication(requests: Any, url: str) -> None:
    """A subclass, attached by the one function; any callable will do as well."""

    class MyAuth(requests.auth.AuthBase):  # type: ignore[misc]  # whichever library's
        def __call__(self, r: Any) -> Any:
            r.headers["Authorization"] = f"Signed {hashlib.sha256(r.path_url.encode()).hexdigest()[:8]}"
            return r

    def with_token(r: Any) -> Any:
        r.headers["Authorization"] = "Bearer token"
        return r

    assert (
        requests.post(f"{url}/anything", data="x", auth=MyAuth()).json()["headers"]["Authorization"]
        == "Signed 57b25dba"
    )
    assert requests.get(f"{url}/anything", auth=with_token).json()["headers"]["Authorization"] == "Bearer token"


# --- what the guide imports ---


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("", ["Request", "Session", "session", "PreparedRequest", "Response", "codes", "get", "request", "utils"]),
        ("auth", ["AuthBase", "HTTPBasicAuth", "HTTPDigestAuth", "HTTPProxyAuth"]),
        ("adapters", ["BaseAdapter", "HTTPAdapter"]),
        ("cookies", ["RequestsCookieJar", "cookiejar_from_dict"]),
        ("exceptions", ["RequestException", "HTTPError", "Timeout", "ConnectTimeout", "SSLError", "ProxyError"]),
        ("structures", ["CaseInsensitiveDict"]),
        ("models", ["Request", "PreparedRequest", "Response"]),
        ("sessions", ["Session"]),
        ("status_codes", ["codes"]),
        ("utils", ["dict_from_cookiejar", "add_dict_to_cookiejar"]),
    ],
)
def test_names_to_import(module: str, names: list[str], requests: Any) -> None:
    """`from requests.module import name`."""
    found = importlib.import_module(f"{requests.__name__}.{module}".rstrip("."))
    assert [name for name in names if not hasattr(found, name)] == []
