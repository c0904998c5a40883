"""`sessionpool.cli._urls`: URLs that mean the same become the same."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sessionpool.cli._urls import is_same_house, resolve, site

BASE = "http://a/b/c/d;p?q"


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("HTTP://www.EXAMPLE.com/", "http://www.example.com/"),  # §6.2.2.1 case
        ("http://example.com/a%c2%b1b", "http://example.com/a%C2%B1b"),
        ("http://example.com/%7Esmith/home.html", "http://example.com/~smith/home.html"),  # §6.2.2.2
        ("http://example.com/%7esmith/%2Ehidden", "http://example.com/~smith/.hidden"),
        ("http://example.com/a%2Fb", "http://example.com/a%2Fb"),
        ("http://example.com/a/./b/../c", "http://example.com/a/c"),  # §6.2.2.3 dot segments
        ("http://example.com/a/%2e%2e/c", "http://example.com/c"),
        ("http://example.com/../../x", "http://example.com/x"),
        ("http://example.com/a/..", "http://example.com/"),
        ("http://example.com/a/b/.", "http://example.com/a/b/"),
        ("http://example.com/a//b", "http://example.com/a//b"),
        ("http://example.com", "http://example.com/"),  # §6.2.3
        ("http://example.com:80/", "http://example.com/"),
        ("http://example.com:/", "http://example.com/"),
        ("https://example.com:443/", "https://example.com/"),
        ("https://example.com:80/", "https://example.com:80/"),
        ("http://example.com:08080/", "http://example.com:8080/"),
        ("http://example.com?q=1", "http://example.com/?q=1"),
        ("http://example.com/?", "http://example.com/?"),
        ("http://example.com/a?x=%7e&y=%2f", "http://example.com/a?x=~&y=%2F"),
        ("http://example.com/a#b", "http://example.com/a"),
        ("http://example.com/a#b?c#d", "http://example.com/a"),
        ("http://example.com/a b", "http://example.com/a%20b"),
        ("http://example.com/ä?ö", "http://example.com/%C3%A4?%C3%B6"),
        ("http://example.com/100%", "http://example.com/100%25"),
        ("http://example.com/%zz", "http://example.com/%25zz"),
        (" \thttp://example.com/a\n/b ", "http://example.com/a/b"),
        ("http://Bücher.example/", "http://xn--bcher-kva.example/"),
        ("http://ex%41mple.com/", "http://example.com/"),
        ("http://[2001:DB8:0::1]:80/", "http://[2001:db8::1]/"),
        ("http://[::1]:8080/", "http://[::1]:8080/"),
        ("http://ada:pw@example.com:80/", "http://ada:pw@example.com/"),
    ],
)
def test_equal_urls_get_one_form(url: str, normal: str) -> None:
    """Case, default ports, dot segments and needless percent-encoding never make a second URL of one."""
    assert resolve(url) == normal


@pytest.mark.parametrize(
    ("reference", "target"),
    [
        ("g:h", None),
        ("g", "http://a/b/c/g"),
        ("./g", "http://a/b/c/g"),
        ("g/", "http://a/b/c/g/"),
        ("/g", "http://a/g"),
        ("//g", "http://g/"),
        ("?y", "http://a/b/c/d;p?y"),
        ("g?y", "http://a/b/c/g?y"),
        ("#s", "http://a/b/c/d;p?q"),
        ("g#s", "http://a/b/c/g"),
        ("g?y#s", "http://a/b/c/g?y"),
        (";x", "http://a/b/c/;x"),
        ("g;x", "http://a/b/c/g;x"),
        ("g;x?y#s", "http://a/b/c/g;x?y"),
        ("", "http://a/b/c/d;p?q"),
        (".", "http://a/b/c/"),
        ("./", "http://a/b/c/"),
        ("..", "http://a/b/"),
        ("../", "http://a/b/"),
        ("../g", "http://a/b/g"),
        ("../..", "http://a/"),
        ("../../", "http://a/"),
        ("../../g", "http://a/g"),
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
        ("g#s/../x", "http://a/b/c/g"),
        ("http:g", "http://a/b/c/g"),
        ("HTTP:g", "http://a/b/c/g"),
        ("https:g", None),
        ("mailto:ada@example.com", None),
        ("javascript:void(0)", None),
        ("g/a:b", "http://a/b/c/g/a:b"),
    ],
)
def test_references_resolve_as_in_the_standard(reference: str, target: str | None) -> None:
    """The examples of RFC 3986 §5.4, without fragments; what is not http or https has no target."""
    if target is None:
        with pytest.raises(ValueError, match=r"scheme|host"):
            resolve(reference, base=BASE)
    else:
        assert resolve(reference, base=BASE) == target


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://example.com/", "unknown scheme 'ftp'"),
        ("example.com/page", "has no scheme"),
        ("", "has no scheme"),
        ("http://", "names no host"),
        ("http:///path", "names no host"),
        ("http:page", "names no host"),
        ("http://example.com:http/", "the port 'http'"),
        ("http://example.com:65536/", "the port '65536'"),
        ("http://[::g]/", "not an IPv6 address"),
        ("http://[::1/", "not an IPv6 address"),
        ("http://exa mple.com/", "no domain name"),
        ("http://exa<mple.com/", "no domain name"),
        ("http://a..b/", "no domain name"),
    ],
)
def test_what_cannot_be_fetched_is_named(url: str, words: str) -> None:
    """A URL that is not one is refused with a sentence that names what is wrong."""
    with pytest.raises(ValueError, match=words):
        resolve(url)


def test_a_message_keeps_the_password() -> None:
    """The password in a malformed URL does not reach the message."""
    with pytest.raises(ValueError, match="port") as caught:
        resolve("http://ada:s3cret@example.com:x/")

    assert "s3cret" not in str(caught.value)


_PIECES = st.lists(
    st.sampled_from([*'/.%?#:@;=&a~é \\[]"', "..", "%2e", "%2F", "%7e", "%c3%a9", "%", "\ud800", "\x00"]),
    max_size=12,
).map("".join)


@given(_PIECES)
@example("/%25%32%65%32e")
@example("/%%32e")
def test_a_normal_url_stays_as_it_is(rest: str) -> None:
    """Normalising twice is normalising once, and what comes out is ASCII without a fragment."""
    normal = resolve("http://example.com/" + rest)

    assert resolve(normal) == normal
    assert resolve(normal, base=BASE) == normal
    assert normal.isascii()
    assert "#" not in normal
    assert " " not in normal


@given(st.text())
def test_any_text_is_a_url_or_a_sentence(text: str) -> None:
    """No text whatever raises anything but a ValueError."""
    with contextlib.suppress(ValueError):
        normal = resolve(text, base=BASE)
        assert resolve(normal) == normal


def test_a_site_is_scheme_host_and_port() -> None:
    """The site of a URL is the prefix that all URLs of its origin have, and no other host's."""
    assert site("https://example.com:8443/a/b?c=http://x/") == "https://example.com:8443/"
    assert not "http://example.com.evil.test/".startswith(site("http://example.com/"))


@pytest.mark.parametrize(
    ("target", "answer"),
    [
        ("https://example.com/", True),
        ("https://www.example.com/home", True),
        ("http://www.example.com/", True),
        ("https://example.org/", False),
        ("https://login.example.com/", False),
        ("http://example.com:8080/", False),
    ],
)
def test_the_start_may_lead_to_its_own_house(target: str, answer: bool) -> None:
    """http to https and to or from `www.` is the site that was meant; any other host or port is not."""
    assert is_same_house("http://example.com/", target) is answer


def test_the_start_never_leads_from_https_to_http() -> None:
    """A redirect that gives up TLS does not take the crawl along."""
    assert not is_same_house("https://example.com/", "http://example.com/")
    assert not is_same_house("http://example.com:8000/", "https://example.com:8000/")
