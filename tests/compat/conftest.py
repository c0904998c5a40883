"""The stage, once for all rows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tests.compat.stage import Stage


@pytest.fixture(scope="package")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with contextlib.ExitStack() as exits:
        yield Stage(tmp_path_factory.mktemp("stage"), exits)
