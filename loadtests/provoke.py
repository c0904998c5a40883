"""Everything that the dashboard shows and the alerts watch for, made to happen under a real Prometheus.

`python -m loadtests.provoke` (a minute and a half) starts a server on loopback, a pool for each scenario, and
Prometheus with the rules of `grafana/`, which scrapes them each second. For a while all is well; then each pool but
one gets its trouble, all at the same time; then it ends. Pools have the names of their scenarios, and alerts the name
of their pool, so one run tells for each alert where it fired. At the end it says, panel by panel and rule by rule,
whether there was data, and alert by alert whether it fired in its scenarios, and nowhere before there was trouble, nor
in the healthy pool.

The rules are those that are deployed, but a minute in them is a second here (`shortened`). Exit status 1: something
had no data, or an alert was wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlencode

import attrs
from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, start_http_server

from grafana import dashboard
from sessionpool import CircuitBreaker, Governor, Health, Limits, RateLimit, RetryPolicy, SessionPool, Timeout
from sessionpool.exceptions import IdentityRetiredError, RequestException
from sessionpool.metrics import Metrics

RULES: Final = Path(dashboard.__file__).with_name("prometheus") / "rules.yml"
SCRAPE: Final = 1.0  # seconds; a scrape that takes longer is lost
RATE_INTERVAL: Final = "5s"  # what stands for $__rate_interval
START_TIMEOUT: Final = 20.0
HOSTS: Final = tuple(f"127.0.0.{number}" for number in range(1, 6))
GOOD_HOSTS, SICK, DEAD = HOSTS[:3], HOSTS[3], HOSTS[4]
SLOW_SECONDS: Final = 1.2


class ProvokeError(RuntimeError):
    """Prometheus is missing, did not start, or did not answer."""


# --- what is asked ---


class _Handler(BaseHTTPRequestHandler):
    """Answers by the first word of the path."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        kind = self.path.split("/")[1]
        if kind == "slow":
            time.sleep(SLOW_SECONDS)
        status = {"limited": 429, "forbidden": 403, "broken": 503, "missing": 404}.get(kind, 200)
        body = b"x" * (20_000 if kind == "large" else 500)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if kind == "limited":
            self.send_header("Retry-After", "1")
        if kind == "once":
            self.send_header("Connection", "close")
        self.end_headers()
        with contextlib.suppress(OSError):  # the client did not wait
            self.wfile.write(body)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is none."""


@contextlib.contextmanager
def origin() -> Iterator[Callable[[str, str], str]]:
    """Serve on all `HOSTS` but the dead one; gives a function from host and path to a URL."""
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(_Server((HOSTS[0], 0), _Handler))
        port = first.server_address[1]
        servers = [first, *(stack.enter_context(_Server((host, port), _Handler)) for host in (*HOSTS[1:3], SICK))]
        for server in servers:
            thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="origin")
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
        yield lambda host, path: f"http://{host}:{port}/{path}"


# --- what is done ---

Url = Callable[[str, str], str]
Work = Callable[[SessionPool, Url, int], object]


@attrs.frozen(kw_only=True)
class Scenario:
    """One pool, and what happens to it.

    Attributes:
        calm: What its threads do, over and over, while all is well.
        trouble: What they do meanwhile there is trouble.
        alerts: Those that must fire then.
        settings: The pool's.
        threads: How many there are.
        pause: Seconds between two of their works.
    """

    calm: Work
    trouble: Work
    alerts: tuple[str, ...] = ()
    settings: Mapping[str, Any] = attrs.field(factory=dict)
    threads: int = 3
    pause: float = 0.05


def _calm(pool: SessionPool, url: Url, turn: int) -> None:
    host = GOOD_HOSTS[turn % 3]
    with pool.lease(None if turn % 3 else f"user-{turn % 7}") as session:
        if turn % 5:
            session.get(url(host, "page"))
        else:
            session.post(url(host, "large"), data=b"y" * 200)
    if not turn % 50:
        pool.get(url(host, "missing"))


def _storm(pool: SessionPool, url: Url, turn: int) -> None:
    # A site that is close to its limit: every other request is one too many.
    pool.get(url(SICK, "page" if turn % 2 else "limited"))


def _stall(pool: SessionPool, url: Url, turn: int) -> None:
    if turn % 4:
        pool.get(url(SICK, "slow"))
    else:  # all of them want the same identity
        with pool.lease("the one", timeout=0.2) as session:
            session.get(url(SICK, "slow"))


def _leak(pool: SessionPool, url: Url, turn: int) -> None:
    if turn % 3 == 0:
        pool.lease(f"forgotten-{turn % 20}").session.get(url(GOOD_HOSTS[0], "page"))
    elif turn % 3 == 1:
        pool.get(url(GOOD_HOSTS[0], "large"), stream=True)
    else:
        kept: list[object] = []
        thread = threading.Thread(target=lambda: kept.append(pool.lease(f"left-{turn % 20}")))
        thread.start()
        thread.join()


def _identities(pool: SessionPool, url: Url, turn: int) -> None:
    account = f"account-{turn % 41}"
    try:
        with pool.lease(account) as session:
            session.get(url(SICK, "page" if turn % 4 else "forbidden"))
    except IdentityRetiredError:
        pool.forget(account)


SCENARIOS: Final[Mapping[str, Scenario]] = {
    "healthy": Scenario(
        calm=_calm,
        trouble=_calm,
        settings={"governor": Governor(rate=RateLimit(rate=200, burst=20), circuit=CircuitBreaker())},
        threads=4,
    ),
    "429 storm": Scenario(
        calm=_calm,
        trouble=_storm,
        alerts=("SessionPoolRetryStorm", "SessionPoolBlocked"),
        settings={"retry": RetryPolicy(attempts=3, backoff=0.2, cap=0.5)},
        threads=6,
    ),
    "exhausted": Scenario(
        calm=_calm,
        trouble=_stall,
        alerts=("SessionPoolExhausted", "SessionPoolWaitsLong"),
        settings={"limits": Limits(per_host=2, total=3), "timeout": Timeout(pool=2)},
        threads=10,
        pause=0.2,
    ),
    "leak": Scenario(
        calm=_calm, settings={"leak_threshold": 0.5}, trouble=_leak, alerts=("SessionPoolLeaks",), threads=1, pause=0.2
    ),
    "dead host": Scenario(
        calm=_calm,
        trouble=lambda pool, url, turn: pool.get(url(DEAD if turn % 2 else GOOD_HOSTS[0], "page")),
        alerts=("SessionPoolCircuitOpen", "SessionPoolCallsFail"),
        settings={"governor": Governor(circuit=CircuitBreaker(failures=5, open=8))},
    ),
    "slow host": Scenario(
        calm=_calm,
        trouble=lambda pool, url, turn: pool.get(url(SICK, "slow" if turn % 3 else "page")),
        alerts=("SessionPoolMissesDeadlines",),
        settings={"timeout": Timeout(total=0.9), "retry": RetryPolicy(attempts=2)},
    ),
    "no keep-alive": Scenario(
        calm=_calm,
        trouble=lambda pool, url, _: pool.get(url(GOOD_HOSTS[0], "once")),
        alerts=("SessionPoolReuseCollapsed",),
    ),
    "blocked": Scenario(
        calm=_calm,
        trouble=_identities,
        alerts=("SessionPoolBlocked",),
        settings={"health": Health(on_retire="refuse")},
    ),
}
HEALTHY: Final = "healthy"


class Load:
    """The pools and their threads, with their metrics on a port; a context manager.

    Attributes:
        port: Where the metrics are.
    """

    def __init__(self, scenarios: Mapping[str, Scenario] = SCENARIOS) -> None:
        self._scenarios = scenarios
        self._stack = contextlib.ExitStack()
        self._over = threading.Event()
        self._trouble = threading.Event()
        self.port = 0

    def __enter__(self) -> Self:
        with self._stack as stack:
            registry = CollectorRegistry()
            ProcessCollector(registry=registry)
            GCCollector(registry=registry)
            url = stack.enter_context(origin())
            server, thread = start_http_server(0, "127.0.0.1", registry)
            stack.callback(thread.join)
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
            self.port = server.server_address[1]
            for name, scenario in self._scenarios.items():
                settings = {"limits": Limits(per_host=6, total=16), **scenario.settings}
                metrics = Metrics(registry=registry, hosts=20)
                pool = stack.enter_context(SessionPool(name=name, metrics=metrics, **settings))
                turns = itertools.count(1)
                for number in range(scenario.threads):
                    worker = threading.Thread(
                        target=self._work, args=(pool, scenario, url, turns), name=f"{name} {number}"
                    )
                    worker.start()
                    stack.callback(worker.join)
            stack.callback(self._over.set)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._stack.close()

    def set_trouble(self, *, on: bool) -> None:
        """Begin or end it, in all scenarios."""
        (self._trouble.set if on else self._trouble.clear)()

    def _work(self, pool: SessionPool, scenario: Scenario, url: Url, turns: Iterator[int]) -> None:
        while not self._over.wait(scenario.pause):
            work = scenario.trouble if self._trouble.is_set() else scenario.calm
            with contextlib.suppress(RequestException):
                work(pool, url, next(turns))


# --- who watches ---


def shortened(rules: str) -> str:
    """Rules in which a minute is a second."""
    return re.sub(r"(for: |\[)(\d+)m\b", r"\1\2s", rules)


def find_prometheus() -> str | None:
    """Return the path of the program, None without one."""
    return shutil.which("prometheus")


class Prometheus:
    """A real one, on a free port, with its data in a directory that is removed; a context manager.

    Args:
        port: Where the metrics are that it scrapes.
        rules: Text of a rules file.

    Attributes:
        url: Where it answers.

    Raises:
        ProvokeError: On entering: it is not installed or does not start.
    """

    def __init__(self, port: int, rules: str) -> None:
        self._target = port
        self._rules = rules
        self._stack = contextlib.ExitStack()
        self.url = ""

    def __enter__(self) -> Self:
        program = find_prometheus()
        if program is None:
            raise ProvokeError("prometheus is not installed: apt-get install prometheus")
        with self._stack as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="prometheus-")))
            (folder / "rules.yml").write_text(self._rules, "utf-8")
            each = f"{SCRAPE:g}s"
            (folder / "prometheus.yml").write_text(
                f"global: {{scrape_interval: {each}, scrape_timeout: {each}, evaluation_interval: {each}}}\n"
                "rule_files: [rules.yml]\n"
                "scrape_configs:\n"
                f"  - {{job_name: sessionpool, static_configs: [{{targets: ['127.0.0.1:{self._target}']}}]}}\n",
                "utf-8",
            )
            self._port = _free_port()
            self.url = f"http://127.0.0.1:{self._port}"
            errors = stack.enter_context((folder / "stderr").open("w+", encoding="utf-8"))
            process = subprocess.Popen(
                [
                    program,
                    f"--config.file={folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self._port}",
                    "--log.level=warn",
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
            stack.callback(_end, process)
            deadline = time.monotonic() + START_TIMEOUT
            while not self._is_ready():
                if process.poll() is not None or time.monotonic() > deadline:
                    errors.seek(0)
                    raise ProvokeError(f"prometheus did not start: {errors.read()[-500:]}")
                time.sleep(0.05)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def range(self, expr: str, start: float, end: float, step: float = 1.0) -> list[dict[str, Any]]:
        """The series that an expression has between two instants of the wall clock.

        Raises:
            ProvokeError: It does not take the expression.
        """
        query = urlencode({"query": expr, "start": start, "end": end, "step": step})
        series: list[dict[str, Any]] = self._ask(f"/api/v1/query_range?{query}")["result"]
        for each in series:
            each["values"] = [(at, float(value)) for at, value in each["values"] if value != "NaN"]
        return [each for each in series if each["values"]]

    def rules(self) -> list[dict[str, Any]]:
        """All rules that it has."""
        return [rule for group in self._ask("/api/v1/rules")["groups"] for rule in group["rules"]]

    def _is_ready(self) -> bool:
        try:
            return bool(self._get("/-/ready")[0] == 200)
        except OSError:
            return False

    def _ask(self, path: str) -> Any:
        status, body = self._get(path)
        answer = json.loads(body)
        if status != 200:
            raise ProvokeError(f"prometheus: {answer.get('error', status)}")
        return answer["data"]

    def _get(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=START_TIMEOUT)
        with contextlib.closing(connection):
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()


def _free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        return port


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(START_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


# --- what is found ---


def substituted(expr: str) -> str:
    """A panel's expression with all pools and hosts, and without the 0 that stands for nothing counted yet."""
    for variable, value in {"$pool": ".*", "$host": ".*", "$__rate_interval": RATE_INTERVAL}.items():
        expr = expr.replace(variable, value)
    return expr.replace(" or vector(0)", "")


