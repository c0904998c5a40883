"""URLs: taken apart, normalised, put together; what is refused, and what is said of it."""

from __future__ import annotations

import re
import string
from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sessionpool import Limits, SessionPool, exceptions
from sessionpool._clock import SYSTEM_CLOCK
from sessionpool._messages import add_params
from sessionpool._transport import Transport
from sessionpool._urls import as_url, join, parse_target
from sessionpool._wire import redacted

LONG = "a" * 63  # as long as a label may be

# --- http and https ---


@pytest.mark.parametrize(
    ("url", "normal", "host", "port", "request_target", "host_field"),
    [
        ("http://example.com", "http://example.com/", "example.com", 80, b"/", b"example.com"),
        ("https://example.com", "https://example.com/", "example.com", 443, b"/", b"example.com"),
        ("HTTP://EXAMPLE.com/A", "http://example.com/A", "example.com", 80, b"/A", b"example.com"),
        ("hTTpS://h/", "https://h/", "h", 443, b"/", b"h"),
        ("http://example.com./", "http://example.com./", "example.com.", 80, b"/", b"example.com."),
        ("http://under_score.example/", "http://under_score.example/", "under_score.example", 80, b"/", None),
        ("http://user:pass@h/a", "http://user:pass@h/a", "h", 80, b"/a", b"h"),
        ("http://h/a#b", "http://h/a#b", "h", 80, b"/a", b"h"),
        ("http://h#b", "http://h/#b", "h", 80, b"/", b"h"),
        # Ports.
        ("http://example.com:80/", "http://example.com:80/", "example.com", 80, b"/", b"example.com"),
        ("http://example.com:443/", "http://example.com:443/", "example.com", 443, b"/", b"example.com:443"),
        ("https://example.com:443/", "https://example.com:443/", "example.com", 443, b"/", b"example.com"),
        ("https://example.com:80/", "https://example.com:80/", "example.com", 80, b"/", b"example.com:80"),
        ("http://example.com:8080", "http://example.com:8080/", "example.com", 8080, b"/", b"example.com:8080"),
        ("http://h:/", "http://h/", "h", 80, b"/", b"h"),
        ("http://h:0/", "http://h:0/", "h", 0, b"/", b"h:0"),
        ("http://h:00/", "http://h:0/", "h", 0, b"/", b"h:0"),
        ("http://h:000008000/", "http://h:8000/", "h", 8000, b"/", b"h:8000"),
        ("http://h:65535/", "http://h:65535/", "h", 65535, b"/", b"h:65535"),
        # IPv4: whatever stands for an address is the resolver's to read.
        ("http://127.0.0.1:1/", "http://127.0.0.1:1/", "127.0.0.1", 1, b"/", b"127.0.0.1:1"),
        ("http://127.1/", "http://127.1/", "127.1", 80, b"/", None),
        ("http://2130706433/", "http://2130706433/", "2130706433", 80, b"/", None),
        ("http://0X7F.1/", "http://0x7f.1/", "0x7f.1", 80, b"/", None),
        # IPv6: the zone is dialled, and not sent (RFC 6874 §4).
        ("http://[::1]/", "http://[::1]/", "::1", 80, b"/", b"[::1]"),
        ("http://[::1]:8000/x", "http://[::1]:8000/x", "::1", 8000, b"/x", b"[::1]:8000"),
        ("http://[FE80::A]/", "http://[fe80::a]/", "fe80::a", 80, b"/", b"[fe80::a]"),
        ("http://[::FFFF:1.2.3.4]/", "http://[::ffff:1.2.3.4]/", "::ffff:1.2.3.4", 80, b"/", b"[::ffff:1.2.3.4]"),
        ("http://[FE80::1%25eth0]/", "http://[fe80::1%25eth0]/", "fe80::1%eth0", 80, b"/", b"[fe80::1]"),
        ("http://[fe80::1%25eth0]:1/", "http://[fe80::1%25eth0]:1/", "fe80::1%eth0", 1, b"/", b"[fe80::1]:1"),
        ("http://[fe80::1%EN1]/", "http://[fe80::1%25EN1]/", "fe80::1%EN1", 80, b"/", b"[fe80::1]"),
        ("http://[fe80::1%25eth%31]/", "http://[fe80::1%25eth1]/", "fe80::1%eth1", 80, b"/", b"[fe80::1]"),
        ("http://[fe80::1%25a:b]/", "http://[fe80::1%25a%3Ab]/", "fe80::1%a:b", 80, b"/", b"[fe80::1]"),
        ("http://[fe80::1%2525]/", "http://[fe80::1%2525]/", "fe80::1%25", 80, b"/", b"[fe80::1]"),
    ],
)  # fmt: skip
def test_a_url_is_taken_apart(
    url: str, normal: str, host: str, port: int, request_target: bytes, host_field: bytes | None
) -> None:
    """Normalised by RFC 3986 §6.2.2: host, port, what is asked for, and what `Host` says."""
    target = parse_target(url)

    assert target.url == normal
    assert (target.host, target.port) == (host, port)
    assert target.origin == (target.scheme, host, port)
    assert target.request_target == request_target
    assert target.host_field == (host_field or host.encode())
    assert target.start == b" %b HTTP/1.1\r\nHost: %b\r\n" % (target.request_target, target.host_field)
    assert target.is_secure == target.url.startswith("https:")
    assert not target.is_opaque
    assert parse_target(normal).url == normal


