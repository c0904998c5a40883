"""The table: the same calls with requests and with sessionpool; docs/requests.md names every difference."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
import requests

import sessionpool
from tests.compat import rows
from tests.compat.sides import Row, differences, error, play, table
from tests.compat.stage import Stage

_DOCUMENT = Path(__file__).parents[2] / "docs" / "requests.md"
_ENTRY = re.compile(r"^#### `([a-z0-9-]+)`", re.MULTILINE)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of requests, which leaves sockets to the collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("row", [pytest.param(row, id=row.id) for row in rows.ALL])
def test_a_call_is_the_same_as_with_requests(row: Row, stage: Stage) -> None:
    """The server sees and the caller gets the same from both, unless the row says why not; then they do differ."""
    theirs = play(requests, row, stage)
    ours = play(sessionpool, row, stage)

    found = differences(theirs, ours)
    if row.differs:
        assert found, f"no difference; is {row.differs} still true?\n{table(theirs, ours)}"
        assert error(ours) == row.raises, table(theirs, ours)
    elsewhere = [name for name in found if not row.differs or not name.startswith(row.where)]
    assert not elsewhere, f"{', '.join(elsewhere)}\n{table(theirs, ours)}"


def test_every_difference_is_told_and_shown() -> None:
    """Each entry of the document is shown by a row, and each row's entry is in the document, once."""
    told = _ENTRY.findall(_DOCUMENT.read_text(encoding="utf-8"))

    assert {row.differs for row in rows.ALL if row.differs} == set(told)
    assert len(told) == len(set(told))


def test_the_table_is_whole() -> None:
    """No row's name is given twice, and nobody takes rows away unseen."""
    twice = [name for name, count in Counter(row.id for row in rows.ALL).items() if count > 1]

    assert not twice
    assert len(rows.ALL) >= 400
