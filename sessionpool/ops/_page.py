"""The status page as the server sends it: complete without JavaScript; page.js then keeps it up to date.

The functions here and in page.js make the same nodes, and have the same names.
"""

from __future__ import annotations

import base64
import hashlib
import html
import math
import re
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any, Final

from sessionpool._version import __version__

_FILES: Final = resources.files(__package__)
_CSS: Final = (_FILES / "page.css").read_text(encoding="utf-8")
_JS: Final = (_FILES / "page.js").read_text(encoding="utf-8")
_ICON: Final = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Crect width='16' "
    "height='16' rx='4' fill='%232b67b1'/%3E%3Cpath d='M3 11L6 7l3 2 4-5' fill='none' stroke='%23fff' "
    "stroke-width='2'/%3E%3C/svg%3E"
)


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


# Nothing from elsewhere, no markup made by scripts, and no style or script but the two that are hashed here.
POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        f"style-src {_hash(_CSS)}",
        f"script-src {_hash(_JS)}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)


class Html(str):
    """Markup: put into a page as it is, where any other text is escaped."""

    __slots__ = ()


def h(name: str, attributes: dict[str, str | None], *children: str) -> Html:
    """An element."""
    written = "".join(f' {key}="{html.escape(value)}"' for key, value in attributes.items() if value is not None)
    inner = "".join(child if isinstance(child, Html) else html.escape(child, quote=False) for child in children)
    return Html(f"<{name}{written}>{inner}</{name}>")


# --- numbers ---


def fixed(number: float, digits: int) -> str:
    """So many decimals, halves rounded up, as JavaScript does it."""
    return f"{math.floor(number * 10**digits + 0.5) / 10**digits:.{digits}f}"


def count(number: float) -> str:
    """A whole number, its thousands set apart."""
    return f"{int(fixed(number, 0)):,}".replace(",", "\u202f")


def rate(number: float) -> str:
    """So many a second."""
    return fixed(number, 1) if 0 < number < 9.95 else count(number)


def age(seconds: float) -> str:
    """How long something has lasted."""
    whole = math.floor(seconds)
    if whole < 60:
        return f"{whole}\u00a0s"
    if whole < 3600:
        return f"{whole // 60}\u00a0min\u00a0{whole % 60}\u00a0s"
    return f"{count(whole // 3600)}\u00a0h\u00a0{whole // 60 % 60}\u00a0min"


def time(seconds: float | None) -> str:
    """How long something took."""
    if seconds is None:
        return "–"  # noqa: RUF001 - a dash
    if seconds < 0.00995:
        return f"{fixed(seconds * 1000, 1)}\u00a0ms"
    if seconds < 0.9995:
        return f"{fixed(seconds * 1000, 0)}\u00a0ms"
    if seconds < 9.995:
        return f"{fixed(seconds, 2)}\u00a0s"
    return f"{fixed(seconds, 1)}\u00a0s" if seconds < 60 else age(seconds)


# --- pictures ---


def spark(values: Sequence[float | None], span: int, height: int, text: str) -> Html:
    """A curve that ends at the right edge; its top is the highest value."""
    peak = max((value for value in values if value is not None), default=0)
    line, area = "", ""
    last: int | None = None
    for x, value in enumerate(values, span - len(values)):
        if value is not None:
            y = fixed(height - 1 - (value / peak * (height - 3) if peak else 0), 1)
            line += f"{'M' if last is None else 'L'}{x} {y}"
            area += f"{f'M{x} {height}' if last is None else ''}L{x} {y}"
            last = x
        elif last is not None:
            area += f"L{last} {height}Z"
            last = None
    if last is not None:
        area += f"L{last} {height}Z"
    return h(
        "svg",
        {"viewBox": f"0 0 {span - 1} {height}", "preserveAspectRatio": "none", "role": "img"},
        h("title", {}, text),
        h("path", {"class": "area", "d": area}),
        h("path", {"class": "curve", "d": line}),
    )


def meter(leased: int, idle: int, limit: int | None) -> Html:
    """How full a host is."""
    whole = max(limit or 0, leased + idle, 1)
    used, ready = fixed(leased / whole * 84, 1), fixed(idle / whole * 84, 1)
    is_full = limit is not None and leased >= limit
    return h(
        "svg",
        {
            "class": "meter full" if is_full else "meter",
            "viewBox": "0 0 84 8",
            "preserveAspectRatio": "none",
            "role": "img",
        },
        h("title", {}, f"{leased} in use, {idle} idle, {'no' if limit is None else limit} limit"),
        h("rect", {"class": "leased", "width": used, "height": "8"}),
        h("rect", {"class": "idle", "x": used, "width": ready, "height": "8"}),
    )


# --- parts ---