@pytest.mark.parametrize(
    ("host", "sent"),
    [
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("faß.de", "xn--fa-hia.de"),  # not "fass", as in IDNA 2003
        ("\u03c2.example", "xn--3xa.example"),  # a final sigma is a letter of its own
        ("日本語.jp", "xn--wgv71a119e.jp"),
        ("日本語。jp", "xn--wgv71a119e.jp"),
        ("日本語\uff0ejp", "xn--wgv71a119e.jp"),
        ("日本語｡jp", "xn--wgv71a119e.jp"),
        ("\uff45\uff58\uff41\uff4d\uff50\uff4c\uff45.\uff23\uff2f\uff2d", "example.com"),
        ("\uff11\uff12\uff17.0.0.1", "127.0.0.1"),
        ("ä\u0308.example", "xn--4ca01i.example"),
        ("a\u0308.example", "xn--4ca.example"),  # composed before anything else
        ("exam\u00adple.com", "example.com"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
        ("xn--ls8h.la", "xn--ls8h.la"),  # no letter of IDNA 2008, and registered all the same
        ("_x.bücher.example", "_x.xn--bcher-kva.example"),
        ("b%C3%BCcher.example", "xn--bcher-kva.example"),
        ("%65xample.com", "example.com"),
        ("a%2Eb", "a.b"),
        ("-a.ab--c.b-", "-a.ab--c.b-"),
        ("a!$&'()*+,;=~b", "a!$&'()*+,;=~b"),
        (f"{LONG}.{LONG}.{LONG}.{'a' * 61}", None),
        (f"{LONG}.{LONG}.{LONG}.{'a' * 61}.", None),
    ],
)  # fmt: skip
def test_a_hosts_name_is_what_the_dns_knows(host: str, sent: str | None) -> None:
    """By IDNA 2008 with the mapping of UTS 46; what is ASCII stays, and an escape is what it stands for."""
    target = parse_target(f"http://{host}/")

    assert target.host == (sent or host)
    assert target.host_field == target.host.encode()
    assert target.url == f"http://{target.host}/"


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("", "/"),
        ("?", "/?"),  # not the same as without (RFC 3986 §6.2.3)
        ("/?", "/?"),
        ("?a=1", "/?a=1"),
        ("#a", "/"),
        ("?#a", "/?"),
        ("/a?x=1?y=2&z=a+b%20c", "/a?x=1?y=2&z=a+b%20c"),
        ("/a#b?c", "/a"),
        # What may stand as it is, and what may not.
        ("/!$&'()*+,;=:@-._~", "/!$&'()*+,;=:@-._~"),
        ("/?!$&'()*+,;=:@-._~/?", "/?!$&'()*+,;=:@-._~/?"),
        ("/;p?q='\"<>", "/;p?q='%22%3C%3E"),
        ("/a b", "/a%20b"),
        ("/ä?ö=ü", "/%C3%A4?%C3%B6=%C3%BC"),
        ("/😀", "/%F0%9F%98%80"),
        ("/[x]?y[]=1", "/%5Bx%5D?y%5B%5D=1"),
        ("/a|b^c`d{e}", "/a%7Cb%5Ec%60d%7Be%7D"),
        ("/a\\b?c\\d", "/a%5Cb?c%5Cd"),
        ("/a\tb\r\nc\0d\x7f", "/a%09b%0D%0Ac%00d%7F"),
        ("/a\r\nX-Evil: 1\r\n\r\nb?\r\nc", "/a%0D%0AX-Evil:%201%0D%0A%0D%0Ab?%0D%0Ac"),
        ("/\ud800", "/%ED%A0%80"),
        # Escapes: upper case, none where none is needed, none twice (RFC 3986 §6.2.2 and §2.4).
        ("/%7euser/%41%2f", "/~user/A%2F"),
        ("/%e4", "/%E4"),
        ("/%E4 ä", "/%E4%20%C3%A4"),
        ("/100%", "/100%25"),
        ("/%zz%4", "/%25zz%254"),
        ("/a%20b%", "/a%20b%25"),
        ("/?a=1%2b1&b=100%", "/?a=1%2B1&b=100%25"),
        ("/%%34%31", "/%2541"),
        ("/%2541", "/%2541"),
        # Dot segments (RFC 3986 §5.2.4), after escapes (§6.2.2).
        ("/.", "/"),
        ("/..", "/"),
        ("/../../a", "/a"),
        ("/a/./b/../c", "/a/c"),
        ("/a/..", "/"),
        ("/a/.", "/a/"),
        ("/a/b/../../..", "/"),
        ("/a/...", "/a/..."),
        ("/..a/.b/c..", "/..a/.b/c.."),
        ("/%2e%2E/a", "/a"),
        ("/a/%2e%2e/%2E%2E/b", "/b"),
        ("/a/.%2e/b", "/b"),
        ("/a/%2e%2e%2fb", "/a/..%2Fb"),
        ("/a/..;/b", "/a/..;/b"),
        ("/a?b/../c#/../", "/a?b/../c"),
        # Two slashes are an empty segment, and that is one.
        ("//", "//"),
        ("//a", "//a"),
        ("/a//b", "/a//b"),
        ("//../a", "/a"),
        ("/..//a", "//a"),
        ("/.//a", "//a"),
        ("/a//../b", "/a/b"),
        ("/a//..", "/a/"),
    ],
)  # fmt: skip
def test_what_is_asked_for(given: str, sent: str) -> None:
    """Path and query, escaped where they must be, without dot segments, and never a fragment."""
    target = parse_target(f"http://h{given}")

    assert target.request_target == sent.encode()
    assert target.path == sent.partition("?")[0]
    assert target.url.partition("#")[0] == f"http://h{sent}"
    assert parse_target(target.url).request_target == target.request_target


