"""`sessionpool.cli._links`: what a page links to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessionpool.cli._links import is_page, links

HERE = "http://example.com/dir/page.html"


def found(html: str) -> list[str]:
    return [url.removeprefix("http://example.com/") for url in links(html.encode(), HERE)]


def test_all_that_leads_on_is_found_once_in_order() -> None:
    """Anchors, areas, frames and next/prev links are found; stylesheets, images and repetitions are not."""
    html = """
        <head><link rel=stylesheet href=style.css><link rel="Next" href=next.html>
              <link rel="prev nofollow" href=prev.html><link rel=canonical href=canonical.html></head>
        <a href="a.html">1</a> <a href=" ./a.html#part ">2</a> <a name=x>3</a> <a href>4</a>
        <map><area href="/area.html"></map> <img src=i.png> <iframe src="../frame.html"></iframe>
        <a href="mailto:ada@example.com">5</a> <a href="javascript:go()">6</a> <a href="http://[">7</a>
        <a rel=nofollow href="nofollow.html">8</a> <a href="https://example.org/">9</a>"""

    assert found(html) == [
        "dir/next.html",
        "dir/prev.html",
        "dir/a.html",
        "dir/page.html",
        "area.html",
        "frame.html",
        "dir/nofollow.html",
        "https://example.org/",
    ]


def test_frames_of_a_frameset_are_links() -> None:
    """A page of frames leads to its frames."""
    assert found("<frameset><frame src=left.html><frame src=right.html></frameset>") == [
        "dir/left.html",
        "dir/right.html",
    ]


def test_base_holds_for_all_links() -> None:
    """The first `<base href>` is what the page's references start from, itself resolved against the page."""
    assert found("<base target=x><base href=' /other/ '><base href=/third/><a href=a>1</a>") == ["other/a"]
    assert found("<base href='data:x'><a href=a>1</a>") == ["dir/a"]


def test_a_page_may_ask_crawlers_not_to_follow() -> None:
    """`<meta name=robots content=nofollow>`, and `none`, are obeyed."""
    assert found("<meta name=Robots content='noindex, NoFollow'><a href=a>1</a>") == []
    assert found("<meta name=robots content=none><a href=a>1</a>") == []
    assert found("<meta name=robots content=noindex><a href=a>1</a>") == ["dir/a"]


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        ("<a href='é'>".encode(), "text/html"),
        (b"\xef\xbb\xbf" + "<a href='é'>".encode(), "text/html; charset=latin-1"),
        ("<a href='é'>".encode("latin-1"), 'text/html; charset="ISO-8859-1"'),
        ("<meta charset=latin-1><a href='é'>".encode("latin-1"), "text/html"),
        (
            "<meta http-equiv=content-type content='text/html; charset=latin-1'><a href='é'>".encode("latin-1"),
            None,
        ),
        ("<a href='é'>".encode(), "text/html; charset=klingon"),
    ],
)
def test_charset_decides_what_a_link_says(body: bytes, content_type: str | None) -> None:
    """A link outside ASCII is read in the page's charset and sent as UTF-8."""
    assert links(body, HERE, content_type) == ["http://example.com/dir/%C3%A9"]


@given(st.binary() | st.text().map(str.encode))
def test_no_page_is_too_broken(body: bytes) -> None:
    """Whatever bytes come, links are found or not, and nothing is raised."""
    assert isinstance(links(body + b"<a href=x>", HERE), list)


@pytest.mark.parametrize(
    ("content_type", "answer"),
    [
        ("text/html", True),
        ("Text/HTML; charset=utf-8", True),
        ("application/xhtml+xml", True),
        ("application/xml", False),
        ("text/plain", False),
        ("", False),
        (None, False),
    ],
)
def test_only_html_and_xhtml_are_pages(content_type: str | None, answer: bool) -> None:
    """Nothing but HTML and XHTML is parsed."""
    assert is_page(content_type) is answer
