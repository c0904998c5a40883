"""The log of a pool at work: what happens is told, and no secret with it."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from sessionpool import (
    CircuitBreaker,
    CloseReport,
    Governor,
    Health,
    Limits,
    ProxyRotation,
    RetryPolicy,
    Session,
    SessionPool,
)
from sessionpool.exceptions import CircuitOpenError, ConnectError, ProxyError, RequestException
from tests.helpers import PATIENCE, eventually, in_thread
from tests.test_log import beside
from tests.with_server.children import in_fork
from tests.with_server.echo_server import Answer, EchoServer, redirect, set_cookies

QUICK = RetryPolicy(attempts=3, backoff=0.0)


@pytest.fixture(autouse=True)
def every_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "sessionpool")


@pytest.fixture
def server() -> Iterator[EchoServer]:
    with EchoServer() as server:
        yield server


def told(caplog: pytest.LogCaptureFixture, event: str) -> list[dict[str, Any]]:
    return [beside(record) for record in caplog.records if beside(record).get("event") == event]


def test_a_connections_life(server: EchoServer, caplog: pytest.LogCaptureFixture) -> None:
    """Opened once, closed once, and nothing for the requests between."""
    with SessionPool(name="crawl", trust_env=False) as pool:
        for _ in range(5):
            pool.get(server.url)

    assert [(record.levelname, beside(record)["event"]) for record in caplog.records] == [
        ("DEBUG", "connected"),
        ("DEBUG", "closed"),
    ]
    assert {beside(record)["pool"] for record in caplog.records} == {"crawl"}


def test_who_made_everybody_wait_is_told(server: EchoServer, caplog: pytest.LogCaptureFixture) -> None:
    """A `Retry-After` is a line at INFO before anybody waits for it."""
    answers = iter([Answer(b"", 429, [("Retry-After", "1")]), Answer(b"")])
    server.answers["/"] = lambda _: next(answers)
    caplog.set_level(logging.INFO, "sessionpool")
    with SessionPool(trust_env=False, retry=QUICK) as pool, in_thread(pool.get, server.url + "/") as call:
        eventually(lambda: caplog.records)
        waiting = len(server.seen)
        assert call.get().ok
    (record,) = caplog.records

    assert waiting == 1
    assert record.levelname == "INFO"
    assert record.getMessage().startswith(f"pool 'default': {server.url} asked to be left alone (429 Retry-After): ")
    assert beside(record)["seconds"] == 1.0


def test_a_session_of_no_pool_logs_too(server: EchoServer, caplog: pytest.LogCaptureFixture) -> None:
    """Under a name of its own."""
    server.answers["/"] = Answer(b"", 503)
    with Session() as session:
        session.trust_env = False
        session.get(server.url + "/", retry=QUICK)
    (denied,) = told(caplog, "denied")

    assert [each["attempt"] for each in told(caplog, "retrying")] == [1, 2]
    assert (denied["pool"], denied["reason"]) == ("session", "attempts")


def test_a_circuit(server: EchoServer, caplog: pytest.LogCaptureFixture) -> None:
    """It opens at WARNING, and what does not go is told at DEBUG."""
    server.answers["/"] = Answer(b"", 500)
    governor = Governor(circuit=CircuitBreaker(failures=2))
    with SessionPool(trust_env=False, retry=None, governor=governor) as pool:
        for _ in range(2):
            pool.get(server.url + "/")
        with pytest.raises(CircuitOpenError):
            pool.get(server.url + "/")

    assert [each["state"] for each in told(caplog, "circuit")] == ["open"]
    assert [each["reason"] for each in told(caplog, "denied")] == ["circuit"]


def test_a_proxy_that_is_taken_out(caplog: pytest.LogCaptureFixture) -> None:
    """Once, at WARNING, without its password; the observer hears of it as well."""
    rotation = ProxyRotation(["http://ada:hush@127.0.0.1:1"], max_failures=2, rest=60.0)
    with SessionPool(trust_env=False, retry=None, proxies=rotation) as pool:
        for _ in range(3):
            with pytest.raises(ProxyError):
                pool.get("http://127.0.0.1/")
    (record,) = [record for record in caplog.records if record.name == "sessionpool.proxies"]

    assert record.levelname == "WARNING"
    assert beside(record) == {
        "event": "benched",
        "pool": "default",
        "proxy": "http://127.0.0.1:1",
        "reason": "ProxyError",
        "seconds": 60.0,
    }


def test_a_session_that_is_retired(server: EchoServer, caplog: pytest.LogCaptureFixture) -> None:
    """Whose it is, and why."""
    with SessionPool(trust_env=False, health=Health(max_uses=1)) as pool, pool.lease("ada") as session:
        session.get(server.url)

    assert [(each["key"], each["reason"]) for each in told(caplog, "retired")] == [("'ada'", "max_uses=1")]


@pytest.mark.parametrize(("timeout", "level"), [(0.01, "WARNING"), (0, "INFO")], ids=["after a wait", "at once"])
def test_closing_over_somebodys_head(
    timeout: float, level: str, server: EchoServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A pool that is closed while it is in use says so, once; one that is not says nothing. `timeout=0` means it."""
    with SessionPool(trust_env=False) as quiet:
        quiet.get(server.url)
    assert not told(caplog, "cut")
    pool = SessionPool(trust_env=False)
    with pool.get(server.url, stream=True):
        with in_thread(pool.close, timeout) as call:
            pass
        assert call.get().cut == 1
    (cut,) = (record for record in caplog.records if beside(record)["event"] == "cut")

    assert cut.levelname == level
    assert (beside(cut)["leases"], beside(cut)["connections"]) == (1, 1)