@pytest.mark.parametrize(
    ("given", "kept"),
    [("#", "#"), ("#b c", "#b%20c"), ("#ä", "#%C3%A4"), ("#b#c", "#b%23c"), ("#b?c/..", "#b?c/.."), ("#%41", "#A")],
)  # fmt: skip
def test_a_fragment_is_kept_in_the_url(given: str, kept: str) -> None:
    """It is escaped where it must be, for whoever shows the URL."""
    assert parse_target(f"http://h/a{given}").url == f"http://h/a{kept}"


@pytest.mark.parametrize(
    ("given", "auth", "kept"),
    [
        ("", None, ""),
        ("@", None, ""),
        (":@", None, ":@"),  # nobody, as in requests
        ("user@", ("user", ""), "user@"),
        ("user:pass@", ("user", "pass"), "user:pass@"),
        ("user:@", ("user", ""), "user:@"),
        (":pass@", ("", "pass"), ":pass@"),
        ("::@", ("", ":"), "::@"),
        ("user:a:b@", ("user", "a:b"), "user:a:b@"),
        ("us%40er:p%3Aa%2Fss@", ("us@er", "p:a/ss"), "us%40er:p%3Aa%2Fss@"),
        ("user:p@x@", ("user", "p@x"), "user:p%40x@"),
        ("us@er:p@", ("us@er", "p"), "us%40er:p@"),
        ("ü:pä@", ("ü", "pä"), "%C3%BC:p%C3%A4@"),
        ("u:p x@", ("u", "p x"), "u:p%20x@"),
        ("u:100%@", ("u", "100%"), "u:100%25@"),
        ("u:[p]@", ("u", "[p]"), "u:%5Bp%5D@"),
    ],
)  # fmt: skip
def test_user_and_password_of_a_url(given: str, auth: tuple[str, str] | None, kept: str) -> None:
    """They are decoded, split at the first colon, and end at the last @ before the path."""
    target = parse_target(f"http://{given}h/")

    assert target.auth == auth
    assert target.url == f"http://{kept}h/"
    assert target.host_field == b"h"
    assert parse_target(target.url).auth == auth


@pytest.mark.parametrize(
    "url",
    ["  http://h/a", "http://h/a\n", "http://h/a \t", "\r\n\f\vhttp://h/a\r\n", "\u00a0http://h/a", "\u3000http://h/a"],
)
def test_blanks_around_a_url_are_none_of_it(url: str) -> None:
    """A line of a file is read with its end; what looks blank behind an IRI may belong to it."""
    assert parse_target(url).url == "http://h/a"
    assert add_params(url, {"x": 1}) == "http://h/a?x=1"
    assert join("http://h/b/c", url) in (url, "http://h/a")
    assert parse_target("http://h/a\u3000").request_target == b"/a%E3%80%80"


