"""SOCKS 4, 4a, 5 and 5h: what is said to such a proxy over a socket that is connected to it (RFC 1928, RFC 1929).

python-socks (extra `socks`) speaks the protocol and does nothing else. It is told to reach the proxy by way of another
one, ours, which hands it the socket: so it dials nothing, looks no name up, and waits only as the socket's owner waits.
It is imported when a route needs it, which takes 30 ms.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection
from typing import Any, Final, Self

from sessionpool import _wire
from sessionpool._wire import Url
from sessionpool.exceptions import InvalidProxyURL, InvalidSchema

PORT: Final = 1080
SCHEMES: Final = frozenset({"socks4", "socks4a", "socks5", "socks5h"})
# With these the name goes to the proxy, with the others its address.
_NAMING: Final = frozenset({"socks4a", "socks5h"})
_LONGEST: Final = 255  # RFC 1929 §2: a length is one byte


class SocksError(OSError):
    """The proxy refused, or did not speak SOCKS.

    Attributes:
        status: The code of its reply; `None` if it came to none, as where it did not let us in.
    """

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status


def check(proxy: Url) -> None:
    """See that such a proxy can be asked.

    Raises:
        InvalidSchema: python-socks is not installed.
        InvalidProxyURL: SOCKS cannot say this user and password.
    """
    try:
        import python_socks.sync  # noqa: F401, PLC0415 - see above
    except ImportError:
        raise InvalidSchema(
            f"a {proxy.scheme} proxy needs the package python-socks: pip install 'sessionpool[socks]'"
        ) from None
    for said in _wire.userinfo(proxy.auth or ""):
        # A NUL would end SOCKS4's user, and begin the next field.
        if len(said) > _LONGEST or not (said.isascii() and said.isprintable()):
            raise InvalidProxyURL(f"user and password of a {proxy.scheme} proxy must be ASCII, at most {_LONGEST} each")


def wants_address(proxy: Url) -> bool:
    """The proxy is to be given an address; false if it looks the name up itself."""
    return proxy.scheme not in _NAMING


def families(proxy: Url) -> Collection[int]:
    """The kinds of addresses that it can be given."""
    return (socket.AF_INET,) if proxy.scheme == "socks4" else (socket.AF_INET, socket.AF_INET6)


def negotiate(proxy: Url, host: str, port: int, send: Callable[[bytes], int], receive: Callable[[int], bytes]) -> None:
    """Have the proxy connect to a host, given as name or address; what follows on the socket is that host's.

    Args:
        proxy: Its URL.
        host: Where it is to connect to.
        port: And the TCP port.
        send: Writes to the proxy's socket; how many bytes it took.
        receive: Reads from it, at most so many bytes.

    Raises:
        SocksError: It does not.
        OSError: Whatever `send` and `receive` raise.
    """
    from python_socks import ProxyError, ProxyType  # noqa: PLC0415 - see above
    from python_socks.sync import Proxy  # noqa: PLC0415

    user, password = _wire.userinfo(proxy.auth or "")
    version = ProxyType.SOCKS5 if proxy.scheme in ("socks5", "socks5h") else ProxyType.SOCKS4
    way: Any = _Way(send, receive)
    try:
        Proxy(version, "", 0, user or None, password or None, rdns=True, forward=way).connect(host, port)
    except ProxyError as error:
        said = str(error)
        raise SocksError(f"{said[:1].lower()}{said[1:]}", error.error_code) from None
    except ValueError as error:  # a name that is too long to be said; an answer that is no text
        raise SocksError(f"what was to be said, or was answered, is no SOCKS ({type(error).__name__})") from None


class _Way:
    """A proxy for python-socks to go through, and its connection, both at once."""

    def __init__(self, send: Callable[[bytes], int], receive: Callable[[int], bytes]) -> None:
        self._send = send
        self.recv = receive

    def connect(self, **_: object) -> Self:
        """Here is the socket."""
        return self

    def sendall(self, data: bytes) -> None:
        """Write all of it."""
        while data:
            data = data[self._send(data) :]

    def close(self) -> None:
        """Whose it is will close it."""
