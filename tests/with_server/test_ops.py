"""The status page in a real Chromium: loads, keeps itself up to date, and lets nothing hostile in."""

from __future__ import annotations

import contextlib
import gc
import re
import socket
import threading
from collections.abc import Iterator

import pytest

from sessionpool import Limits, SessionPool
from sessionpool.ops import OpsServer, _server
from sessionpool.testing import FakeClock
from tests.helpers import PATIENCE, eventually, in_thread
from tests.with_server.browser import CHROMIUM, Browser, browsing
from tests.with_server.echo_server import EchoServer

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>"
TURNED = "user\u202egnp.exe"


@pytest.fixture(scope="module")
def _browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def browser(_browser: Browser) -> Iterator[Browser]:
    """One that has had nothing to complain about afterwards, such as the page's own policy."""
    _browser.look()
    _browser.open("about:blank")
    _browser.console.clear()
    _browser.dialogs.clear()
    yield _browser
    _browser.run("1")  # what has happened until now has been noted
    assert _browser.console == []
    assert _browser.dialogs == []


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_server, "POLL", 0.01)
    monkeypatch.setattr(_server, "TICK", 0.05)
    monkeypatch.setattr(_server, "FRESH", 0.0)


@pytest.fixture
def site() -> Iterator[EchoServer]:
    with EchoServer() as site:
        yield site


def is_live(browser: Browser) -> bool:
    return bool(browser.run("document.getElementById('live').className === 'on'"))


def visit(browser: Browser, ops: OpsServer) -> None:
    browser.open(ops.url)
    eventually(lambda: is_live(browser))


@contextlib.contextmanager
def held(pool: SessionPool, *keys: str, thread: str = "holder") -> Iterator[None]:
    """These identities are leased, by a thread that stands still."""
    taken, done = threading.Event(), threading.Event()

    def hold() -> None:
        threading.current_thread().name = thread
        with contextlib.ExitStack() as leases:
            for key in keys:
                leases.enter_context(pool.lease(key))
            taken.set()
            done.wait()

    with in_thread(hold):
        assert taken.wait(PATIENCE)
        try:
            yield
        finally:
            done.set()


def cells(browser: Browser, host: str) -> list[str]:
    """The row of a host, as it is read."""
    found = browser.run(
        f"""[...document.querySelectorAll('.hosts tbody tr')].filter(row => row.innerText.includes({host!r}))
        .flatMap(row => [...row.cells].map(cell => cell.innerText.trim()))"""
    )
    assert isinstance(found, list)
    return found


def test_the_page_loads_and_brings_itself_up_to_date(browser: Browser, site: EchoServer) -> None:
    """Requests, connections and leases appear without reloading."""
    with SessionPool(name="catalogue", trust_env=False, limits=Limits(per_host=3)) as pool, pool.serve(0) as ops:
        visit(browser, ops)
        browser.run("window.untouched = true")

        assert "No host has been asked yet." in browser.text()
        assert "No session is leased." in browser.text()
        for _ in range(7):
            pool.get(site.url)
        with pool.lease("ada"):
            eventually(lambda: cells(browser, f":{site.port}")[2:5] == ["0", "1", "3"])
            eventually(lambda: "7 in 5 min" in browser.text().replace("\u00a0", " "))
            eventually(lambda: "ada" in browser.text() and "MainThread" in browser.text())
        eventually(lambda: "No session is leased." in browser.text())
        assert browser.run("document.title") == "catalogue · sessionpool"
        assert browser.run("window.untouched") is True


def test_the_page_outlives_its_pool(browser: Browser) -> None:
    """Closed, and then gone: the page says so and goes on."""
    pool = SessionPool(name="short-lived", trust_env=False)
    with pool.serve(0) as ops:
        visit(browser, ops)
        assert browser.run("document.getElementById('state').innerText") == "open"
        pool.suspend()
        eventually(lambda: browser.run("document.getElementById('state').innerText") == "suspended")
        pool.close()
        eventually(lambda: browser.run("document.getElementById('state').innerText") == "closed")
        del pool
        gc.collect()
        ops._recorder.responded("GET", "http://remembered:80", 200, 0.1, 1, 1)

        eventually(lambda: cells(browser, "remembered"))
        assert is_live(browser)


def test_the_page_outlives_its_server(browser: Browser) -> None:
    """Without an answer it says so, keeps what it shows, and goes on when there is one again."""
    with SessionPool(name="restarted", trust_env=False) as pool:
        with pool.serve(0) as ops:
            visit(browser, ops)
        eventually(lambda: "still trying" in browser.text())
        assert "restarted" in browser.text()
        with pool.serve(ops.port):
            eventually(lambda: is_live(browser))
            assert "still trying" not in browser.text()
    browser.console[:] = [line for line in browser.console if "ERR_CONNECTION_REFUSED" not in line]


def test_the_page_knows_its_password(browser: Browser) -> None:
    """Given in the address, it is good for what the script asks for too."""
    with SessionPool(trust_env=False) as pool, pool.serve(0, auth=("ops", "secret")) as ops:
        browser.open(ops.url.replace("//", "//ops:secret@"))
        eventually(lambda: is_live(browser))