@pytest.mark.parametrize(
    ("url", "error", "says"),
    [
        ("example.com/a", exceptions.MissingSchema, "perhaps you meant 'https://example.com/a'"),
        ("h", exceptions.MissingSchema, "URL 'h' has no scheme"),
        ("/path", exceptions.MissingSchema, "no scheme"),
        ("", exceptions.MissingSchema, "no scheme"),
        ("None", exceptions.MissingSchema, "no scheme"),
        ("//example.com/", exceptions.MissingSchema, "URL '//example.com/' has no scheme"),
        ("?a=http://h/", exceptions.MissingSchema, "no scheme"),
        ("1http://h/", exceptions.MissingSchema, "no scheme"),
        ("ht tp://h/", exceptions.MissingSchema, "no scheme"),
        ("\x01http://h/", exceptions.MissingSchema, "no scheme"),
        ("http:", exceptions.InvalidURL, "has no host"),
        ("http:/h/", exceptions.InvalidURL, "has no host"),
        ("http:h/", exceptions.InvalidURL, "has no host"),
        ("http:\\\\h\\", exceptions.InvalidURL, "has no host"),
        ("http://", exceptions.InvalidURL, "has no host"),
        ("http:///path", exceptions.InvalidURL, "has no host"),
        ("http:////h/path", exceptions.InvalidURL, "has no host"),
        ("http://:80/path", exceptions.InvalidURL, "has no host"),
        ("http://ada@/path", exceptions.InvalidURL, "has no host"),
        ("http://?a=b", exceptions.InvalidURL, "has no host"),
        ("http://#a", exceptions.InvalidURL, "has no host"),
        ("http://*.example.com", exceptions.InvalidURL, "starts with '*'"),
        ("http://\uff0a.example.com", exceptions.InvalidURL, "starts with '*'"),
        ("http://*", exceptions.InvalidURL, "starts with '*'"),
        ("http://.example.com", exceptions.InvalidURL, "an empty label"),
        ("http://。example.com", exceptions.InvalidURL, "an empty label"),
        ("http://a..b", exceptions.InvalidURL, "an empty label"),
        ("http://a..", exceptions.InvalidURL, "an empty label"),
        ("http://.", exceptions.InvalidURL, "an empty label"),
        ("http://\u00ad/", exceptions.InvalidURL, "an empty label"),  # a soft hyphen, which is nothing
        (f"http://{LONG}a.example/", exceptions.InvalidURL, "more than 63"),
        (f"http://{LONG}.{LONG}.{LONG}.{LONG}/", exceptions.InvalidURL, "253 in all"),
        ("http://h:port/", exceptions.InvalidURL, "a port that is no number"),
        ("http://h:65536/", exceptions.InvalidURL, "a port that is no number up to 65535"),
        (f"http://h:{'9' * 5000}/", exceptions.InvalidURL, "a port that is no number"),
        ("http://h:-1/", exceptions.InvalidURL, "a port that is no number"),
        ("http://h:+80/", exceptions.InvalidURL, "a port that is no number"),
        ("http://h:8 0/", exceptions.InvalidURL, "a port that is no number"),
        ("http://h:\uff18\uff10/", exceptions.InvalidURL, "a port that is no number"),
        ("http://h:80:80/", exceptions.InvalidURL, "a port that is no number"),
        ("http://h:80\r\n/", exceptions.InvalidURL, "a port that is no number"),
        ("http://::1/", exceptions.InvalidURL, "an IPv6 address without brackets"),
        ("http://[::1/", exceptions.InvalidURL, "an IPv6 address without brackets"),
        ("http://x[::1]/", exceptions.InvalidURL, "an IPv6 address without brackets"),
        ("http://[::1]x/", exceptions.InvalidURL, "an IPv6 address without brackets"),
        ("http://[]/", exceptions.InvalidURL, "no valid IPv6 address"),
        ("http://[1.2.3.4]/", exceptions.InvalidURL, "no valid IPv6 address"),
        ("http://[::g]/", exceptions.InvalidURL, "no valid IPv6 address"),
        ("http://[1:2:3:4:5:6:7:8:9]/", exceptions.InvalidURL, "no valid IPv6 address"),
        ("http://[::1.2.3.999]/", exceptions.InvalidURL, "no valid IPv6 address"),
        ("http://[::\uff11]/", exceptions.InvalidURL, "no valid IPv6 address"),
        ("http://[v1.fe]/", exceptions.InvalidURL, "no valid IPv6 address"),
        ("http://[::1\r\n]/", exceptions.InvalidURL, "no valid IPv6 address"),
        ("http://[fe80::1%]/", exceptions.InvalidURL, "an empty or unprintable zone"),
        ("http://[fe80::1%25]/", exceptions.InvalidURL, "an empty or unprintable zone"),
        ("http://[fe80::1%25a%0D%0Ab]/", exceptions.InvalidURL, "an empty or unprintable zone"),
        ("http://[fe80::1%25a b]/", exceptions.InvalidURL, "an empty or unprintable zone"),
        ("http://h ost/", exceptions.InvalidURL, "has ' ' in its host name"),
        ("http://h\t/", exceptions.InvalidURL, r"has '\t' in its host name"),
        ("http://h\r\nX-Evil: 1/", exceptions.InvalidURL, "a port that is no number"),
        ("http://h\r\nX/", exceptions.InvalidURL, r"has '\r' in its host name"),
        ("http://h\0/", exceptions.InvalidURL, r"has '\x00' in its host name"),
        ("http://h\x7f/", exceptions.InvalidURL, r"has '\x7f' in its host name"),
        ("http://h<x>/", exceptions.InvalidURL, "has '<' in its host name"),
        ("http://h%20x/", exceptions.InvalidURL, "has ' ' in its host name"),
        ("http://h%00x/", exceptions.InvalidURL, r"has '\x00' in its host name"),
        ("http://h%2fx/", exceptions.InvalidURL, "has '/' in its host name"),
        ("http://h%40x/", exceptions.InvalidURL, "has '@' in its host name"),
        ("http://h%/", exceptions.InvalidURL, "has '%' in its host name"),
        ("http://h%zz/", exceptions.InvalidURL, "has '%' in its host name"),
        ("http://h\uff0fx/", exceptions.InvalidURL, "has '/' in its host name"),
        ("http://a\uff20b/", exceptions.InvalidURL, "has '@' in its host name"),
        ("http://a\uff1a80/", exceptions.InvalidURL, "has ':' in its host name"),
        ("http://a℀b/", exceptions.InvalidURL, "has '/' in its host name"),
        ("http://h\\x/", exceptions.InvalidURL, "a backslash before its path"),
        ("http://good.example\\@evil.example/", exceptions.InvalidURL, "a backslash before its path"),
        ("http://h\\", exceptions.InvalidURL, "a backslash before its path"),
        ("http://i❤.ws/", exceptions.InvalidURL, "IDNA 2008"),
        ("http://😀.la/", exceptions.InvalidURL, "IDNA 2008"),
        ("http://-ü.example/", exceptions.InvalidURL, "IDNA 2008"),
        ("http://ü_b.example/", exceptions.InvalidURL, "IDNA 2008"),
        ("http://a\u200db.example/", exceptions.InvalidURL, "IDNA 2008"),
        ("http://\u0627a.example/", exceptions.InvalidURL, "IDNA 2008"),
        ("http://١٢٧.0.0.1/", exceptions.InvalidURL, "IDNA 2008"),
        ("http://\ud800.example/", exceptions.InvalidURL, "IDNA 2008"),
        ("http://%ff.example/", exceptions.InvalidURL, "IDNA 2008"),
        (f"http://{'ü' * 70}.example/", exceptions.InvalidURL, "IDNA 2008"),
    ],
)  # fmt: skip
def test_a_url_that_cannot_be_fetched(url: str, error: type[Exception], says: str) -> None:
    """Each kind of bad URL has its error, which says what is wrong and is a ValueError too."""
    with pytest.raises(error) as raised:
        parse_target(url)

    assert type(raised.value) is error
    assert isinstance(raised.value, ValueError)
    assert says in str(raised.value)
    assert raised.value.__cause__ is None


