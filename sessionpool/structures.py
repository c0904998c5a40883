"""The mapping of headers, under the name that requests' users import it by."""

from sessionpool._messages import CaseInsensitiveDict

__all__ = ["CaseInsensitiveDict"]
