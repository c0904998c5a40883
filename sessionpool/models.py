"""What is sent and what came back, under the names that requests' users import them by."""

from sessionpool._messages import PreparedRequest, Request, Response

__all__ = ["PreparedRequest", "Request", "Response"]
