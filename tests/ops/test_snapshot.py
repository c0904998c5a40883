"""What /stats.json says of a pool: names made harmless, numbers bounded, what to look at first."""

from __future__ import annotations

import json
from collections.abc import Hashable
from typing import Any

import attrs
import pytest

from sessionpool import HostState, HostStats, LeaseDump, PoolDump, PoolStats
from sessionpool.ops._recorder import Recorder
from sessionpool.ops._snapshot import MAX_HOSTS, MAX_LEASES, MAX_TEXT, snapshot, text
from sessionpool.testing import FakeClock

STATS = PoolStats(leased=0, idle=0, waiting=0, capacity=100, peak=0, opened=0, reused=0, hosts={})
DUMP = PoolDump(name="crawl", stats=STATS, leases=[], waiters=[], connections=[], hosts={})
FREE = HostState(cool_down=0.0, circuit="", interval=0.0, limit=None, budget=None)


def take(dump: PoolDump | None = DUMP, recorder: Recorder | None = None) -> dict[str, Any]:
    found = snapshot("crawl", "open", recorder or Recorder(FakeClock()), 0.0, dump)
    assert json.loads(json.dumps(found)) == found  # as it is, it goes over the wire
    return found


class Unspeakable:
    """A key whose name cannot be told."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("ada", "ada"),
        ("Ädä ☃", "Ädä ☃"),
        (("user", 7), "('user', 7)"),
        ("<script>", "<script>"),  # whoever makes markup of it escapes it
        ("evil\u202egnp.exe", "evil\\u202egnp.exe"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
        ("line\nbreak\x00", "line\\u000abreak\\u0000"),
        ("half \ud83d", "half \\ud83d"),
        ("x" * 1000, "x" * (MAX_TEXT - 1) + "…"),
        (Unspeakable(), "<Unspeakable>"),
    ],
)
def test_names_are_shown_as_they_are_but_cannot_deceive(value: object, shown: str) -> None:
    """What is not seen, or would turn what follows, is spelled out; what is endless ends."""
    assert text(value) == shown


def test_hosts_come_in_the_order_in_which_to_look_at_them() -> None:
    """Held back, then crowded, then busy; a rate that was set is no trouble."""
    free = HostStats(leased=0, idle=1, waiting=0, limit=8)
    hosts: dict[Hashable, HostStats] = {
        "http://idle": free,
        "http://paced": free,
        "http://busy": attrs.evolve(free, leased=3),
        "http://crowded": attrs.evolve(free, leased=8, waiting=2),
    }
    held = {"http://broken": attrs.evolve(FREE, circuit="open"), "http://paced": attrs.evolve(FREE, interval=0.5)}
    found = take(attrs.evolve(DUMP, stats=attrs.evolve(STATS, hosts=hosts), hosts=held))["hosts"]

    assert [host["host"].removeprefix("http://") for host in found] == ["broken", "crowded", "busy", "idle", "paced"]
    assert found[0]["restraints"] == {"circuit": "open"}
    assert found[4]["restraints"] == {"interval": 0.5}


@pytest.mark.parametrize(
    ("state", "restraints"),
    [
        (FREE, {}),
        (attrs.evolve(FREE, circuit="closed"), {}),
        (attrs.evolve(FREE, circuit="half-open", limit=3), {"circuit": "half-open", "connections": 3}),
        (attrs.evolve(FREE, cool_down=12.34), {"cool_down": 12.3}),
    ],
)
def test_restraints_are_those_in_force(state: HostState, restraints: dict[str, Any]) -> None:
    """A circuit that is closed holds nobody back."""
    assert take(attrs.evolve(DUMP, hosts={"http://a": state}))["hosts"][0]["restraints"] == restraints


def test_there_is_an_end_to_it() -> None:
    """Of ten thousand hosts and leases those to look at are told, and how many are not."""
    hosts: dict[Hashable, HostStats] = {
        f"http://{number}": HostStats(leased=1, idle=0, waiting=0, limit=8) for number in range(10_000)
    }
    lease = LeaseDump(key="x" * 10_000, thread="t" * 10_000, ident=1, age=1.0, where="w" * 10_000)
    found = take(attrs.evolve(DUMP, stats=attrs.evolve(STATS, hosts=hosts), leases=[lease] * 10_000))

    assert (len(found["hosts"]), found["hosts_left_out"]) == (MAX_HOSTS, 10_000 - MAX_HOSTS)
    assert (len(found["leases"]), found["leases_left_out"]) == (MAX_LEASES, 10_000 - MAX_LEASES)
    assert len(json.dumps(found)) < 200_000


def test_a_place_keeps_the_end_of_its_path() -> None:
    """The file and its directory tell where it is."""
    lease = LeaseDump(key=None, thread="t", ident=1, age=1.25, where="/home/ada/crawler/jobs.py:7 in run")
    found = take(attrs.evolve(DUMP, leases=[lease]))["leases"]

    assert found == [{"identity": None, "thread": "t", "age": 1.2, "where": "crawler/jobs.py:7 in run", "ended": False}]


def test_a_pool_that_is_gone_has_a_past() -> None:
    """What was recorded is still told, and the rest is empty."""
    clock = FakeClock()
    recorder = Recorder(clock)
    recorder.responded("GET", "http://a", 200, 0.1, 1, 1)
    recorder.tick(None)
    found = take(None, recorder)

    assert found["totals"]["requests"] == 1
    assert [host["host"] for host in found["hosts"]] == ["http://a"]
    assert found["leases"] == []
