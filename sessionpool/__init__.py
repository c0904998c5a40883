"""Thread-safe pools of isolated HTTP sessions that share one bounded, fair set of connections per host."""

from sessionpool import adapters, auth, cookies, exceptions, hooks, models, sessions, status_codes, structures, utils
from sessionpool._api import delete, get, head, options, patch, post, put, request, session
from sessionpool._codes import codes
from sessionpool._config import (
    AdaptiveConcurrency,
    AutoThrottle,
    CircuitBreaker,
    Governor,
    Limits,
    RateLimit,
)
from sessionpool._config import Timeout as TimeoutSettings
from sessionpool._dump import ConnectionDump, LeaseDump, PoolDump, WaiterDump
from sessionpool._governor import HostState
from sessionpool._health import Health
from sessionpool._ledger import HostStats, PoolStats
from sessionpool._messages import PreparedRequest, Request, Response
from sessionpool._observer import Observer
from sessionpool._pool import CloseReport, Lease, SessionPool
from sessionpool._proxies import ProxyRotation
from sessionpool._retry import Attempt, RetryPolicy
from sessionpool._session import Session
from sessionpool._version import __version__
from sessionpool.exceptions import (
    ConnectionError,
    ConnectTimeout,
    HTTPError,
    JSONDecodeError,
    ReadTimeout,
    RequestException,
    Timeout,
    TooManyRedirects,
    URLRequired,
)

__all__ = [
    "AdaptiveConcurrency",
    "Attempt",
    "AutoThrottle",
    "CircuitBreaker",
    "CloseReport",
    "ConnectTimeout",
    "ConnectionDump",
    "ConnectionError",
    "Governor",
    "HTTPError",
    "Health",
    "HostState",
    "HostStats",
    "JSONDecodeError",
    "Lease",
    "LeaseDump",
    "Limits",
    "Observer",
    "PoolDump",
    "PoolStats",
    "PreparedRequest",
    "ProxyRotation",
    "RateLimit",
    "ReadTimeout",
    "Request",
    "RequestException",
    "Response",
    "RetryPolicy",
    "Session",
    "SessionPool",
    "Timeout",
    "TimeoutSettings",
    "TooManyRedirects",
    "URLRequired",
    "WaiterDump",
    "__version__",
    "adapters",
    "auth",
    "codes",
    "cookies",
    "delete",
    "exceptions",
    "get",
    "head",
    "hooks",
    "models",
    "options",
    "patch",
    "post",
    "put",
    "request",
    "session",
    "sessions",
    "status_codes",
    "structures",
    "utils",
]
