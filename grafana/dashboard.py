"""The dashboard, as code: `python -m grafana.dashboard` writes it to `dashboards/sessionpool.json`.

A panel is a title, what it asks, its unit, and what to do when it moves; `ROWS` has them all. Where one stands follows
from its place there and its width. Counts of all processes are added up; nothing needs the recording rules.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import attrs

FILE: Final = Path(__file__).with_name("dashboards") / "sessionpool.json"
COLUMNS: Final = 24
# Hosts are a label only where the pool was told so (`Metrics(hosts=...)`); "All" also finds what has no such label.
POOL: Final = 'pool=~"$pool"'
HOST: Final = 'pool=~"$pool", host=~"$host"'
NAMED: Final = f'{HOST}, host!=""'
HOST_LEASED: Final = f'{NAMED}, state="leased"'
LEASED: Final = f'{POOL}, state="leased"'
ALL_HOSTS: Final = f'{POOL}, host=""'
DROPPED: Final = f'{POOL}, reason="dropped"'
FAILED_CODES: Final = f'{POOL}, code=~"error|5.."'
BLOCKED_CODES: Final = f'{POOL}, code=~"401|403|429"'
BLOCKED_REASONS: Final = f'{POOL}, reason=~"401|403|429"'
SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
# Grafana's names, which are darker in its light theme.
BLUE, GREEN, YELLOW, ORANGE, RED, PURPLE, GREY = "blue", "green", "yellow", "orange", "red", "purple", "#8e8e8e"
PERCENTILES: Final = {"p50": GREEN, "p95": ORANGE, "p99": RED}


@attrs.frozen
class Query:
    """What Prometheus is asked, and what a line of the answer is called."""

    expr: str
    legend: str


@attrs.frozen(kw_only=True)
class Panel:
    """One panel. Immutable.

    Attributes:
        title: At most five words.
        help: What it shows, and what to do when it moves.
        queries: What it asks.
        unit: Grafana's name for it: "s", "reqps", "percentunit", "short", ...
        kind: Grafana's: "timeseries", "stat" or "table".
        width, height: In Grafana's grid, which is 24 wide.
        stacked: The lines are parts of a whole, so they are drawn as areas above each other.
        colors: Of some lines, by what they are called.
        dashed: Lines that are limits: dashed, and never part of the stack.
        steps: (from here on, colour) pairs; the first is the colour of all below the second.
        least, most: Ends of the scale, where they are known.
        decimals: How many, where Grafana's own choice is not good.
        bars: Bars instead of lines.
        legend: Where the lines' names stand: "bottom" or "right".
    """

    title: str
    help: str
    queries: tuple[Query, ...]
    unit: str
    kind: str = "timeseries"
    width: int = 8
    height: int = 8
    stacked: bool = False
    colors: dict[str, str] = attrs.field(factory=dict)
    dashed: tuple[str, ...] = ()
    steps: tuple[tuple[float, str], ...] = ((0, BLUE),)
    least: float | None = 0
    most: float | None = None
    decimals: int | None = None
    bars: bool = False
    legend: str = "bottom"


def rate(metric: str, select: str = POOL) -> str:
    """How fast a counter goes up, per second."""
    return f"rate(sessionpool_{metric}{{{select}}}[$__rate_interval])"


def _sum(by: str) -> str:
    return f"sum by ({by}) " if by else "sum"


def total(metric: str, select: str = POOL, by: str = "") -> str:
    """How fast it goes up in all processes together, by some of its labels."""
    return f"{_sum(by)}({rate(metric, select)})"


def gauge(metric: str, select: str = POOL, by: str = "") -> str:
    """A gauge of all processes together."""
    return f"{_sum(by)}(sessionpool_{metric}{{{select}}})"


def quantile(share: float, metric: str, select: str = POOL, by: str = "le") -> str:
    """What so many of the observations stay below."""
    return f"histogram_quantile({share}, {total(f'{metric}_bucket', select, by)})"


def percentiles(metric: str, select: str = POOL) -> tuple[Query, ...]:
    """p50, p95 and p99, in one colour each everywhere."""
    return tuple(Query(quantile(int(name[1:]) / 100, metric, select), name) for name in PERCENTILES)


def share(part: str, whole: str) -> str:
    """`part` of `whole`; 0 where nothing was counted of the part, nothing where there is no whole."""
    return f"({part} or vector(0)) / ({whole} > 0)"


CALLS: Final = total("request_duration_seconds_count")
ATTEMPTS: Final = total("attempt_duration_seconds_count", HOST)
FAILED: Final = total("request_duration_seconds_count", FAILED_CODES)
# The limit over all hosts: that of a single host has the label `host`.
LIMIT: Final = gauge("connections_limit", ALL_HOSTS)
WAITING: Final = f"({gauge('lease_waiters')} + {gauge('connection_waiters')})"
REUSED: Final = total("connections_reused_total")
OPENED: Final = total("connections_opened_total")
REUSED_BY_POOL: Final = total("connections_reused_total", by="pool")
OPENED_BY_POOL: Final = total("connections_opened_total", by="pool")
ATTEMPTS_BY_POOL: Final = total("attempt_duration_seconds_count", HOST, "pool")
# An attempt waits for its connection, and opens it where it has to; the rest is the exchange.
EXCHANGE: Final = (
    f"clamp_min({total('attempt_duration_seconds_sum', HOST)} - {total('connection_wait_seconds_sum', HOST)} - "
    f"{total('connect_seconds_sum', HOST)}, 0)"
)
OUTCOMES: Final = (
    f'sum by (outcome) (label_replace(label_replace({rate("request_duration_seconds_count")}, "outcome", "${{1}}xx", '
    '"code", "([1-5]).."), "outcome", "error", "code", "error"))'
)
BLOCKED: Final = (
    f"sum({rate('request_duration_seconds_count', BLOCKED_CODES)} or {rate('retries_total', BLOCKED_REASONS)})"
)
# prometheus-client exports the process with each scrape; those that have a pool are meant.
OF_POOL: Final = f"and on (job, instance) sessionpool_requests_in_flight{{{POOL}}}"
ALERTS: Final = f'ALERTS{{alertname=~"SessionPool.*", alertstate="firing", {POOL}}}'


def stat(title: str, help: str, expr: str, unit: str, *steps: tuple[float, str], most: float | None = None) -> Panel:
    """A figure with what it was before behind it."""
    return Panel(
        title=title,
        help=help,
        queries=(Query(expr, title),),
        unit=unit,
        steps=steps,
        kind="stat",
        width=4,
        height=5,
        most=most,
        decimals=1 if unit == "percentunit" else None,
    )


ROWS: Final[dict[str, tuple[Panel, ...]]] = {
    "Overview": (
        stat(
            "Calls",
            "Calls that ended, per second, answered or not. A fall with waiting threads beside it: see Leases and "
            "Connections; without: the work has run out.",
            CALLS,
            "reqps",
            (0, BLUE),
        ),
        stat(
            "Failed calls",
            "Share of calls that ended in an error or a 5xx, all retries done. Above 5 % for five minutes "
            "SessionPoolCallsFail fires; Errors by kind says whose fault it is.",
            share(FAILED, CALLS),
            "percentunit",
            (0, GREEN),
            (0.01, ORANGE),
            (0.05, RED),
        ),
        stat(
            "Slowest 1 % of calls",
            "99 of 100 calls end within this, waiting, retries and pauses included. When it grows, the row Latency "
            "tells which phase it is.",
            quantile(0.99, "request_duration_seconds"),
            "s",
            (0, GREEN),
            (2, ORANGE),
            (10, RED),
        ),
        stat(
            "Connections in use",
            "Of the fullest pool: share of the limit over all hosts (Limits.total) that requests hold now. Near 100 % "
            "with waiting threads: raise it, or run fewer threads. Near 0 % with waiting threads: Limits.per_host is "
            "what binds.",
            f"max({gauge('connections', LEASED, 'pool')} / {gauge('connections_limit', ALL_HOSTS, 'pool')})",
            "percentunit",
            (0, GREEN),
            (0.8, ORANGE),
            (0.95, RED),
            most=1,
        ),
        stat(
            "Waiting threads",
            "Threads in the queue for a session or a connection. Queueing is how the limits work; what matters is for "
            "how long: Wait for a connection.",
            WAITING,
            "short",
            (0, GREEN),
            (10, ORANGE),
            (100, RED),
        ),
        stat(
            "Connections reused",
            "Share of requests that found a connection open. Below 50 % for five minutes SessionPoolReuseCollapsed "
            "fires; Closed connections tells why.",
            f"{REUSED} / (({REUSED} + {OPENED}) > 0)",
            "percentunit",
            (0, RED),
            (0.5, ORANGE),
            (0.8, GREEN),
            most=1,
        ),
        Panel(
            title="Calls by outcome",
            unit="reqps",
            stacked=True,
            width=9,
            help="Calls that ended, by class of their last status; `error` ended without one. More red: Errors by "
            "kind; more orange: Blocked answers.",
            queries=(Query(OUTCOMES, "{{outcome}}"),),
            colors={"2xx": GREEN, "3xx": BLUE, "4xx": ORANGE, "5xx": PURPLE, "error": RED},
        ),
        Panel(
            title="Duration of calls",
            unit="s",
            width=7,
            help="The whole call as its caller felt it: waiting, redirects, retries and pauses included. p50 grows: "
            "everything is slower; p99 alone: a slow host, retries, or a queue.",
            queries=percentiles("request_duration_seconds"),
            colors=PERCENTILES,
        ),
        Panel(
            title="Alerts firing",
            unit="short",
            stacked=True,
            help="SessionPool alerts by name; empty is good. What each means and what to do: docs/runbook.md.",
            queries=(
                Query(
                    f'count by (alert) (label_replace({ALERTS}, "alert", "$1", "alertname", "SessionPool(.*)"))',
                    "{{alert}}",
                ),
            ),
            bars=True,
            legend="right",
            decimals=0,
        ),
    ),
    "Leases": (
        Panel(
            title="Sessions",
            unit="short",
            help="Leased sessions, named identities that nobody has leased, and threads that wait for a session. "
            "Leased grows without end: a leak, SessionPool(leak_threshold=60) names the place. Idle grows without "
            "end: pool.forget() those that are done.",
            queries=(Query(gauge("sessions", by="state"), "{{state}}"), Query(gauge("lease_waiters"), "waiting")),
            colors={"leased": BLUE, "idle": GREY, "waiting": ORANGE},
        ),
        Panel(
            title="Wait for a session",
            unit="s",
            help="Of leases that may have to wait: identities, and all under Limits.sessions. Below 1 ms there was "
            "nothing to wait for. Grows: several threads want the same identity, or Limits.sessions is too low. Above "
            "1 s (p99) SessionPoolWaitsLong fires.",
            queries=percentiles("lease_wait_seconds"),
            colors=PERCENTILES,
        ),
        Panel(
            title="Leases held",
            unit="s",
            help="From lease to release. Grows: threads do other work while they hold a session; others may be "
            "waiting for it.",
            queries=percentiles("lease_held_seconds"),
            colors=PERCENTILES,
        ),
        Panel(
            title="Leases by outcome",
            unit="ops",
            stacked=True,
            width=12,
            help="`timeout`: nothing came free in time, SessionPoolExhausted fires. `deadlock`: a thread waited for "
            "what it held itself, a bug in the caller. `closed`, `cancelled`: the pool was closed, the work was "
            "stopped. `retired`: a blocked identity, pool.forget() it.",
            queries=(Query(total("leases_total", by="outcome"), "{{outcome}}"),),
            colors={"released": GREEN, "timeout": RED, "deadlock": PURPLE},
        ),
        Panel(
            title="Lost leases and streams",
            unit="short",
            width=12,
            help="Per minute: leases that were dropped, or whose thread ended, and streams dropped unread: the pool "
            "takes them back, but late. And leases that leak_threshold found, which may be held for ever. Anything but "
            "0 is a bug in the caller: use `with`.",
            queries=(
                Query(f"60 * {total('leases_reclaimed_total', by='reason')}", "lease: {{reason}}"),
                Query(f"60 * {total('connections_closed_total', DROPPED)}", "stream: dropped"),
                Query(f"60 * {total('leases_leaked_total')}", "lease: found by leak_threshold"),
            ),
            bars=True,
            stacked=True,
            colors={"lease: dropped": RED, "lease: thread ended": ORANGE, "stream: dropped": PURPLE},
        ),
    ),
    "Connections and reuse": (
        Panel(
            title="Connections",
            unit="short",
            stacked=True,
            help="In use and idle, against the limit over all hosts. In use at the limit: raise Limits.total or run "
            "fewer threads. Much idle: Limits.idle may be shorter.",
            queries=(
                Query(gauge("connections", HOST, "state"), "{{state}}"),
                Query(gauge("connection_waiters", HOST), "waiting threads"),
                Query(LIMIT, "limit"),
            ),
            colors={"leased": BLUE, "idle": GREY, "waiting threads": ORANGE, "limit": RED},
            dashed=("limit", "waiting threads"),
        ),
        Panel(
            title="Wait for a connection",
            unit="s",
            help="From asking for a connection to having the permit. Grows: more threads than the limits serve. Above "
            "1 s (p99) SessionPoolWaitsLong fires; raise Limits.per_host if the host bears it.",
            queries=percentiles("connection_wait_seconds", HOST),
            colors=PERCENTILES,
        ),
        Panel(
            title="Opening a connection",
            unit="s",
            help="Name, TCP and TLS together. Grows: the network, the resolver, or a host that accepts slowly.",
            queries=percentiles("connect_seconds", HOST),
            colors=PERCENTILES,
        ),
        Panel(
            title="Reused and opened",
            unit="ops",
            stacked=True,
            help="Requests on a connection that was open, and connections opened. Opened grows against reused: see "
            "Closed connections.",
            queries=(Query(REUSED, "reused"), Query(OPENED, "opened")),
            colors={"reused": GREEN, "opened": ORANGE},
        ),
        Panel(
            title="Share reused",
            unit="percentunit",
            most=1,
            help="Below 50 % each second request pays for TCP and TLS. A crawl that asks each host once lives with it.",
            queries=(
                Query(
                    f"{REUSED_BY_POOL} / (({REUSED_BY_POOL} + {OPENED_BY_POOL}) > 0)",
                    "{{pool}}",
                ),
            ),
        ),
        Panel(
            title="Closed connections",
            unit="ops",
            stacked=True,
            help="`finished`: the server asked for it, or the body was left unread. `stale`: closed by the server "
            "while idle; make Limits.idle shorter than its own. `evicted`: another host needed the place, raise "
            "Limits.total. `broken`: failed in use. `dropped`: a stream nobody closed.",
            queries=(Query(total("connections_closed_total", HOST, "reason"), "{{reason}}"),),
            colors={
                "broken": RED,
                "stale": ORANGE,
                "expired": GREY,
                "finished": BLUE,
                "evicted": YELLOW,
                "dropped": PURPLE,
                "shutdown": GREEN,
            },
        ),
    ),
    "Latency by phase": (
        Panel(
            title="Threads by phase",
            unit="short",
            stacked=True,
            width=12,
            help="How many threads were in each phase, on average: seconds spent per second. The widest band is what "
            "to work on: waiting (limits), pausing (retries), held back (cool-downs, paces), opening (reuse), or the "
            "exchange itself (the host).",
            queries=(
                Query(total("lease_wait_seconds_sum"), "waiting for a session"),
                Query(total("throttle_wait_seconds_sum", HOST), "held back"),
                Query(total("connection_wait_seconds_sum", HOST), "waiting for a connection"),
                Query(total("connect_seconds_sum", HOST), "opening a connection"),
                Query(EXCHANGE, "sending and receiving"),
                Query(total("backoff_seconds_total", HOST), "pausing before a retry"),
            ),
            colors={
                "waiting for a session": YELLOW,
                "held back": PURPLE,
                "waiting for a connection": ORANGE,
                "opening a connection": GREY,
                "sending and receiving": BLUE,
                "pausing before a retry": RED,
            },
        ),
        Panel(
            title="p95 by phase",
            unit="s",
            width=12,
            help="What 95 of 100 stay below, each phase by itself. Where the whole call is far above the attempt, "
            "retries and pauses make the difference.",
            queries=(
                Query(quantile(0.95, "request_duration_seconds"), "whole call"),
                Query(quantile(0.95, "attempt_duration_seconds", HOST), "attempt"),
                Query(quantile(0.95, "connection_wait_seconds", HOST), "waiting for a connection"),
                Query(quantile(0.95, "connect_seconds", HOST), "opening a connection"),
                Query(quantile(0.95, "throttle_wait_seconds", HOST), "held back"),
                Query(quantile(0.95, "lease_wait_seconds"), "waiting for a session"),
            ),
            colors={
                "whole call": GREEN,
                "attempt": BLUE,
                "waiting for a connection": ORANGE,
                "opening a connection": GREY,
                "held back": PURPLE,
                "waiting for a session": YELLOW,
            },
        ),
        Panel(
            title="Duration by method",
            unit="s",
            width=12,
            help="p95 of the whole call. One method apart from the others: what it does at the server.",
            queries=(Query(quantile(0.95, "request_duration_seconds", by="method, le"), "{{method}}"),),
        ),
        Panel(
            title="Duration by status",
            unit="s",
            width=12,
            help="p95 of the whole call by its last status. `error` near Timeout.total or Timeout.read: time-outs.",
            queries=(Query(quantile(0.95, "request_duration_seconds", by="code, le"), "{{code}}"),),
        ),
    ),
    "Retries, budget, back-off": (
        Panel(
            title="Retries by reason",
            unit="ops",
            stacked=True,
            help="Attempts after a failed one, by the status or the error that failed. By host below.",
            queries=(Query(total("retries_total", HOST, "reason"), "{{reason}}"),),
        ),
        Panel(
            title="Share of retries",
            unit="percentunit",
            steps=((0, GREEN), (0.1, RED)),
            help="Of all attempts. The budget lets retries be 20 %; above 10 % for five minutes SessionPoolRetryStorm "
            "fires.",
            queries=(
                Query(
                    f"{total('retries_total', HOST, 'pool')} / ({ATTEMPTS_BY_POOL} > 0)",
                    "{{pool}}",
                ),
            ),
        ),
        Panel(
            title="Retries refused",
            unit="ops",
            stacked=True,
            help="Failures that were handed on. `attempts`: all were used. `budget`: the host fails too often to be "
            "asked again. `deadline`, `retry-after`: no time for it. `body`: it cannot be sent twice. `stop`: the "
            "policy's own. `closed`: the pool.",
            queries=(Query(total("retries_denied_total", HOST, "reason"), "{{reason}}"),),
        ),
        Panel(
            title="Retry budget left",
            unit="short",
            help="Retries that could be made now, of the host with the fewest. At 0 failures are handed on at once: "
            "the host is in trouble, and asking more would not help it.",
            queries=(Query(f"min by (pool) (sessionpool_retry_budget_tokens{{{HOST}}})", "{{pool}}"),),
        ),
        Panel(
            title="Threads pausing",
            unit="short",
            help="Seconds of pauses before retries per second: how many threads do nothing but wait to try again. "
            "They hold no connection.",
            queries=(Query(total("backoff_seconds_total", HOST, "pool"), "{{pool}}"),),
        ),
        Panel(
            title="Errors by kind",
            unit="ops",
            stacked=True,
            help="Calls that raised. PoolTimeout: our limits. ConnectTimeout, ConnectError: the host or the way "
            "there. ReadTimeout: a slow host. CircuitOpenError: left alone. RetryError: still failing after all "
            "attempts.",
            queries=(Query(total("request_errors_total", HOST, "error"), "{{error}}"),),
        ),
        Panel(
            title="Deadlines missed",
            unit="ops",
            stacked=True,
            width=24,
            height=7,
            help="Calls and leases whose Timeout.total was used up, by the stage they were in. lease, permit: raise "
            "the limits; resolve, connect, tls: the network; head, body: the host; backoff, cool-down, throttle: "
            "fewer attempts, or more time.",
            queries=(Query(total("deadline_exceeded_total", by="stage"), "{{stage}}"),),
        ),
    ),
    "Throttling and circuits": (
        Panel(
            title="Held back",
            unit="s",
            help="How long requests waited for a host's cool-down (Retry-After), pace (RateLimit, AutoThrottle). "
            "Grows: the host asks for less; run fewer threads, they only wait.",
            queries=percentiles("throttle_wait_seconds", HOST),
            colors=PERCENTILES,
        ),
        Panel(
            title="Requests held back",
            unit="ops",
            help="How many requests had to wait for their host. Nearly all of them: more threads than the host lets "
            "you use; run fewer, or take them to other hosts.",
            queries=(Query(total("throttle_wait_seconds_count", HOST, "pool"), "{{pool}}"),),
        ),
        Panel(
            title="Circuits",
            unit="short",
            stacked=True,
            help="Hosts by the state of their circuit. Open: requests fail at once, the host is probed from time to "
            "time. Open for a minute: SessionPoolCircuitOpen fires.",
            queries=(Query(gauge("circuit_state", HOST, "state"), "{{state}}"),),
            colors={"closed": GREEN, "half-open": YELLOW, "open": RED},
        ),
    ),
    "Session health": (
        Panel(
            title="Blocked answers",
            unit="percentunit",
            steps=((0, GREEN), (0.05, RED)),
            help="Share of answers with 401, 403 or 429, those that were tried again included. Above 5 % for five "
            "minutes SessionPoolBlocked fires: 429 asks for a slower pace, 401 and 403 for another login or identity.",
            queries=(Query(share(BLOCKED, ATTEMPTS), "401, 403, 429"),),
            colors={"401, 403, 429": RED},
            width=12,
        ),
        Panel(
            title="Sessions retired",
            unit="short",
            stacked=True,
            width=12,
            help="Per minute. `status 403` and the like: the site knows us; slow down, or other identities and "
            "proxies. max_age, max_uses: as planned. `by hand`: mark_bad() and retire().",
            queries=(Query(f"60 * {total('sessions_retired_total', by='reason')}", "{{reason}}"),),
            bars=True,
        ),
    ),
    "Hosts": (
        Panel(
            title="Hosts",
            unit="short",
            kind="table",
            width=24,
            height=8,
            least=None,
            help="Needs the label: SessionPool(metrics=Metrics(hosts=50)). The 20 busiest. A host whose retries and "
            "p95 stand out is the one to slow down or to leave alone.",
            queries=tuple(
                Query(expr, name)
                for name, expr in {
                    "Attempts/s": f"topk(20, {total('attempt_duration_seconds_count', NAMED, 'host')})",
                    "p95": quantile(0.95, "attempt_duration_seconds", NAMED, "host, le"),
                    "Retries/s": total("retries_total", NAMED, "host"),
                    "Errors/s": total("request_errors_total", NAMED, "host"),
                    "In use": gauge("connections", HOST_LEASED, "host"),
                    "Limit": gauge("connections_limit", NAMED, "host"),
                    "Waiting": gauge("connection_waiters", NAMED, "host"),
                    "Received": total("response_bytes_total", NAMED, "host"),
                }.items()
            ),
        ),
        Panel(
            title="Attempts by host",
            unit="reqps",
            help="The ten busiest. One takes all: is that meant?",
            queries=(Query(f"topk(10, {total('attempt_duration_seconds_count', HOST, 'host')})", "{{host}}"),),
        ),
        Panel(
            title="p95 by host",
            unit="s",
            help="The ten slowest, one attempt each. One stands out: AutoThrottle or a circuit for it, and a limit by "
            "Limits.overrides so that it does not hold the threads.",
            queries=(Query(f"topk(10, {quantile(0.95, 'attempt_duration_seconds', HOST, 'host, le')})", "{{host}}"),),
        ),
        Panel(
            title="Traffic",
            unit="Bps",
            help="Bytes of bodies as they came, and bytes of requests. Received falls while attempts do not: errors "
            "or blocked pages instead of content.",
            queries=(
                Query(total("response_bytes_total", HOST), "received"),
                Query(total("request_bytes_total", HOST), "sent"),
            ),
            colors={"received": BLUE, "sent": GREEN},
        ),
    ),
    "Process": (
        Panel(
            title="CPU",
            unit="short",
            width=6,
            help="Cores in use. At 1 a process with a GIL can do no more: start another process.",
            queries=(Query(f"rate(process_cpu_seconds_total[$__rate_interval]) {OF_POOL}", "{{instance}}"),),
        ),
        Panel(
            title="Memory",
            unit="bytes",
            width=6,
            help="Resident. Grows without end: kept responses, identities never forgotten (row Leases).",
            queries=(Query(f"process_resident_memory_bytes {OF_POOL}", "{{instance}}"),),
        ),
        Panel(
            title="Open files",
            unit="percentunit",
            width=6,
            help="Sockets included; share of what the system allows (ulimit -n). Near 100 %: allow more, or lower "
            "Limits.total.",
            queries=(Query(f"process_open_fds / process_max_fds {OF_POOL}", "{{instance}}"),),
        ),
        Panel(
            title="Requests in flight",
            unit="short",
            width=6,
            help="Requests that wait, pause, or have a connection. Flat while calls fall to 0: they hang, pool.dump() "
            "tells where.",
            queries=(Query(gauge("requests_in_flight", by="pool"), "{{pool}}"),),
        ),
    ),
}


def _variable(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": SOURCE,
        "definition": query,
        "query": {"qryType": 1, "query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _override(name: str, **properties: Any) -> dict[str, Any]:
    return {
        "matcher": {"id": "byName", "options": name},
        "properties": [{"id": name, "value": value} for name, value in properties.items()],
    }


def _field(panel: Panel) -> dict[str, Any]:
    """How values look: unit, colours, and lines."""
    overrides = [_override(name, color={"mode": "fixed", "fixedColor": color}) for name, color in panel.colors.items()]
    overrides += [
        {
            "matcher": {"id": "byName", "options": name},
            "properties": [
                {"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [6, 4]}},
                {"id": "custom.fillOpacity", "value": 0},
                {"id": "custom.stacking", "value": {"mode": "none", "group": "A"}},
            ],
        }
        for name in panel.dashed
    ]
    custom: dict[str, Any] = {}
    if panel.kind == "timeseries":
        custom = {
            "drawStyle": "bars" if panel.bars else "line",
            "lineInterpolation": "linear",
            "lineWidth": 1 if panel.stacked else 2,
            "fillOpacity": 80 if panel.bars else 35 if panel.stacked else 0,
            "showPoints": "never",
            "spanNulls": False,
            "axisSoftMin": 0,
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "dashed" if len(panel.steps) > 1 else "off"},
        }
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        "color": {"mode": "thresholds" if panel.kind == "stat" else "palette-classic"},
        "custom": custom,
        "thresholds": {
            "mode": "absolute",
            "steps": [
                {"color": color, "value": None if number == 0 else start}
                for number, (start, color) in enumerate(panel.steps)
            ],
        },
    }
    if panel.decimals is not None:
        defaults["decimals"] = panel.decimals
    if panel.least is not None:
        defaults["min"] = panel.least
    if panel.most is not None:
        defaults["max"] = panel.most
    if panel.kind == "table":
        units = {"Attempts/s": "reqps", "p95": "s", "Retries/s": "ops", "Errors/s": "ops", "Received": "Bps"}
        overrides += [_override(name, unit=unit, decimals=2) for name, unit in units.items()]
        overrides += [_override("Host", **{"custom.width": 280})]
        defaults["custom"] = {"minWidth": 90}
    return {"defaults": defaults, "overrides": overrides}


def _options(panel: Panel) -> dict[str, Any]:
    if panel.kind == "stat":
        return {
            "colorMode": "value",
            "graphMode": "area",
            "justifyMode": "auto",
            "textMode": "value",
            "text": {"valueSize": 36},
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        }
    if panel.kind == "table":
        return {"showHeader": True, "cellHeight": "sm", "sortBy": [{"displayName": "Attempts/s", "desc": True}]}
    return {
        "legend": {
            "displayMode": "list",
            "placement": panel.legend,
            "showLegend": True,
            "calcs": [],
        },
        "tooltip": {"mode": "multi", "sort": "desc"},
    }


def _transformations(panel: Panel) -> list[dict[str, Any]]:
    """Of a table: the answers side by side, each with its query's name."""
    if panel.kind != "table":
        return []
    times = ["Time", *(f"Time {number + 1}" for number in range(len(panel.queries)))]
    names = {f"Value #{_ref(number)}": query.legend for number, query in enumerate(panel.queries)}
    # As a joined table, so that a host with no retries has an empty cell and not a row less.
    return [
        {"id": "joinByField", "options": {"byField": "host", "mode": "outer"}},
        {
            "id": "organize",
            "options": {
                "excludeByName": dict.fromkeys(times, True),
                "renameByName": {"host": "Host", **names},
            },
        },
    ]


