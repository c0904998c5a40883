"""Status codes by name, under the name that requests' users import them by."""

from sessionpool._codes import codes

__all__ = ["codes"]
