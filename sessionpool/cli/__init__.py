"""The command `sessionpool`: demo, crawl and fetch. Its modules use the library as any program would."""

from sessionpool.cli._main import main

__all__ = ["main"]