def test_a_target_is_parsed_once() -> None:
    """The same URL gives the same object: parsing costs more than the rest of a request's preparation."""
    assert parse_target("http://example.com/once") is parse_target("http://example.com/once")
    assert parse_target("http://a:b@example.com/once") is not parse_target("http://a:b@example.com/once")


# --- other schemes ---


@pytest.mark.parametrize(
    ("url", "scheme", "path", "request_target"),
    [
        ("file:///etc/passwd", "file", "/etc/passwd", b"/etc/passwd"),
        ("FILE:///A?x=1#y", "file", "/A", b"/A?x=1"),
        ("mock://x y/ä/../b%zz", "mock", "/ä/../b%zz", b"/%C3%A4/../b%zz"),
        ("mock://h", "mock", "/", b"/"),
        ("mock:", "mock", "/", b"/"),
        ("mock://h/a\r\nb c\0", "mock", "/a\r\nb c\0", b"/a%0D%0Ab%20c%00"),
        ("mailto:ada@example.com", "mailto", "ada@example.com", b"ada@example.com"),
        ("data:text/plain,hello world", "data", "text/plain,hello world", b"text/plain,hello%20world"),
        ("javascript:alert(1)", "javascript", "alert(1)", b"alert(1)"),
        ("urn:a:b", "urn", "a:b", b"a:b"),
        ("ftp://ada:pass@h:x/", "ftp", "/", b"/"),
        ("localhost:8000/a", "localhost", "8000/a", b"8000/a"),
        ("ada:s3cret@h/a", "ada", "s3cret@h/a", b"s3cret@h/a"),
        ("a.b-c+1://h/", "a.b-c+1", "/", b"/"),
        ("s\\x://h/", None, "", b""),
    ],
)  # fmt: skip
def test_a_url_of_another_scheme_is_left_as_it_is(
    url: str, scheme: str | None, path: str, request_target: bytes
) -> None:
    """An adapter may be mounted for it, and knows what it means; it is nothing to dial."""
    if scheme is None:
        with pytest.raises(exceptions.MissingSchema):
            parse_target(url)
        return
    target = parse_target(url)

    assert target.is_opaque
    assert target.url == url
    assert (target.scheme, target.path, target.request_target) == (scheme, path, request_target)
    authority = url.partition("://")[2].partition("/")[0]
    assert target.origin == (scheme, authority.rpartition("@")[2].lower(), 0)
    assert (target.host, target.host_field, target.start, target.auth) == ("", b"", b"", None)
    assert not target.is_secure
    assert add_params(url, {"a": 1}) == url


