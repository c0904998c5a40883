"""`sessionpool.cli._output`: whole lines, and a file to go on from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessionpool.cli._output import Page, PageFile, Unusable

GOOD = Page(url="http://h/", status=200, size=5, seconds=0.25, attempts=1, depth=0, found=["http://h/a", "http://h/b"])
MISSING = Page(url="http://h/a", status=404, size=3, seconds=0.1, referrer="http://h/", depth=1, found=[])
BROKEN = Page(url="http://h/b", referrer="http://h/", depth=1, error="refused", found=[])


def write(path: Path, *pages: Page, **kwargs: Any) -> None:
    out = PageFile(str(path), **kwargs)
    for page in pages:
        out.write(page)
    out.close()


def resumed(path: Path) -> list[Page]:
    """What a run that goes on from the file is told."""
    taken: list[Page] = []
    PageFile(str(path), resume=True, take=taken.append).close()
    return taken


def test_a_line_says_what_became_of_a_page(tmp_path: Path) -> None:
    """One JSON object a line, with every field that is promised."""
    write(tmp_path / "out", GOOD, MISSING)

    first, second = map(json.loads, (tmp_path / "out").read_text().splitlines())
    assert first == {
        "url": "http://h/",
        "status": 200,
        "bytes": 5,
        "seconds": 0.25,
        "attempts": 1,
        "referrer": None,
        "error": None,
        "location": None,
        "depth": 0,
        "found": ["http://h/a", "http://h/b"],
    }
    assert second["referrer"] == "http://h/"


@given(
    st.builds(
        Page,
        url=st.text(),
        status=st.none() | st.integers(100, 599),
        size=st.integers(0),
        attempts=st.integers(0),
        referrer=st.none() | st.text(),
        error=st.none() | st.text(),
        location=st.none() | st.text(),
    )
)
def test_a_line_is_read_as_it_was_written(page: Page) -> None:
    """Any text survives the way into the file and back, and never makes a second line."""
    line = page.line()

    assert line.count(b"\n") == 1
    assert Page.from_line(line) == page


def test_failed_pages_are_dropped_and_the_others_kept(tmp_path: Path) -> None:
    """To go on tells of each page that was answered, a 404 too, and rids the file of the failed ones."""
    path = tmp_path / "out"
    write(path, GOOD, BROKEN, MISSING)

    assert resumed(path) == [GOOD, MISSING]
    assert path.read_bytes() == GOOD.line() + MISSING.line()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("left", [1, 7, 8, 50, len(MISSING.line()) - 1])
def test_a_torn_last_line_is_cut_off(tmp_path: Path, left: int) -> None:
    """However little of the last line a kill has left, it goes, and the next line begins where it began."""
    path = tmp_path / "out"
    path.write_bytes(GOOD.line() + MISSING.line()[:left])

    assert resumed(path) == [GOOD]
    write(path, MISSING, resume=True)
    assert path.read_bytes() == GOOD.line() + MISSING.line()


def test_a_torn_line_goes_together_with_failed_ones(tmp_path: Path) -> None:
    """A file that has both a failed page and a torn line keeps just the pages that are done."""
    path = tmp_path / "out"
    path.write_bytes(BROKEN.line() + GOOD.line() + MISSING.line()[:20])

    assert resumed(path) == [GOOD]
    assert path.read_bytes() == GOOD.line()


@pytest.mark.parametrize(
    "text",
    [
        "dear diary\n",
        "dear diary",
        '{"url": 3, "status": 1}\n',
        '{"url": "http://h/", "status": "ok"}\n',
        '{"url": "http://h/"}\n',
        "[1]\n",
        "\x00\x00",
        "\n",
    ],
)
def test_a_file_of_another_kind_is_not_touched(tmp_path: Path, text: str) -> None:
    """A file that this command has not written is refused, with the line's number, and stays as it is."""
    path = tmp_path / "out"
    path.write_bytes(GOOD.line() + text.encode())

    with pytest.raises(Unusable, match="its line 2 was not written"):
        PageFile(str(path), resume=True)
    assert path.read_bytes() == GOOD.line() + text.encode()


def test_a_link_to_the_file_stays_a_link(tmp_path: Path) -> None:
    """Going on through a symbolic link changes the file that it names, and keeps its permissions."""
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_bytes(GOOD.line() + BROKEN.line())
    real.chmod(0o640)
    link.symlink_to(real)

    assert resumed(link) == [GOOD]
    assert link.is_symlink()
    assert real.read_bytes() == GOOD.line()
    assert real.stat().st_mode & 0o777 == 0o640


def test_going_on_from_nothing_is_beginning(tmp_path: Path) -> None:
    """With --resume the same command works the first time too."""
    write(tmp_path / "out", GOOD, resume=True)

    assert (tmp_path / "out").read_bytes() == GOOD.line()


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    """Only --resume and --force touch a file that has something in it."""
    path = tmp_path / "out"
    write(path, GOOD)

    with pytest.raises(Unusable, match="exists already; go on from it with --resume, or replace it with --force"):
        PageFile(str(path))
    assert path.read_bytes() == GOOD.line()
    write(path, MISSING, force=True)
    assert path.read_bytes() == MISSING.line()


def test_an_empty_file_may_be_written_to(tmp_path: Path) -> None:
    """A file with nothing in it has nothing to lose."""
    (tmp_path / "out").touch()
    write(tmp_path / "out", GOOD)

    assert (tmp_path / "out").read_bytes() == GOOD.line()


def test_standard_output_cannot_be_gone_on_from() -> None:
    """--resume without a file is refused."""
    with pytest.raises(Unusable, match="--out FILE"):
        PageFile("-", resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_an_unwritable_file_is_found_out_at_once(tmp_path: Path, resume: bool) -> None:
    """A directory in the place of the file, or one that is not there, is a sentence before the start."""
    for name in (tmp_path, tmp_path / "no" / "out"):
        with pytest.raises(Unusable, match=r"cannot write .*: (Is a directory|No such file or directory)"):
            PageFile(str(name), resume=resume)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a device of Linux that is always full")
def test_a_full_disk_is_a_sentence() -> None:
    """What can no longer be written is said, with the reason."""
    out = PageFile("/dev/full")

    with pytest.raises(Unusable, match="cannot write /dev/full: No space left on device"):
        out.write(GOOD)
    out.close()
