"""What is deployed beside the dashboard: Prometheus takes it, each alert is tested, and it fits together."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from grafana import dashboard

ROOT = Path(__file__).resolve().parents[2]
GRAFANA = ROOT / "grafana"
PROMETHEUS = GRAFANA / "prometheus"


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


RULES = [rule for group in read(PROMETHEUS / "rules.yml")["groups"] for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool, of Debian's package prometheus")
@pytest.mark.parametrize(
    "arguments",
    [("check", "config", "prometheus.yml"), ("check", "rules", "rules.yml"), ("test", "rules", "tests.yml")],
)
def test_promtool_finds_nothing(arguments: tuple[str, ...]) -> None:
    """The configuration and the rules are valid, and the alerts fire and stay silent as their tests say."""
    said = subprocess.run(
        ["promtool", *arguments], cwd=PROMETHEUS, capture_output=True, text=True, timeout=60, check=False
    )

    assert said.returncode == 0, said.stdout + said.stderr
    assert "SUCCESS" in said.stdout


@pytest.mark.parametrize("rule", ALERTS.values(), ids=ALERTS)
def test_an_alert_says_what_to_do(rule: dict[str, Any]) -> None:
    """It has a severity, a summary that names the pool, and a place in the runbook that exists."""
    runbook, _, anchor = rule["annotations"]["runbook"].rpartition(": ")[2].partition("#")
    headings = re.findall(r"^## (\w+)$", (ROOT / runbook).read_text("utf-8"), re.MULTILINE)

    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert "$labels.pool" in rule["annotations"]["summary"]
    assert anchor in {heading.lower() for heading in headings}


def test_the_runbook_is_of_these_alerts() -> None:
    """One section for each alert and for nothing else."""
    headings = re.findall(r"^## (\w+)$", (ROOT / "docs" / "runbook.md").read_text("utf-8"), re.MULTILINE)

    assert headings == list(ALERTS)


def test_each_alert_has_a_test() -> None:
    """In which it fires for one pool, and not for another."""
    tests = read(PROMETHEUS / "tests.yml")["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"]]

    for alert in ALERTS:
        mine = [case["exp_alerts"] for case in cases if case["alertname"] == alert]
        assert any(mine)
        assert not all(mine)


def test_one_command_starts_it() -> None:
    """Images have a tag, what is mounted exists, and what is named in one file is where another puts it."""
    services = read(GRAFANA / "compose.yml")["services"]
    mounts = {
        target: GRAFANA / source
        for service in services.values()
        for source, target, *_ in (mount.split(":") for mount in service["volumes"])
        if source.startswith(".")
    }

    assert all(re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", service["image"]) for service in services.values())
    assert all(folder.is_dir() for folder in mounts.values())
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert mounts[str(Path(home).parent)] / Path(home).name == dashboard.FILE
    provider = read(GRAFANA / "provisioning" / "dashboards" / "sessionpool.yml")["providers"][0]
    assert provider["options"]["path"] in mounts
    (source,) = read(GRAFANA / "provisioning" / "datasources" / "prometheus.yml")["datasources"]
    assert f"--web.listen-address={source['url'].removeprefix('http://')}" in services["prometheus"]["command"]
    scrape = read(PROMETHEUS / "prometheus.yml")["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scrape
