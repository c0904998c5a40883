"""The soak finds what is broken, and nothing where nothing is; its proxy makes every fault that it names."""

from __future__ import annotations

import itertools
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from loadtests import soak
from loadtests.faults import ACCEPT_FAULTS, FAULTS, FaultyOrigin, pattern, planned
from sessionpool import Lease, Limits, Response, SessionPool
from sessionpool.exceptions import ConnectError, ConnectionError
from tests.helpers import eventually

ROOT = Path(__file__).resolve().parents[2]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "loadtests.soak", *arguments]


@pytest.mark.slow
def test_a_short_soak_makes_every_fault_and_keeps_every_promise(tmp_path: Path) -> None:
    """Under four times the usual faults, a killed server and a dark host, exit status 0, and nothing found."""
    report = tmp_path / "soak.json"
    # By this seed every fault is planned for one of the first five requests of some thread.
    ended = subprocess.run(
        command("--minutes", "0.07", "--seed", "194", "--faults", "4", "--restarts", "1", "--json", str(report)),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = json.loads(report.read_text("utf-8"))
    assert found["kept"]
    assert not found["broken"]
    assert {fault for fault, times in found["proxy"]["faults"].items() if times} == {
        *FAULTS,
        *ACCEPT_FAULTS,
        "restart",
        "dark",
    }
    tally = found["tally"]
    assert set(tally["works"]) == set(soak.WORKS)
    assert set(tally["leases"]) == set(soak.LEASES)
    assert tally["answers"] + sum(each["times"] for each in tally["errors"]) >= tally["attempts"] > tally["requests"]
    assert tally["cookies"] > 0
    assert found["pool"]["reused"] > 0
    assert {each["leased"] + each["waiting"] for each in found["stops"]} == {0}
    assert "BROKEN" not in ended.stdout
    assert found["unclear"] == ["memory"]  # so short a run cannot tell
    assert ended.stdout.count("\nkept ") == len(soak.PROMISES) - 1
    assert "4.2 s, 32 threads" in ended.stderr


def test_ctrl_c_ends_it_with_what_there_is() -> None:
    """One SIGINT: the threads are stopped, the tables printed, exit status 130."""
    with subprocess.Popen(
        command("--faults", "0", "--restarts", "0", "--threads", "4"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert "seed" in process.stderr.readline()
        assert "0 of 180 s" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=60)

    assert process.returncode == 130, errors
    assert "note: interrupted after" in said
    assert "answers checked" in said


# --- what is broken is found ---


class Breakage:
    """Something that is wrong with a pool, and how to put an end to it."""

    def __init__(self) -> None:
        self.kept: list[Any] = []
        self.over = threading.Event()
        self._numbers = itertools.count(1)

    def turn(self) -> int:
        """1, 2, 3, ..., whichever thread asks."""
        return next(self._numbers)


def other_answers(breakage: Breakage, settings: dict[str, Any]) -> SessionPool:
    """Now and then the answer to an earlier request."""

    def swap(response: Response, *, stream: bool, **_: Any) -> Response | None:
        if stream or response.status_code != 200 or breakage.turn() % 20:
            return None
        breakage.kept.append(response)
        return breakage.kept[-2] if len(breakage.kept) > 1 else None

    return SessionPool(**settings, hooks={"response": [swap]})


def others_cookies(breakage: Breakage, settings: dict[str, Any]) -> SessionPool:
    """A session begins with the cookies of the one that was leased before."""

    class Broken(SessionPool):
        def lease(self, *args: Any, **kwargs: Any) -> Lease:
            lease = super().lease(*args, **kwargs)
            with lock:
                own = lease.session.cookies.copy()
                lease.session.cookies = breakage.kept.pop() if breakage.kept else own
                breakage.kept.append(own)
            return lease

    lock = threading.Lock()
    return Broken(**settings)


def no_identities(breakage: Breakage, settings: dict[str, Any]) -> SessionPool:
    """An identity's lease is a fresh session, for as many threads as want it."""

    class Broken(SessionPool):
        def lease(self, key: Any = None, *, fresh: bool = False, timeout: float | None = 1.0) -> Lease:
            return super().lease(fresh=fresh or key is not None, timeout=timeout)

    return Broken(**settings)


def more_connections(breakage: Breakage, settings: dict[str, Any]) -> SessionPool:
    """Limits that are not what was asked for."""
    return SessionPool(**{**settings, "limits": Limits(per_host=8, total=16)})


def a_kept_stream(breakage: Breakage, settings: dict[str, Any]) -> SessionPool:
    """One stream is never given back."""

    class Broken(SessionPool):
        def request(self, method: str, url: str, **kwargs: Any) -> Response:
            if method == "GET" and "/echo/" in url and "set=1" not in url and breakage.turn() == 1:
                breakage.kept.append(super().request("GET", f"{url}&size=5000", **{**kwargs, "stream": True}))
            return super().request(method, url, **kwargs)

    return Broken(**settings)


def bad_errors(breakage: Breakage, settings: dict[str, Any]) -> SessionPool:
    """Errors that say nothing, that say what is not so, and that nobody knows; and POSTs that are sent twice."""

    class Broken(SessionPool):
        def request(self, method: str, url: str, **kwargs: Any) -> Response:
            response = super().request(method, url, **kwargs)
            if method == "POST" and isinstance(kwargs["data"], bytes):
                super().request(method, url, **kwargs)
            if "warm-up" in url:
                return response
            turn = breakage.turn()
            if turn == 1:
                raise ConnectionError("")
            if turn == 2:
                raise ConnectError(f"{url} refused the connection, it is said")
            if turn == 3:
                raise LookupError("where is it")
            return response

    return Broken(**settings)


def kept_resources(breakage: Breakage, settings: dict[str, Any]) -> SessionPool:
    """Files, threads and objects that stay."""

    class Broken(SessionPool):
        def request(self, method: str, url: str, **kwargs: Any) -> Response:
            turn = breakage.turn()
            breakage.kept.append([[] for _ in range(1000)])
            if turn == 2:
                breakage.kept.append(socket.socket())
            if turn == 3:
                threading.Thread(target=breakage.over.wait).start()
            return super().request(method, url, **kwargs)

    return Broken(**settings)


def a_hang(breakage: Breakage, settings: dict[str, Any]) -> SessionPool:
    """One request that never ends."""

    class Broken(SessionPool):
        def request(self, method: str, url: str, **kwargs: Any) -> Response:
            if breakage.turn() == 2:  # the first warms up
                breakage.over.wait()
            return super().request(method, url, **kwargs)

    return Broken(**settings)


@pytest.fixture
def breakage() -> Iterator[Breakage]:
    breakage = Breakage()
    yield breakage
    breakage.over.set()
    for kept in breakage.kept:
        if hasattr(kept, "close"):
            kept.close()


@pytest.mark.parametrize(
    ("make", "broken", "perhaps"),
    [
        (other_answers, {"wrong"}, {"crossed", "lost"}),
        (others_cookies, {"crossed"}, {"lost"}),
        (no_identities, {"shared", "lost"}, set()),
        (more_connections, {"bound"}, set()),
        (a_kept_stream, {"permits", "descriptors", "closing"}, set()),
        (bad_errors, {"speechless", "silent", "unexplained", "lies", "foreign", "doubled"}, set()),
        (kept_resources, {"descriptors", "threads", "memory"}, set()),
        (a_hang, {"hung", "threads"}, set()),
    ],
)
def test_what_is_broken_is_found(
    make: Callable[[Breakage, dict[str, Any]], SessionPool],
    broken: set[str],
    perhaps: set[str],
    breakage: Breakage,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Exit status 1, with each broken promise named, and none that was kept."""
    if "hung" in broken:
        monkeypatch.setattr(soak, "PATIENCE", 1.0)
    monkeypatch.setattr(soak, "WARM_UP", 1 if "memory" in broken else 10**9)
    report = tmp_path / "soak.json"
    status = soak.main(
        [
            *(
                "--minutes",
                "0.05" if "memory" in broken else "0.012",
                "--faults",
                "0",
                "--restarts",
                "0",
                "--seed",
                "1",
                "--threads",
                "8",
            ),
            *("--identities", "2", "--json", str(report)),
        ],
        make_pool=lambda **settings: make(breakage, settings),
    )
    said = capsys.readouterr()

    assert status == 1, said.out
    found = json.loads(report.read_text("utf-8"))
    assert broken <= set(found["broken"]) <= broken | perhaps, said.err
    for promise in broken:
        assert f"BROKEN   {soak.PROMISES[promise]}" in said.out
        assert found["tally"]["told"][promise][0].splitlines()[0] in said.err


# --- the proxy ---


def test_the_same_seed_plans_the_same_faults() -> None:
    """What is done to a token depends on the seed and the token alone, and every fault has its turn."""
    tokens = [f"token-{number}" for number in range(3000)]
    plan = [planned(FAULTS, 5, token, 1.0)[0] for token in tokens]

    assert plan == [planned(FAULTS, 5, token, 1.0)[0] for token in tokens]
    assert plan != [planned(FAULTS, 6, token, 1.0)[0] for token in tokens]
    assert set(plan) == {None, *FAULTS}
    assert {planned(FAULTS, 5, token, 0.0)[0] for token in tokens} == {None}


def ask(connection: socket.socket, token: str, size: int) -> bytes:
    connection.sendall(f"GET /echo/{token}?size={size} HTTP/1.1\r\nHost: test\r\n\r\n".encode("ascii"))
    answer = b""
    while not answer.endswith(b"\r\n\r\n" + pattern(token, size)):
        data = connection.recv(65_536)
        assert data, "closed before the end"
        answer += data
    return answer


def test_the_proxy_carries_counts_and_remembers() -> None:
    """Without faults what it carries is whole; open connections count by host, one that was closed first does not."""
    with FaultyOrigin.start(["127.0.0.1", "127.0.0.2"], seed=1, factor=0.0) as origin:
        with (
            socket.create_connection(("127.0.0.1", origin.port)) as first,
            socket.create_connection(("127.0.0.2", origin.port)) as second,
        ):
            assert b"X-Token: one\r\n" in ask(first, "one", 100_000)
            ask(first, "two", 0)
            ask(second, "three", 10)
            second.close()
            with socket.create_connection(("127.0.0.2", origin.port)) as third:
                ask(third, "three", 10)
                during = origin.counts()
        after = eventually(lambda: (counts := origin.counts())["open"] == 0 and counts)

        assert during["accepted"] == {"127.0.0.1": 1, "127.0.0.2": 2}
        assert during["requests"] == {"127.0.0.1": 2, "127.0.0.2": 2}
        assert during["peaks"] == {"127.0.0.1": 1, "127.0.0.2": 1}
        assert (during["open"], after["peak"]) == (2, 2)
        assert origin.why("three", "127.0.0.2", 0.0) == (2, [])
        assert origin.why("four", "127.0.0.2", 0.0) == (0, [])


def test_the_server_comes_back_on_its_port() -> None:
    """After a kill the second host refuses, the first resets what it is asked; then both answer again."""
    with FaultyOrigin.start(["127.0.0.1", "127.0.0.2"], seed=1, factor=0.0) as origin:
        with socket.create_connection(("127.0.0.1", origin.port)) as before:
            ask(before, "before", 10)
            origin.restart(0.2)
            assert before.recv(1) == b""
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", origin.port))
        with (
            socket.create_connection(("127.0.0.1", origin.port)) as during,
            pytest.raises(ConnectionResetError),
        ):
            ask(during, "during", 10)
        assert origin.why("during", "127.0.0.1", 0.0) == (1, ["killed the server"])

        def is_back() -> bool:
            try:
                with socket.create_connection(("127.0.0.2", origin.port)) as again:
                    return bool(ask(again, "again", 10))
            except OSError:
                return False

        eventually(is_back)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--minutes", "0"], "from 0.01 to 600, not '0'"),
        (["--minutes", "nan"], "from 0.01 to 600, not 'nan'"),
        (["--threads", "0"], "from 1 to 1000, not '0'"),
        (["--hosts", "300"], "from 1 to 254, not '300'"),
        (["--faults", "7"], "from 0 to 6, not '7'"),
        (["--seed", "x"], "not 'x'"),
    ],
)
def test_bad_arguments_are_named(arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is run; the message says what is wrong."""
    with pytest.raises(SystemExit) as ended:
        soak.main(arguments)

    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err