def test_a_scheme_that_begins_with_http_is_escaped() -> None:
    """As in requests, and as adapters for http+unix count on: what is illegal is escaped, and params go in."""
    target = parse_target(add_params("http+unix://%2Fvar%2Frun/ä b#c", {"x": 1}))

    assert target.is_opaque
    assert target.url == "http+unix://%2Fvar%2Frun/%C3%A4%20b?x=1#c"
    assert target.request_target == b"/%C3%A4%20b?x=1"


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://example.com/", "mailto:ada@example.com", "h:80/"])
def test_there_is_no_route_to_another_scheme(url: str) -> None:
    """Without an adapter of its own there is no way, and the error says which schemes have one."""
    target = parse_target(url)
    transport = Transport("test", Limits(), SYSTEM_CLOCK)

    with pytest.raises(exceptions.InvalidSchema, match=f"{target.scheme!r}.* only http and https"):
        transport.route(target.origin, None, True, None)
    with pytest.raises(exceptions.InvalidSchema):
        transport.route(target.origin, "http://127.0.0.1:1", True, None)

    assert transport.routes == {}


# --- what is given for a URL ---


class Link:
    def __str__(self) -> str:
        return "http://h/a"


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("http://h/a", "http://h/a"),
        (b"http://h/\xc3\xa4", "http://h/ä"),
        (Link(), "http://h/a"),
        (b" http://h/a\n", "http://h/a"),
        (PurePosixPath("/a/b"), "/a/b"),
        (None, "None"),
    ],
)  # fmt: skip
def test_what_may_be_given_for_a_url(given: Any, text: str) -> None:
    """Text, bytes, or whatever shows as a URL, as the URLs of other libraries do."""
    assert as_url(given) == text


def test_bytes_that_are_no_text() -> None:
    """They are an `InvalidURL`, shown without what is secret."""
    with pytest.raises(exceptions.InvalidURL, match="not UTF-8") as raised:
        as_url(b"http://ada:s3cret@h/\xff?s3cret")

    assert "s3cret" not in str(raised.value)
    assert raised.value.__cause__ is None


# --- params ---


@pytest.mark.parametrize(
    ("url", "params", "expected"),
    [
        ("http://h/", {}, "http://h/"),
        ("http://h/", [], "http://h/"),
        ("http://h/", "", "http://h/"),
        ("http://h/", b"", "http://h/"),
        ("http://h/?", {}, "http://h/?"),
        ("http://h/", {"a": None}, "http://h/"),
        ("http://h/", {"a": ""}, "http://h/?a="),
        ("http://h/", {"a": 1, "b": "x y"}, "http://h/?a=1&b=x+y"),
        ("http://h", {"a": 1}, "http://h?a=1"),
        ("http://h/", {"a": [1, 2], "b": ()}, "http://h/?a=1&a=2"),
        ("http://h/", {"a": [[1, 2], 3]}, "http://h/?a=1&a=2&a=3"),
        ("http://h/", {"a": ["x", None, b"y"]}, "http://h/?a=x&a=y"),
        ("http://h/", {"a": "ä", b"b": b"\xff"}, "http://h/?a=%C3%A4&b=%FF"),
        ("http://h/", {"a": True, "b": 1.5}, "http://h/?a=True&b=1.5"),
        ("http://h/", {1: 2}, "http://h/?1=2"),
        ("http://h/", {"a": {"x": 1, "y": 2}}, "http://h/?a=x&a=y"),
        ("http://h/", [("a", 1), ("a", 2), ("b", None)], "http://h/?a=1&a=2"),
        ("http://h/", (("a", 1),), "http://h/?a=1"),
        ("http://h/", (pair for pair in [("a", "1")]), "http://h/?a=1"),
        ("http://h/", "a=1&b", "http://h/?a=1&b"),
        ("http://h/", "a=ä b%20c", "http://h/?a=ä b%20c"),
        ("http://h/", "a#b", "http://h/?a%23b"),
        ("http://h/#c", "a#b", "http://h/?a%23b#c"),
        ("http://h/", b"a=1", "http://h/?a=1"),
        ("http://h/", "a=ä#b%20c".encode(), "http://h/?a=%C3%A4%23b%20c"),
        ("http://h/", b"\xff", "http://h/?%FF"),
        ("http://h/?x=0", {"a": 1}, "http://h/?x=0&a=1"),
        ("http://h/?x=0&", {"a": 1}, "http://h/?x=0&&a=1"),
        ("http://h/?", {"a": 1}, "http://h/?a=1"),
        ("http://h/?x=0#part", {"a": 1}, "http://h/?x=0&a=1#part"),
        ("http://h/#part?no=query", {"a": 1}, "http://h/?a=1#part?no=query"),
        ("http://h/", {"a": "&=#?/"}, "http://h/?a=%26%3D%23%3F%2F"),
        ("/a", {"a": 1}, "/a?a=1"),
        ("HTTPS://h/", {"a": 1}, "HTTPS://h/?a=1"),
    ],
)  # fmt: skip
def test_params_go_to_the_end_of_the_query(url: str, params: Any, expected: str) -> None:
    """Any shape that requests takes; `None` leaves a name out, a sequence repeats it."""
    assert add_params(url, params) == expected


