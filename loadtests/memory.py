"""Two GiB up and two GiB down: how much memory does it take?

`python -m loadtests.memory --help` tells how to run it. Each case is a process of its own, whose peak (`VmHWM`) is
read after a first transfer of a MiB and again after the real one: what lies between is the growth. The other end is a
process too. It counts the bytes of a body, its chunks taken apart, and says how many there were: a body that came short
gives an error, not a figure. What it sends is zeros, and they are counted here.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Self

import attrs

from loadtests import peers
from loadtests.soak import Progress
from sessionpool import SessionPool, Timeout

MIB: Final = 1024 * 1024
# What a process may grow by, however much it carries: a few pieces, and what the allocator keeps of them.
LIMIT: Final = 8 * MIB
WARM_UP: Final = MIB
PIECE: Final = 64 * 1024
BUFFER: Final = 256 * 1024
PATIENCE: Final = 600.0


class TransferError(Exception):
    """A transfer that did not bring what it should have."""


# The other end -------------------------------------------------------------------------------------


def serve() -> None:
    """Take bodies and send zeros, on a free port of 127.0.0.1 that is printed, until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    threading.Thread(target=_accept, args=(listener,), daemon=True).start()
    sys.stdin.read()


def _accept(listener: socket.socket) -> None:
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=_answer, args=(sock,), daemon=True).start()


def _answer(sock: socket.socket) -> None:
    """Serve a connection: PUT gets the number of bytes that came, GET /NUMBER as many zeros."""
    zeros = memoryview(bytes(BUFFER))
    with contextlib.suppress(OSError, EOFError), sock, sock.makefile("rb", BUFFER) as file:
        while line := file.readline():
            method, target, _ = line.decode("latin-1").split(" ")
            fields = {}
            while (line := file.readline()) not in (b"\r\n", b""):
                name, _, value = line.decode("latin-1").partition(":")
                fields[name.lower()] = value.strip()
            if method == "GET":
                left = int(target[1:])
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % left)
                while left:
                    left -= sock.send(zeros[: min(left, BUFFER)])
                continue
            received = _discard(file, int(fields.get("content-length", 0)))
            if fields.get("transfer-encoding") == "chunked":
                while size := int(file.readline(), 16):
                    received += _discard(file, size)
                    file.readline()
                file.readline()
            said = b"%d" % received
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(said), said))


def _discard(file: Any, size: int) -> int:
    buffer = memoryview(bytearray(BUFFER))
    left = size
    while left:
        taken = file.readinto(buffer[: min(left, BUFFER)])
        if not taken:
            raise EOFError
        left -= taken
    return size


