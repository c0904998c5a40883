"""Which events call a hook, under the names that requests' users import them by."""

from typing import Any, Final

__all__ = ["HOOKS", "default_hooks"]

HOOKS: Final = ("response",)


def default_hooks() -> dict[str, list[Any]]:
    """No hooks yet: for each event an empty list of functions."""
    return {event: [] for event in HOOKS}
