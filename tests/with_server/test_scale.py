"""How cost grows: a tiny run of the command, and what it makes of figures and of wrong answers."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from loadtests import scale
from loadtests.servers import Nginx, find_nginx

ROOT = Path(__file__).resolve().parents[2]
TIMED = [part for part in scale.PARTS if part not in ("memory", "micro")]
BODY = b"127.1.0.0:80 7;" + scale.FILLING.encode("ascii")


def needs_nginx(test: Any) -> Any:
    """Mark a test that runs a real nginx, and skip it where there is none."""
    missing = pytest.mark.skipif(find_nginx() is None, reason="nginx is not installed: apt-get install nginx-light")
    return pytest.mark.needs_nginx(missing(test))


@needs_nginx
@pytest.mark.slow
def test_a_tiny_run_measures_every_part_and_saves_it(tmp_path: Path) -> None:
    """Every part has a row for every size, in the table, the page and the JSON, and there is a picture."""
    command = [sys.executable, "-m", "loadtests.scale", "--threads", "2,8", "--hosts", "1,10", "--identities", "100"]
    command += ["--rounds", "1", "--requests", "80", "--out", str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)

    assert ended.returncode == 0, ended.stdout + ended.stderr
    saved = json.loads((tmp_path / "scale.json").read_text("utf-8"))
    sizes = {"threads": [2, 8], "hosts": [1, 10], "identities": [100]}
    assert [(row["part"], row["size"]) for row in saved["rows"]] == [
        (part, size) for part in TIMED for size in sizes[part.partition("-")[0]]
    ]
    for row in saved["rows"]:
        assert min(row["cpu"], row["rate"], row["memory"], *row["ratio"]) > 0
        assert row["size"] != row["to"] or row["ratio"] == [1.0, 1.0, 1.0]
    assert [(each["kind"], each["size"]) for each in saved["memory"]] == [(kind, 100) for kind in scale.MEMORY_KINDS]
    assert [each["traced"] for each in saved["memory"]] == sorted(each["traced"] for each in saved["memory"])
    assert {each["step"] for each in saved["micro"]} > set(scale.MICRO_LIMITED)
    assert all(0 < each["least"] <= each["most"] for each in saved["micro"])
    assert (saved["failed"], str(tmp_path) in saved["command"]) == ([], False)
    page = (tmp_path / "scale.md").read_text("utf-8")
    titles = [title[0].upper() + title[1:] for title in (scale.PARTS[part] for part in TIMED)]
    for title in [*titles, "Memory per idle identity", "Uncontended, by themselves"]:
        assert title in ended.stdout
        assert f"## {title}\n" in page
    assert "round 1/1" in ended.stderr
    if importlib.util.find_spec("matplotlib") is not None:
        assert (tmp_path / "scale.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (503, BODY),
        (200, BODY[:-1]),
        (200, BODY.replace(b" 7;", b" 8;")),
        (200, BODY.replace(b"127.1.0.0", b"127.1.0.1")),
    ],
    ids=["status", "cut short", "another session's", "another host's"],
)
def test_a_wrong_answer_is_an_error(status: int, body: bytes) -> None:
    """An answer is what this host would say to this session, or there is no figure."""
    with pytest.raises(scale.WrongAnswerError):
        scale._checked(SimpleNamespace(status_code=status, content=body), b"127.1.0.0:80 7;")


@needs_nginx
def test_a_failed_measurement_is_told_and_the_exit_status_is_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What its process said last is in the page, and whoever runs the command notices."""
    monkeypatch.setattr(scale, "server", lambda port, cpu: Nginx())  # which does not listen there
    arguments = ["--parts", "identities", "--identities", "1", "--rounds", "1", "--requests", "1"]
    status = scale.main([*arguments, "--out", str(tmp_path)])

    assert status == 1
    assert "identities, 1: " in capsys.readouterr().err
    assert "- failed: round 1, identities, 1: " in (tmp_path / "scale.md").read_text("utf-8")


def test_an_error_in_one_thread_ends_the_measurement() -> None:
    """The others are not waited for at the barrier, and the error is the one that is raised."""

    def fail_in_one(number: int) -> None:
        if number == 3:
            raise scale.WrongAnswerError("from thread 3")

    with pytest.raises(scale.WrongAnswerError, match="from thread 3"):
        scale._drive(5, 5, lambda _: None, fail_in_one)


def test_ratios_are_taken_within_rounds_and_compared_with_what_was_asked_for() -> None:
    """A round in which the machine was twice as slow does not count twice; a ratio above the limit is shown."""
    plan = scale.Plan(parts=["threads"], threads=[8, 1000], hosts=[], identities=[], rounds=3, requests=1)
    results = scale.Results(about={"versions": {}}, plan=plan)
    for number, (small, large) in enumerate([(50.0, 80.0), (100.0, 155.0), (60.0, 120.0)], 1):
        for size, cpu in ((8, small), (1000, large)):
            figures = {"cpu": cpu, "user": cpu, "rate": 1.0, "memory": 1.0}
            results.measurements.append(
                scale.Measurement(round=number, part="threads", size=size, kind="", traced=False, figures=figures)
            )
    reference, most = scale.rows(results)

    assert (reference.ratio, reference.limit) == ((1.0, 1.0, 1.0), None)
    assert (most.ratio, most.limit) == ((1.6, 1.55, 2.0), 1.5)
    assert "1.60 (1.55-2.00)" in scale.table(results)
    assert "EXCEEDED: at most 1.5x" in scale.table(results)


def test_hosts_have_addresses_of_their_own() -> None:
    """A hundred thousand hosts are as many addresses, all of them loopback."""
    names = {scale.host_name(number) for number in range(100_000)}

    assert len(names) == 100_000
    assert all(name.startswith("127.") and all(int(part) < 256 for part in name.split(".")) for name in names)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--parts", "threads,weather"], "unknown: weather; there are threads, "),
        (["--threads", "0"], "at least 1, not '0'"),
        (["--threads", "8,20000"], "10,000 at most, not 20,000"),
        (["--out", "/dev/null/results"], "cannot write to /dev/null/results"),
    ],
)
def test_bad_arguments_are_named(arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is measured, the message says what is wrong and what there is."""
    with pytest.raises(SystemExit) as ended:
        scale.main(arguments)

    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err
