"""The audit around every scenario."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from tests.scenarios.audit import Scenario


@pytest.fixture(autouse=True)
def scenario() -> Iterator[Scenario]:
    """Makes the pools of a scenario, and fails it if it leaves anything behind: in all of them it is the same audit."""
    gc.freeze()  # to collect what the scenario leaves behind takes no time if what was there before is not looked at
    try:
        scenario = Scenario()
        yield scenario
        assert scenario.pools, "a scenario without a pool is not audited: make it with scenario.pool()"
        scenario.check()
    finally:
        gc.unfreeze()