def test_a_leak_is_shown_with_where_it_was_taken(browser: Browser) -> None:
    """Its stack is folded away, and stays open while the page goes on."""
    with SessionPool(trust_env=False, leak_threshold=0.05) as pool, pool.serve(0) as ops:
        visit(browser, ops)
        assert "Leaks" not in browser.text()
        with pool.lease("forgotten"):
            eventually(lambda: "Leaks" in browser.text())
            assert "in test_a_leak_is_shown_with_where_it_was_taken" not in browser.text()
            browser.run("document.querySelector('.leaks summary').click()")
            before = browser.run("document.querySelector('.leaks summary').innerText")
            eventually(lambda: browser.run("document.querySelector('.leaks summary').innerText") != before)

            assert "in test_a_leak_is_shown_with_where_it_was_taken" in browser.text()
            assert 'pool.lease("forgotten")' not in browser.text()


def test_hostile_names_are_inert(browser: Browser) -> None:
    """Of the pool, hosts, identities and threads: each is read as it is, and makes no element."""
    with (
        SessionPool(name=f"pool {HOSTILE}", trust_env=False) as pool,
        pool.serve(0) as ops,
        held(pool, f"key {HOSTILE}", TURNED, "long " * 10_000, thread=f"thread {HOSTILE}"),
    ):
        ops._recorder.responded("GET", f"http://host {HOSTILE}:80", 200, 0.1, 1, 1)
        ops._recorder.leaked(f"leak {HOSTILE}", 1.0, f'  File "{HOSTILE}", line 1, in x\n')
        eventually(lambda: ops.answer("/stats.json", "")[1].count(b"alert(1)") == 8)  # three leases
        for has_script in (False, True):  # as the server sends it, and as the script has made it
            browser.call("Emulation.setScriptExecutionDisabled", value=not has_script)
            browser.open(ops.url)
            if has_script:
                eventually(lambda: is_live(browser))
            text = browser.text()
            for what in ("pool", "thread", "key", "host", "leak"):
                assert f"{what} {HOSTILE}" in text
            assert "\u202e" not in text
            assert "user\\u202egnp.exe" in text
            assert browser.run("document.querySelectorAll('img').length") == 0
            assert browser.run("document.querySelectorAll('script').length") == 1
            assert browser.run("document.documentElement.scrollWidth <= innerWidth")


def test_a_script_that_got_in_would_not_run(browser: Browser) -> None:
    """The policy holds if all else fails: no inline script, style or handler, nothing from elsewhere, no markup."""
    with SessionPool(trust_env=False) as pool, pool.serve(0) as ops:
        visit(browser, ops)
        browser.run(
            """(() => {
                const script = document.createElement('script');
                try { script.textContent = 'window.ran = 1'; } catch {}
                try { document.body.append(script); } catch {}
                try { document.body.innerHTML += '<img src=x onerror="window.ran = 2">'; } catch {}
                try { document.body.setAttribute('onclick', 'window.ran = 3'); document.body.click(); } catch {}
            })()"""
        )

        assert browser.run("window.ran === undefined")
        with socket.create_server(("127.0.0.1", 0)) as elsewhere:
            url = f"http://127.0.0.1:{elsewhere.getsockname()[1]}/"
            browser.run(f"fetch('{url}').catch(() => window.refused = true)")
            eventually(lambda: browser.run("window.refused") is True)
        assert any("Content Security Policy" in line for line in browser.console)
        browser.console.clear()


def test_server_and_script_make_the_same_page(browser: Browser, site: EchoServer) -> None:
    """Node for node, so that nothing jumps when the script takes over; and without it all is there."""
    clock = FakeClock()
    with SessionPool(name="twice", trust_env=False, clock=clock) as pool, pool.serve(0) as ops:
        for seconds, status in ((0.0042, 200), (0.25, 503), (1.5, 200), (75.0, 429)):
            for host in ("https://a.example:443", "http://b.example:80 via http://proxy:3128"):
                ops._recorder.responded("GET", host, status, seconds, 1, 1)
                ops._recorder.retrying("GET", host, 1, "503", 0.1)
            clock.advance(2.5)
            ops.tick()
        ops._recorder.leaked(None, 3725.0, '  File "/a.py", line 3, in run\n')
        clock.advance(100.0)
        pool.get(site.url)
        with held(pool, "ada"):
            eventually(lambda: b'"requests":9,' in ops.answer("/stats.json", "")[1])
            pages = []
            for has_script in (False, True):
                browser.call("Emulation.setScriptExecutionDisabled", value=not has_script)
                browser.open(ops.url)
                if has_script:
                    eventually(lambda: is_live(browser))
                pages.append(browser.run("document.querySelector('main').innerHTML"))

    assert "b.example" in pages[0]
    pages = [re.sub("(?=<)", "\n", page) for page in pages]
    assert pages[0].splitlines() == pages[1].splitlines()


@pytest.mark.parametrize("width", [320, 390, 700, 900, 1280, 1920])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_fits_every_screen(browser: Browser, width: int, *, dark: bool) -> None:
    """Nothing has to be scrolled sideways, and the ground is as light or dark as the user likes it."""
    with SessionPool(trust_env=False) as pool, pool.serve(0) as ops, pool.lease("ada"):
        for number in range(20):
            ops._recorder.responded("GET", f"https://a-rather-long-name-{number}.example.com:443", 200, 0.1, 1, 1)
        eventually(lambda: b"name-19" in ops.answer("/stats.json", "")[1])
        browser.look(width=width, dark=dark)
        visit(browser, ops)

        assert browser.run("document.documentElement.scrollWidth <= innerWidth")
        assert browser.run(
            "[...document.querySelectorAll('.card')].every(card => card.scrollWidth <= card.clientWidth)"
        )
        ground = browser.run("getComputedStyle(document.body).backgroundColor")
        assert (int(ground.removeprefix("rgb(").partition(",")[0]) < 128) is dark
