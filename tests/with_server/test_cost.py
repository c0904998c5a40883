"""What a request costs when nothing fails: counted, not timed, so that it is the same on every machine."""

from __future__ import annotations

import gc
import statistics
import sys
from types import FrameType
from typing import Any

from sessionpool import RetryPolicy, SessionPool
from tests.with_server.raw_server import expect, repeatedly, response, send, serving

REQUESTS = 30


def opcodes(url: str, **settings: Any) -> float:
    """Bytecodes that a successful `session.get` runs, over a connection that is kept: the median of some."""
    counts = []
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        if event == "call":
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        elif event == "opcode":
            count += 1
        return trace

    with SessionPool(trust_env=False, **settings) as pool, pool.lease() as session:
        for _ in range(5):
            session.get(url)  # opens the connection, and fills the caches
        before = sys.gettrace()
        gc.disable()  # finalizers of what others have left would be counted
        try:
            for _ in range(REQUESTS):
                count = 0
                sys.settrace(trace)
                answer = session.get(url)
                sys.settrace(before)
                assert answer.content == b"hello"
                counts.append(count)
        finally:
            sys.settrace(before)
            gc.enable()
        assert pool.stats().opened == 1
    return statistics.median(counts)


def test_retries_and_protection_cost_nothing_when_nothing_fails() -> None:
    """With a policy and a governor a request that succeeds runs at most 3 % more bytecodes than without a policy."""
    exchange = repeatedly(expect("GET / "), send(response(b"hello")))
    with serving([exchange], [exchange]) as server:
        without = opcodes(server.url, retry=None)
        policed = opcodes(server.url, retry=RetryPolicy())

    assert 100 < without <= policed <= 1.03 * without, (without, policed)
