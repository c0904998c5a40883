"""`sessionpool`: the command line itself."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from sessionpool import __version__
from tests.cli.small_site import ROOT, Outcome

# A finder that comes first and says that these are not installed.
WITHOUT = """
import sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Finder())
"""


def python(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_library_needs_nothing_of_the_commands() -> None:
    """`import sessionpool` imports neither rich, selectolax nor protego, nor anything of the commands."""
    ended = python("import sys, sessionpool; print(*sorted(sys.modules))")

    loaded = {name.partition(".")[0] for name in ended.stdout.split()}
    assert "sessionpool" in loaded
    assert not loaded & {"rich", "selectolax", "protego", "argparse"}
    assert "sessionpool.cli" not in ended.stdout.split()


@pytest.mark.parametrize(
    ("name", "missing"), [("crawl", "selectolax"), ("crawl", "protego"), ("crawl", "rich"), ("fetch", "rich")]
)
def test_a_command_says_what_to_install(name: str, missing: str) -> None:
    """Without the extra a command is one sentence that says what to install, and exit code 2."""
    code = WITHOUT.format(missing={missing}) + "from sessionpool.cli import main; sys.exit(main(sys.argv[1:]))"
    ended = python(code, name, "http://127.0.0.1/")

    assert ended.stderr == (
        f"sessionpool {name} needs {missing}, which is not installed: "
        "pip install 'sessionpool[cli]' installs all that the commands need\n"
    )
    assert ended.returncode == 2


def test_help_and_version_need_no_extra() -> None:
    """What the commands are can be read before the extra is installed."""
    missing = {"rich", "selectolax", "protego"}
    code = WITHOUT.format(missing=missing) + "from sessionpool.cli import main; sys.exit(main(sys.argv[1:]))"

    assert python(code, "--version").stdout == f"sessionpool {__version__}\n"
    assert "crawl     fetch every page of a site" in python(code, "--help").stdout


def test_the_module_is_the_command() -> None:
    """`python -m sessionpool` is the same command."""
    ended = subprocess.run(
        [sys.executable, "-m", "sessionpool", "--version"], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert ended.stdout == f"sessionpool {__version__}\n"


@pytest.mark.parametrize("name", ["crawl", "fetch"])
def test_help_teaches(command: Callable[..., Outcome], name: str) -> None:
    """A command's help has examples, the exit codes and each default."""
    ended = command(name, "--help")

    assert "examples:\n  sessionpool" in ended.text
    assert "exit codes:\n  0 " in ended.text
    for default in ("(default: 32)", "(default: 8)", "(default: 30)", "(default: -"):
        assert default in ended.text.replace("\n", " ").replace("  ", " ")
    assert ended.code == 0


def test_no_command_is_help_and_wrong_usage(command: Callable[..., Outcome]) -> None:
    """Without a command the help is shown, as an error."""
    ended = command()

    assert "sessionpool demo" in ended.said
    assert ended.code == 2


def test_an_unknown_command_names_the_known(command: Callable[..., Outcome]) -> None:
    """A misspelt command is answered with those there are."""
    ended = command("crwl")

    assert "choose from" in ended.said
    assert "fetch" in ended.said
    assert ended.code == 2