def _ref(number: int) -> str:
    return chr(ord("A") + number)


def _panel(panel: Panel, identity: int, x: int, y: int) -> dict[str, Any]:
    is_table = panel.kind == "table"
    targets = [
        {
            "refId": _ref(number),
            "datasource": SOURCE,
            "expr": query.expr,
            "legendFormat": query.legend,
            "editorMode": "code",
            "range": not is_table,
            "instant": is_table,
            "format": "table" if is_table else "time_series",
        }
        for number, query in enumerate(panel.queries)
    ]
    return {
        "id": identity,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.help,
        "datasource": SOURCE,
        "gridPos": {"h": panel.height, "w": panel.width, "x": x, "y": y},
        "targets": targets,
        "fieldConfig": _field(panel),
        "options": _options(panel),
        "transformations": _transformations(panel),
    }


def build() -> dict[str, Any]:
    """The dashboard as Grafana takes it."""
    panels: list[dict[str, Any]] = []
    y = 0
    for row, members in ROWS.items():
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": row,
                "collapsed": False,
                "gridPos": {"h": 1, "w": COLUMNS, "x": 0, "y": y},
                "panels": [],
            }
        )
        x, y, height = 0, y + 1, 0
        for panel in members:
            if x + panel.width > COLUMNS:
                x, y, height = 0, y + height, 0
            panels.append(_panel(panel, len(panels) + 1, x, y))
            x, height = x + panel.width, max(height, panel.height)
        y += height
    return {
        "id": None,
        "uid": "sessionpool",
        "title": "sessionpool",
        "description": "HTTP session pools: saturation, waiting, latency, retries and sick hosts.",
        "tags": ["sessionpool", "http"],
        "schemaVersion": 41,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {
            "list": [
                {
                    "type": "datasource",
                    "name": "datasource",
                    "label": "Data source",
                    "query": "prometheus",
                    "regex": "",
                    "refresh": 1,
                    "current": {},
                },
                _variable("pool", "Pool", "label_values(sessionpool_requests_in_flight, pool)"),
                _variable("host", "Host", f"label_values(sessionpool_attempt_duration_seconds_count{{{POOL}}}, host)"),
            ]
        },
        "annotations": {
            "list": [
                {
                    "name": "Alerts",
                    "enable": True,
                    "iconColor": RED,
                    "datasource": SOURCE,
                    "expr": ALERTS,
                    "titleFormat": "{{alertname}}",
                    "textFormat": "{{pool}} {{host}}",
                    "tagKeys": "severity",
                }
            ]
        },
        "links": [],
        "panels": panels,
    }


def text() -> str:
    """The file's content."""
    return json.dumps(build(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
