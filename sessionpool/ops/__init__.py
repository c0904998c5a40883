"""The operations endpoint: what a pool does, for Prometheus, for probes, and for people in a browser."""

from sessionpool.ops._server import OpsServer

__all__ = ["OpsServer"]
