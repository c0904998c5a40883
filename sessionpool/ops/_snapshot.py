"""A pool at one moment, as what /stats.json gives: plain values, bounded in number and length."""

from __future__ import annotations

import unicodedata
from collections.abc import Hashable
from typing import Any, Final

from sessionpool._dump import LeaseDump, PoolDump
from sessionpool._governor import HostState
from sessionpool._ledger import HostStats
from sessionpool.ops._recorder import SLOT, SPAN, Figures, Leak, Recorder

MAX_HOSTS: Final = 200
MAX_LEASES: Final = 100
MAX_TEXT: Final = 200  # characters of a name


def snapshot(name: str, state: str, recorder: Recorder, now: float, dump: PoolDump | None) -> dict[str, Any]:
    """What is known of the pool; times in seconds, and `None` for what is not known.

    Args:
        name: The pool's.
        state: open, suspended or closed.
        recorder: What it did in the last minutes.
        now: The instant, on the pool's clock.
        dump: What it holds; `None` if it is gone.
    """
    whole, recorded = recorder.figures()
    curves = recorder.curves()
    stats = dump.stats if dump is not None else None
    counts = {str(key): host for key, host in stats.hosts.items()} if stats is not None else {}
    held_back = dump.hosts if dump is not None else {}
    hosts = [
        _host(host, counts.get(host), recorded.get(host), held_back.get(host))
        for host in {**counts, **held_back, **recorded}
    ]
    # Those to look at first: in trouble, then crowded, then busy.
    hosts.sort(
        key=lambda host: (
            host["restraints"].keys() <= {"interval"},
            -host["waiting"],
            -host["leased"],
            -host["rate"],
            host["host"],
        )
    )
    leases = list(dump.leases) if dump is not None else []
    return {
        "pool": {"name": text(name), "state": state},
        "totals": {
            "leased": stats.leased if stats is not None else 0,
            "idle": stats.idle if stats is not None else 0,
            "capacity": stats.capacity if stats is not None else None,
            "waiting": stats.waiting if stats is not None else 0,
            "lease_waiters": max(len(dump.waiters) - stats.waiting, 0) if dump is not None and stats is not None else 0,
            "sleeping": stats.sleeping if stats is not None else 0,
            "sessions": stats.sessions if stats is not None else 0,
            "reclaimed": stats.reclaimed if stats is not None else 0,
            "opened": stats.opened if stats is not None else 0,
            "reused": stats.reused if stats is not None else 0,
            **_figures(whole),
        },
        "curves": {
            "step": SLOT,
            "span": SPAN,
            "rate": [round(each, 2) for each in curves.rate],
            "errors": curves.errors,
            "p95": [_round(each) for each in curves.p95],
            "leased": curves.leased,
            "waiting": curves.waiting,
        },
        "hosts": hosts[:MAX_HOSTS],
        "hosts_left_out": max(len(hosts) - MAX_HOSTS, 0),
        "leases": [_lease(lease) for lease in leases[:MAX_LEASES]],
        "leases_left_out": max(len(leases) - MAX_LEASES, 0),
        "leaks": [_leak(leak, now) for leak in recorder.leaks()],
    }


def text(value: object) -> str:
    """A name as its user gave it, for people: not endless, and without characters that are not seen or turn others."""
    try:
        shown = value if isinstance(value, str) else repr(value)
    except Exception:  # noqa: BLE001 - whatever a user's code may raise
        shown = f"<{type(value).__name__}>"
    if len(shown) > MAX_TEXT:
        shown = f"{shown[: MAX_TEXT - 1]}…"
    # Cc, Cf, Cs: control characters, those that turn the direction of writing, and halves of pairs.
    return "".join(
        f"\\u{ord(each):04x}" if unicodedata.category(each) in ("Cc", "Cf", "Cs", "Zl", "Zp") else each
        for each in shown
    )


def _name(key: Hashable) -> str | None:
    return None if key is None else text(key)


def _host(name: str, counts: HostStats | None, recorded: Figures | None, state: HostState | None) -> dict[str, Any]:
    return {
        "host": text(name),
        "leased": counts.leased if counts is not None else 0,
        "idle": counts.idle if counts is not None else 0,
        "limit": counts.limit if counts is not None else None,
        "waiting": counts.waiting if counts is not None else 0,
        **_figures(recorded),
        "curve": [round(each, 1) for each in recorded.curve] if recorded is not None else [],
        "restraints": _restraints(state) if state is not None else {},
    }


def _restraints(state: HostState) -> dict[str, Any]:
    """What holds requests to the host back now."""
    found: dict[str, Any] = {}
    if state.circuit not in ("", "closed"):
        found["circuit"] = state.circuit
    if state.cool_down:
        found["cool_down"] = round(state.cool_down, 1)
    if state.limit is not None:
        found["connections"] = state.limit
    if state.interval:
        found["interval"] = round(state.interval, 4)
    return found


def _figures(recorded: Figures | None) -> dict[str, Any]:
    if recorded is None:
        return {"rate": 0.0, "p50": None, "p95": None, "p99": None, "requests": 0, "errors": 0, "retries": 0}
    return {
        "rate": round(recorded.rate, 2),
        "p50": _round(recorded.p50),
        "p95": _round(recorded.p95),
        "p99": _round(recorded.p99),
        "requests": recorded.requests,
        "errors": recorded.errors,
        "retries": recorded.retries,
    }


def _lease(lease: LeaseDump) -> dict[str, Any]:
    return {
        "identity": _name(lease.key),
        "thread": text(lease.thread),
        "age": round(lease.age, 1),
        "where": text(_short(lease.where)),
        "ended": lease.ended,
    }


def _short(where: str) -> str:
    """A place without most of its path, whose end tells more than its beginning."""
    return "/".join(where.replace("\\", "/").split("/")[-2:])


def _leak(leak: Leak, now: float) -> dict[str, Any]:
    return {
        "identity": _name(leak.key),
        "held": round(leak.held, 1),
        "ago": round(max(now - leak.at, 0.0), 1),
        "places": [text(place) for place in leak.places],
    }


def _round(seconds: float | None) -> float | None:
    return None if seconds is None else float(f"{seconds:.3g}")