def expressions() -> dict[str, str]:
    """What the panels ask, by row, title, and the name of the line."""
    return {
        f"{row} / {panel.title} / {query.legend}": query.expr
        for row, panels in dashboard.ROWS.items()
        for panel in panels
        for query in panel.queries
    }


@attrs.frozen(kw_only=True)
class Findings:
    """What a run has shown.

    Attributes:
        panels: Series with data, by what `expressions` calls them.
        recorded: Series with data, by recording rule.
        fired: Which pools each alert fired for while there was trouble, or after.
        early: The same, before there was any.
    """

    panels: dict[str, int]
    recorded: dict[str, int]
    fired: dict[str, list[str]]
    early: dict[str, list[str]]

    @property
    def missed(self) -> list[tuple[str, str]]:
        """Alerts that did not fire, with the scenarios that they should have fired in."""
        return [
            (alert, name)
            for name, scenario in SCENARIOS.items()
            for alert in scenario.alerts
            if name not in self.fired.get(alert, [])
        ]

    @property
    def false(self) -> list[tuple[str, str]]:
        """Alerts that fired where all was well."""
        early = [(alert, name) for alert, names in self.early.items() for name in names]
        return early + [(alert, HEALTHY) for alert, names in self.fired.items() if HEALTHY in names]

    @property
    def empty(self) -> list[str]:
        """What had no data."""
        return [name for name, count in {**self.panels, **self.recorded}.items() if not count]

    @property
    def good(self) -> bool:
        """Nothing was wrong."""
        return not (self.missed or self.false or self.empty)


