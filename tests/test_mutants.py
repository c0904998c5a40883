"""The mutants are about the code as it is; whether they are noticed is told by `python -m tests.mutants`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.mutants import MUTANTS, ROOT, Mutant, apply


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.promise)
def test_a_mutant_applies(mutant: Mutant, tmp_path: Path) -> None:
    """What it changes stands in the code once, and what comes of it is still Python."""
    shutil.copytree(ROOT / "sessionpool", tmp_path / "sessionpool", ignore=shutil.ignore_patterns("__pycache__"))
    apply(mutant, tmp_path)

    compile((tmp_path / "sessionpool" / mutant.file).read_text("utf-8"), mutant.file, "exec")


def test_the_table_names_every_mutant() -> None:
    """docs/testing.md tells of each which test noticed it."""
    table = (ROOT / "docs" / "testing.md").read_text("utf-8")

    assert [mutant.promise for mutant in MUTANTS if f"| {mutant.promise} |" not in table] == []
