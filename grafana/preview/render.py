"""Draws the dashboard with Grafana's own components, from a live Prometheus, into docs/grafana-*.png.

`npm ci && npm run build` in this folder first (Node 20), then `python grafana/preview/render.py` in the root: needs
prometheus and chromium, takes three minutes. Every scenario of `loadtests/provoke.py` runs meanwhile.
"""

from __future__ import annotations

import argparse
import functools
import json
import subprocess
import sys
import tempfile
import threading
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from grafana import dashboard  # noqa: E402 - a script of the tree, run from anywhere
from loadtests.provoke import RULES, Load, Prometheus, shortened  # noqa: E402

DIST: Final = Path(__file__).with_name("dist")
DOCS: Final = ROOT / "docs"
CELL: Final = 38  # of the grid, in pixels, as in src/main.jsx
GAP: Final = 8
# What is drawn: theme, width, rows.
PICTURES: Final[dict[str, tuple[str, int, tuple[str, ...]]]] = {
    "grafana-overview": ("dark", 1400, ("Overview",)),
    "grafana-overview-light": ("light", 1400, ("Overview",)),
    "grafana-leases": ("dark", 1400, ("Leases",)),
    "grafana-connections": ("dark", 1400, ("Connections and reuse",)),
    "grafana-latency": ("dark", 1400, ("Latency by phase",)),
    "grafana-retries": ("dark", 1400, ("Retries, budget, back-off",)),
    "grafana-health": ("dark", 1400, ("Throttling and circuits", "Session health")),
    "grafana-hosts": ("dark", 1400, ("Hosts", "Process")),
}


def height(rows: tuple[str, ...]) -> int:
    """How high these rows are together, in pixels."""
    total, row = 0, ""
    tops: dict[str, list[int]] = {}
    for panel in dashboard.build()["panels"]:
        row = panel["title"] if panel["type"] == "row" else row
        place = panel["gridPos"]
        tops.setdefault(row, []).extend((place["y"], place["y"] + place["h"]))
    for row in rows:
        total += max(tops[row]) - min(tops[row])
    return total * CELL + GAP


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def shoot(url: str, width: int, pixels: int, into: Path) -> None:
    """Let Chromium take a picture of a page."""
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        subprocess.run(
            [
                *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
                *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
                *("--hide-scrollbars", "--force-device-scale-factor=1", "--virtual-time-budget=15000"),
                f"--user-data-dir={profile}",
                f"--window-size={width},{pixels}",
                f"--screenshot={into}",
                url,
            ],
            check=True,
            timeout=120,
            capture_output=True,
        )


def main() -> None:
    """Run it as a command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--phases", type=float, nargs="*", default=[45, 40, 35, 25], help="seconds of calm, of trouble, of calm, ..."
    )
    parser.add_argument("--into", type=Path, default=DOCS)
    parser.add_argument("--only", nargs="*", choices=PICTURES, default=list(PICTURES))
    parser.add_argument("--keep", action="store_true", help="go on serving the page until Enter is pressed")
    arguments = parser.parse_args()
    if not (DIST / "main.js").exists():
        sys.exit("first, in grafana/preview: npm ci && npm run build")
    (DIST / "dashboard.json").write_text(json.dumps(dashboard.build()), "utf-8")
    handler = functools.partial(_Quiet, directory=str(DIST))
    with (
        Load() as load,
        Prometheus(load.port, shortened(RULES.read_text("utf-8"))) as prometheus,
        ThreadingHTTPServer(("127.0.0.1", 0), handler) as server,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        began = time.time() + 3  # until there is something to see
        for number, seconds in enumerate(arguments.phases):
            load.set_trouble(on=bool(number % 2))
            time.sleep(seconds)
        end = time.time()

        def page(theme: str, width: int, rows: tuple[str, ...]) -> str:
            asked = {"prometheus": prometheus.url, "start": f"{began:.0f}", "end": f"{end:.0f}", "step": 1,
                     "interval": "5s", "theme": theme, "width": width, "rows": "|".join(rows)}  # fmt: skip
            return f"http://127.0.0.1:{server.server_port}/index.html?{urlencode(asked)}"

        for name in arguments.only:
            theme, width, rows = PICTURES[name]
            shoot(page(theme, width, rows), width, height(rows), arguments.into / f"{name}.png")
            print(arguments.into / f"{name}.png")
        if arguments.keep:
            print(page("dark", 1400, tuple(dashboard.ROWS)))
            input()
        server.shutdown()


if __name__ == "__main__":
    main()
