"""The status page as text: numbers for people, and every value escaped."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest

from sessionpool.ops import _page
from sessionpool.ops._page import POLICY, Html, age, count, h, page, rate, spark, time
from sessionpool.ops._recorder import Recorder
from sessionpool.ops._snapshot import snapshot
from sessionpool.testing import FakeClock

HOSTILE = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "' onmouseover='alert(1)", "&lt;b&gt;"]


class Tags(HTMLParser):
    """Collects elements and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def parse(markup: str) -> Tags:
    tags = Tags()
    tags.feed(markup)
    tags.close()
    return tags


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "–"),  # noqa: RUF001 - a dash
        (0.00002, "0.0 ms"),
        (0.00125, "1.3 ms"),
        (0.0099, "9.9 ms"),
        (0.00996, "10 ms"),
        (0.25, "250 ms"),
        (0.9996, "1.00 s"),
        (1.234, "1.23 s"),
        (12.34, "12.3 s"),
        (75.0, "1 min 15 s"),
    ],
)
def test_durations(seconds: float | None, shown: str) -> None:
    """Three figures, in the unit that suits."""
    assert time(seconds).replace("\u00a0", " ") == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 s"),
        (59.9, "59 s"),
        (60, "1 min 0 s"),
        (3599, "59 min 59 s"),
        (3725, "1 h 2 min"),
        (1e7, "2 777 h 46 min"),
    ],
)
def test_ages(seconds: float, shown: str) -> None:
    """The two units that matter."""
    assert age(seconds).replace("\u00a0", " ").replace("\u202f", " ") == shown


@pytest.mark.parametrize(
    ("number", "counted", "rated"),
    [(0, "0", "0"), (0.25, "0", "0.3"), (9.9, "10", "9.9"), (9.96, "10", "10"), (1234567.8, "1 234 568", "1 234 568")],
)
def test_counts_and_rates(number: float, counted: str, rated: str) -> None:
    """Thousands are set apart; a small rate has a decimal."""
    assert count(number).replace("\u202f", " ") == counted
    assert rate(number).replace("\u202f", " ") == rated


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ([], ""),
        ([0, 0], "M2 9.0L3 9.0"),
        ([1, 2], "M2 5.5L3 2.0"),
        ([1, None, 1], "M1 2.0M3 2.0"),
        ([None, None], ""),
    ],
)
def test_a_curve_ends_at_the_right_and_has_gaps(values: list[float | None], line: str) -> None:
    """The latest value is at the right edge; where there was nothing there is nothing."""
    assert f'class="curve" d="{line}"' in spark(values, 4, 10, "what")


@pytest.mark.parametrize("hostile", HOSTILE)
def test_text_and_attributes_are_escaped(hostile: str) -> None:
    """Whatever a value says, it makes no element and no attribute, and is read as what it is."""
    tags = parse(h("p", {"title": hostile}, hostile))

    assert tags.tags == ["p"]
    assert tags.attributes == [("title", hostile)]
    assert tags.text == hostile


def test_only_markup_is_markup() -> None:
    """Elements nest; a text that looks like one does not."""
    assert h("p", {}, h("b", {}, "x"), "<b>") == "<p><b>x</b>&lt;b&gt;</p>"
    assert isinstance(h("p", {}), Html)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_hostile_page_has_the_elements_of_a_harmless_one(hostile: str) -> None:
    """Hosts, identities, places and the pool's own name change no element of the page."""

    def tags(name: str) -> Tags:
        recorder = Recorder(FakeClock())
        recorder.responded("GET", f"http://{name}", 200, 0.1, 1, 1)
        recorder.leaked(name, 1.0, f'  File "{name}", line 1, in {name}\n')
        recorder.tick(None)
        return parse(page(snapshot(name, "open", recorder, 0.0, None)))

    assert tags(hostile).tags == tags("harmless").tags
    assert {name for name, _ in tags(hostile).attributes} == {name for name, _ in tags("harmless").attributes}


def test_the_policy_allows_the_pages_own_style_and_script_and_no_other() -> None:
    """Their hashes are those of what is sent; nothing is inline that would need more."""
    markup = page(snapshot("crawl", "open", Recorder(FakeClock()), 0.0, None))
    tags = parse(markup)
    for element, directive in (("style", "style-src"), ("script", "script-src")):
        (content,) = re.findall(rf"<{element}>(.*?)</{element}>", markup, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in POLICY

    assert "unsafe" not in POLICY
    assert "default-src 'none'" in POLICY
    assert not [name for name, _ in tags.attributes if name == "style" or name.startswith("on")]
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", markup)


def test_the_script_uses_no_markup() -> None:
    """No sink that would make elements of text."""
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval|Function\(", _page._JS)
