"""The small modules that requests' users import by name, side by side with requests' own."""

from __future__ import annotations

import http.cookiejar
import importlib
from collections.abc import Callable
from typing import Any

import pytest
import requests
import requests.utils

import sessionpool
from sessionpool import utils
from sessionpool._messages import CaseInsensitiveDict, Response
from sessionpool.cookies import CookieJar
from sessionpool.hooks import HOOKS, default_hooks

LINKS = '<https://x.org/?page=2>; rel="next", <https://x.org/?page=9>; rel=last; title=end'


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("structures", ["CaseInsensitiveDict"]),
        ("models", ["PreparedRequest", "Request", "Response"]),
        ("sessions", ["Session", "session"]),
        ("status_codes", ["codes"]),
        ("hooks", ["HOOKS", "default_hooks"]),
    ],
)
def test_names_are_where_requests_has_them(module: str, names: list[str]) -> None:
    """Each small module has what requests has under that name, and it is ours."""
    ours, theirs = importlib.import_module(f"sessionpool.{module}"), importlib.import_module(f"requests.{module}")

    assert sorted(ours.__all__) == sorted(names)
    for name in names:
        assert hasattr(theirs, name)
        assert getattr(ours, name) is getattr(sessionpool, name, getattr(ours, name))


def test_utils_has_only_what_requests_has() -> None:
    """Every public name of `utils` is one of `requests.utils`, and the list of them is in order."""
    assert utils.__all__ == sorted(utils.__all__)
    for name in utils.__all__:
        assert hasattr(requests.utils, name)
        assert callable(getattr(utils, name))


@pytest.mark.parametrize(
    "ask",
    [
        lambda u: u.get_encoding_from_headers({}),
        lambda u: u.get_encoding_from_headers({"content-type": "text/html"}),
        lambda u: u.get_encoding_from_headers({"content-type": "text/html; charset=utf-8"}),
        lambda u: u.get_encoding_from_headers({"content-type": "text/html; Charset='koi8-r'; x=y"}),
        lambda u: u.get_encoding_from_headers({"content-type": "application/json"}),
        lambda u: u.get_encoding_from_headers({"content-type": "image/png"}),
        lambda u: u.parse_header_links(LINKS),
        lambda u: u.parse_header_links("<http://a/>; rel=front; type='image/jpeg',<http://b/>; rel=back"),
        lambda u: u.parse_header_links("<http://a/>"),
        lambda u: u.parse_header_links(""),
        lambda u: u.requote_uri("http://x.org/fiz?buz=%25ppicture"),
        lambda u: u.requote_uri("http://x.org/a b/\u00e4?q=[1]#f"),
        lambda u: u.requote_uri("http://x.org/%7Eada/%2f%41"),
        lambda u: u.requote_uri("http://x.org/fiz?buz=%ppicture"),
        lambda u: u.quote("a b/c&d", safe=""),
        lambda u: u.unquote("a%20b"),
        lambda u: u.urlparse("http://x.org/a?b#c").netloc,
        lambda u: u.urlunparse(("http", "x.org", "/a", "", "b", "c")),
        lambda u: u.default_user_agent("crawler").partition("/")[0],
        lambda u: sorted(u.default_headers()),
        lambda u: u.dict_from_cookiejar(u.cookiejar_from_dict({"a": "1", "b": "2"})),
        lambda u: u.dict_from_cookiejar(http.cookiejar.LWPCookieJar()),
        lambda u: u.add_dict_to_cookiejar(u.cookiejar_from_dict({"a": "1"}), {"a": "2", "b": "3"}).get_dict(),
    ],
)
def test_functions_answer_as_those_of_requests(ask: Callable[[Any], object]) -> None:
    """The same call has the same answer."""
    assert ask(utils) == ask(requests.utils)


@pytest.mark.parametrize(
    "content",
    [
        "<html><head><meta charset=utf-8></head>",
        '<META CHARSET="koi8-r" />',
        '<?xml version="1.0" encoding="iso-8859-1"?><a/>',
        '<meta http-equiv="Content-Type" content="text/html; charset=latin-1">',
        "<meta name=x><meta charset='a'><meta charset='b'>",
        "<p>charset=utf-8</p>",
        "",
    ],
)
def test_a_page_says_its_charset(content: str) -> None:
    """What a page says of its charset is found as requests finds it."""
    with pytest.deprecated_call():
        expected = requests.utils.get_encodings_from_content(content)

    assert utils.get_encodings_from_content(content) == expected


@pytest.mark.parametrize(
    ("content_type", "body", "text"),
    [
        ("text/plain; charset=utf-8", "\u00e4".encode(), "\u00e4"),
        ("text/plain", b"\xe4", "\u00e4"),
        ("image/png", b"\xe4", "\ufffd"),
        ("text/plain; charset=utf-8", b"\xe4", "\ufffd"),
        ("text/plain; charset=klingon", b"abc", "abc"),
    ],
)
def test_a_body_as_text(content_type: str, body: bytes, text: str) -> None:
    """A body becomes text by the header's charset, whether it fits or not."""
    answer = Response()
    answer.headers = CaseInsensitiveDict({"Content-Type": content_type})
    answer._content = body

    assert utils.get_unicode_from_response(answer) == text


def test_a_stray_percent_is_escaped_and_only_that() -> None:
    """A percent sign that escapes nothing does not have the others escaped twice, as it has in requests."""
    assert utils.requote_uri("http://x.org/%zz%20%") == "http://x.org/%25zz%20%25"


def test_a_page_without_end_is_searched_in_a_line() -> None:
    """A hundred thousand tags that never end take no longer than as many that do."""
    assert utils.get_encodings_from_content("<meta " * 100_000 + "<?xml " * 100_000) == []


def test_a_jar_is_added_to_in_place() -> None:
    """`add_dict_to_cookiejar` returns the jar it was given."""
    jar = CookieJar()

    assert utils.add_dict_to_cookiejar(jar, {"a": "b"}) is jar


def test_there_is_one_event() -> None:
    """`default_hooks` has a list for each event, a new one each time."""
    assert default_hooks() == {"response": []} == requests.hooks.default_hooks()
    assert default_hooks()["response"] is not default_hooks()["response"]
    assert list(HOOKS) == requests.hooks.HOOKS
