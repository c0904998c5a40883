"""The session, under the names that requests' users import it by."""

from sessionpool._api import session
from sessionpool._session import Session

__all__ = ["Session", "session"]
