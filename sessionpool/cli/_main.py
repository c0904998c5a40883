"""The command line: which command is meant, and nothing of what it does."""

from __future__ import annotations

import argparse
import importlib
import sys
from typing import TYPE_CHECKING, Final

from sessionpool._version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

_COMMANDS: Final = {
    "demo": "watch 32 users share 8 connections to a server that it brings along",
    "crawl": "fetch every page of a site, each once",
    "fetch": "fetch the URLs of a list",
}
_EXTRA: Final = frozenset({"protego", "rich", "selectolax"})

_DESCRIPTION: Final = """\
Fetch web pages by many threads that share one bounded, fair set of connections
per host. Uses the library of the same name as any program would."""

_EPILOG: Final = """\
examples:
  sessionpool demo
  sessionpool crawl https://example.com/ --out example.jsonl
  sessionpool fetch urls.txt --out answers.jsonl
  sessionpool crawl --help"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name; its exit code.

    Raises:
        SystemExit: By argparse: after --help and --version, or with 2 for wrong usage.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = argparse.ArgumentParser(
        prog="sessionpool",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"sessionpool {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    # No option before the command has a value, so the first word is the command. Only its module is imported:
    # each brings libraries with it that the others do without.
    wanted = next((word for word in argv if not word.startswith("-")), None)
    for name, purpose in _COMMANDS.items():
        command = commands.add_parser(name, help=purpose)
        if name == wanted:
            try:
                module = importlib.import_module(f"sessionpool.cli._{name}")
            except ModuleNotFoundError as error:
                if error.name is None or error.name.partition(".")[0] not in _EXTRA:
                    raise
                print(
                    f"sessionpool {name} needs {error.name}, which is not installed: "
                    "pip install 'sessionpool[cli]' installs all that the commands need",
                    file=sys.stderr,
                )
                return 2
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    if not argv:
        parser.print_help(sys.stderr)
        return 2
    args = parser.parse_args(argv)
    try:
        code: int = args.run(args)
    except KeyboardInterrupt:
        return 130
    return code
