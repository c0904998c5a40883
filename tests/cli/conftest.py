"""Fixtures: a small site, and the command against it, in this process and in one of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sessionpool.cli import main
from tests.cli.small_site import Outcome, Process, Site


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.close()


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run `sessionpool ...` in this process."""

    def run(*words: object) -> Outcome:
        try:
            code = main([str(word) for word in words])
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        return Outcome(code, *capfd.readouterr())

    return run


@pytest.fixture
def process() -> Iterator[Callable[..., Process]]:
    """Start `sessionpool ...`; it is killed after the test if it still runs."""
    started: list[Process] = []

    def start(*words: object, **kwargs: Any) -> Process:
        started.append(Process(*words, **kwargs))
        return started[-1]

    yield start
    for each in started:
        each.stop()