# --- references ---


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        # RFC 3986 §5.4.1
        ("g:h", "g:h"),
        ("g", "http://a/b/c/g"),
        ("./g", "http://a/b/c/g"),
        ("g/", "http://a/b/c/g/"),
        ("/g", "http://a/g"),
        ("//g", "http://g/"),
        ("?y", "http://a/b/c/d;p?y"),
        ("g?y", "http://a/b/c/g?y"),
        ("#s", "http://a/b/c/d;p?q#s"),
        ("g#s", "http://a/b/c/g#s"),
        ("g?y#s", "http://a/b/c/g?y#s"),
        (";x", "http://a/b/c/;x"),
        ("g;x", "http://a/b/c/g;x"),
        ("g;x?y#s", "http://a/b/c/g;x?y#s"),
        ("", "http://a/b/c/d;p?q"),
        (".", "http://a/b/c/"),
        ("./", "http://a/b/c/"),
        ("..", "http://a/b/"),
        ("../", "http://a/b/"),
        ("../g", "http://a/b/g"),
        ("../..", "http://a/"),
        ("../../", "http://a/"),
        ("../../g", "http://a/g"),
        # §5.4.2
        ("../../../g", "http://a/g"),
        ("../../../../g", "http://a/g"),
        ("/./g", "http://a/g"),
        ("/../g", "http://a/g"),
        ("g.", "http://a/b/c/g."),
        (".g", "http://a/b/c/.g"),
        ("g..", "http://a/b/c/g.."),
        ("..g", "http://a/b/c/..g"),
        ("./../g", "http://a/b/g"),
        ("./g/.", "http://a/b/c/g/"),
        ("g/./h", "http://a/b/c/g/h"),
        ("g/../h", "http://a/b/c/h"),
        ("g;x=1/./y", "http://a/b/c/g;x=1/y"),
        ("g;x=1/../y", "http://a/b/c/y"),
        ("g?y/./x", "http://a/b/c/g?y/./x"),
        ("g?y/../x", "http://a/b/c/g?y/../x"),
        ("g#s/./x", "http://a/b/c/g#s/./x"),
        ("g#s/../x", "http://a/b/c/g#s/../x"),
        ("http:g", "http://a/b/c/g"),  # as browsers have it, which the RFC allows
        # Beyond the RFC's own.
        ("HTTP:/g", "http://a/g"),
        ("http://g", "http://g/"),
        ("https://g/x", "https://g/x"),
        ("?", "http://a/b/c/d;p?"),
        ("#", "http://a/b/c/d;p?q#"),
        ("g//h", "http://a/b/c/g//h"),
        ("//g//h", "http://g//h"),
        ("..//g", "http://a/b//g"),
        (" g\r\n", "http://a/b/c/g"),
        ("\\\\g\\h", "http://a/b/c/%5C%5Cg%5Ch"),
        ("a b?c d", "http://a/b/c/a%20b?c%20d"),
        ("./a:b", "http://a/b/c/a:b"),
        ("//u:p@g:1/", "http://u:p@g:1/"),
        ("//[::1]:1/", "http://[::1]:1/"),
    ],
)  # fmt: skip
def test_a_reference_is_resolved(reference: str, expected: str) -> None:
    """As in RFC 3986 §5.4."""
    assert parse_target(join("http://a/b/c/d;p?q", reference)).url == expected


@pytest.mark.parametrize(
    ("base", "reference", "expected"),
    [
        ("http://a", "g", "http://a/g"),
        ("http://a", "?y", "http://a/?y"),
        ("http://a", "", "http://a/"),
        ("http://a?q", "g", "http://a/g"),
        ("http://a/v1", "g", "http://a/g"),
        ("http://a/v1/", "g", "http://a/v1/g"),
        ("http://a/v1/", "/g", "http://a/g"),
        ("http://a/b#s", "", "http://a/b"),
        ("http://u:p@a:1/b", "g", "http://u:p@a:1/g"),
        ("http://a/b/../c/", "g", "http://a/c/g"),
        ("http://a/%2e%2e/c", "../g", "http://a/g"),
        ("https://a/b", "http:g", None),
        ("https://a/b", "http:///g", None),
        ("https://a/b", "///g", None),
    ],
)  # fmt: skip
def test_what_references_are_relative_to(base: str, reference: str, expected: str | None) -> None:
    """A base without a path, with a query or a fragment, a user or a port; a reference that cannot be resolved."""
    if expected is None:
        with pytest.raises(exceptions.InvalidURL, match="no host"):
            parse_target(join(base, reference))
    else:
        assert parse_target(join(base, reference)).url == expected