def watch(prometheus: Prometheus, began: float, trouble: float, end: float) -> Findings:
    """Ask Prometheus for everything between these instants of the wall clock."""
    rules = prometheus.rules()
    fired: dict[str, list[str]] = {rule["name"]: [] for rule in rules if rule["type"] == "alerting"}
    early: dict[str, list[str]] = {}
    for series in prometheus.range('ALERTS{alertstate="firing"}', began, end, SCRAPE):
        alert, pool = series["metric"]["alertname"], series["metric"]["pool"]
        into = early if series["values"][0][0] < trouble else fired
        if pool not in into.setdefault(alert, []):
            into[alert].append(pool)
    recorded = [rule["name"] for rule in rules if rule["type"] == "recording"]
    return Findings(
        panels={name: len(prometheus.range(substituted(expr), began, end)) for name, expr in expressions().items()},
        recorded={name: len(prometheus.range(name, began, end)) for name in recorded},
        fired=fired,
        early=early,
    )


def run(calm: float = 14.0, trouble: float = 24.0, after: float = 4.0) -> Findings:
    """Provoke everything; so many seconds of each phase."""
    with Load() as load, Prometheus(load.port, shortened(RULES.read_text("utf-8"))) as prometheus:
        began = time.time()
        time.sleep(calm)
        load.set_trouble(on=True)
        turned = time.time()
        time.sleep(trouble)
        load.set_trouble(on=False)
        time.sleep(after)
        return watch(prometheus, began, turned, time.time())


