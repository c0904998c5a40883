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
        "checkpoint": 103,
        "\\o/": 200,
        "all_good": 200,
        "all_ok": 200,
        "all_okay": 200,
        "✓": 200,
        "non_authoritative_info": 203,
        "reset": 205,
        "partial": 206,
        "multi_stati": 207,
        "multiple_stati": 207,
        "multiple_status": 207,
        "\\o-": 301,
        "switch_proxy": 306,
        "temporary": 307,
        "resume": 308,
        "resume_incomplete": 308,
        "payment": 402,
        "-o-": 404,
        "not_allowed": 405,
        "proxy_auth": 407,
        "proxy_authentication": 407,
        "timeout": 408,
        "content_too_large": 413,
        "request_uri_too_large": 414,
        "uri_too_long": 414,
        "media_type": 415,
        "unsupported_media": 415,
        "range_not_satisfiable": 416,
        "requested_range": 416,
        "i_am_a_teapot": 418,
        "unprocessable_content": 422,
        "dependency": 424,
        "unordered": 425,
        "unordered_collection": 425,
        "upgrade": 426,
        "precondition": 428,
        "fields_too_large": 431,
        "header_fields_too_large": 431,
        "no_response": 444,
        "none": 444,
        "retry": 449,
        "retry_with": 449,
        "blocked_by_windows_parental_controls": 450,
        "parental_controls": 450,
        "legal_reasons": 451,
        "client_closed_request": 499,
        "/o\\": 500,
        "✗": 500,
        "http_version": 505,
        "bandwidth": 509,
        "bandwidth_limit_exceeded": 509,
        "network_auth": 511,
        "network_authentication": 511,
    }
)