class Server:
    """The other end as a process, while it is a context."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "loadtests.memory", "--serve"],
            cwd=peers.ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self._process.stdout.readline())}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=10)  # closes its standard input


# The cases -----------------------------------------------------------------------------------------


def _sparse(stack: ExitStack, size: int) -> Any:
    file = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - the stack closes it
    file.truncate(size)
    return file


def _zeros(size: int) -> Iterator[bytes]:
    piece = bytes(PIECE)
    for _ in range(size // PIECE):
        yield piece


def _send(pool: SessionPool, url: str, expected: int | None, **body: Any) -> None:
    response = pool.put(url, **body)
    received = int(response.text)
    if received != (response.request.body_length if expected is None else expected):
        raise TransferError(f"{received:,} bytes came")


def put_file(pool: SessionPool, url: str, size: int) -> None:
    with ExitStack() as stack:
        _send(pool, url, size, data=_sparse(stack, size))


def put_multipart(pool: SessionPool, url: str, size: int) -> None:
    with ExitStack() as stack:
        half = size // 2
        files = [("one", ("one.bin", _sparse(stack, half))), ("two", ("two.bin", _sparse(stack, size - half)))]
        _send(pool, url, None, data={"field": "value"}, files=files)


def put_generator(pool: SessionPool, url: str, size: int) -> None:
    _send(pool, url, size, data=_zeros(size))


def put_encoder(pool: SessionPool, url: str, size: int) -> None:
    encoder_class = importlib.import_module("requests_toolbelt").MultipartEncoder
    with ExitStack() as stack:
        encoder = encoder_class({"field": "value", "file": ("zeros.bin", _sparse(stack, size), "text/plain")})
        _send(pool, url, encoder.len, data=encoder, headers={"Content-Type": encoder.content_type})


def get_iter_content(pool: SessionPool, url: str, size: int) -> None:
    with pool.get(f"{url}/{size}", stream=True) as response:
        _check(size, sum(len(piece) for piece in response.iter_content(PIECE)))


def get_raw(pool: SessionPool, url: str, size: int) -> None:
    with pool.get(f"{url}/{size}", stream=True) as response:
        _check(size, sum(len(piece) for piece in iter(lambda: response.raw.read(PIECE), b"")))


def _check(size: int, received: int) -> None:
    if received != size:
        raise TransferError(f"{received:,} bytes came")


CASES: Final[dict[str, tuple[str, Callable[[SessionPool, str, int], None]]]] = {
    "file": ("up, a file as `data`", put_file),
    "multipart": ("up, two files and a field as `files` and `data`", put_multipart),
    "generator": ("up, a generator, chunked", put_generator),
    "encoder": ("up, requests-toolbelt's MultipartEncoder", put_encoder),
    "iter_content": ("down, `iter_content`", get_iter_content),
    "raw": ("down, `raw.read`", get_raw),
}


# The measurement -----------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Measured:
    """What one transfer took.

    Attributes:
        growth: Bytes by which the peak of resident memory rose.
        peak: Bytes resident at the peak.
        seconds: From start to end.
        cpu: Seconds of CPU, user and system.
    """

    growth: int
    peak: int
    seconds: float
    cpu: float


def measure(case: str, url: str, size: int) -> Measured:
    """Make one transfer, in this process."""
    transfer = CASES[case][1]
    with SessionPool(trust_env=False, retry=None, timeout=Timeout(total=None)) as pool:
        transfer(pool, url, WARM_UP)
        before, began, cpu = peak(), time.monotonic(), time.process_time()
        transfer(pool, url, size)
        seconds, cpu = time.monotonic() - began, time.process_time() - cpu
        return Measured(growth=peak() - before, peak=peak(), seconds=seconds, cpu=cpu)


def peak() -> int:
    """The most bytes that this process has had resident; `ru_maxrss` begins with what the parent had."""
    found = re.search(r"^VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text("ascii"), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def measure_in_process(case: str, url: str, size: int) -> Measured:
    """Make one transfer, in a process of its own.

    Raises:
        TransferError: It failed, or took too long.
    """
    command = [sys.executable, "-m", "loadtests.memory", "--measure", case, url, str(size)]
    try:
        ended = subprocess.run(
            command,
            cwd=peers.ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise TransferError(f"no result after {error.timeout:.0f} s") from error
    if ended.returncode != 0:
        raise TransferError((ended.stderr.strip().splitlines() or [f"exit status {ended.returncode}"])[-1])
    return Measured(**json.loads(ended.stdout))


# What is said about it -----------------------------------------------------------------------------


@attrs.define(kw_only=True)
class Results:
    """What was found, and what could not be."""

    about: dict[str, Any]
    size: int
    measured: dict[str, Measured] = attrs.field(factory=dict)
    notes: list[str] = attrs.field(factory=list)
    failed: list[str] = attrs.field(factory=list)

    @property
    def grown(self) -> list[str]:
        """The cases that took more memory than they may."""
        return [case for case, measured in self.measured.items() if measured.growth > LIMIT]


def rows(results: Results) -> list[tuple[str, ...]]:
    """A head and a row per case."""
    found: list[tuple[str, ...]] = [("what", "grew by, MiB", "peak, MiB", "seconds", "MiB/s", "CPU seconds")]
    for case, each in results.measured.items():
        rate = results.size / MIB / each.seconds
        sizes = f"{each.growth / MIB:.1f}", f"{each.peak / MIB:.1f}"
        found.append((CASES[case][0], *sizes, f"{each.seconds:.1f}", f"{rate:,.0f}", f"{each.cpu:.1f}"))
    return found


def plain(results: Results) -> str:
    """The figures as text."""
    table = rows(results)
    width = max(len(row[0]) for row in table)
    return "\n".join("  ".join([row[0].ljust(width), *(cell.rjust(12) for cell in row[1:])]) for row in table)


def markdown(results: Results) -> str:
    """The figures as a Markdown page, with the conditions of the run."""
    head, *others = rows(results)
    lines = [
        f"# {results.size / MIB:,.0f} MiB up and down",
        "",
        "What a process grew by that carried so much, over loopback; each row is a process of its own. How it is done:",
        "`loadtests/README.md`.",
        "",
        f"| {' | '.join(head)} |",
        f"|---|{'---:|' * (len(head) - 1)}",
        *(f"| {' | '.join(row)} |" for row in others),
        "",
        "## Conditions",
        "",
        *(f"- {name}: {value}" for name, value in results.about.items() if name != "versions"),
        "- versions: " + ", ".join(f"{name} {version}" for name, version in results.about["versions"].items()),
        f"- allowed to grow by: {LIMIT // MIB} MiB",
        *(f"- {note}" for note in results.notes),
        *(f"- failed: {failure}" for failure in results.failed),
    ]
    return "\n".join(lines) + "\n"


# The command ---------------------------------------------------------------------------------------


def run(results: Results, cases: Sequence[str], say: Callable[[str], None]) -> None:
    """Make the transfers one after the other, adding to `results`."""
    if (load := os.getloadavg()[0]) > 1:
        results.notes.append(f"the machine was busy when this began (load {load:.1f}): the rates mean little")
    with Server() as server:
        for number, case in enumerate(cases, 1):
            if case == "encoder" and importlib.util.find_spec("requests_toolbelt") is None:
                results.notes.append("encoder left out: requests-toolbelt is not installed")
                continue
            say(f"{number}/{len(cases)}: {results.size / MIB:,.0f} MiB {CASES[case][0]}")
            try:
                results.measured[case] = measure_in_process(case, server.url, results.size)
            except TransferError as error:
                results.failed.append(f"{case}: {error}")


def _parser() -> argparse.ArgumentParser:
    def mib(text: str) -> int:
        if not text.isdecimal() or not 1 <= int(text) <= 65_536:
            raise argparse.ArgumentTypeError(f"a number of MiB from 1 to 65536, not {text!r}")
        return int(text) * MIB

    listing = ["cases:", *(f"  {case:<14}{title}" for case, (title, _) in CASES.items())]
    listing += ["", f"Exit status: 0 when no case grew by more than {LIMIT // MIB} MiB, 1 when one did or failed."]
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.memory",
        description="Send and fetch bodies that are far larger than what the process may hold. Needs Linux.",
        epilog="\n".join(listing),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help="only these (default: all)")
    parser.add_argument("--size", type=mib, default=2048 * MIB, metavar="MIB", help="of each body (default: 2048)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to save (default: results beside this module)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0 when memory stayed flat, 1 if not or when a case failed."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["--serve"]:
        serve()
        return 0
    if arguments[:1] == ["--measure"]:
        case, url, size = arguments[1:]
        print(json.dumps(attrs.asdict(measure(case, url, int(size)))))
        return 0
    parser = _parser()
    chosen = parser.parse_args(arguments)
    if unknown := [case for case in chosen.cases if case not in CASES]:
        parser.error(f"no such case: {', '.join(unknown)}")
    shown = [part for part in arguments if part != str(chosen.out) and not part.startswith("--out")]
    about = peers.about(arguments)
    versions = {name: about["versions"][name] for name in ("python", "urllib3") if name in about["versions"]}
    command = shlex.join(["python", "-m", "loadtests.memory", *shown])
    results = Results(about={**about, "command": command, "versions": versions}, size=chosen.size)
    progress = Progress()
    try:
        run(results, chosen.cases or list(CASES), progress.say)
    finally:
        progress.end()
    print(plain(results))
    for line in [*(f"note: {note}" for note in results.notes), *(f"failed: {failure}" for failure in results.failed)]:
        print(line)
    directory = chosen.out or Path(__file__).with_name("results")
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "memory.md"
    path.write_text(markdown(results), encoding="utf-8")
    print(f"saved: {path}")
    return 1 if results.grown or results.failed else 0


if __name__ == "__main__":
    sys.exit(main())