def test_closing_that_interrupts_a_log_line(server: EchoServer) -> None:
    """A handler of the log has a lock: closing, which logs, is then left to a thread that can wait for it."""
    reports: list[CloseReport] = []
    closing: list[threading.Thread] = []

    class Locked(logging.Handler):
        def __init__(self) -> None:
            super().__init__()
            self.guard = threading.Lock()
            self.told: list[str] = []

        def emit(self, record: logging.LogRecord) -> None:
            with self.guard:
                self.told.append(beside(record)["event"])
                if not reports:
                    signal.raise_signal(signal.SIGUSR1)

    def on_signal(*_: object) -> None:
        reports.append(pool.close(0))
        closing.extend(thread for thread in threading.enumerate() if thread.name == "sessionpool-default-close")

    handler, logger = Locked(), logging.getLogger("sessionpool")
    before = signal.signal(signal.SIGUSR1, on_signal)
    logger.addHandler(handler)
    try:
        with SessionPool(trust_env=False) as pool, contextlib.suppress(RequestException):
            pool.get(server.url)
        for thread in closing:
            thread.join(PATIENCE)
    finally:
        logger.removeHandler(handler)
        signal.signal(signal.SIGUSR1, before)

    assert reports[0].is_deferred
    assert handler.told[0] == "connected"
    assert "closed" in handler.told


def test_a_forked_process_logs(server: EchoServer, caplog: pytest.LogCaptureFixture) -> None:
    """Though another thread was about to, when it was forked."""
    with SessionPool(trust_env=False) as pool:

        def child() -> list[dict[str, Any]]:
            pool._transport.log.denied(server.url, "budget")
            return told(caplog, "denied")

        with pool._transport.log._lock:  # as that thread would hold it
            lines = in_fork(child)

    assert [each["host"] for each in lines] == [server.url]


def test_nothing_secret_is_logged(server: EchoServer, caplog: pytest.LogCaptureFixture) -> None:
    """No user, password, query, header, cookie or body, in any line's text or attributes, whatever happens."""
    host = server.url.partition("://")[2]
    server.answers["/login"] = set_cookies("id=hush")
    server.answers["/down"] = Answer(b"hush", 503, [("Retry-After", "0"), ("X-Token", "hush")])
    server.answers["/far"] = redirect(f"http://ada:hush@{host}/down?sig=hush")
    server.answers["/slow"] = Answer(b"hush", 429, [("Retry-After", "1")])
    headers = {"Authorization": "Bearer hush", "Cookie": "id=hush", "X-Api-Key": "hush"}
    rotation = ProxyRotation(["http://ada:hush@127.0.0.1:1"], max_failures=1)
    with SessionPool(trust_env=False, retry=QUICK, health=Health(blocked=(503,))) as pool:
        pool.get(server.url + "/login?token=hush", auth=("ada", "hush"))
        pool.get(f"http://ada:hush@{host}/far?Signature=hush#hush", headers=headers)
        pool.post(server.url + "/down", data={"password": "hush"}, headers={**headers, "Idempotency-Key": "hush"})
        with pytest.raises(ConnectError):
            pool.get("http://ada:hush@127.0.0.1:1/?sig=hush", headers=headers)
        pool.get(server.url + "/slow?sig=hush", retry=None)
    with SessionPool(trust_env=False, retry=QUICK, proxies=rotation) as pool, pytest.raises(ProxyError):
        pool.get(server.url + "/?sig=hush")
    events = {beside(record).get("event") for record in caplog.records}

    assert {"connected", "closed", "retrying", "denied", "cooled", "retired", "benched"} <= events
    for record in caplog.records:
        assert "hush" not in record.getMessage()
        assert "hush" not in repr(vars(record))


def test_waiting_threads_are_named_by_the_record(server: EchoServer, caplog: pytest.LogCaptureFixture) -> None:
    """Who has waited is the record's own thread."""
    answers = iter([Answer(b"", 429, [("Retry-After", "1")]), Answer(b"")])
    server.answers["/"] = lambda _: next(answers)
    with SessionPool(trust_env=False, limits=Limits(per_host=1), retry=None) as pool:
        pool.get(server.url + "/")
        with in_thread(pool.get, server.url + "/") as call:
            call.thread.join(PATIENCE)
    (record,) = [record for record in caplog.records if beside(record)["event"] == "throttled"]

    assert record.threadName == call.thread.name