@pytest.mark.parametrize("base", ["file:///srv/", "mailto:ada@example.com", "localhost:8000/"])
def test_no_other_scheme_can_be_a_base(base: str) -> None:
    """Whatever is relative to it, there is no host to ask."""
    with pytest.raises(exceptions.InvalidURL, match="base_url must be an http or https URL"):
        SessionPool(base_url=base)


# --- whatever is given ---

# Pieces that mean something somewhere, so that they meet.
PIECES = st.sampled_from(
    [
        *"/?#@:[]%\\.*~ \t\r\n\0\x7f\ud800ßü😀。\uff20\uff0f℀\u00ad",
        *("//", "..", "%2e", "%25", "%00", "%zz", "http:", "https://", "ftp://", "h", ":80", ":0", "xn--"),
        *("[::1]", "[fe80::1%25e]", "1.2.3.4"),
    ]
)
ANY_URL = st.one_of(
    st.text(st.characters(), max_size=30),
    st.lists(PIECES | st.text(max_size=3), max_size=12).map("".join),
    st.lists(PIECES | st.text(max_size=3), max_size=12).map("".join).map("http://h".__add__),
    st.lists(PIECES | st.text(max_size=3), max_size=12).map("".join).map("http://".__add__),
)
UNSENDABLE = set(b"\r\n\t \0")


@given(ANY_URL)
@example("http://[")
@example("http://a:999999999")
@example("http://xn--/")
@example("http://h/%%2e/%2%65%2e")
@example("http://:@h/")
def test_any_text_is_a_url_or_a_clear_error(text: str) -> None:
    """No other error comes, and what is sent of it is one target and one host."""
    try:
        target = parse_target(text)
    except (exceptions.InvalidURL, exceptions.MissingSchema):
        return

    assert not UNSENDABLE & set(target.request_target)
    assert not UNSENDABLE & set(target.host_field)
    assert target.is_opaque == (target.scheme not in ("http", "https"))
    if not target.is_opaque:
        assert target.host
        assert target.request_target.startswith(b"/")
        assert not re.search(rb"(?i)/(?:\.|%2e){1,2}(?:[/?]|$)", target.request_target.partition(b"?")[0])
        assert target.start.count(b"\r\n") == 2
        assert target.url.isascii()


@given(ANY_URL)
@example("http://[fe80::1%2525]/")
@example("http://h/%%34%31")
@example("http+x://ä b")
def test_to_normalise_twice_is_to_normalise_once(text: str) -> None:
    """A URL that was taken from a response means what it meant."""
    try:
        once = parse_target(text)
    except (exceptions.InvalidURL, exceptions.MissingSchema):
        return
    twice = parse_target(once.url)

    assert twice.url == once.url
    assert (twice.origin, twice.start, twice.auth) == (once.origin, once.start, once.auth)


@given(ANY_URL, ANY_URL)
def test_any_reference_can_be_resolved(base: str, reference: str) -> None:
    """To join takes any text; what comes of it is looked at afterwards."""
    joined = join(base, reference)

    assert joined == reference or "#" in reference or "#" not in joined


SECRET = st.text(string.ascii_letters + string.digits + "-._~!$&'()*+,;=%:@[]^ \\ä", max_size=8).map("<{}>".format)


@given(
    st.sampled_from(["http://", "https://", "ftp://", "//", "", "mock://", "http:", "http:/", "http:///", "http:\\\\"]),
    st.sampled_from(["h", "h:80", "h:port", "[::1]", "[::1", "h ost", "", "*", "ü", "😀", "a..b", "h:99999"]),
    SECRET,
    SECRET,
    st.sampled_from(["", "/", "/a//b", "//", "/a:b"]),
)
@example("http:///", "h", "<>", "<>", "/")
@example("", "h", "<>", "<>", "/a//b")
def test_what_is_shown_tells_no_secret(begin: str, host: str, password: str, query: str, path: str) -> None:
    """Neither password nor query stand in what is shown of a URL, nor in what is said of one that cannot be used."""
    url = f"{begin}ada:{password}@{host}{path}?{query}#{query}"
    said = [redacted(url)]
    try:
        parse_target(url)
    except exceptions.RequestException as error:
        said += [str(error), repr(error)]

    assert not [each for each in said if password in each or query in each]