def _tell(findings: Findings) -> None:
    print("Panels (row / panel / line: series with data)")
    for name, count in findings.panels.items():
        print(f"  {'ok   ' if count else 'EMPTY'} {name}: {count}")
    print("\nRecording rules")
    for name, count in findings.recorded.items():
        print(f"  {'ok   ' if count else 'EMPTY'} {name}: {count}")
    print("\nAlerts, and the scenarios in which they fired")
    for name, pools in findings.fired.items():
        wanted = [pool for pool, scenario in SCENARIOS.items() if name in scenario.alerts]
        wrong = any(name == alert for alert, _ in (*findings.missed, *findings.false))
        more = [pool for pool in pools if pool not in wanted]
        told = f"; also in: {', '.join(more)}" if more else ""
        print(f"  {'WRONG' if wrong else 'ok   '} {name}: {', '.join(p for p in wanted if p in pools) or '-'}{told}")
    for alert, pool in findings.missed:
        print(f"MISSED: {alert} did not fire in {pool}")
    for alert, pool in findings.false:
        print(f"FALSE: {alert} fired in {pool} where all was well")


def main() -> int:
    """Run it as a command."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.provoke", description="See the module's docstring.")
    for phase, seconds in {"calm": 25.0, "trouble": 40.0, "after": 25.0}.items():
        told = f"{seconds:g} by default"
        parser.add_argument(f"--{phase}", type=float, default=seconds, metavar="SECONDS", help=told)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found")
    arguments = parser.parse_args()
    try:
        findings = run(arguments.calm, arguments.trouble, arguments.after)
    except ProvokeError as error:
        print(error, file=sys.stderr)
        return 2
    _tell(findings)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(attrs.asdict(findings), indent=2) + "\n", "utf-8")
    return 0 if findings.good else 1


if __name__ == "__main__":
    sys.exit(main())
