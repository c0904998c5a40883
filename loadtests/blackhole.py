"""What one host that accepts connections and never answers does to the others: `python -m loadtests.blackhole`.

Sixteen threads fetch 1 KiB from eight healthy hosts (127.1.0.0 and so on, one nginx on another CPU), in two ways that
take turns within a round: alone, and while sixteen more threads of the same pool are stuck in the black hole or wait
for a connection to it. A round's figure is the healthy hosts' p99 with the black hole as a multiple of theirs without.
Every body is checked. Exit status 1 when an answer was wrong, a request to a healthy host failed, or the black hole had
more connections than its limit.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import socket
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Sequence

from loadtests.peers import two_cpus
from loadtests.scale import host_name, server
from loadtests.servers import NginxError
from sessionpool import Limits, RequestException, SessionPool, Timeout

HOSTS = 8
THREADS = 16
PER_HOST = 4
ASKED_FOR = 2.0  # times as long at most


class Blackhole:
    """A listener that accepts and says nothing; a context manager.

    Attributes:
        url: Where it is.
        taken: Connections it has taken.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.2.0.1", 0), backlog=128)
        self.url = f"http://127.2.0.1:{self._listener.getsockname()[1]}/"
        self.taken: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self.taken.append(self._listener.accept()[0])

    def __enter__(self) -> Blackhole:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for taken in self.taken:
            taken.close()


def measure(port: int, requests: int, blackhole: Blackhole | None) -> tuple[list[float], int]:
    """Seconds of each request to a healthy host, sorted, and how many of them went wrong."""
    limits = Limits(per_host=PER_HOST, total=PER_HOST * (HOSTS + 1))
    with SessionPool(limits=limits, timeout=Timeout(read=60, pool=60), trust_env=False) as pool:
        stuck = [threading.Thread(target=_sink, args=(pool, blackhole.url)) for _ in range(THREADS) if blackhole]
        for thread in stuck:
            thread.start()
        while stuck and (pool.stats().leased, pool.stats().waiting) != (PER_HOST, THREADS - PER_HOST):
            time.sleep(0.001)
        taken: list[float] = []
        wrong = itertools.count()
        threads = [
            threading.Thread(target=_work, args=(pool, port, requests // THREADS, taken, wrong)) for _ in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        pool.close(timeout=0)
        for thread in stuck:
            thread.join()
    return sorted(taken), next(wrong)


def _sink(pool: SessionPool, url: str) -> None:
    with contextlib.suppress(RequestException):  # close() ends it
        pool.get(url)


def _work(pool: SessionPool, port: int, requests: int, taken: list[float], wrong: Iterator[int]) -> None:
    for number in range(requests):
        host = f"{host_name(number % HOSTS)}:{port}"
        began = time.perf_counter()
        try:
            answer = pool.get(f"http://{host}/who").content
        except RequestException as error:
            print(f"\n{host}: {error}", file=sys.stderr)
            answer = b""
        taken.append(time.perf_counter() - began)
        if not answer.startswith(host.encode()):
            next(wrong)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.blackhole", description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--requests", type=int, default=8000, metavar="N", help="a measurement (default: %(default)s)")
    chosen = parser.parse_args(arguments)
    cpus = two_cpus()
    if cpus:
        os.sched_setaffinity(0, {cpus[0]})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ratios, most, broken = [], 0, 0
    print("healthy hosts, ms:     p50    p99   with a black hole:     p50    p99   p99 ratio")
    try:
        with server(port, cpus[1] if cpus else None):
            for _ in range(chosen.rounds):
                alone, wrong = measure(port, chosen.requests, None)
                with Blackhole() as blackhole:
                    beside, more_wrong = measure(port, chosen.requests, blackhole)
                    most = max(most, len(blackhole.taken))
                broken += wrong + more_wrong
                ratios.append(_p(99, beside) / _p(99, alone))
                figures = [1000 * _p(at, each) for each in (alone, beside) for at in (50, 99)]
                print("{:>26.2f} {:>6.2f} {:>27.2f} {:>6.2f}".format(*figures) + f" {ratios[-1]:>11.2f}", flush=True)
    except NginxError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(
        f"p99 with a black hole: {statistics.median(ratios):.2f} times that without "
        f"({min(ratios):.2f}-{max(ratios):.2f}; asked for: at most {ASKED_FOR:g}); "
        f"connections to it: {most} of {PER_HOST}; wrong or failed at healthy hosts: {broken}"
    )
    return 1 if broken or most > PER_HOST else 0


def _p(percent: int, ordered: list[float]) -> float:
    return ordered[len(ordered) * percent // 100]


if __name__ == "__main__":
    sys.exit(main())
