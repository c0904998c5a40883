"""The cookie jar: RFC 6265bis rule by rule, its own promises, and the interface requests' users know."""

from __future__ import annotations

import ast
import copy
import gc
import http.cookiejar
import itertools
import math
import pickle
import stat
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from http.cookies import SimpleCookie
from pathlib import Path
from types import FrameType
from typing import Any

import attrs
import pytest
import requests
import requests.cookies
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sessionpool import cookies as module
from sessionpool.cookies import (
    Cookie,
    CookieConflictError,
    CookieJar,
    RequestsCookieJar,
    cookiejar_from_dict,
    create_cookie,
    get_cookie_header,
    merge_cookies,
    morsel_to_cookie,
    parse_date,
)
from tests.helpers import Interrupt

NOW = 1_800_000_000.0  # 2027-01-15 08:00:00 GMT
DAY = 86_400.0
HOST = "www.example.com"


def received(*lines: str, host: str = HOST, path: str = "/", secure: bool = True, now: float = NOW) -> CookieJar:
    """A jar after one response with these Set-Cookie lines."""
    jar = CookieJar()
    for line in lines:
        jar.store(line, host, path, secure, now)
    return jar


def only(jar: CookieJar) -> Cookie:
    (cookie,) = jar
    return cookie


# --- dates: §5.1.1 ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Fri, 15 Jan 2027 08:00:00 GMT", NOW),
        ("Friday, 15-Jan-27 08:00:00 GMT", NOW),
        ("Fri Jan 15 08:00:00 2027", NOW),
        ("15 jAnUaRy 2027 8:0:0", NOW),
        ("2027 15 Jan 08:00:00", NOW),
        ("08:00:00 Jan 15 2027", NOW),
        ("Jan/15/2027;08:00:00", NOW),
        ("15 Jan 2027 08:00:00 +0200", NOW),
        ("15th Jan 2027AD 08:00:00.999", NOW),
        ("15 Jan 2027 08:00:00 08:00:01 16 Feb 2028", NOW),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Wed, 31 Dec 1969 23:59:59 GMT", -1.0),
        ("01 Jan 70 00:00:00", 0.0),
        ("01 Jan 69 00:00:00", 3_124_224_000.0),
        ("01 Jan 99 00:00:00", 915_148_800.0),
        ("01 Jan 00 00:00:00", 946_684_800.0),
        ("29 Feb 2028 00:00:00", 1_835_395_200.0),
        ("01 Jan 1601 00:00:00", -11_644_473_600.0),
        ("31 Dec 9999 23:59:59", 253_402_300_799.0),
        ("29 Feb 2027 00:00:00", None),
        ("31 Apr 2027 00:00:00", None),
        ("31 Dec 1600 23:59:59", None),
        ("0 Jan 2027 08:00:00", None),
        ("32 Jan 2027 08:00:00", None),
        ("15 Jan 2027 24:00:00", None),
        ("15 Jan 2027 08:60:00", None),
        ("15 Jan 2027 08:00:60", None),
        ("15 Jan 2027 08:00", None),
        ("15 Jan 2027", None),
        ("Jan 2027 08:00:00", None),
        ("15 2027 08:00:00", None),
        ("15 Jan 08:00:00", None),
        ("15 Jan 20270 08:00:00", None),
        ("015 Jan 2027 08:00:00", None),
        ("15 Jan 2027 008:00:00", None),
        ("15 Jan 202 08:00:00", None),
        ("tomorrow", None),
        ("", None),
        ("15 \u017fep 2027 08:00:00", None),  # the long s, which is no ASCII letter
        ("15 Jan 2027 08:00:00 PM", NOW),
        ("15\x7fJan 2027 08:00:00", None),  # DEL is no delimiter
        ("15[Jan]2027`08:00:00", NOW),  # these are
        ("\x0815 Jan 2027 08:00:00", None),
        ("15 January-2027 08:00:00x9", NOW),
        ("15 Jan 2027 1:2:3", NOW - 25_077),
        ("15 Jan 2027 08:00:000", None),
        ("15 Jan 2027 :08:00:00", None),
        ("15 Jan 100 08:00:00", None),
        ("01 Jan 1600 00:00:00", None),
    ],
)
def test_dates_are_read_leniently(text: str, expected: float | None) -> None:
    """A cookie date is read by tokens in any order, and is refused where a field is missing or out of range."""
    assert parse_date(text) == expected


# --- domains: §5.1.2, §5.1.3, §5.7 steps 8 to 10 ---


@pytest.mark.parametrize(
    ("host", "attribute", "expected"),
    [
        ("www.example.com", None, ("www.example.com", True)),
        ("www.example.com", "", ("www.example.com", True)),
        ("www.example.com", ".", ("www.example.com", True)),
        ("www.example.com", "www.example.com", ("www.example.com", False)),
        ("www.example.com", "example.com", ("example.com", False)),
        ("www.example.com", ".example.com", ("example.com", False)),
        ("www.example.com", "EXAMPLE.Com", ("example.com", False)),
        ("www.example.com", "..example.com", None),
        ("www.example.com", "example.com.", None),
        ("www.example.com", "ample.com", None),
        ("www.example.com", "other.example.com", None),
        ("www.example.com", "a.www.example.com", None),
        ("www.example.com", "example.org", None),
        ("www.example.com", "com", None),
        ("www.example.com", "example.com:80", None),
        ("www.example.com", "ex\u00e4mple.com", None),
        ("www.example.com", "x" * 1025, ("www.example.com", True)),
        ("a.example.co.uk", "example.co.uk", ("example.co.uk", False)),
        ("a.example.co.uk", "co.uk", None),
        ("a.example.co.uk", "uk", None),
        ("co.uk", "co.uk", ("co.uk", True)),
        ("me.github.io", "github.io", None),
        ("me.github.io", "me.github.io", ("me.github.io", False)),
        ("github.io", "github.io", ("github.io", True)),
        ("x.y.kawasaki.jp", "y.kawasaki.jp", None),
        ("x.city.kawasaki.jp", "city.kawasaki.jp", ("city.kawasaki.jp", False)),
        ("localhost", "localhost", ("localhost", True)),
        ("app.localhost", "localhost", None),
        ("a.b.unlisted", "b.unlisted", ("b.unlisted", False)),
        ("a.b.unlisted", "unlisted", None),
        ("127.0.0.1", None, ("127.0.0.1", True)),
        ("127.0.0.1", "127.0.0.1", ("127.0.0.1", True)),
        ("127.0.0.1", "0.0.1", None),
        ("127.0.0.1", "1", None),
        ("::1", "::1", ("::1", True)),
        ("::1", "1", None),
        ("www.xn--bcher-kva.example", "xn--bcher-kva.example", ("xn--bcher-kva.example", False)),
        ("www.xn--bcher-kva.example", "b\u00fccher.example", None),
        ("a.xn--p1ai", "xn--p1ai", None),
        # A dot at the end makes another host, for which the suffixes are those of the name without it.
        ("www.example.com.", None, ("www.example.com.", True)),
        ("www.example.com.", "www.example.com", None),
        ("www.example.com.", "example.com.", ("example.com.", False)),
        ("www.example.com.", "com.", None),
        ("a.example.co.uk.", "co.uk.", None),
        ("127.0.0.1.", "0.0.1.", None),
        ("0x7f.1", "1", None),
        ("a.b.c", "b.c; Domain=", ("a.b.c", True)),
        ("www.example.com", "example.com\t", ("example.com", False)),
        ("www.example.com", "ex ample.com", None),
        ("www.example.com", "*.example.com", None),
        ("www.example.com", "https://example.com", None),
        ("a_b.example.com", "example.com", ("example.com", False)),
    ],
)
def test_a_host_sets_cookies_for_itself_and_registered_domains_above(
    host: str, attribute: str | None, expected: tuple[str, bool] | None
) -> None:
    """The Domain attribute is obeyed where the host lies below it and nobody else can register there."""
    jar = received("a=b" if attribute is None else f"a=b; Domain={attribute}", host=host)

    assert [(cookie.domain, cookie.host_only) for cookie in jar] == ([] if expected is None else [expected])


def test_the_last_domain_counts() -> None:
    """Of several Domain attributes the last one counts, an empty one included."""
    assert only(received("a=b; Domain=example.org; Domain=example.com")).domain == "example.com"
    assert only(received("a=b; Domain=example.com; Domain=")).host_only


@pytest.mark.parametrize(
    ("line", "host", "asked", "sent"),
    [
        ("a=b", "example.com", "example.com", True),
        ("a=b", "example.com", "www.example.com", False),
        ("a=b", "www.example.com", "example.com", False),
        ("a=b; Domain=example.com", "example.com", "www.example.com", True),
        ("a=b; Domain=example.com", "www.example.com", "example.com", True),
        ("a=b; Domain=example.com", "www.example.com", "x.y.example.com", True),
        ("a=b; Domain=example.com", "www.example.com", "notexample.com", False),
        ("a=b; Domain=example.com", "www.example.com", "example.com.evil.org", False),
        ("a=b", "127.0.0.1", "127.0.0.1", True),
        ("a=b; Domain=127.0.0.1", "127.0.0.1", "9.127.0.0.1", False),
        ("a=b", "localhost", "localhost", True),
        ("a=b", "localhost", "app.localhost", False),
    ],
)
def test_cookies_go_to_their_domain(line: str, host: str, asked: str, sent: bool) -> None:
    """A cookie goes to its host only, or with a Domain attribute to all hosts below that, and nowhere else."""
    jar = received(line, host=host)

    assert jar.header(asked, "/", True, NOW) == ("a=b" if sent else None)


def test_an_address_is_sent_nothing_by_suffix() -> None:
    """An IP address never gets a cookie of what looks like a domain above it, even one set by hand."""
    jar = CookieJar()
    for domain in ("0.0.1", "1", "0.0.0x1"):
        jar.set("a", "b", domain=domain)

    for host in ("127.0.0.1", "127.0.0.0x1", "127.0.0.1."):
        assert jar.header(host, "/", True, NOW) is None


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("B\u00fccher.example", "xn--bcher-kva.example"),
        (".b\u00fccher.example", "xn--bcher-kva.example"),
        ("fa\u00df.de", "xn--fa-hia.de"),
        ("XN--Bcher-KVA.example", "xn--bcher-kva.example"),
        (".Example.COM", "example.com"),
        ("a_b.example", "a_b.example"),
        ("", ""),
    ],
)
def test_domains_given_by_hand_become_canonical(written: str, kept: str) -> None:
    """A domain set by hand may be in capitals, with a leading dot, or international."""
    jar = CookieJar()
    jar.set("a", "b", domain=written)

    assert only(jar).domain == kept
    assert jar.get("a", domain=written) == "b"
    assert jar.header(f"www.{kept}" if kept else HOST, "/", True, NOW) == "a=b"


