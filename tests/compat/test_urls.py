"""URLs as requests has them, and where ours are others: each difference with its reason."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests

import sessionpool
from sessionpool._messages import add_params
from sessionpool._urls import as_url, parse_target
from tests.with_server.echo_server import EchoServer, redirect


def theirs(url: Any, params: Any = None) -> str:
    """What requests makes of a URL, or the name of its error."""
    request = requests.PreparedRequest()
    try:
        request.prepare_url(url, params)
    except requests.exceptions.RequestException as error:
        return type(error).__name__
    assert request.url is not None
    return request.url


def ours(url: Any, params: Any = None) -> str:
    """What we make of it."""
    try:
        text = as_url(url)
        return parse_target(text if params is None else add_params(text, params)).url
    except sessionpool.RequestException as error:
        return type(error).__name__


SAME = [
    "http://EXAMPLE.com", "HTTPS://h/", "http://h/a#b", "http://h#b", "http://h?a=1", "http://h/?a#b?c/d",
    b"http://h/\xc3\xa4", "  http://h/", "\r\n\thttp://h/", "\u3000http://h/",
    # names
    "http://BÜCHER.example/", "http://faß.de/", "http://\u03c2.example/", "http://日本語.jp/", "http://ä\u0308.example/",
    "http://xn--bcher-kva.example/", "http://XN--BCHER-KVA.example/", "http://xn--zzzzzz/", "http://under_score.example/",
    "http://-a.b-/", "http://example.com./", "http://%65xample.com/", "http://a!$&'()*+,;=~b/",
    "http://i❤.ws/", "http://😀.la/", "http://ü_b.example/", "http://-ü.example/", "http://\ud800.example/",
    f"http://{'ü' * 70}.example/", "http://*.example.com/", "http://*/", "http://.example.com/",
    "http://h%/", "http://h%zz/", "http://h%00/", "http://h x/", "http://h\t/", "http://h\r\nX-Evil: 1/", "http://h\0/",
    # addresses and ports
    "http://127.0.0.1/", "http://127.1/", "http://2130706433/", "http://0177.0.0.1/", "http://256.256.256.256/",
    "http://[::1]/", "http://[::1]:8000/", "http://[FE80::A]/", "http://[::FFFF:1.2.3.4]/", "http://[fe80::1%25eth0]/",
    "http://[fe80::1%eth0]/", "http://[]/", "http://[1.2.3.4]/", "http://[::1/", "http://::1/", "http://[::g]/",
    "http://[::1]x/", "http://x[::1]/", "http://[v1.fe]/",
    "http://h:/", "http://h:80/", "https://h:443/", "http://h:443/", "http://h:0080/", "http://h:65535/",
    "http://h:65536/", "http://h:port/", "http://h:-1/", "http://h:8 0/", "http://h:80:80/", "http://h:\uff18\uff10/",
    # user's part
    "http://u@h/", "http://u:p@h/", "http://u:@h/", "http://:p@h/", "http://@h/", "http://:@h/", "http://u:p:q@h/",
    "http://u:p@x@h/", "http://u@x:p@h/", "http://u%40x:p%3Aq@h/", "http://ü:pä@h/", "http://u:p x@h/", "http://u:[p]@h/",
    "http://u:p%zz@h/", "http://u:p/x@h/", "http://u:p?x@h/", "http://u:p#x@h/",
    # paths and queries
    "http://h/a b?c d#e f", "http://h/ä?ö=ü#ß", "http://h/😀", "http://h/!$&'()*+,;=:@-._~?!$&'()*+,;=:@-._~/?",
    "http://h/[x]?y[]=1", "http://h/a|b^c`d{e}\"<>", "http://h/a\\b?c\\d", "http://h/a\tb\r\nc\0d\x7f",
    "http://h/\ud800", "http://h/%7euser/%41%2f", "http://h/%e4", "http://h/%E4 ä", "http://h/100%", "http://h/%zz%4",
    "http://h/a+b%20c?d+e%20f", "http://h/%2541", "http://h/a%00b",
    "http://h/.", "http://h/..", "http://h/../../a", "http://h/a/./b/../c", "http://h/a/..", "http://h/a/.",
    "http://h/a/b/../../..", "http://h/..a/.b/c..", "http://h/a/..;/b", "http://h/a?b/../c", "http://h/a/%2e%2e%2fb",
    "http://h//", "http://h//a", "http://h/a//b", "http://h//../a", "http://h/a//../b", "http://h/.//a",
    # no http URL, or none at all
    "", "h", "h/a", "/a", "//h/", "?a", "http:", "http:/h/", "http:h/", "http://", "http:///h", "http:////h/", "http://?a",
    "file:///etc/passwd", "mock://x y/ä?b c", "mailto:a@b", "data:,hello world", "urn:a:b", "h:80/", "ftp://h/a b",
    "http+unix://%2Fvar%2Frun/a", "localhost:8000/a",
]  # fmt: skip


@pytest.mark.parametrize("url", SAME, ids=ascii)
def test_a_url_is_what_it_is_with_requests(url: Any) -> None:
    """The URL that is asked for, or the kind of error."""
    assert ours(url) == theirs(url)


PARAMS: list[Any] = [
    None, {}, [], "", b"", (), {"a": None}, {"a": ""}, {"a": 1}, {"a": True}, {"a": 1.5}, {"a": "x y&=#?/+"},
    {"ä": "€"}, {"a": [1, 2]}, {"a": (1, None)}, {"a": {"x": 1}}, {"a": [[1, 2], 3]}, {"a": []}, {b"a": b"\xff"},
    {1: 2}, [("a", 1), ("a", 2)], (("a", 1), ("b", None)), [["a", [1, 2]]], "a=1&b", "ä=€ x", "a=%20b", b"a=1", "?a",
    "&a",
]  # fmt: skip


@pytest.mark.parametrize("params", PARAMS, ids=ascii)
@pytest.mark.parametrize(
    "url",
    [
        "http://h",
        "http://h/a",
        "http://h/a?x=1",
        "http://h/a?x=1&",
        "http://h/a#f?g",
        "http://h/a?x#f",
        "mock://h/a",
        "file:///a?x=1",
        "http+unix://h/a?x",
        "mailto:a@b",
        "/a",
    ],
)
def test_params_are_what_they_are_with_requests(url: str, params: Any) -> None:
    """Every shape that they may have, on URLs with and without a query, a fragment, a path, and of other schemes."""
    assert ours(url, params) == theirs(url, params)


DIFFERENT = [
    # RFC 3986 §6.2.3: without its delimiter it is another URL.
    ("empty query or fragment", "http://h/?", "http://h/?", "http://h/"),
    ("empty query or fragment", "http://h/a#", "http://h/a#", "http://h/a"),
    # RFC 3986 §6.2.2.2 before §6.2.2.3: servers decode, so an escaped dot segment is a dot segment.
    ("escaped dot segments", "http://h/%2e%2e/a", "http://h/a", "http://h/../a"),
    ("escaped dot segments", "http://h/a/.%2E/b", "http://h/b", "http://h/a/../b"),
    # RFC 3986 §5.2.4.
    ("empty segment after dots", "http://h/..//a", "http://h//a", "http://h/a"),
    # RFC 3986 §2.4: nothing is escaped twice.
    ("stray percent", "http://h/a%20b%", "http://h/a%20b%25", "http://h/a%2520b%25"),
    ("stray percent", "http://h/?a=%20&b=100%", "http://h/?a=%20&b=100%25", "http://h/?a=%2520&b=100%25"),
    # RFC 3986, Appendix C: a line of a file has an end.
    ("blanks behind", "http://h/a\n", "http://h/a", "http://h/a%0A"),
    ("blanks behind", "http://h/a ", "http://h/a", "http://h/a%20"),
    # RFC 3986 §3.2.3: it was asked for.
    ("port 0", "http://h:0/", "http://h:0/", "http://h/"),
    # UTS 46 §4, which requests means to apply, and is kept from by urllib3.
    ("mapped names", "http://\uff45\uff58.example/", "http://ex.example/", "InvalidURL"),
    ("mapped names", "http://日本語。jp/", "http://xn--wgv71a119e.jp/", "InvalidURL"),
    ("mapped names", "http://exam\u00adple.com/", "http://example.com/", "InvalidURL"),
    # RFC 3986 §3.2.2: an escape in a name is UTF-8, and then IDNA.
    ("escaped names", "http://b%C3%BCcher.example/", "http://xn--bcher-kva.example/", "http://b%C3%BCcher.example/"),
    ("names that are none", "http://h%2fx/", "InvalidURL", "http://h%2Fx/"),
    ("names that are none", "http://h<x>/", "InvalidURL", "http://h%3Cx%3E/"),
    # RFC 1035 §2.3.4; requests says so when it has asked the resolver.
    ("names that are none", "http://a..b/", "InvalidURL", "http://a..b/"),
    ("names that are none", f"http://{'a' * 64}.example/", "InvalidURL", f"http://{'a' * 64}.example/"),
    ("upper case in an address", "http://0X7F.1/", "http://0x7f.1/", "http://0X7F.1/"),
    # What parsers read in two ways. urllib.parse says evil.example, browsers and requests good.example.
    ("backslash before the path", "http://good.example\\@evil.example/", "InvalidURL",
     "http://good.example/%5C@evil.example/"),
    ("backslash before the path", "http://h\\a", "InvalidURL", "http://h/%5Ca"),
    # RFC 3986 §3.2.2; requests finds it out when it takes the URL apart once more, with an error of urllib's.
    ("no IPv6 address", "http://[::1.2.3.999]/", "InvalidURL", "http://[::1.2.3.999]/"),
    # RFC 6874 §2: an empty zone is none.
    ("empty zone", "http://[fe80::1%25]/", "InvalidURL", "http://[fe80::1%25]/"),
    # RFC 3986 §3.1: no scheme, so the error says that (requests: no adapter).
    ("no scheme but a colon", "1http://h/", "MissingSchema", "1http://h/"),
    ("no scheme but a colon", "a?b:c", "MissingSchema", "a?b:c"),
    ("no host, scheme like http", "httpx:a", "httpx:a", "InvalidURL"),
]  # fmt: skip


@pytest.mark.parametrize(("why", "url", "own", "other"), DIFFERENT, ids=ascii)
def test_where_a_url_is_another_than_with_requests(why: str, url: str, own: str, other: str) -> None:
    """On purpose, and still so in the requests that is installed."""
    assert ours(url) == own
    assert theirs(url) == other


@pytest.mark.parametrize(
    ("url", "params", "own", "other"),
    [
        # RFC 3986 §3.4: with requests what follows is lost, or becomes the fragment.
        ("http://h/", "a#b", "http://h/?a%23b", "http://h/?a#b"),
        ("http://h/?", {"a": 1}, "http://h/?a=1", "http://h/?a=1"),
    ],
)
def test_where_params_are_others_than_with_requests(url: str, params: Any, own: str, other: str) -> None:
    """On purpose."""
    assert ours(url, params) == own
    assert theirs(url, params) == other


def test_bytes_that_are_no_text() -> None:
    """requests lets the codec's error through; ours is an `InvalidURL`."""
    assert ours(b"http://h/\xff") == "InvalidURL"
    with pytest.raises(UnicodeDecodeError):
        theirs(b"http://h/\xff")


