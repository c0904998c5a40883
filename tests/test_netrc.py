"""The netrc file: where it is looked for, what is read, and what a bad one does."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from sessionpool._netrc import find, read_netrc
from tests.helpers import in_thread

FILE = """# mine
machine example.com login ada password s3cret
machine Upper.Example.COM
    login "with space"
    password "quo\\"ted"
machine account.example account acme password s3cret
machine nobody.example
machine nameless.example password s3cret
machine wordless.example login ada
machine 127.0.0.1 login ada password of-an-address
machine ::1 login ada password of-v6
macdef init
    cd /tmp

machine after.example login ada password after-a-macro
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home."""
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    return tmp_path


def write(path: Path, text: str | bytes) -> None:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


@pytest.mark.parametrize(
    ("host", "pair"),
    [
        ("example.com", ("ada", "s3cret")),
        ("upper.example.com", ("with space", 'quo"ted')),
        ("account.example", ("acme", "s3cret")),  # as requests has it
        ("nobody.example", None),
        ("nameless.example", ("", "s3cret")),
        ("wordless.example", ("ada", "")),
        ("127.0.0.1", ("ada", "of-an-address")),
        ("::1", ("ada", "of-v6")),
        ("after.example", ("ada", "after-a-macro")),
        ("sub.example.com", None),
        ("example.co", None),
        ("example.com:8080", None),
        ("", None),
        ("default", None),
    ],
)
def test_user_and_password_of_a_host(host: str, pair: tuple[str, str] | None, home: Path) -> None:
    """By the whole name, whatever the case it is written in."""
    write(home / ".netrc", FILE)

    assert find(read_netrc(), host) == pair


@pytest.mark.parametrize(
    ("host", "pair"),
    [("example.com", ("ada", "s3cret")), ("nobody.example", None), ("else.example", ("any", "body"))],
)
def test_the_default_entry(host: str, pair: tuple[str, str] | None, home: Path) -> None:
    """For hosts that have none of their own, even an empty one."""
    write(home / ".netrc", FILE + "\ndefault login any password body\n")

    assert find(read_netrc(), host) == pair


def test_where_it_is_looked_for(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `NETRC` names, and nothing else if it names what is not there; else `~/.netrc`, else `~/_netrc`."""

    def found() -> tuple[str, str] | None:
        return find(read_netrc(), "h")

    assert found() is None
    write(home / "_netrc", "machine h login underscore")
    assert found() == ("underscore", "")
    write(home / ".netrc", "machine h login dot")
    assert found() == ("dot", "")
    write(home / "mine", "machine h login mine")
    monkeypatch.setenv("NETRC", "~/mine")
    assert found() == ("mine", "")
    for absent in ("~/other", ""):
        monkeypatch.setenv("NETRC", absent)
        assert found() is None


def test_a_changed_file_is_read_again(home: Path) -> None:
    """As one that is the same is not: a session that is made for one call does not read it."""
    write(home / ".netrc", "machine h login one")
    first = read_netrc()
    assert read_netrc() is first
    write(home / "new", "machine h login two")
    (home / "new").replace(home / ".netrc")

    assert find(read_netrc(), "h") == ("two", "")
    (home / ".netrc").unlink()
    assert read_netrc() == {}


MALFORMED: dict[str, str | bytes] = {
    "not a netrc": "s3cret",
    "a word too many": "machine h login ada password s3cret s3cret",
    "no name": "machine",
    "a macro without an end": "machine h login ada password s3cret\nmacdef init\n  s3cret",
    "no text": b"machine h login ada password \xff\xfes3cret\x81\n",
}


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_file(text: str | bytes, home: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Counts as empty and is warned of once, by name and line and without a word of what is in it."""
    write(home / ".netrc", text)
    for _ in range(3):
        entries = read_netrc()

    assert entries == {}
    [record] = caplog.records
    assert (record.name, record.levelno) == ("sessionpool.netrc", logging.WARNING)
    assert str(home / ".netrc") in record.getMessage()
    assert "s3cret" not in record.getMessage()


def test_a_file_that_cannot_be_read(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A directory, here: counts as empty, with a warning."""
    (home / ".netrc").mkdir()

    assert read_netrc() == read_netrc() == {}
    assert ["IsADirectoryError" in record.getMessage() or os.name == "nt" for record in caplog.records] == [True]


@pytest.mark.skipif(os.name == "nt", reason="there is no /dev/null")
def test_none_at_all(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """`NETRC=/dev/null` is how one says so."""
    monkeypatch.setenv("NETRC", os.devnull)

    assert read_netrc() == {}
    assert caplog.records == []


def test_a_handler_of_the_log_that_raises_harms_nobody(home: Path) -> None:
    """A session is made whatever a user's filters do."""

    def fail(_: logging.LogRecord) -> bool:
        raise ZeroDivisionError

    logger = logging.getLogger("sessionpool.netrc")
    write(home / ".netrc", "nonsense")
    logger.addFilter(fail)
    try:
        assert read_netrc() == {}
    finally:
        logger.removeFilter(fail)


@pytest.mark.usefixtures("switch_interval")
def test_threads_read_the_same(home: Path) -> None:
    """Any thread may make a session."""
    write(home / ".netrc", FILE)
    calls = [in_thread(lambda: find(read_netrc(), "example.com")) for _ in range(8)]

    assert [call.get() for call in calls] == [("ada", "s3cret")] * 8