def tile(
    label: str,
    value: str,
    unit: str,
    note: str,
    values: Sequence[float | None],
    span: int,
    top: Callable[[float], str],
    mood: str,
) -> Html:
    """One figure of the whole pool, large, with its curve."""
    known = [each for each in values if each is not None]
    return h(
        "div",
        {"class": f"tile {mood}" if mood else "tile"},
        h("h2", {}, label, h("span", {}, f"peak {top(max(known))}" if known else "")),
        h("p", {"class": "big"}, value, h("small", {}, unit)),
        h("p", {"class": "note"}, note),
        spark(values, span, 40, f"{label}, the last five minutes"),
    )


def tiles(totals: dict[str, Any], curves: dict[str, Any]) -> Html:
    """The whole pool at a glance."""
    share = totals["errors"] / totals["requests"] * 100 if totals["requests"] else 0
    is_full = totals["capacity"] is not None and totals["leased"] >= totals["capacity"]
    used = totals["opened"] + totals["reused"]
    reused = totals["reused"] / used * 100 if used else 0
    number, _, unit = ("–", "", "") if totals["p95"] is None else time(totals["p95"]).partition("\u00a0")  # noqa: RUF001
    waiting = totals["waiting"] + totals["lease_waiters"]
    span = curves["span"]
    return h(
        "div",
        {"class": "tiles"},
        tile(
            "Requests",
            rate(totals["rate"]),
            "per second",
            f"{count(totals['requests'])} in 5 min",
            curves["rate"],
            span,
            rate,
            "",
        ),
        tile(
            "Latency",
            number,
            f"{unit} at p95" if unit else "",
            f"p50\u00a0{time(totals['p50'])} · p99\u00a0{time(totals['p99'])}",
            curves["p95"],
            span,
            time,
            "",
        ),
        tile(
            "Connections",
            count(totals["leased"]),
            "in use" if totals["capacity"] is None else f"of {count(totals['capacity'])} in use",
            f"{count(totals['idle'])} idle · {fixed(reused, 0)}\u00a0%\u00a0reused",
            curves["leased"],
            span,
            count,
            "warn" if is_full else "",
        ),
        tile(
            "Waiting",
            count(waiting),
            "thread" if waiting == 1 else "threads",
            f"{count(totals['lease_waiters'])}\u00a0for a session · {count(totals['sleeping'])}\u00a0pausing",
            curves["waiting"],
            span,
            count,
            "warn" if waiting else "",
        ),
        tile(
            "Errors",
            count(totals["errors"]),
            "in 5 min",
            f"{fixed(share, 1)}\u00a0% · {count(totals['retries'])}\u00a0retries",
            curves["errors"],
            span,
            count,
            "bad" if totals["errors"] else "",
        ),
    )


def leaks(found: Sequence[dict[str, Any]]) -> Html:
    """Leases held too long or lost, with where they were taken."""
    if not found:
        return h("section", {"class": "leaks", "hidden": ""})
    return h(
        "section",
        {"class": "leaks"},
        h("h2", {}, "Leaks", h("small", {}, "leases held too long or lost, the latest first")),
        h("div", {"class": "card"}, *map(_leak, found)),
    )


def _leak(leak: dict[str, Any]) -> Html:
    identity = "a thread’s own or a fresh session" if leak["identity"] is None else leak["identity"]  # noqa: RUF001
    held = f" held {age(leak['held'])}, found {age(leak['ago'])} ago"
    return h(
        "details",
        {},
        h("summary", {}, h("b", {}, h("bdi", {}, identity)), h("small", {}, held)),
        h("ol", {}, *(h("li", {}, h("bdi", {}, place)) for place in leak["places"])),
    )


def restraints(host: dict[str, Any]) -> list[Html]:
    """What holds requests to a host back."""
    held, pills = host["restraints"], []
    if "circuit" in held:
        mood = "bad" if held["circuit"] == "open" else "warn"
        pills.append(h("span", {"class": f"pill {mood}"}, f"circuit {held['circuit']}"))
    if "cool_down" in held:
        pills.append(h("span", {"class": "pill warn"}, f"cools down {age(held['cool_down'])}"))
    if "connections" in held:
        pills.append(h("span", {"class": "pill warn"}, f"held to {held['connections']} connections"))
    if "interval" in held:
        pills.append(h("span", {"class": "pill"}, f"one per {time(held['interval'])}"))
    return pills


def num(label: str, text: str, mood: str) -> Html:
    """A cell with a number."""
    return h("td", {"class": f"num {mood}" if mood else "num", "data-label": label}, text)


