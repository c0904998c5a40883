"""Passwords from a netrc file, for requests of which nothing else says who asks."""

from __future__ import annotations

import contextlib
import functools
import logging
import netrc
import os
from collections.abc import Mapping
from typing import Final

_LOGGER: Final = logging.getLogger("sessionpool.netrc")
_DEFAULT: Final = ""  # the name of no host

Entries = Mapping[str, tuple[str, str]]


def read_netrc() -> Entries:
    """Users and passwords by host, of the file that `NETRC` names, else of the first of `~/.netrc` and `~/_netrc`.

    A file is read again when it has changed. One that cannot be read, or is malformed, counts as empty, and is logged
    once. As with requests and curl, it does not matter who else may read it: that would be known too late.
    """
    named = os.environ.get("NETRC")
    for name in ("~/.netrc", "~/_netrc") if named is None else (named,):
        path = os.path.expanduser(name)  # noqa: PTH111 - Path's raises where there is no home
        with contextlib.suppress(OSError, ValueError):  # there is none
            status = os.stat(path)  # noqa: PTH116 - every session without a pool pays for this, and Path is slow
            return _read(path, (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    return {}


def find(entries: Entries, host: str) -> tuple[str, str] | None:
    """User and password for a host, lower case and without a port; those of `default` if there are none for it."""
    found = entries.get(host) or entries.get(_DEFAULT)
    return found if found is not None and any(found) else None


@functools.lru_cache(maxsize=4)
def _read(path: str, _: tuple[int, ...]) -> Entries:
    try:
        hosts = netrc.netrc(path).hosts
    except (OSError, UnicodeError, netrc.NetrcParseError) as error:
        # The parser's message may quote a password.
        line = getattr(error, "lineno", None)
        where = "" if line is None else f", at line {line}"
        with contextlib.suppress(Exception):  # a user's filters and handlers may raise
            _LOGGER.warning("netrc file %s is left out: %s%s", path, type(error).__name__, where)
        return {}
    entries = {}
    for name, (login, account, password) in hosts.items():
        entries[_DEFAULT if name == "default" else name.lower()] = (login or account or "", password or "")
    return entries
