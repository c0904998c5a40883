"""The dashboard: what is committed is what the code builds, and every panel can be understood and has its place."""

from __future__ import annotations

import json
import re
from itertools import combinations
from typing import Any

import pytest

from grafana import dashboard
from grafana.dashboard import Panel
from loadtests import provoke
from sessionpool.metrics import FAMILIES

PANELS = {f"{row} / {panel.title}": panel for row, panels in dashboard.ROWS.items() for panel in panels}
BUILT: list[dict[str, Any]] = dashboard.build()["panels"]


def families(text: str) -> set[str]:
    """The metrics that an expression names, without a histogram's parts."""
    names = re.findall(r"(?<![\w:])sessionpool_(\w+)", text)
    return {name if name in FAMILIES else re.sub("_(bucket|sum|count)$", "", name) for name in names}


def test_the_committed_file_is_what_the_code_builds() -> None:
    """`python -m grafana.dashboard` would change nothing."""
    assert dashboard.FILE.read_text("utf-8") == dashboard.text()


def test_rows_are_those_that_were_asked_for() -> None:
    """Nine rows, from the whole to the single process."""
    assert list(dashboard.ROWS) == [panel["title"] for panel in BUILT if panel["type"] == "row"]
    assert list(dashboard.ROWS) == [
        "Overview",
        "Leases",
        "Connections and reuse",
        "Latency by phase",
        "Retries, budget, back-off",
        "Throttling and circuits",
        "Session health",
        "Hosts",
        "Process",
    ]


@pytest.mark.parametrize("panel", PANELS.values(), ids=PANELS)
def test_a_panel_says_what_it_shows_and_what_to_do(panel: Panel) -> None:
    """A short title, a unit, a name for each line, and help that goes beyond one statement."""
    assert 0 < len(panel.title.split()) <= 5
    assert panel.unit
    assert all(query.legend for query in panel.queries)
    assert re.search(r"[.:;?] ", panel.help), panel.help


@pytest.mark.parametrize("panel", PANELS.values(), ids=PANELS)
def test_a_panel_follows_the_variables(panel: Panel) -> None:
    """Each query is held to the pools that are selected, and asks for nothing but variables that there are."""
    for query in panel.queries:
        assert 'pool=~"$pool"' in query.expr
        assert set(re.findall(r"\$([a-z_]\w*)", query.expr)) <= {"pool", "host", "__rate_interval"}


def test_every_metric_is_shown_and_exists() -> None:
    """Panels and rules name no metric that is not exported, and no metric is left out of the panels."""
    shown = families(" ".join(query.expr for panel in PANELS.values() for query in panel.queries))

    assert shown == set(FAMILIES)
    assert families(provoke.RULES.read_text("utf-8")) <= set(FAMILIES)


def test_panels_have_their_own_place() -> None:
    """No two overlap, none sticks out, and each has a number of its own."""
    for one, other in combinations(BUILT, 2):
        a, b = one["gridPos"], other["gridPos"]
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        assert beside or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"], (one["title"], other["title"])
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= dashboard.COLUMNS for panel in BUILT)
    assert len({panel["id"] for panel in BUILT}) == len(BUILT)


def test_the_file_is_for_any_grafana() -> None:
    """No panel or variable names a data source of its own: all take the one that is selected."""
    text = json.dumps(dashboard.build())

    assert set(re.findall(r'"uid": "([^"]*)"', text)) == {"${datasource}", "sessionpool"}
    assert [each["name"] for each in dashboard.build()["templating"]["list"]] == ["datasource", "pool", "host"]