def test_a_dot_at_the_end_of_a_host_is_not_a_domain_of_its_own() -> None:
    """A cookie for every host goes once to one that is written with a dot at its end."""
    jar = CookieJar.from_mapping({"a": "b"})

    assert jar.header("www.example.com.", "/", True, NOW) == "a=b"


# --- public suffixes ---


def test_the_suffix_list_is_loaded_once_when_first_needed() -> None:
    """Cookies without Domain do not load the public suffix list; threads that need it first all at once load one."""
    module._load_suffixes.cache_clear()
    module._is_public_suffix.cache_clear()
    received("a=b; Path=/", "c=d; Domain=example.org")
    assert module._load_suffixes.cache_info().misses == 0

    together = threading.Barrier(8)
    domains: list[str] = []

    def first_use(number: int) -> None:
        together.wait()
        domains.append(only(received(f"a=b; Domain=x{number}.co.uk", host=f"www.x{number}.co.uk")).domain)

    threads = [threading.Thread(target=first_use, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(domains) == [f"x{number}.co.uk" for number in range(8)]
    assert module._load_suffixes.cache_info().misses == 1


# --- paths: §5.1.4 ---


@pytest.mark.parametrize(
    ("requested", "attribute", "expected"),
    [
        ("/", None, "/"),
        ("/a", None, "/"),
        ("/a/", None, "/a"),
        ("/a/b", None, "/a"),
        ("/a/b/c.html", None, "/a/b"),
        ("//", None, "/"),
        ("", None, "/"),
        ("*", None, "/"),
        ("/a/b", "", "/a"),
        ("/a/b", "x", "/a"),
        ("/a/b", "/", "/"),
        ("/a/b", "/x/", "/x/"),
        ("/a/b", "/X%2f", "/X%2f"),
        ("/a/b", " /x ", "/x"),
        ("/a/b", "/x; Path=", "/a"),
        ("/a/b", "/x; Path=/y", "/y"),
        ("/a/b", "/" + "x" * 1023, "/" + "x" * 1023),
        ("/a/b", "/" + "x" * 1024, "/a"),
    ],
)
def test_the_path_is_the_attribute_or_the_directory(requested: str, attribute: str | None, expected: str) -> None:
    """A cookie's path is its Path attribute if that starts with a slash, else the directory of the request."""
    jar = received("a=b" if attribute is None else f"a=b; Path={attribute}", path=requested)

    assert only(jar).path == expected


@pytest.mark.parametrize(
    ("path", "asked", "sent"),
    [
        ("/", "/", True),
        ("/", "/a", True),
        ("/a", "/a", True),
        ("/a", "/a/", True),
        ("/a", "/a/b", True),
        ("/a", "/ab", False),
        ("/a", "/", False),
        ("/a", "/A", False),
        ("/a/", "/a", False),
        ("/a/", "/a/", True),
        ("/a/", "/a/b", True),
        ("/a/b", "/a", False),
        ("/%61", "/a", False),
    ],
)
def test_cookies_go_to_their_path(path: str, asked: str, sent: bool) -> None:
    """A cookie goes to its path and what lies below it by whole segments, compared as text."""
    jar = received(f"a=b; Path={path}")

    assert jar.header(HOST, asked, True, NOW) == ("a=b" if sent else None)


# --- name and value: §5.6 ---


@pytest.mark.parametrize(
    ("line", "sent"),
    [
        ("a=b", "a=b"),
        (" a = b ; Path=/", "a=b"),
        ("\ta\t=\tb\t", "a=b"),
        ("a=b=c", "a=b=c"),
        ("a=", "a="),
        ('a="b c"', 'a="b c"'),
        ("a=b c,d", "a=b c,d"),
        ("a=b\tc", "a=b\tc"),
        ("a=%3B", "a=%3B"),
        ("a=b;;; ;Secure", "a=b"),
        ("a=b; unknown=1; Version=1", "a=b"),
        ("a=\xc3\xa4", "a=\xc3\xa4"),
        ("a b=c", "a b=c"),
        ("b", "b"),
        ("=b", "b"),
        (" = b ", "b"),
        ("==b", "=b"),
        ("=", None),
        ("", None),
        (";", None),
        (" ; Path=/", None),
        ("; a=b", None),
        ("a=b\x00", None),
        ("a=b\r\nc=d", None),
        ("a=b; Path=/\x01", None),
        ("a\x1f=b", None),
        ("a=b\x7f", None),
        ("a=\u20ac", None),
        ("a" * 2000 + "=" + "b" * 2096, "a" * 2000 + "=" + "b" * 2096),
        ("a" * 2000 + "=" + "b" * 2097, None),
        ("b" * 4096, "b" * 4096),
        ("b" * 4097, None),
        ("a=" + " " * 5000 + "b", "a=b"),
        ("a=b; Path=/; X=" + "x" * 100_000, "a=b"),
    ],
)
def test_name_and_value(line: str, sent: str | None) -> None:
    """Name and value are taken as they are, without the white space around them; control characters,
    and more than 4096 octets, make the line void."""
    jar = CookieJar()
    obeyed = jar.store(line, HOST, "/", True, NOW)

    assert obeyed is (sent is not None)
    assert jar.header(HOST, "/", True, NOW) == sent


# --- Max-Age and Expires: §5.5, §5.6.1, §5.6.2, §5.7 step 6 ---

LATER = "Sat, 16 Jan 2027 08:00:00 GMT"  # a day after NOW


@pytest.mark.parametrize(
    ("attributes", "expires"),
    [
        ("", None),
        ("; Max-Age=60", NOW + 60),
        ("; max-AGE = 60 ", NOW + 60),
        ("; Max-Age=007", NOW + 7),
        (f"; Expires={LATER}", NOW + DAY),
        (f"; Expires={LATER}; Max-Age=60", NOW + 60),
        (f"; Max-Age=60; Expires={LATER}", NOW + 60),
        (f"; Max-Age=x; Expires={LATER}", NOW + DAY),
        ("; Max-Age=60; Max-Age=x", NOW + 60),
        ("; Max-Age=60; Max-Age=90", NOW + 90),
        (f"; Expires={LATER}; Expires=never", NOW + DAY),
        ("; Max-Age=", None),
        ("; Max-Age", None),
        ("; Max-Age=+60", None),
        ("; Max-Age=6.0", None),
        ("; Max-Age=-", None),
        ("; Max-Age=6 0", None),
        ("; Max-Age=\xb2", None),
        ("; Expires=never", None),
        (f"; Max-Age={400 * 86_400 + 1}", NOW + 400 * DAY),
        ("; Max-Age=" + "9" * 1024, NOW + 400 * DAY),
        ("; Max-Age=" + "9" * 1025, None),
        ("; Expires=Fri, 31 Dec 9999 23:59:59 GMT", NOW + 400 * DAY),
    ],
)
def test_the_expiry(attributes: str, expires: float | None) -> None:
    """Max-Age goes before Expires, what cannot be read is ignored, and nothing lives longer than 400 days."""
    assert only(received("a=b" + attributes)).expires == expires


@pytest.mark.parametrize(
    "attributes",
    [
        "; Max-Age=0",
        "; Max-Age=-1",
        "; Max-Age=-" + "9" * 1000,
        "; Expires=Thu, 01 Jan 1970 00:00:00 GMT",
        "; Expires=Fri, 15 Jan 2027 08:00:00 GMT",
        f"; Max-Age=0; Expires={LATER}",
    ],
)
def test_an_expiry_that_has_passed_deletes(attributes: str) -> None:
    """A server deletes a cookie by setting one of the same name, domain and path that has expired."""
    jar = received("a=b", "a=x; Path=/other", "a=y; Domain=example.com", "c=d")
    jar.header(HOST, "/", True, NOW)
    obeyed = jar.store("a=" + attributes, HOST, "/", True, NOW)

    assert obeyed
    assert sorted(jar.values()) == ["d", "x", "y"]
    assert jar.header(HOST, "/", True, NOW) == "a=y; c=d"


def test_deleting_what_is_not_there_leaves_an_empty_jar() -> None:
    """A deletion is obeyed by an empty jar without making it any bigger."""
    jar = CookieJar()

    assert jar.store("a=; Max-Age=0", HOST, "/", True, NOW)
    assert jar._index is None


def test_expired_cookies_are_not_sent_and_go_when_looked_up() -> None:
    """From its expiry on a cookie is not sent, cached line or not, and the look-up that found it removes it."""
    jar = received("a=b; Max-Age=10", "c=d")

    assert jar.header(HOST, "/", True, NOW + 9.9) == "a=b; c=d"
    assert "a" in jar
    assert jar.header(HOST, "/", True, NOW + 10) == "c=d"
    assert jar.keys() == ["c"]


def test_clear_expired_removes_them_everywhere() -> None:
    """`clear_expired` removes all that have expired by the given time, and nothing else."""
    jar = received("a=b; Max-Age=10", "c=d", "e=f; Max-Age=30")
    jar.store("g=h; Max-Age=5", "example.org", "/", True, NOW)
    jar.clear_expired(NOW + 10)

    assert sorted(jar.keys()) == ["c", "e"]


# --- Secure, SameSite, HttpOnly, prefixes: §5.4, §5.7 steps 12 to 22 ---


@pytest.mark.parametrize(
    ("line", "secure", "obeyed"),
    [
        ("a=b", False, True),
        ("a=b", True, True),
        ("a=b; Secure", True, True),
        ("a=b; SECURE=no", True, True),
        ("a=b; Secure", False, False),
        ("a=b; SameSite=None", True, False),
        ("a=b; SameSite=None", False, False),
        ("a=b; SameSite=None; Secure", True, True),
        ("a=b; SameSite=None; SameSite=Lax", False, True),
        ("__Secure-a=b", True, False),
        ("__secure-a=b", True, False),
        ("__SECURE-a=b; Secure; Domain=example.com; Path=/x", True, True),
        ("__Secure-a=b; Secure", False, False),
        ("__Secure_a=b", False, True),
        ("__Host-a=b; Secure; Path=/", True, True),
        ("__HOST-a=b; Secure; Path=/", True, True),
        ("__host-a=b; Secure; Path=", True, True),
        ("__Host-a=b; Secure", True, False),
        ("__Host-a=b; Path=/", True, False),
        ("__hOsT-a=b; Path=/", True, False),
        ("__Host-a=b; Secure; Path=/x", True, False),
        ("__Host-a=b; Secure; Path=/; Domain=www.example.com", True, False),
        ("__Host-a=b; Secure; Path=/; Domain=", True, True),
        ("__Host-a=b; Secure; Path=/", False, False),
        ("__Hosta=b", False, True),
        ("=__Secure-a=b; Secure", True, False),
        ("__secure-; Secure", True, False),
        ("=__Host-a=b; Secure; Path=/", True, False),
        ("__HOST-; Secure; Path=/", True, False),
        ("a__Host-=b", False, True),
    ],
)
def test_promises_of_the_connection(line: str, secure: bool, obeyed: bool) -> None:
    """Secure and SameSite=None need a secure connection; a prefixed name needs what the prefix promises."""
    jar = CookieJar()

    assert jar.store(line, HOST, "/", secure, NOW) is obeyed
    assert len(jar) == obeyed


def test_an_address_may_name_itself_in_a_host_cookie() -> None:
    """On an IP address, a Domain attribute with that address is the same as none, for `__Host-` as well."""
    assert len(received("__Host-a=b; Secure; Path=/; Domain=127.0.0.1", host="127.0.0.1")) == 1


def test_secure_cookies_are_sent_securely_only() -> None:
    """A Secure cookie is left out of insecure requests, and only of those."""
    jar = received("a=b; Secure", "c=d")

    assert jar.header(HOST, "/", True, NOW) == "a=b; c=d"
    assert jar.header(HOST, "/", False, NOW) == "c=d"


@pytest.mark.parametrize(
    ("line", "host", "path", "obeyed"),
    [
        ("a=evil; Path=/login", HOST, "/", False),
        ("a=evil; Path=/login/en", HOST, "/", False),
        ("a=evil", HOST, "/login/en", False),
        ("a=evil; Path=/login; Domain=example.com", HOST, "/", False),
        ("a=evil; Path=/login", "example.com", "/", False),
        ("a=evil; Path=/login; Domain=example.com", "example.com", "/", False),
        ("a=evil; Path=/login", "a.www.example.com", "/", False),
        ("a=; Path=/login; Max-Age=0", HOST, "/", False),
        ("a=fine; Path=/", HOST, "/", True),
        ("a=fine; Path=/foo", HOST, "/", True),
        ("a=fine; Path=/loginx", HOST, "/", True),
        ("b=fine; Path=/login", HOST, "/", True),
        ("A=fine; Path=/login", HOST, "/", True),
        ("a=fine; Path=/login", "other.example.com", "/", True),
        ("a=fine; Path=/login", "example.org", "/", True),
    ],
)
def test_insecure_responses_leave_secure_cookies_alone(line: str, host: str, path: str, obeyed: bool) -> None:
    """An insecure response sets nothing that would cover a Secure cookie of the same name on a related domain."""
    jar = received("a=b; Secure; Path=/login; Max-Age=100")
    for number in range(20):  # neighbours in the index, none of them related
        jar.store("a=b; Secure", f"x{number}.org", "/login", True, NOW)

    assert jar.store(line, host, path, False, NOW) is obeyed
    assert jar.get("a", domain=HOST, path="/login") == "b"


def test_secure_cookies_of_lookalikes_do_not_matter() -> None:
    """A Secure cookie of a host that only ends in the same letters is not related."""
    jar = received("a=b; Secure", host="wexample.com")

    assert jar.store("a=fine", "example.com", "/", False, NOW)


def test_a_secure_cookie_guards_until_it_expires() -> None:
    """An expired or deleted Secure cookie no longer keeps an insecure response from setting its name."""
    jar = received("a=b; Secure; Max-Age=100", "c=d; Secure")

    assert not jar.store("a=x", HOST, "/", False, NOW + 99)
    assert jar.store("a=x", HOST, "/", False, NOW + 100)
    assert not jar.store("c=x", HOST, "/", False, NOW)
    del jar["c"]
    assert jar.store("c=x", HOST, "/", False, NOW)


def test_a_secure_response_may_take_the_guard_away() -> None:
    """When a secure response sets the cookie again without Secure, insecure responses may set it too."""
    jar = received("a=b; Secure")
    jar.store("a=c", HOST, "/", True, NOW)

    assert jar.store("a=d", HOST, "/", False, NOW)
    assert jar["a"] == "d"


@pytest.mark.parametrize(
    ("attribute", "kept"),
    [
        ("", None),
        ("; SameSite=Strict", "Strict"),
        ("; samesite=LAX", "Lax"),
        ("; SameSite=none; Secure", "None"),
        ("; SameSite=sideways", None),
        ("; SameSite", None),
        ("; SameSite=Lax; SameSite=Strict", "Strict"),
    ],
)
def test_same_site_is_kept(attribute: str, kept: str | None) -> None:
    """SameSite is kept in the spelling of the standard, and the cookie is sent, as all requests are same-site."""
    jar = received("a=b" + attribute)

    assert only(jar).same_site == kept
    assert jar.header(HOST, "/", True, NOW) == "a=b"


def test_http_only_is_kept_and_sent() -> None:
    """HttpOnly is kept, and has no influence on what is sent."""
    jar = received("a=b; httponly")

    assert only(jar).http_only
    assert jar.header(HOST, "/", True, NOW) == "a=b"


# --- order and overwriting: §5.7 step 23, §5.8.3 ---


def test_longer_paths_come_first_then_older_cookies() -> None:
    """The header lists longer paths first, and cookies of equally long paths as they arrived, whatever the domain."""
    jar = received(
        "one=1", "two=2; Path=/a", "three=3; Domain=example.com", "four=4; Path=/a/b", "five=5", "six=6; Path=/a"
    )

    assert jar.header(HOST, "/a/b", True, NOW) == "four=4; two=2; six=6; one=1; three=3; five=5"
    assert jar.header(HOST, "/", True, NOW) == "one=1; three=3; five=5"
    assert jar.header("example.com", "/a/b", True, NOW) == "three=3"


def test_the_order_of_arrival_survives_the_clock() -> None:
    """Cookies keep their order of arrival when the clock stands still or goes back."""
    jar = received("a=1", "b=2")
    jar.store("c=3", HOST, "/", True, NOW - 1000)
    jar.set("d", "4", domain=HOST)
    jar.store("e=5", HOST, "/", True, NOW + 1)

    assert jar.header(HOST, "/", True, NOW) == "a=1; b=2; c=3; d=4; e=5"
    assert [cookie.created for cookie in jar] == sorted({cookie.created for cookie in jar})
    assert jar.copy().header(HOST, "/", True, NOW) == "a=1; b=2; c=3; d=4; e=5"


def test_overwriting_keeps_the_place() -> None:
    """A cookie set again takes the new value and attributes, and keeps its creation time and so its place."""
    jar = received("a=1; HttpOnly", "b=2")
    jar.store("a=3; Secure; Max-Age=60", HOST, "/", True, NOW + 5)

    assert jar.header(HOST, "/", True, NOW + 5) == "a=3; b=2"
    (again, _) = jar
    assert again == Cookie("a", "3", HOST, "/", NOW + 65, True, host_only=True)
    assert again.created == NOW


def test_an_expired_cookie_hands_down_nothing() -> None:
    """A cookie set again after it had expired is a new one and comes last, though nobody had cleared it away."""
    jar = received("a=1; Max-Age=10", "b=2")
    jar.store("a=3", HOST, "/", True, NOW + 10)

    assert jar.header(HOST, "/", True, NOW + 10) == "b=2; a=3"


def test_same_name_in_several_places() -> None:
    """Cookies that differ in path, domain or host-only flag stand side by side."""
    jar = received("a=1", "a=2; Path=/x", "a=3; Domain=example.com", f"a=4; Domain={HOST}")

    assert jar.header(HOST, "/x", True, NOW) == "a=2; a=1; a=3; a=4"


# --- quotas: §5.7 on eviction, §6.1 ---


def test_a_domain_has_a_quota() -> None:
    """The fifty-first cookie of a domain drives out the least recently accessed one, the oldest first."""
    jar = received(*(f"n{number}=1" for number in range(50)), "x=1; Path=/elsewhere", "y=1")

    assert len(jar) == 50
    assert [f"n{number}" in jar for number in range(4)] == [False, False, True, True]

    jar.header(HOST, "/", True, NOW + 100)  # assembling touches them all
    jar.store("z=1", HOST, "/", True, NOW + 50)  # so this one was last accessed before them
    jar.store("q=1", HOST, "/", True, NOW + 200)

    assert "z" not in jar
    assert "q" in jar


def test_setting_again_is_an_access() -> None:
    """A cookie that is set again counts as accessed then, so that others go before it."""
    jar = received(*(f"n{number}=1" for number in range(50)))
    jar.store("n0=1", HOST, "/", True, NOW + 1)
    jar.store("x=1", HOST, "/", True, NOW + 2)

    assert "n0" in jar
    assert "n1" not in jar


def test_hosts_of_a_domain_share_its_quota_with_domain_cookies_only() -> None:
    """Cookies of a host and cookies with that host as Domain count together; other hosts have quotas of their own."""
    jar = received(*(f"n{number}=1; Domain={HOST}" for number in range(30)), *(f"m{number}=1" for number in range(30)))
    for number in range(30):
        jar.store(f"n{number}=1", "other.example.com", "/", True, NOW)

    assert len(jar) == 50 + 30


def test_expired_then_insecure_cookies_go_first() -> None:
    """A full domain gives up what has expired first, then cookies without Secure, then the rest."""
    jar = received("secure=1; Secure", "plain=1", "dying=1; Max-Age=10", *(f"n{n}=1; Secure" for n in range(47)))

    jar.store("p=1; Secure", HOST, "/", True, NOW + 11)
    assert "dying" not in jar
    jar.store("q=1; Secure", HOST, "/", True, NOW + 11)
    assert "plain" not in jar
    jar.store("r=1; Secure", HOST, "/", True, NOW + 11)
    assert "secure" not in jar
    jar.store("s=1", HOST, "/", True, NOW + 11)
    assert "s" not in jar
    assert len(jar) == 50


def test_the_jar_has_a_quota() -> None:
    """Beyond 3000 cookies of servers a tenth goes at once: the expired, then those of the longest unused domains."""
    jar = CookieJar()
    jar.set("mine", "1", secure=True)
    jar.header(HOST, "/", True, NOW - 1)
    for number in range(3000):
        age = "; Max-Age=10" if number == 1500 else ""
        jar.store(f"a=b{age}", f"h{number}.example", "/", True, NOW + number / 1e4)
    assert len(jar) == 3001
    jar.header("h0.example", "/", False, NOW + 5)
    jar.store("a=b", "last.example", "/", True, NOW + 11)

    assert len(jar) == 2701
    assert jar.get("a", domain="h1500.example") is None
    assert jar.get("a", domain="h0.example") == "b"
    assert [jar.get("a", domain=f"h{number}.example") for number in (1, 300, 301)] == [None, None, "b"]
    assert jar["mine"] == "1"


def test_what_is_set_by_hand_is_neither_counted_nor_evicted() -> None:
    """Quotas are for servers: what a user has put into a jar, however much, stays, and takes no place from theirs."""
    jar = CookieJar()
    for number in range(60):
        jar.set(f"n{number}", "1", domain=HOST)
        jar.set(f"n{number}", "1", domain=f"h{number}.example")
    for number in range(5000):
        jar.set("a", "1", domain=f"x{number}.example")
    jar.header(HOST, "/", True, NOW)  # sent, and yet not theirs
    for number in range(70):
        jar.store(f"theirs{number}=1", HOST, "/", True, NOW + number)

    assert len(jar) == 60 + 60 + 5000 + 50
    assert all(f"n{number}" in jar for number in range(60))
    assert "theirs19" not in jar
    assert "theirs20" in jar


@pytest.mark.parametrize("copied", [False, True])
def test_what_a_server_has_set_anew_is_the_servers(copied: bool) -> None:
    """A cookie set by hand that a server then sets counts as the server's, and the other way round; copies know it."""
    jar = CookieJar()
    jar.set("first", "1", domain=HOST, host_only=True)
    jar.set("mine", "1", domain=HOST, host_only=True)
    jar.store("first=2", HOST, "/", True, NOW)
    jar.store("second=1", HOST, "/", True, NOW)
    jar.set("second", "2", domain=HOST, host_only=True)
    jar = jar.copy() if copied else jar
    for number in range(50):
        jar.store(f"n{number}=1", HOST, "/", True, NOW + 1)

    assert "first" not in jar
    assert len(jar) == 52
    assert (jar["mine"], jar["second"]) == ("1", "2")


# --- interrupts ---


def interrupted(act: Callable[[], object], at: int) -> bool:
    """Run an act that a signal interrupts before its bytecode of that number; whether it had so many."""
    left = at

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        if frame.f_code.co_filename != module.__file__:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        left -= event == "opcode"
        if left < 0:
            raise Interrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        act()
    except Interrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.parametrize(
    "line", ["new=1; Secure", "old=1", "old=2; Secure", "old=; Max-Age=0", "plain=1; Secure", "sid=2; Secure"]
)
def test_an_interrupted_jar_goes_on(line: str) -> None:
    """Wherever an interrupt comes in, the jar works on, and its Secure cookies stay protected."""
    for at in itertools.count():
        jar = received("old=1; Secure", "plain=1", "sid=1; Secure", "zz=1; Secure")
        jar.header(HOST, "/", True, NOW)
        was_interrupted = interrupted(lambda jar=jar: jar.store(line, HOST, "/", True, NOW), at)  # type: ignore[misc]
        for cookie in jar:
            assert jar.store(f"{cookie.name}=x", HOST, "/", False, NOW) is not cookie.secure
        for name in ("old", "plain", "new", "zz"):
            jar.store(f"{name}=; Max-Age=0", HOST, "/", True, NOW)
        assert jar.header(HOST, "/", True, NOW) in ("sid=1", "sid=2")
        assert not jar.store("sid=x", HOST, "/", False, NOW)
        if not was_interrupted:
            return


# --- the cached line, and what things cost ---


def test_a_line_is_cached_until_the_jar_changes() -> None:
    """The same line object is handed out until a cookie is added, changed or removed."""
    jar = received("a=b; Max-Age=1000; Domain=example.com")
    line = jar.header(HOST, "/", True, NOW)

    assert jar.header(HOST, "/other", True, NOW + 1) is line
    jar.store("of=another", "other.example.com", "/", True, NOW)
    assert jar.header(HOST, "/", True, NOW + 1) is line
    jar.store("a=b; Max-Age=1000; Domain=example.com", HOST, "/", True, NOW)
    assert jar.header(HOST, "/", True, NOW + 1) is line
    jar.store("a=b; Max-Age=1000; Domain=example.com; HttpOnly", HOST, "/", True, NOW + 1)
    assert jar.header(HOST, "/", True, NOW + 1) is line
    jar.store("c=d", "example.com", "/", True, NOW)
    assert jar.header(HOST, "/", True, NOW + 1) == line
    jar.store("c=d; Domain=example.com", "example.com", "/", True, NOW)
    assert jar.header(HOST, "/", True, NOW + 1) == "a=b; c=d"
    jar.store("a=new; Domain=example.com", HOST, "/", True, NOW)
    assert jar.header(HOST, "/", True, NOW + 1) == "a=new; c=d"
    del jar["c"]
    assert jar.header(HOST, "/", True, NOW + 1) == "a=new"
    jar.clear()
    assert jar.header(HOST, "/", True, NOW + 1) is None


def test_a_shorter_life_shortens_the_line() -> None:
    """A cookie set again with an earlier expiry is not sent past it by a line that was cached before."""
    jar = received("a=b")
    jar.header(HOST, "/", True, NOW)
    jar.store("a=b; Max-Age=5", HOST, "/", True, NOW)

    assert jar.header(HOST, "/", True, NOW + 4) == "a=b"
    assert jar.header(HOST, "/", True, NOW + 5) is None


def test_a_longer_life_prolongs_the_line() -> None:
    """A cookie set again with a later expiry is sent until then, though the line was cached before."""
    jar = received("a=b; Max-Age=5")
    jar.header(HOST, "/", True, NOW)
    jar.store("a=b; Max-Age=50", HOST, "/", True, NOW)

    assert jar.header(HOST, "/", True, NOW + 6) == "a=b"


def test_a_change_of_secure_changes_the_line() -> None:
    """A cookie set again with or without Secure leaves or enters the insecure line that was cached before."""
    jar = received("a=b")
    assert jar.header(HOST, "/", False, NOW) == "a=b"

    jar.store("a=b; Secure", HOST, "/", True, NOW)
    assert jar.header(HOST, "/", False, NOW) is None
    jar.store("a=b", HOST, "/", True, NOW)
    assert jar.header(HOST, "/", False, NOW) == "a=b"


def test_the_lines_of_many_hosts_are_bounded() -> None:
    """A jar that is asked for ever new hosts does not remember them all."""
    jar = received("a=b")
    for number in range(2000):
        assert jar.header(f"h{number}.example", "/", True, NOW) is None

    assert jar._index is not None
    assert len(jar._index.lines) <= 256


def calls(act: Callable[[], object]) -> int:
    """How many functions, Python's and C's, are called by an act: a measure of work without a clock."""
    count = 0

    def profile(_frame: object, event: str, _arg: object) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    gc.disable()  # else a collection's callbacks would count
    sys.setprofile(profile)
    try:
        act()
    finally:
        sys.setprofile(None)
        gc.enable()
    return count


def test_work_does_not_grow_with_the_jar() -> None:
    """Assembling a header and storing a cookie take as many calls in a jar of 2000 domains as in one of 2."""

    def work(domains: int) -> list[int]:
        jar = received("a=b", "s=t; Secure; Domain=example.com")
        for number in range(domains):
            jar.set("a", "b", f"h{number}.example.org", secure=True)
            jar.set("a", "b", f"h{number}.example.com", secure=True)
            jar.set("i", "j", f"h{number}.example.com")
            jar.set("z", "1", f"h{number}.example.com", secure=True)
        return [
            calls(lambda: jar.store("a=b; Domain=example.com", HOST, "/", False, NOW)),  # which all those protect
            calls(lambda: jar.store("i=j; Domain=example.com", HOST, "/", False, NOW)),
            calls(lambda: jar.store("y=1; Domain=example.com", HOST, "/", False, NOW)),
            calls(lambda: jar.get("a", domain="h1.example.com")),
            calls(lambda: jar.header(HOST, "/", True, NOW)),
            calls(lambda: jar.store("a=b", HOST, "/", True, NOW)),
            calls(lambda: jar.store("c=d", HOST, "/", True, NOW)),
            calls(lambda: jar.store("e=f", HOST, "/", False, NOW)),
            calls(lambda: jar.store("c=; Max-Age=0", HOST, "/", True, NOW)),
        ]

    work(2)  # fills the memories of the module
    assert work(2) == work(2000)


def test_a_jar_at_its_quota_costs_little_on_average() -> None:
    """A crawl that meets 600 new hosts takes at most three times the calls in a full jar that it takes in a new one."""

    def crawl(jar: CookieJar, start: int) -> int:
        def act() -> None:
            for number in range(start, start + 600):
                jar.header(f"h{number}.example", "/", True, NOW)
                jar.store("a=b", f"h{number}.example", "/", True, NOW)

        return calls(act)

    full = CookieJar()
    for start in range(0, 3000, 600):
        crawl(full, start)
    assert len(full) == 3000
    work = crawl(full, 3000)

    assert 2700 <= len(full) <= 3000
    assert work <= 3 * crawl(CookieJar(), 3000)


def test_an_empty_jar_is_small() -> None:
    """A new, a cleared and a copied empty jar hold no container and take less than 300 bytes."""
    cleared = received("a=b")
    cleared.clear()
    for jar in (CookieJar(), cleared, CookieJar().copy(), pickle.loads(pickle.dumps(CookieJar()))):
        held = [getattr(jar, slot) for slot in jar.__slots__]

        assert held == [None, None]
        assert sys.getsizeof(jar) + sum(map(sys.getsizeof, held)) < 300
        assert not hasattr(jar, "__dict__")


def test_the_module_does_not_tell_the_time() -> None:
    """The time comes from a caller or the clock: the module imports no `time` and asks `datetime` for no present."""
    tree = ast.parse(Path(module.__file__).read_text("utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}

    assert "time" not in imported
    assert not used & {"now", "utcnow", "today"}


# --- a request's own cookies ---


def test_an_overlay_is_sent_but_not_kept() -> None:
    """Cookies of one request are sent besides the jar's, and instead of those of the same name, domain and path."""
    jar = CookieJar.from_mapping({"a": "1", "b": "2"})
    jar.store("c=3", HOST, "/", True, NOW)
    overlay = CookieJar.from_mapping({"b": "own", "c": "own"})

    assert sorted(str(jar.header(HOST, "/", True, NOW, overlay)).split("; ")) == ["a=1", "b=own", "c=3", "c=own"]
    assert sorted(str(jar.header(HOST, "/", True, NOW)).split("; ")) == ["a=1", "b=2", "c=3"]
    assert CookieJar().header(HOST, "/", True, NOW, overlay) == "b=own; c=own"
    assert jar.header(HOST, "/", True, NOW, CookieJar()) == jar.header(HOST, "/", True, NOW)


# --- robustness ---

HEADER_TEXT = st.text(st.characters(max_codepoint=0xFF), max_size=60)
FRAGMENTS = (
    "a = ; . / , __Host- Domain Path Max-Age Expires Secure SameSite example.com 99 Jan 8:0:0 \xff \u20ac \ud800"
)
LIKELY = st.lists(st.sampled_from([" ", "\t", "\x00", *FRAGMENTS.split()]), max_size=20).map("".join)


@given(line=st.text() | HEADER_TEXT | LIKELY, secure=st.booleans())
def test_no_line_ever_raises(line: str, secure: bool) -> None:
    """Whatever a server sends, the line is obeyed or ignored, and what is sent back is header text."""
    jar = CookieJar()
    obeyed = jar.store(line, HOST, "/a/b", secure, NOW)
    header = jar.header(HOST, "/a/b", True, NOW)

    assert obeyed or not jar
    if header is not None:
        assert not set(header.encode("latin-1")) & {0, 10, 13, 127}
        assert ";" not in header


@given(text=st.text() | HEADER_TEXT | LIKELY)
def test_no_date_ever_raises(text: str) -> None:
    """Any text is a date or is none."""
    date = parse_date(text)

    assert date is None or math.isfinite(date)


NAMES = st.text(st.characters(max_codepoint=0xFF, exclude_categories=["Cc"], exclude_characters=";="), max_size=20)
VALUES = st.text(st.characters(max_codepoint=0xFF, exclude_categories=["Cc"], exclude_characters=";"), max_size=20)


@given(pairs=st.lists(st.tuples(NAMES.map(lambda s: s.strip(" ")), VALUES.map(lambda s: s.strip(" "))), max_size=10))
def test_what_was_received_is_sent_back(pairs: list[tuple[str, str]]) -> None:
    """Each pair comes back in the header as it was set, the last value of a name at the place of its first."""
    jar = CookieJar()
    expected: dict[str, str] = {}
    for name, value in pairs:
        if jar.store(f"{name}={value}", HOST, "/", True, NOW):
            expected[name] = f"{name}={value}" if name else value
    header = jar.header(HOST, "/", True, NOW)

    assert (header or "") == "; ".join(expected.values())
    assert len(expected) >= len({name for name, value in pairs if name and not name.startswith("__")})


# --- the jar against a model ---

HOSTS = ("example.com", "www.example.com", "a.www.example.com", "wexample.com", "other.org", "127.0.0.1")
PATHS = ("/", "/a", "/a/", "/a/b")
REQUESTED = ("/", "/a", "/a/", "/a/b/c", "/ab")


def under(name: str, domain: str) -> bool:
    return name == domain or (name.endswith("." + domain) and not name[-1].isdigit())


def at_or_below(path: str, cookie_path: str) -> bool:
    return path == cookie_path or (
        path.startswith(cookie_path) and (cookie_path[-1] == "/" or path[len(cookie_path)] == "/")
    )


class JarAgainstModel(RuleBasedStateMachine):
    """The model is a list of cookies in order of creation, searched from end to end for everything."""

    def __init__(self) -> None:
        super().__init__()
        self.jar = CookieJar()
        self.model: list[Cookie] = []
        self.now = NOW

    def put(self, cookie: Cookie) -> None:
        for at, old in enumerate(self.model):
            if self.place(old) == self.place(cookie):
                self.model[at] = cookie
                return
        self.model.append(cookie)

    @staticmethod
    def place(cookie: Cookie) -> tuple[object, ...]:
        return cookie.name, cookie.domain, cookie.path, cookie.host_only

    @rule(seconds=st.sampled_from([0.5, 1.0, 20.0, 100.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.model = [cookie for cookie in self.model if not cookie.is_expired(self.now)]

    @rule(
        host=st.sampled_from(HOSTS),
        domain=st.sampled_from([None, "example.com", "www.example.com", "other.org"]),
        name=st.sampled_from("ab"),
        value=st.sampled_from("12"),
        path=st.sampled_from(PATHS),
        age=st.sampled_from([None, None, 0, 1, 30]),
        secure=st.booleans(),
        over_tls=st.booleans(),
    )
    def receive(
        self,
        host: str,
        domain: str | None,
        name: str,
        value: str,
        path: str,
        age: int | None,
        secure: bool,
        over_tls: bool,
    ) -> None:
        line = f"{name}={value}; Path={path}" + ("; Secure" if secure else "")
        line += ("" if domain is None else f"; Domain={domain}") + ("" if age is None else f"; Max-Age={age}")
        expires = None if age is None else self.now + age
        cookie = Cookie(name, value, domain or host, path, expires, secure, host_only=domain is None)
        allowed = (domain is None or under(host, domain)) and (over_tls or not secure)
        for old in self.model:
            related = under(old.domain, cookie.domain) or under(cookie.domain, old.domain)
            if old.name == name and old.secure and not over_tls and related and at_or_below(path, old.path):
                allowed = False

        assert self.jar.store(line, host, "/", over_tls, self.now) is allowed
        if allowed and age == 0:
            self.model = [old for old in self.model if self.place(old) != self.place(cookie)]
        elif allowed:
            self.put(cookie)

    @rule(
        domain=st.sampled_from(["", "example.com", "other.org"]),
        name=st.sampled_from("ab"),
        value=st.sampled_from("34"),
        path=st.sampled_from(PATHS),
        secure=st.booleans(),
    )
    def set_by_hand(self, domain: str, name: str, value: str, path: str, secure: bool) -> None:
        self.jar.set(name, value, domain, path, secure=secure)
        self.put(Cookie(name, value, domain, path, None, secure))

    @rule(name=st.sampled_from("ab"))
    def delete_by_name(self, name: str) -> None:
        del self.jar[name]
        self.model = [cookie for cookie in self.model if cookie.name != name]

    @rule(domain=st.sampled_from(["example.com", "www.example.com"]))
    def clear_domain(self, domain: str) -> None:
        self.jar.clear_expired(self.now)
        if any(cookie.domain == domain for cookie in self.model):
            self.jar.clear(domain)
        self.model = [cookie for cookie in self.model if cookie.domain != domain]

    @rule(how=st.sampled_from([CookieJar.copy, copy.deepcopy, lambda jar: pickle.loads(pickle.dumps(jar))]))
    def go_on_with_a_copy(self, how: Callable[[CookieJar], CookieJar]) -> None:
        self.jar, original = how(self.jar), self.jar
        original.clear()

    @precondition(lambda self: len(self.model) > 12)
    @rule()
    def clear(self) -> None:
        self.jar.clear()
        self.model = []

        assert self.jar._index is None

    @rule(host=st.sampled_from(HOSTS), path=st.sampled_from(REQUESTED), secure=st.booleans())
    def send(self, host: str, path: str, secure: bool) -> None:
        cookies = [
            cookie
            for cookie in self.model
            if (secure or not cookie.secure)
            and (host == cookie.domain or (not cookie.host_only and (not cookie.domain or under(host, cookie.domain))))
            and at_or_below(path, cookie.path)
        ]
        cookies.sort(key=lambda cookie: -len(cookie.path))
        expected = "; ".join(f"{cookie.name}={cookie.value}" for cookie in cookies) or None

        assert self.jar.header(host, path, secure, self.now) == expected

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        alive = [cookie for cookie in self.jar if not cookie.is_expired(self.now)]

        assert sorted(map(self.place, alive)) == sorted(map(self.place, self.model))
        assert {self.place(cookie): cookie for cookie in alive} == {self.place(cookie): cookie for cookie in self.model}

    @invariant()
    def keeps_its_books(self) -> None:
        index = self.jar._index
        if index is not None:
            cookies = list(self.jar)

            assert index.count == len(cookies) == len(self.jar)
            assert index.received == sum(kept.accessed < math.inf for kept in index)
            assert set(index.domains) == {cookie.domain for cookie in cookies}
            assert index.guards == sorted((cookie.name, cookie.domain[::-1]) for cookie in cookies if cookie.secure)
            assert all(
                cookie.domain == domain for domain, kept in index.domains.items() for cookie in map(of, kept.values())
            )
            assert len({cookie.created for cookie in cookies}) == len(cookies)


def of(kept: Any) -> Cookie:
    cookie: Cookie = kept.cookie
    return cookie


TestJarAgainstModel = JarAgainstModel.TestCase
TestJarAgainstModel.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


# --- the mapping, as requests has it ---


def two_sites() -> CookieJar:
    """What the tables below are asked of: two cookies of one site, one of which another site has as well."""
    jar = CookieJar()
    jar.set("token", "1", domain="example.com", path="/")
    jar.set("token", "2", domain="example.org", path="/api")
    jar.set("theme", "dark", domain="example.com", path="/")
    return jar


@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        (lambda jar: jar["theme"], "dark"),
        (lambda jar: jar.get("theme"), "dark"),
        (lambda jar: jar.get("nothing"), None),
        (lambda jar: jar.get("nothing", "default"), "default"),
        (lambda jar: jar.get("token", domain="example.com"), "1"),
        (lambda jar: jar.get("token", path="/api"), "2"),
        (lambda jar: jar.get("token", domain="example.com", path="/api"), None),
        (lambda jar: "theme" in jar, True),
        (lambda jar: "token" in jar, True),
        (lambda jar: "nothing" in jar, False),
        (lambda jar: len(jar), 3),
        (bool, True),
        (lambda jar: sorted(cookie.value for cookie in jar), ["1", "2", "dark"]),
        (lambda jar: sorted(jar.keys()), ["theme", "token", "token"]),
        (lambda jar: sorted(jar.values()), ["1", "2", "dark"]),
        (lambda jar: sorted(jar.items()), [("theme", "dark"), ("token", "1"), ("token", "2")]),
        (lambda jar: list(jar.iterkeys()) == jar.keys(), True),
        (lambda jar: list(jar.itervalues()) == jar.values(), True),
        (lambda jar: list(jar.iteritems()) == jar.items(), True),
        (lambda jar: jar.get_dict(domain="example.com"), {"token": "1", "theme": "dark"}),
        (lambda jar: jar.get_dict(path="/api"), {"token": "2"}),
        (lambda jar: jar.get_dict(domain="example.net"), {}),
        (lambda jar: jar.get_dict(), {"token": "2", "theme": "dark"}),
        (lambda jar: jar.list_domains(), ["example.com", "example.org"]),
        (lambda jar: jar.list_paths(), ["/", "/api"]),
        (lambda jar: jar.multiple_domains(), True),
        (lambda jar: dict(jar.get_dict("example.com")), {"token": "1", "theme": "dark"}),
        (lambda jar: jar.pop("theme"), "dark"),
        (lambda jar: jar.pop("nothing", None), None),
    ],
)
def test_asking_the_mapping(ask: Callable[[CookieJar], object], answer: object) -> None:
    """The mapping methods answer as those of requests' jar do."""
    assert ask(two_sites()) == answer


@pytest.mark.parametrize(
    ("act", "left"),
    [
        (lambda jar: jar.__delitem__("token"), ["theme"]),
        (lambda jar: jar.__delitem__("nothing"), ["theme", "token", "token"]),
        (lambda jar: jar.pop("theme"), ["token", "token"]),
        (lambda jar: jar.set("token", None), ["theme"]),
        (lambda jar: jar.set("token", None, domain="example.com"), ["theme", "token"]),
        (lambda jar: jar.set("token", None, path="/api"), ["theme", "token"]),
        (lambda jar: jar.__setitem__("theme", None), ["token", "token"]),
        (lambda jar: jar.__setitem__("theme", "light"), ["theme", "theme", "token", "token"]),
        (lambda jar: jar.set("theme", "light", domain="example.com"), ["theme", "token", "token"]),
        (lambda jar: jar.clear(), []),
        (lambda jar: jar.clear("example.com"), ["token"]),
        (lambda jar: jar.clear("example.com", "/"), ["token"]),
        (lambda jar: jar.clear("example.com", "/", "token"), ["theme", "token"]),
        (lambda jar: jar.update({"x": "1", "y": "2"}), ["theme", "token", "token", "x", "y"]),
        (lambda jar: jar.update([("x", "1")]), ["theme", "token", "token", "x"]),
        (lambda jar: jar.update(two_sites()), ["theme", "token", "token"]),
        (lambda jar: [jar.clear(c.domain, c.path, c.name) for c in jar], []),
    ],
)
def test_changing_the_mapping(act: Callable[[CookieJar], object], left: list[str]) -> None:
    """The mapping methods change the jar as those of requests' jar do."""
    jar = two_sites()
    act(jar)

    assert sorted(jar.keys()) == left


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (lambda jar: jar["nothing"], KeyError, "nothing"),
        (lambda jar: jar.pop("nothing"), KeyError, "nothing"),
        (lambda jar: jar["token"], CookieConflictError, "example.com/, example.org/api"),
        (lambda jar: jar.get("token"), CookieConflictError, "2 cookies are named 'token'"),
        (lambda jar: jar.pop("token", None), CookieConflictError, "token"),
        (lambda jar: jar.clear("example.net"), KeyError, "example.net"),
        (lambda jar: jar.clear("example.com", "/", "nothing"), KeyError, "nothing"),
        (lambda jar: jar.clear(path="/"), ValueError, "by domain"),
        (lambda jar: jar.clear("example.com", name="token"), ValueError, "by domain"),
        (
            lambda jar: jar.set("a", "b\r\nX: y"),
            ValueError,
            r"the value of cookie 'a' cannot be sent.*'\\r'.*position 1",
        ),
        (lambda jar: jar.set("a", "secret\x00"), ValueError, r"^((?!secret).)*$"),
        (lambda jar: jar.set("a", "b; c=d"), ValueError, "';' at position 1"),
        (lambda jar: jar.set("a", "\u20ac"), ValueError, "the value of cookie 'a'"),
        (lambda jar: jar.set("a=b", "c"), ValueError, "the name of cookie 'a=b'"),
        (lambda jar: jar.set("a\nb", "c"), ValueError, "the name of cookie"),
        (lambda jar: jar.set("", ""), ValueError, "neither name nor value"),
        (lambda jar: jar.set("a", "b", path="x"), ValueError, "the path of cookie 'a'"),
        (lambda jar: jar.set("a", "b", path=""), ValueError, "the path of cookie 'a' is empty"),
        (lambda jar: jar.set("a", "b", domain="\u2603.example"), ValueError, "cannot be the domain"),
        (lambda jar: jar.set("a", 1), TypeError, "the value of cookie 'a' must be a str; got int"),
        (lambda jar: jar.set("a", b"1"), TypeError, "the value of cookie 'a' must be a str; got bytes"),
        (lambda jar: jar.set(b"a", "1"), TypeError, "the name of cookie b'a' must be a str; got bytes"),
        (lambda jar: jar.set(None, "1"), TypeError, "the name of cookie None must be a str; got NoneType"),
        (lambda jar: jar.set("a", "1", expires="soon"), TypeError, "expiry of cookie 'a' must be wall seconds.*'soon'"),
        (lambda jar: jar.set("a", "1", expires=math.nan), TypeError, "expiry of cookie 'a' must be wall seconds.*nan"),
        (lambda jar: jar.set("a", "1", port="80"), ValueError, "cookie 'a' is for port 80; .* all ports of a host"),
        (lambda jar: jar.set("a", "1", domain="localhost:80"), ValueError, "the domain of cookie 'a' .*':' at pos.* 9"),
        (
            lambda jar: jar.set("a", "1", domain="https://x.org"),
            ValueError,
            "the domain of cookie 'a' .*because of ':'",
        ),
        (lambda jar: jar.set("a", "1", domain="x.org\t"), ValueError, "the domain of cookie 'a' .*because of '.*t'"),
        (lambda jar: jar.set("a", "b", color="red"), TypeError, "a cookie has no attribute 'color'"),
        (lambda jar: jar.update({"a": "b\n"}), ValueError, "the value of cookie 'a'"),
        (lambda jar: jar.update("a=b"), TypeError, "mapping of names to values, pairs of those, or a jar; got str"),
        (lambda jar: jar.update(b""), TypeError, "got bytes"),
        (lambda jar: jar.update(5), TypeError, "got int"),
        (lambda jar: cookiejar_from_dict(two_sites(), jar), TypeError, "of a jar they would go to every host"),  # type: ignore[arg-type]
        (lambda jar: cookiejar_from_dict(requests.Session().cookies, jar), TypeError, "go to every host"),
        (lambda jar: jar.update(["ab", "c"]), TypeError, "got list"),
        (
            lambda jar: merge_cookies({"a": "b"}, jar),  # type: ignore[arg-type]
            ValueError,
            "into a sessionpool CookieJar only; got dict",
        ),
    ],
)
def test_refusing(act: Callable[[CookieJar], object], error: type[Exception], message: str) -> None:
    """What cannot be done is refused with a sentence that says why, and the jar stays as it was."""
    jar = two_sites()
    with pytest.raises(error, match=message):
        act(jar)

    assert list(jar) == list(two_sites())


def test_a_cookie_without_domain_goes_everywhere() -> None:
    """A cookie set like a dict's item goes to every host and path, as with requests."""
    jar = CookieJar()
    jar["a"] = "b"

    for host in (HOST, "localhost", "127.0.0.1", "::1"):
        assert jar.header(host, "/x", False, NOW) == "a=b"
    assert attrs.evolve(only(jar), created=0.0) == Cookie("a", "b", "", "/")


def test_set_returns_the_cookie() -> None:
    """`set` takes every attribute and returns the cookie as it is stored."""
    jar = CookieJar()
    cookie = jar.set(
        "a", "b", ".Example.com", "/x", secure=True, expires=NOW + 5, http_only=True, same_site="Lax", host_only=True
    )

    assert cookie == Cookie("a", "b", "example.com", "/x", NOW + 5, True, True, "Lax", True)
    assert only(jar) == cookie


def test_one_domain_is_not_several() -> None:
    """`multiple_domains` asks for different domains, not for several cookies."""
    assert not received("a=b", "c=d").multiple_domains()
    assert not CookieJar().multiple_domains()


def test_values_are_not_shown() -> None:
    """Neither a jar nor a cookie shows a value when it is printed or logged."""
    jar = received("sid=secret")

    assert "secret" not in repr(jar) + str(jar) + repr(list(jar))
    assert repr(jar) == "<CookieJar: 1 cookies of 1 domains>"


def test_cookiejar_from_dict() -> None:
    """`cookiejar_from_dict` makes a jar, or adds to one, without overwriting if told so."""
    jar = cookiejar_from_dict({"a": "1", "b": "2"})

    assert isinstance(jar, RequestsCookieJar)
    assert jar.get_dict() == {"a": "1", "b": "2"}
    assert cookiejar_from_dict({"b": "x", "c": "3"}, jar, overwrite=False) is jar
    assert jar.get_dict() == {"a": "1", "b": "2", "c": "3"}
    cookiejar_from_dict({"b": "x"}, jar)
    assert jar["b"] == "x"
    assert len(cookiejar_from_dict(None)) == 0


def test_from_mapping_takes_what_users_have() -> None:
    """A jar is made of a dict, of pairs, of a jar, of a jar of the standard library, or of nothing."""
    pairs = {"a": "1", "b": "2"}
    jar = CookieJar.from_mapping(pairs)

    assert CookieJar.from_mapping(list(pairs.items())).get_dict() == pairs
    assert CookieJar.from_mapping(jar).get_dict() == pairs
    assert CookieJar.from_mapping(jar.to_cookiejar()).get_dict() == pairs
    assert len(CookieJar.from_mapping(None)) == len(CookieJar.from_mapping({})) == 0


@pytest.mark.parametrize("how", [CookieJar.copy, copy.copy, copy.deepcopy, lambda jar: pickle.loads(pickle.dumps(jar))])
def test_copies_are_equal_and_independent(how: Callable[[CookieJar], CookieJar]) -> None:
    """A copy, by whatever means, has the same cookies with their creation times, and goes its own way."""
    jar = received("a=b; Max-Age=60; SameSite=Lax", "c=d; Domain=example.com; Secure")
    jar["e"] = "f"
    twin = how(jar)
    twin.store("a=x", HOST, "/", True, NOW)

    assert [attrs.astuple(cookie) for cookie in how(jar)] == [attrs.astuple(cookie) for cookie in jar]
    assert jar.get("a") == "b"
    assert twin.get("a") == "x"


# --- side by side with requests' own jar ---


def sides() -> tuple[Any, Any]:
    """Our jar and requests', with the same cookies."""
    jars: tuple[Any, Any] = CookieJar(), requests.cookies.RequestsCookieJar()
    for jar in jars:
        jar.set("token", "1", domain="example.com", path="/")
        jar.set("token", "2", domain="example.org", path="/api", secure=True)
        jar.set("theme", "dark", domain="example.com", expires=4_000_000_000)
        jar.set("everywhere", "1")
        jar.set("old", "1", domain="example.org", expires=1, rest={"HttpOnly": None})
    return jars


def outcome(jar: Any, act: Callable[[Any], object]) -> tuple[object, list[tuple[object, ...]]]:
    """What an act answers, or which error it raises, and what is left in the jar."""
    try:
        answer = act(jar)
    except Exception as error:  # noqa: BLE001 - whichever it is, it is compared
        answer = type(error).__name__
    if isinstance(answer, list):
        answer = sorted(answer)
    left = [(c.name, c.value, c.domain, c.path, c.secure, c.expires, c.is_expired()) for c in jar]
    return answer, sorted(left, key=str)


@pytest.mark.parametrize(
    "act",
    [
        lambda jar: jar["theme"],
        lambda jar: jar["token"],
        lambda jar: jar["nothing"],
        lambda jar: jar.get("theme"),
        lambda jar: jar.get("nothing", "x"),
        lambda jar: jar.get("token"),
        lambda jar: jar.get("token", domain="example.com"),
        lambda jar: jar.get("token", domain="example.com", path="/api"),
        lambda jar: jar.get("token", path="/api"),
        lambda jar: jar.get("token", "x", "example.org", "/"),
        lambda jar: jar.get("everywhere", domain=""),
        lambda jar: "token" in jar,
        lambda jar: "nothing" in jar,
        lambda jar: next(iter(jar)) in jar,
        lambda jar: None in jar,
        len,
        bool,
        lambda jar: jar.keys(),
        lambda jar: jar.values(),
        lambda jar: jar.items(),
        lambda jar: list(jar.iterkeys()),
        lambda jar: list(jar.itervalues()),
        lambda jar: list(jar.iteritems()),
        lambda jar: dict(jar),  # two have one name
        lambda jar: jar.set("token", None, domain="example.org") or dict(jar),
        lambda jar: jar.get_dict(),
        lambda jar: jar.get_dict("example.com"),
        lambda jar: jar.get_dict(path="/api"),
        lambda jar: jar.get_dict(domain="example.com", path="/api"),
        lambda jar: jar.list_domains(),
        lambda jar: jar.list_paths(),
        lambda jar: jar.multiple_domains(),
        lambda jar: jar.pop("theme"),
        lambda jar: jar.pop("token"),
        lambda jar: jar.pop("nothing"),
        lambda jar: jar.pop("nothing", "x"),
        lambda jar: jar.pop("nothing", default=None),
        lambda jar: jar.setdefault("theme", "x"),
        lambda jar: jar.setdefault("new", "x"),
        lambda jar: jar.setdefault("new"),
        lambda jar: jar.setdefault("token", "x"),
        lambda jar: jar.__setitem__("theme", "x"),
        lambda jar: jar.__setitem__("theme", None),
        lambda jar: jar.__delitem__("token"),
        lambda jar: jar.__delitem__("nothing"),
        lambda jar: jar.set("token", None),
        lambda jar: jar.set("token", None, path="/"),
        lambda jar: jar.set("token", None, domain="example.org"),
        lambda jar: jar.set("everywhere", None, domain=""),
        lambda jar: jar.set("a", "b", domain="example.com").value,
        lambda jar: jar.set("a", "b", version=0, port=None, discard=False, comment=None, comment_url=None).name,
        lambda jar: jar.set("a", "b", rest={"HttpOnly": True}, rfc2109=False).has_nonstandard_attr("HttpOnly"),
        lambda jar: jar.set("a", "b", color="red"),
        lambda jar: jar.set("any", SimpleCookie('a="b c"; Path=/x; Max-Age=')["a"]).value,
        lambda jar: jar.update({"theme": "x", "new": "y"}),
        lambda jar: jar.update([("new", "y")]),
        lambda jar: jar.update(requests.cookies.cookiejar_from_dict({"new": "y"})),
        lambda jar: jar.update(jar),
        lambda jar: jar.update(5),
        lambda jar: jar.clear(),
        lambda jar: jar.clear("example.com"),
        lambda jar: jar.clear("example.com", "/", "token"),
        lambda jar: jar.clear("example.com", "/api"),
        lambda jar: jar.clear("example.net"),
        lambda jar: jar.clear(path="/"),
        lambda jar: jar.clear_expired_cookies(),
        lambda jar: jar == {"token": "2", "theme": "dark", "everywhere": "1", "old": "1"},
        lambda jar: jar == {"token": "2"},
        lambda jar: jar == jar.copy(),
        lambda jar: jar != jar.copy(),
        lambda jar: jar == 5,
        lambda jar: jar == pickle.loads(pickle.dumps(jar)),
        lambda jar: jar.copy().clear(),
        hash,
        lambda jar: jar.get_policy().set_ok is not None if jar.get_policy() else True,
    ],
)
def test_the_jar_does_as_that_of_requests(act: Callable[[Any], object]) -> None:
    """Each call answers, raises and changes the same on our jar and on requests'."""
    ours, theirs = sides()

    assert outcome(ours, act) == outcome(theirs, act)


@pytest.mark.parametrize(
    "act",
    [
        lambda m, jar: m.cookiejar_from_dict({"token": "x", "new": "y"}, jar),
        lambda m, jar: m.cookiejar_from_dict({"token": "x", "new": "y"}, jar, overwrite=False),
        lambda m, jar: m.cookiejar_from_dict({"theme": "x"}, cookiejar=jar, overwrite=True),
        lambda m, jar: m.cookiejar_from_dict(None, jar),
        lambda m, jar: m.merge_cookies(jar, {"theme": "x", "new": "y"}),
        lambda m, jar: m.merge_cookies(jar, m.cookiejar_from_dict({"everywhere": "x", "new": "y"})),
        lambda m, jar: m.merge_cookies(jar, None) if m is module else jar,
        lambda m, jar: m.remove_cookie_by_name(jar, "token"),
        lambda m, jar: m.remove_cookie_by_name(jar, "token", domain="example.com"),
        lambda m, jar: m.remove_cookie_by_name(jar, "token", path="/api"),
        lambda m, jar: m.remove_cookie_by_name(jar, "nothing"),
        lambda m, jar: jar.set_cookie(m.create_cookie("a", "b")),
        lambda m, jar: jar.set_cookie(m.create_cookie("a", "b", domain="x.org", path="/p", secure=True, expires=7)),
        lambda m, jar: jar.set_cookie(m.create_cookie("a", "b", color="red")),
        lambda m, jar: jar.set_cookie(m.morsel_to_cookie(SimpleCookie("a=b; Path=/x; Secure; Domain=x.org")["a"])),
        lambda m, jar: jar.set_cookie(
            m.morsel_to_cookie(SimpleCookie("a=b; Path=/; Expires=Fri, 15-Jan-2027 08:00:00 GMT")["a"])
        ),
        lambda m, jar: jar.set_cookie(m.morsel_to_cookie(SimpleCookie("a=b; Max-Age=soon")["a"])),
        lambda m, jar: (
            jar.clear_expired_cookies()
            or m.get_cookie_header(jar, requests.Request("GET", "http://example.com/").prepare())
        ),
        lambda m, jar: (
            jar.clear_expired_cookies()
            or m.get_cookie_header(jar, requests.Request("GET", "https://example.org/api/x").prepare())
        ),
    ],
)
def test_the_functions_do_as_those_of_requests(act: Callable[[Any, Any], object]) -> None:
    """The functions beside the jar do the same with our jar as requests' do with theirs."""
    ours, theirs = sides()

    def called(functions: Any) -> Callable[[Any], object]:
        def call(jar: Any) -> object:
            answer = act(functions, jar)
            return "the jar" if answer is jar else answer if isinstance(answer, str) else None

        return call

    header, kept = outcome(ours, called(module))
    expected = outcome(theirs, called(requests.cookies))
    assert (sorted(str(header).split("; ")), kept) == (sorted(str(expected[0]).split("; ")), expected[1])


def test_a_morsel_brings_its_attributes() -> None:
    """A cookie of `http.cookies` keeps its expiry, which Max-Age decides, its flags and its own name."""
    morsel = SimpleCookie("a=b; Max-Age=60; Expires=Fri, 15 Jan 2027 08:00:00 GMT; HttpOnly; SameSite=lax; Secure")["a"]
    before = time.time()
    cookie = morsel_to_cookie(morsel)

    assert attrs.evolve(cookie, expires=None) == Cookie("a", "b", secure=True, http_only=True, same_site="Lax")
    assert cookie.expires is not None
    assert before + 60 <= cookie.expires <= time.time() + 60
    jar = CookieJar.from_mapping(SimpleCookie("a=b; c=d"))
    jar["other"] = morsel
    assert sorted(jar.keys()) == ["a", "c"]
    assert only(CookieJar.from_mapping({"x": morsel})).http_only


def test_session_cookies_are_those_without_an_expiry() -> None:
    """`clear_session_cookies` leaves what has an expiry, also if it was set by hand."""
    ours, theirs = sides()
    ours.clear_session_cookies()
    theirs.clear_session_cookies()

    assert ours.keys() == ["theme", "old"]
    assert theirs.keys() == []  # there `create_cookie` says discard=True, whatever the expiry


def test_equal_jars_have_the_same_cookies() -> None:
    """Two jars are equal if their cookies are, whatever their order and age; names and values alone do not suffice."""
    one, other = CookieJar(), CookieJar()
    one.set("a", "1", domain="example.com")
    one.set("b", "2")
    other.set("b", "2")
    assert one != other
    other.set("a", "1", domain="example.org")
    assert one.get_dict() == other.get_dict() == one
    assert one != other
    other.clear("example.org")
    other.set("a", "1", domain="example.com")
    assert one == other


def test_a_cookie_answers_what_the_standard_librarys_does() -> None:
    """HttpOnly and SameSite are asked for by name in any case, and expiry without saying what time it is."""
    cookie = only(received("a=b; HttpOnly; SameSite=Lax"))

    assert cookie.has_nonstandard_attr("HttpOnly")
    assert cookie.has_nonstandard_attr("HTTPOnly")
    assert (cookie.get_nonstandard_attr("HttpOnly"), cookie.get_nonstandard_attr("samesite")) == ("", "Lax")
    assert not cookie.has_nonstandard_attr("Priority")
    assert not Cookie("a", "b").has_nonstandard_attr("HttpOnly")
    assert Cookie("a", "b").get_nonstandard_attr("SameSite", "x") == "x"
    assert create_cookie("a", "b", expires=time.time() - 1).is_expired()
    assert not create_cookie("a", "b", expires=time.time() + 60).is_expired()
    assert not cookie.is_expired()


class Refusal(http.cookiejar.DefaultCookiePolicy):
    """What people write to have requests keep no cookies."""

    def set_ok(self, cookie: http.cookiejar.Cookie, request: urllib.request.Request) -> bool:
        return False


def test_a_policy_may_refuse_what_servers_set() -> None:
    """A policy of the standard library is asked before a server's cookie is kept; copies have it, too."""
    jar = CookieJar(Refusal())
    assert not jar.store("a=b", HOST, "/", True, NOW)
    assert not jar.copy().store("a=b", HOST, "/", True, NOW)
    assert not pickle.loads(pickle.dumps(jar)).store("a=b", HOST, "/", True, NOW)
    jar["by"] = "hand"
    assert jar.header(HOST, "/", True, NOW) == "by=hand"

    policy = http.cookiejar.DefaultCookiePolicy(allowed_domains=["example.org", "::1"])
    jar.set_policy(policy)
    assert jar.get_policy() is policy
    assert not jar.store("a=b", HOST, "/", True, NOW)
    assert jar.store("a=b", "example.org", "/x?", False, NOW)
    assert jar.store("a=b", "::1", "/", True, NOW)
    jar.set_policy(None)
    assert jar.store("a=b", HOST, "/", True, NOW)
    assert jar.store("a=; Max-Age=0", HOST, "/", True, NOW)


def test_a_header_for_whatever_has_a_url() -> None:
    """`get_cookie_header` asks a jar, of the standard library too, by the URL's host, path and scheme."""
    jar = received("a=1; Path=/x; Secure", "b=2", "c=3; Domain=example.com")

    def header(jar: Any, url: str) -> list[str]:
        return sorted((get_cookie_header(jar, requests.Request("GET", url).prepare()) or "").split("; "))

    for each in (jar, jar.to_cookiejar()):
        assert header(each, f"https://{HOST}/x/y?z") == ["a=1", "b=2", "c=3"]
        assert header(each, f"http://{HOST}:8080/x") == ["b=2", "c=3"]
        assert header(each, "http://EXAMPLE.com") == ["c=3"]
        assert header(each, "http://[::1]/") == [""]


# --- the standard library's jar ---


def foreign(name: str, value: str | None, **given: Any) -> http.cookiejar.Cookie:
    """A cookie as the standard library and requests make them."""
    fields: dict[str, Any] = {
        "version": 0,
        "name": name,
        "value": value,
        "port": None,
        "port_specified": False,
        "domain": "",
        "domain_specified": False,
        "domain_initial_dot": False,
        "path": "/",
        "path_specified": True,
        "secure": False,
        "expires": None,
        "discard": True,
        "comment": None,
        "comment_url": None,
        "rest": {},
    }
    return http.cookiejar.Cookie(**fields | given)


@pytest.mark.parametrize(
    ("given_fields", "expected"),
    [
        ({}, Cookie("a", "b")),
        ({"domain": "www.example.com"}, Cookie("a", "b", "www.example.com", host_only=True)),
        ({"domain": ".example.com", "domain_specified": True}, Cookie("a", "b", "example.com")),
        ({"domain": "example.com", "domain_specified": True}, Cookie("a", "b", "example.com")),
        ({"domain": "localhost.local"}, Cookie("a", "b", "localhost", host_only=True)),
        ({"domain": "printer.local"}, Cookie("a", "b", "printer.local", host_only=True)),
        ({"path": "/x", "secure": True, "expires": 5}, Cookie("a", "b", "", "/x", 5, secure=True)),
        ({"path": ""}, Cookie("a", "b")),
        ({"rest": {"HttpOnly": None, "SameSite": "lax"}}, Cookie("a", "b", http_only=True, same_site="Lax")),
        ({"rest": {"SameSite": None}}, Cookie("a", "b")),
        ({"rest": {"HTTPOnly": ""}}, Cookie("a", "b", http_only=True)),
        ({"rest": {"HttpOnly": False}}, Cookie("a", "b")),
        ({"port": "80", "port_specified": True, "version": 1}, Cookie("a", "b")),
        ({"name": "b", "value": None}, Cookie("", "b")),
    ],
)
def test_cookies_of_the_standard_library_are_taken(given_fields: dict[str, Any], expected: Cookie) -> None:
    """A cookie of `http.cookiejar`, and so of requests, is set with the meaning it has there."""
    jar = CookieJar()

    assert jar.set_cookie(foreign(**{"name": "a", "value": "b"} | given_fields)) == expected


def test_the_standard_library_sends_the_same() -> None:
    """A jar converted to `http.cookiejar` and back has the same cookies, and there they go to the same hosts."""
    jar = received("a=1", "b=2; Domain=example.com; Path=/x; HttpOnly; SameSite=Strict", "c=3; Secure", "d")
    jar.store("e=5", "localhost", "/", False, NOW)
    there = jar.to_cookiejar()

    def sent(url: str) -> list[str]:
        request = urllib.request.Request(url)
        there.add_cookie_header(request)
        return sorted((request.get_header("Cookie") or "").split("; "))

    assert CookieJar.from_mapping(there) == jar
    assert jar.to_cookiejar(lwp := http.cookiejar.LWPCookieJar()) is lwp
    assert CookieJar.from_mapping(lwp) == jar
    assert sent("https://www.example.com/x/") == ["a=1", "b=2", "c=3", "d"]
    assert sent("http://example.com/x") == ["b=2"]
    assert sent("http://localhost:8000/") == ["e=5"]


# --- cookies.txt ---


def test_saving_and_loading(tmp_path: Path) -> None:
    """What the Netscape format can hold comes back: everything but SameSite and creation times."""
    file = tmp_path / "cookies.txt"
    jar = received(
        "a=b; Max-Age=60; Secure; HttpOnly",
        "c=d e\tf; Domain=example.com; Path=/x",
        "nameless",
        "empty=",
        "u=\xc3\xa4\x85",
    )
    jar.set("everywhere", "1")
    jar.set("old", "1", expires=0.5)
    jar.save(file)
    again = CookieJar()
    again.load(file)

    assert [cookie for cookie in again if cookie.name != "old"] == [cookie for cookie in jar if cookie.name != "old"]
    assert next(cookie for cookie in again if cookie.name == "old").is_expired(NOW)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_saving_is_done_at_once_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is saved over has the old cookies until it has all the new ones; its mode becomes 600."""
    file, link = tmp_path / "cookies.txt", tmp_path / "link"
    file.write_text("old")
    file.chmod(0o644)
    link.symlink_to(file)
    jar = received("a=b", "c=d")
    whole = module._to_netscape

    def fail(cookie: Cookie) -> str:
        assert file.read_text() == "old"
        if cookie.name == "c":
            raise OSError("the disk is full")
        return whole(cookie)

    # Called while the file is being written, which is when a disk fills up.
    monkeypatch.setattr(module, "_to_netscape", fail)
    with pytest.raises(OSError, match="disk is full"):
        jar.save(link)
    assert file.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cookies.txt", "link"]

    monkeypatch.undo()
    jar.save(link)
    assert link.is_symlink()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text().count("\n") == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cookies.txt", "link"]


def test_the_standard_library_reads_what_is_saved(tmp_path: Path) -> None:
    """`http.cookiejar.MozillaCookieJar` reads a saved file."""
    file = tmp_path / "cookies.txt"
    received("a=b; Max-Age=60", "c=d; Domain=example.com; Path=/x; HttpOnly; Max-Age=60").save(file)
    there = http.cookiejar.MozillaCookieJar()
    there.load(str(file), ignore_discard=True, ignore_expires=True)
    back = http.cookiejar.MozillaCookieJar()
    CookieJar.from_mapping(there).to_cookiejar(back)
    back.save(str(file), ignore_discard=True, ignore_expires=True)
    again = CookieJar()
    again.load(file)
    assert again == CookieJar.from_mapping(there)
    assert [cookie.http_only for cookie in again if cookie.name == "c"] == [True]

    found = sorted((c.domain, c.name, c.value, c.path, c.expires) for c in there if c.name == "a")
    assert found == [(HOST, "a", "b", "/", int(NOW) + 60)]
    assert sorted(c.domain for c in there) == [".example.com", HOST]


def test_a_tab_has_no_place_in_the_file(tmp_path: Path) -> None:
    """A cookie whose name or path holds a tab is left out of the file, rather than read back as another one."""
    file = tmp_path / "cookies.txt"
    received("a\tb=c", "d=e; Path=/\tx", "f=g").save(file)
    jar = CookieJar()
    jar.load(file)

    assert jar.items() == [("f", "g")]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (".example.com\tTRUE\t/\tFALSE\t0\ta\tb", Cookie("a", "b", "example.com")),
        ("example.com\tFALSE\t/x\tTRUE\t12\ta\tb", Cookie("a", "b", "example.com", "/x", 12, True, host_only=True)),
        ("example.com\tTRUE\t/\tFALSE\t\ta\tb", Cookie("a", "b", "example.com")),
        ("example.com\tTRUE\t/\tFALSE\t12.75\ta\tb", Cookie("a", "b", "example.com", expires=12)),
        ("#HttpOnly_.example.com\tTRUE\t/\tFALSE\t0\ta\tb", Cookie("a", "b", "example.com", http_only=True)),
        ("example.com\tTRUE\t/\tFALSE\t0\ta", Cookie("a", "", "example.com")),
        ("example.com\tTRUE\t/\tFALSE\t0\ta\tb\r", Cookie("a", "b", "example.com")),
        ("example.com\tTRUE\t/\tFALSE\t0\ta\tb\tc", Cookie("a", "b\tc", "example.com")),
        ("example.com\tTRUE\t/\tFALSE\t-1\ta\tb", Cookie("a", "b", "example.com", expires=-1)),
        (".example.com\tFALSE\t/\tFALSE\t0\ta\tb", Cookie("a", "b", "example.com", host_only=True)),
        ("\xef\xbb\xbfexample.com\tTRUE\t/\tFALSE\t0\ta\tb", Cookie("a", "b", "example.com")),
        ("\xef\xbb\xbf# a comment", None),
        ("# a comment", None),
        ("#", None),
        ("", None),
        ("  ", None),
    ],
)
def test_lines_of_other_writers(tmp_path: Path, line: str, expected: Cookie | None) -> None:
    """Files of curl, wget and browser extensions are read, with or without the first line and line ends of theirs."""
    file = tmp_path / "cookies.txt"
    file.write_bytes(line.encode("latin-1"))
    jar = CookieJar()
    jar.load(file)

    assert list(jar) == ([] if expected is None else [expected])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"name": "a"}', "expected 7 fields with tabs between, found 1"),
        ("example.com TRUE / FALSE 0 a b", "expected 7 fields with tabs between, found 1"),
        ("example.com\tTRUE\t/\tFALSE\t0", "expected 7 fields with tabs between, found 5"),
        ("https://example.com/\tTRUE\t/\tFALSE\t0\ta\tb", "the domain of cookie 'a'"),
        ("example.com\tTRUE\t/\tFALSE\tsoon\ta\tb", "could not convert string to float: 'soon'"),
        ("example.com\tTRUE\t/\tFALSE\tinf\ta\tb", "infinity"),
        ("example.com\tTRUE\t/\tFALSE\tnan\ta\tb", "NaN"),
        ("example.com\tTRUE\tx\tFALSE\t0\ta\tb", "the path of cookie 'a'"),
        ("example.com\tTRUE\t/\tFALSE\t0\ta\tb;c", "the value of cookie 'a'"),
        ("example.com\tTRUE\t/\tFALSE\t0\t\t", "neither name nor value"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_set(tmp_path: Path, line: str, message: str) -> None:
    """A file that is not of the format is refused as a whole, with the line's number and what is wrong there."""
    file = tmp_path / "cookies.txt"
    file.write_text(f"# Netscape HTTP Cookie File\nexample.com\tTRUE\t/\tFALSE\t0\ta\tb\n{line}\n", "latin-1")
    jar = CookieJar()
    with pytest.raises(ValueError, match=f"cookies.txt, line 3: .*{message}"):
        jar.load(file)

    assert len(jar) == 0


def test_files_that_are_not_there(tmp_path: Path) -> None:
    """A file that cannot be read or written is the system's own error, which names it."""
    with pytest.raises(FileNotFoundError, match=r"none\.txt"):
        CookieJar().load(tmp_path / "none.txt")
    with pytest.raises(FileNotFoundError, match=r"none/cookies\.txt"):
        CookieJar().save(tmp_path / "none" / "cookies.txt")
