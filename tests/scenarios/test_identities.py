"""Scenario 20: many threads as many users, and no cookie ever crosses."""

from __future__ import annotations

import random
import threading
from collections import Counter

import pytest

from sessionpool import Limits, Session, Timeout
from tests.helpers import in_thread
from tests.scenarios.audit import Scenario
from tests.scenarios.scripted import Asked, Wire, response

pytestmark = pytest.mark.usefixtures("switch_interval")

FOR_EVER = Timeout(pool=None, read=None)
SHOP = "http://shop.example"
USERS = [f"user-{number}" for number in range(16)]


class Shop:
    """Two sites that set cookies, change them with every page, and send users to and fro; and the judge of them.

    Every request says in a header of its own whose it is, so that the judge needs not believe the cookies.

    Attributes:
        faults: What should not have happened: a cookie of somebody else's, one too many, one that was lost.
        pages: Requests by path.
    """

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.pages: Counter[str] = Counter()
        self._current: dict[tuple[str, str], str] = {}  # by site and user: the value it was given last
        self._lock = threading.Lock()
        self.wire = Wire(answer=self.answer)

    def answer(self, asked: Asked) -> bytes:
        user = asked.fields["x-user"]
        with self._lock:
            self.pages[asked.path] += 1
            site = asked.host
            known = self._current.get((site, user))
            expected = {} if known is None else {site.partition(".")[0]: known}
            if asked.cookies != expected:
                self.faults.append(f"{user} at {site}{asked.path} sent {asked.cookies}, not {expected}")
            turn = int(known.rpartition("/")[2]) + 1 if known else 0
            value = self._current[site, user] = f"{user}/{turn}"
        cookie = f"Set-Cookie: {site.partition('.')[0]}={value}; Path=/; HttpOnly"
        following = {"/login": "/me", "/away": "http://partner.example/back", "/back": f"{SHOP}/me"}.get(asked.path)
        if following is not None:
            return response(b"", cookie, f"Location: {following}", status="302 Found")
        return response(user.encode(), cookie)


def go_shopping(session: Session, user: str, chance: random.Random) -> None:
    """A few pages, by way of redirects within the site, to the partner, and back."""
    if "X-User" not in session.headers:
        session.headers["X-User"] = user
        assert session.post(f"{SHOP}/login", data={"user": user}).text == user
    for _ in range(4):
        path = chance.choice(["/me", "/away", "/login", "/cart"])
        assert session.get(SHOP + path).text == user


def test_named_identities_that_wander_through_threads(scenario: Scenario) -> None:
    """Sixteen users, each now in this thread and now in that, over three connections: everybody's cookies, all of
    them, and only theirs."""
    shop = Shop()
    pool = scenario.pool(shop.wire, limits=Limits(per_host=3, total=4), timeout=FOR_EVER)

    def work(number: int) -> None:
        chance = random.Random(number)
        for turn in range(16):
            user = USERS[(number * 5 + turn * 3) % len(USERS)]
            with pool.lease(user) as session:
                go_shopping(session, user, chance)

    for call in [in_thread(work, number) for number in range(16)]:
        call.get()

    assert shop.faults == []
    assert shop.pages["/login"] >= len(USERS)
    assert shop.pages["/back"] == shop.pages["/away"] > 100
    assert max(shop.wire.most_by_key.values()) <= 3
    assert shop.wire.most_open <= 4


@pytest.mark.parametrize("kind", ["own", "fresh", "forked", "transferred"])
def test_sessions_of_every_kind(kind: str, scenario: Scenario) -> None:
    """A thread's own session, blank ones, forks and sessions that were taken over: all over the same connections, and
    each with its user's cookies."""
    shop = Shop()
    pool = scenario.pool(shop.wire, limits=Limits(per_host=3), timeout=FOR_EVER)

    def work(number: int) -> None:
        user, chance = USERS[number], random.Random(number)
        if kind == "own":
            for _ in range(10):
                with pool.lease() as session:
                    go_shopping(session, user, chance)
        elif kind == "fresh":
            for turn in range(10):
                with pool.lease(fresh=True) as session:
                    go_shopping(session, f"{user}.{turn}", chance)
        elif kind == "forked":
            with pool.lease() as session:
                go_shopping(session, user, chance)
                fork = session.fork()
            go_shopping(fork, user, chance)
            go_shopping(fork, user, chance)
        else:
            for _ in range(5):
                lease = pool.lease(user)
                go_shopping(lease.session, user, chance)

                def take_over(lease=lease) -> None:  # type: ignore[no-untyped-def]
                    go_shopping(lease.transfer(), user, chance)
                    lease.release()

                in_thread(take_over).get()

    for call in [in_thread(work, number) for number in range(len(USERS))]:
        call.get()

    assert shop.faults == []
    assert shop.pages["/back"] == shop.pages["/away"] > 10
    assert max(shop.wire.most_by_key.values()) <= 3
