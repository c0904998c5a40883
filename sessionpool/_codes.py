"""Status codes by name: `codes.not_found`, `codes["ok"]`."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final


class _Codes:
    """Names of status codes, upper or lower case. Immutable."""

    def __init__(self, names: dict[str, int]) -> None:
        self.__dict__.update(names)
        self.__dict__.update({name.upper(): code for name, code in names.items()})

    def __getitem__(self, name: str) -> int:
        return int(self.__dict__[name])

    def __getattr__(self, name: str) -> int:  # for type checkers: every real name is in __dict__
        raise AttributeError(f"no status code is called {name!r}")

    def get(self, name: str, default: int | None = None) -> int | None:
        """The code called `name`, or `default`."""
        return self.__dict__.get(name, default)


# The names the standard library gives them, and the shorter ones that requests' users write.
codes: Final = _Codes(
    {
        **{status.name.lower(): int(status) for status in HTTPStatus},
        "okay": 200,
        "moved": 301,
        "other": 303,
        "temporary_moved": 307,
        "permanent_redirect": 308,
        "bad": 400,
        "teapot": 418,
        "unprocessable": 422,
        "too_many": 429,
        "server_error": 500,
        "unavailable": 503,
    }
)