def host(each: dict[str, Any], span: int) -> Html:
    """A host's row."""
    # The last two match anything.
    scheme, name, port = re.fullmatch(r"([a-z]+://)?(.*?)(:[0-9]+)?", each["host"], re.DOTALL).groups()  # type: ignore[union-attr]
    limit = each["limit"]

    def duration(label: str) -> Html:
        return num(label, time(each[label]), "zero" if each[label] is None else "")

    return h(
        "tr",
        {},
        h(
            "td",
            {"class": "name"},
            h("bdi", {"title": each["host"]}, h("small", {}, scheme or ""), name, h("small", {}, port or "")),
            *restraints(each),
        ),
        h("td", {"class": "room"}, meter(each["leased"], each["idle"], limit)),
        num("In use", count(each["leased"]), "" if each["leased"] else "zero"),
        num("Idle", count(each["idle"]), "" if each["idle"] else "zero"),
        num("Limit", "–" if limit is None else count(limit), "zero" if limit is None else ""),  # noqa: RUF001
        num("Waiting", count(each["waiting"]), "warn" if each["waiting"] else "zero"),
        num("Req/s", rate(each["rate"]), "" if each["rate"] else "zero"),
        h("td", {"class": "spark"}, spark(each["curve"], span, 22, "Requests per second, the last five minutes")),
        duration("p50"),
        duration("p95"),
        duration("p99"),
        num("Errors", count(each["errors"]), "bad" if each["errors"] else "zero"),
        num("Retries", count(each["retries"]), "warn" if each["retries"] else "zero"),
    )


_HOSTS: Final = (
    ("", "Host"),
    ("", "Connections"),
    ("num", "In use"),
    ("num", "Idle"),
    ("num", "Limit"),
    ("num", "Waiting"),
    ("num", "Req/s"),
    ("", "5 min"),
    ("num", "p50"),
    ("num", "p95"),
    ("num", "p99"),
    ("num", "Errors"),
    ("num", "Retries"),
)


def head(columns: Sequence[tuple[str, str]]) -> Html:
    """A table's first row."""
    return h(
        "thead", {}, h("tr", {}, *(h("th", {"class": kind or None, "scope": "col"}, text) for kind, text in columns))
    )


def hosts(found: Sequence[dict[str, Any]], out: int, span: int) -> Html:
    """All hosts, those to look at first."""
    number = len(found) + out
    return h(
        "section",
        {"class": "hosts"},
        h("h2", {}, "Hosts", h("small", {}, f"{count(len(found))} of {count(number)}" if out else count(number))),
        h(
            "div",
            {"class": "card"},
            h("table", {}, head(_HOSTS), h("tbody", {}, *(host(each, span) for each in found)))
            if found
            else h("p", {"class": "none"}, "No host has been asked yet."),
        ),
    )


_LEASES: Final = (("", "Identity"), ("", "Thread"), ("num", "Held for"), ("", "Where it is now"))


def lease(each: dict[str, Any]) -> Html:
    """A lease's row."""
    identity = each["identity"]
    return h(
        "tr",
        {},
        h(
            "td",
            {"class": "name own" if identity is None else "name"},
            h("bdi", {"title": identity}, "own or fresh" if identity is None else identity),
        ),
        h(
            "td",
            {"class": "thread"},
            h("bdi", {}, each["thread"]),
            h("small", {}, " has ended") if each["ended"] else "",
        ),
        h("td", {"class": "num age"}, age(each["age"])),
        h("td", {"class": "where"}, h("bdi", {"title": each["where"]}, each["where"])),
    )


def leases(found: Sequence[dict[str, Any]], out: int) -> Html:
    """Who has a session, the longest first."""
    number = len(found) + out
    how_many = f"the {count(len(found))} longest held of {count(number)}" if out else count(number)
    return h(
        "section",
        {"class": "leases"},
        h("h2", {}, "Leases", h("small", {}, how_many)),
        h(
            "div",
            {"class": "card"},
            h("table", {}, head(_LEASES), h("tbody", {}, *map(lease, found)))
            if found
            else h("p", {"class": "none"}, "No session is leased."),
        ),
    )


def main(stats: dict[str, Any]) -> Html:
    """All that changes."""
    mood = {"open": "good", "suspended": "warn", "closed": ""}[stats["pool"]["state"]]
    return h(
        "main",
        {},
        h(
            "header",
            {},
            h("h1", {}, h("bdi", {}, stats["pool"]["name"])),
            h("span", {"id": "state", "class": f"pill {mood}" if mood else "pill"}, stats["pool"]["state"]),
        ),
        tiles(stats["totals"], stats["curves"]),
        leaks(stats["leaks"]),
        hosts(stats["hosts"], stats["hosts_left_out"], stats["curves"]["span"]),
        leases(stats["leases"], stats["leases_left_out"]),
    )


def page(stats: dict[str, Any]) -> str:
    """The whole page, from what `snapshot` gave."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(stats['pool']['name'])} · sessionpool</title>"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="{_ICON}"><style>{_CSS}</style></head><body>'
        '<p id="live" role="status">as of now; reload for later</p>'
        f"{main(stats)}"
        "<footer><p>Req/s: over 10 s. Percentiles: over 1 min. Errors, retries and curves: over 5 min. An error is a "
        "request without an answer, or an answer of 429 or 500 and above.</p>"
        f'<p>sessionpool {__version__} · <a href="metrics">metrics</a> · <a href="stats.json">stats.json</a> · '
        '<a href="healthz">healthz</a> · <a href="readyz">readyz</a></p></footer>'
        f"<script>{_JS}</script></body></html>\n"
    )
