"""Under a real Prometheus, with everything going wrong that can: every panel has data, and every alert is right."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from loadtests import provoke
from loadtests.provoke import HEALTHY, SCENARIOS, Findings

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(provoke.find_prometheus() is None, reason="needs prometheus, of Debian's package of that name"),
]


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    """What one short run has shown."""
    report = tmp_path_factory.mktemp("provoke") / "findings.json"
    command = [sys.executable, "-m", "loadtests.provoke", "--calm", "14", "--trouble", "24", "--after", "3"]
    ended = subprocess.run(
        [*command, "--json", str(report)], cwd=ROOT, capture_output=True, text=True, timeout=110, check=False
    )
    assert ended.returncode in (0, 1), ended.stderr
    return Findings(**json.loads(report.read_text("utf-8")))


@pytest.mark.parametrize("name", provoke.expressions())
def test_a_panel_has_data(findings: Findings, name: str) -> None:
    """What a line of a panel asks for is there, not only as the 0 that stands for nothing."""
    assert findings.panels[name] > 0


def test_recording_rules_have_data(findings: Findings) -> None:
    """All that rules record is there."""
    assert findings.recorded
    assert all(findings.recorded.values()), findings.recorded


@pytest.mark.parametrize(
    ("scenario", "alert"), [(name, alert) for name, scenario in SCENARIOS.items() for alert in scenario.alerts]
)
def test_an_alert_fires_in_its_scenario(findings: Findings, scenario: str, alert: str) -> None:
    """The trouble that an alert is for sets it off, for the pool that has it."""
    assert scenario in findings.fired[alert]


def test_no_alert_fires_where_all_is_well(findings: Findings) -> None:
    """Not in the healthy pool, and in none before there is trouble."""
    assert not findings.early
    assert not [alert for alert, pools in findings.fired.items() if HEALTHY in pools]


def test_every_alert_has_a_scenario(findings: Findings) -> None:
    """No alert is left that nothing here provokes."""
    assert set(findings.fired) == {alert for scenario in SCENARIOS.values() for alert in scenario.alerts}


def test_a_minute_is_a_second_in_shortened_rules() -> None:
    """Windows and patience shrink, thresholds and names stay."""
    rule = "expr: pool:x:rate5m{} > 1 and sum(rate(y[5m]))\nfor: 2m\n"

    assert provoke.shortened(rule) == "expr: pool:x:rate5m{} > 1 and sum(rate(y[5s]))\nfor: 2s\n"