# --- over the wire ---


@pytest.fixture
def server() -> Iterator[EchoServer]:
    with EchoServer() as running:
        yield running


@pytest.mark.parametrize(
    "rest",
    [
        "", "?", "/", "/a b?c d#e", "/ä?ö=ü", "/%41%2f%7e", "//a//b", "/a/../b", "/?a=1&b=2&a", "/#part", "?a=1#part",
        "/a\r\nX-Evil: 1\r\n\r\nGET /b", "/100%", "/!$&'()*+,;=:@", "/a\\b", "/a|b\"<>",
    ],
)  # fmt: skip
def test_the_server_sees_the_same(rest: str, server: EchoServer) -> None:
    """The line and the Host that requests sends, but for the empty query that it drops; a fragment is never sent."""
    with requests.Session() as other, sessionpool.Session() as own:
        for session in (other, own):
            session.get(server.url + rest)

    (expected, got) = server.seen
    assert got.target == (expected.target if rest != "?" else "/?")
    assert got.header("host") == expected.header("host") == f"127.0.0.1:{server.port}"
    assert "#" not in got.target


@pytest.mark.parametrize(
    "location",
    ["/b", "/b#own", "/b#", "c?x", "b", "/b c?d e", "../../b/./c", "//{host}/b", "{url}/ä b", ".", "/%2F%41"],
)
def test_a_redirect_leads_where_it_leads_with_requests(location: str, server: EchoServer) -> None:
    """Relative or not, it is resolved, and the fragment goes with it unless it has its own (RFC 9110 §10.2.2)."""
    location = location.format(host=server.url.removeprefix("http://"), url=server.url)
    server.answers["/from/here"] = redirect(location.encode().decode("latin-1"))
    with requests.Session() as other, sessionpool.Session() as own:
        expected = other.get(server.url + "/from/here#part")
        got = own.get(server.url + "/from/here#part")

    assert got.url == (expected.url if location != "/b#" else server.url + "/b#")
    targets = [seen.target for seen in server.seen]
    assert targets[: len(targets) // 2] == targets[len(targets) // 2 :]


@pytest.mark.parametrize("library", [requests, sessionpool], ids=["requests", "sessionpool"])
def test_a_redirect_to_another_scheme(library: Any, server: EchoServer) -> None:
    """What is mounted for files is there for the user to ask; requests lets a server point at it."""
    asked: list[str] = []

    class Files(library.adapters.BaseAdapter):  # type: ignore[misc]  # whichever library's
        def send(self, request: Any, **kwargs: Any) -> Any:
            asked.append(request.url)
            response = library.Response()
            response.status_code, response.url, response.request = 200, request.url, request
            response._content = b"root:x:0:0"
            return response

        def close(self) -> None:
            pass

    server.answers["/from"] = redirect("file:///etc/passwd")
    with library.Session() as session:
        session.mount("file://", Files())
        if library is requests:
            assert session.get(server.url + "/from").text == "root:x:0:0"
        else:
            with pytest.raises(sessionpool.exceptions.InvalidSchema, match="neither http nor https"):
                session.get(server.url + "/from")
        assert session.get("file:///a b").text == "root:x:0:0"

    assert asked == ([] if library is sessionpool else ["file:///etc/passwd"]) + ["file:///a b"]
