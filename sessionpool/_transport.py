"""One attempt: from a route to a permit, from the permit to a connection, over it to a response.

The path of a request, and who holds what on it:

    permit asked for -> waiting -> leased -> (fresh idle connection | evicted one closed, new one opened)
        -> request written -> head read -> body read from the `Reply` -> connection idle again, or closed
        -> permit returned

Whatever ends it early (an error of ours, `KeyboardInterrupt`, the collector) returns the permit and closes the
connection. Nothing is held between attempts.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import ssl
import weakref
from collections.abc import Hashable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import get_ident
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from sessionpool import _socks
from sessionpool._clock import NEVER, Clock, Deadline
from sessionpool._config import Governor, Limits, Timeout
from sessionpool._connection import PROXY_PORTS, Connection, Connector, Reply, Route
from sessionpool._gate import Books, Gate
from sessionpool._governor import ADVISED, Hosts, Recalled
from sessionpool._jobs import outcome
from sessionpool._ledger import LEASED, Actions, Ledger, Permit, PoolStats
from sessionpool._log import Log
from sessionpool._observer import Observer, Tracer, Watch
from sessionpool._sleep import Sleepers
from sessionpool._stop import Stopped
from sessionpool._wire import Head, Url, basic_credentials, may_be_basic, split_url, userinfo
from sessionpool.exceptions import (
    Cancelled,
    ConnectionBroken,
    ConnectionError,
    InvalidProxyURL,
    InvalidSchema,
    InvalidURL,
    NotSent,
    PoolClosed,
)

if TYPE_CHECKING:
    from sessionpool.metrics import Meter

# A client's certificate: a file, a pair of files (certificate and key), or none.
Cert: TypeAlias = str | os.PathLike[str] | tuple[str, str] | None
UNGOVERNED = Governor(cool_down=False)
MAX_ROUTES = 16384  # a crawler's hosts are many; 200 bytes each, and a route is soon made again
IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})  # RFC 9110 §9.2.2


class Payload(Protocol):
    """A request as the transport sees it: bytes to send, and whether they can be sent again."""

    method: str
    body: Any
    body_length: int | None

    def head(self, *, absolute: bool, credentials: bytes = b"", fields: bytes = b"") -> bytes: ...
    def open_body(self) -> bytes | Iterable[bytes] | None: ...
    @property
    def is_replayable(self) -> bool: ...


class Transport:
    """Connections to all hosts, under one set of limits. Thread-safe.

    Attributes:
        gate: Grants the permits.
        routes: Those made so far, by the arguments of `route`.
        watch: Told what happens.
        log: Told too, and of what is no event.
        tracer: Who is to see each call and attempt from outside, or `None`. May come and go at any time.
        sleepers: Threads that pause, holding nothing.
        hosts: What is known of each host, and when it may be asked next.
        stopped: Threads that get nothing more here; `rouse` wakes those of them that are blocked.
        dropped: One for each connection that was closed because its stream was dropped unread: finalizers can append,
            and cannot count.
    """

    def __init__(
        self,
        name: str,
        limits: Limits,
        clock: Clock,
        observer: Observer | None = None,
        governor: Governor = UNGOVERNED,
        meter: Meter | None = None,
    ) -> None:
        self.name = name
        self.limits = limits
        self.clock = clock
        self.log = Log(name, clock)
        self.watch = Watch(observer, meter, self.log)
        self.tracer: Tracer | None = None
        self.stopped = Stopped()
        self.sleepers = Sleepers(clock, self.stopped)
        self.hosts = Hosts(governor, clock, self.sleepers, self.watch, self._relimit)
        self._connector = Connector(clock, self.stopped)
        self._cut = ""
        self._generation = 0  # goes up with every `refresh`
        # All that are open, wherever they are: a forked process closes its copies, when the ledger may be in the midst
        # of a change. Single dict operations are atomic, with and without a GIL.
        self._connections: dict[Connection, None] = {}
        self.routes: dict[object, Route] = {}
        self.dropped: list[None] = []
        ledger: Ledger[Connection] = Ledger(
            self._limit_for, limits.total, max_waiting=limits.waiting, max_idle=limits.idle
        )
        self.gate: Gate[Connection] = Gate(
            ledger,
            clock,
            self.close_connection,
            name,
            remedy="read or close its streamed responses",
            stopped=self.stopped,
        )
        _transports.add(self)

    def route(
        self,
        origin: tuple[str, str, int],
        proxy: str | None,
        verify: bool | str | ssl.SSLContext,
        cert: Cert,
        partition: Hashable = None,
        proxy_fields: tuple[tuple[str, str], ...] = (),
    ) -> Route:
        """The route to an origin under these settings; kept in `routes`, by all of them that are given.

        Connections through a proxy are shared only within a `partition`, and with the same `proxy_fields`.

        Raises:
            InvalidSchema: The origin's scheme is neither http nor https; the proxy's none of these nor one of SOCKS,
                or SOCKS is not installed.
            InvalidProxyURL: The proxy's URL cannot be parsed, has no host, or a user and password that cannot be said.
        """
        if len(self.routes) >= MAX_ROUTES:
            self.routes.clear()
        wanted = (origin, proxy, verify, cert, partition)
        route = _make_route(*wanted, proxy_fields)
        self.routes[(*wanted, proxy_fields) if proxy_fields else wanted] = route
        return route

    def send(
        self, payload: Payload, route: Route, timeout: Timeout, deadline: Deadline, asked: float, has_slot: bool
    ) -> Reply:
        """Send one request, which was `asked` for at that instant, and read the head of its response.

        A reused connection that dies before a byte of the response came was closed by the server while it lay idle:
        an idempotent, replayable request then goes once more, over a fresh connection (RFC 9112 §9.3.1). So does any
        other if not one byte of it could be written.

        `has_slot`: what `Hosts.enter` said; false if it was not asked.

        Raises:
            Recalled: The host is to be left alone, as it turned out while the permit was waited for.
            PoolError: No permit; see `Gate.acquire`.
            ConnectionError, Timeout: No connection, or no response; see `Connector.connect` and `Connection`.
        """
        if deadline is not NEVER:
            deadline.enter("permit", asked)
        permit: Permit[Connection] = Permit(route.key, route.identity, get_ident())
        try:
            self.gate.acquire(permit, timeout.pool, deadline, asked)
            if self.hosts.watching:
                try:
                    self.hosts.check(route.key, has_slot)
                except Recalled:
                    self.gate.release(permit, permit.item)
                    raise
            watch = self.watch
            if watch.waited is not None:
                try:
                    watch.waited(route.key, self.clock.now() - asked)
                except Exception:  # noqa: BLE001 - whatever a user's code may raise
                    watch.drop()
            # The permit's own connection, if it can still be used.
            connection, reused = permit.item, True
            if connection is None or (unusable := connection.unusable(permit.since)):
                if connection is not None:
                    self.close_connection(connection, unusable)
                connection, reused = self._open(permit, route, timeout, deadline), False
            else:
                connection.permit = permit
            if self.stopped:  # after becoming visible; see `_stop`
                self._refuse(f"before {route.key} was asked")
            while True:
                if route.is_forwarding:
                    credentials, fields = route.forwarded
                    head_bytes = payload.head(absolute=True, credentials=credentials, fields=fields)
                else:
                    head_bytes = payload.head(absolute=False)
                body = payload.body if payload.body is None else payload.open_body()
                try:
                    sent = connection.send(head_bytes, body, payload.body_length, timeout.read, deadline)
                    head = connection.read_head(payload.method)
                except ConnectionBroken as broken:
                    if not (reused and connection.died_idle and (connection.unsent or _may_resend(payload))):
                        raise
                    self.close_connection(connection, "stale")
                    try:
                        connection, reused = self._open(permit, route, timeout, deadline), False
                    except NotSent as error:
                        if connection.unsent:
                            raise
                        # Of the second sending that is true, and of the first nobody knows.
                        raise ConnectionBroken(f"{broken}; and no fresh connection could be had: {error}") from error
                else:
                    break
            if head.status in ADVISED or head.metered:
                # Before the connection goes back: whoever waits for it is to know.
                self.hosts.heard(route.key, head)
            return Reply(connection, head, permit, self, self.clock.now() - asked, sent)
        except BaseException:
            try:
                if permit.state is LEASED and self.watch.meter is not None:
                    self.watch.meter.waited_in_vain(route.key, permit.since - asked)
                if permit.item is not None:
                    self.close_connection(permit.item, "broken")
                self.gate.release(permit)
            except BaseException:  # Ctrl-C on the way; to give back twice is harmless
                if permit.item is not None:
                    permit.item.close()
                self.gate.abandon(permit)
                raise
            raise

    def take_back(
        self, permit: Permit[Connection], connection: Connection, head: Head, *, complete: bool, received: int
    ) -> None:
        """A reply's body has ended, at its end or before, after so many bytes."""
        is_stream = not permit.bound
        now = self.clock.now()
        if complete and connection.rest(head, now):
            self.gate.release(permit, connection, now)
        else:
            self.close_connection(connection, "finished" if complete else "broken")
            self.gate.release(permit)
        if is_stream and self.watch.meter is not None:
            self.watch.meter.streamed(connection.host, received)

    def reclaim(self, permit: Permit[Connection], connection: Connection) -> None:
        """A reply was dropped unread; called by the collector, so no lock is waited for and no user's code called."""
        if connection in self._connections:
            self.dropped.append(None)
        self._connections.pop(connection, None)
        connection.close()
        self.gate.abandon(permit)

    def close(self) -> Actions[Connection]:
        """Refuse new requests, wake who waits, close what is idle; requests under way go on."""
        self.sleepers.close(f"pool {self.name!r} was closed")
        return self.gate.close()

    def cut(self, reason: str) -> int:
        """Make every request under way in other threads fail at once; how many there were."""
        self._cut = reason  # before looking: who has no connection yet will look here when it has
        self._connector.cut()
        connections = self.gate.leased_items(besides=get_ident())
        for connection in connections:
            connection.shutdown(reason)
        return len(connections)

    def rouse(self) -> None:
        """Make the threads in `stopped` fail at once in what they do here; others are not disturbed.

        Takes no lock and calls nobody's code, so that a finalizer may call it.
        """
        self.sleepers.rouse()
        self.gate.rouse()
        self._connector.rouse()
        for connection in list(self._connections):
            permit = connection.permit
            shift = None if permit is None else self.stopped.shift_of(permit.thread)
            # What was leased before the shift began may have been handed on, as a stream.
            if permit is None or shift is None or permit.since < shift.began:
                continue
            # If it goes back at this moment, whoever gets it next finds it retired, and uses another: what is still
            # leased after that is not cut off under anybody else.
            connection.retire()
            if permit.state is LEASED:
                connection.shutdown(shift.reason)

    def resize(self, limits: Limits) -> None:
        """Change the limits; what is in use beyond them is closed when it comes back."""
        self.limits = limits
        self.gate.resize(limits.total, max_waiting=limits.waiting, max_idle=limits.idle)

    def refresh(self) -> None:
        """Use no connection again that was opened, or begun to be, before now, nor what certificate files held."""
        self._connector.forget()  # before counting: who counts from now on finds what the files hold now
        self._generation += 1  # before looking: who has no connection yet will look here when it has
        for connection in list(self._connections):
            connection.retire()
        self.gate.evict()

    def warm_up(self, route: Route, wanted: int | None, timeout: Timeout) -> int:
        """Open connections until so many are open to the route's host, or as many as fit; how many were opened.

        Raises:
            ConnectionError, Timeout: One could not be opened; the others stay.
        """
        permits: list[Permit[Connection]] = []
        opening: list[Future[bool]] = []
        executor = ThreadPoolExecutor(16, f"sessionpool-{self.name}-warm-up")
        try:
            while True:
                permits.append(Permit(route.key, route.identity, get_ident()))
                if not self.gate.claim(permits[-1], math.inf if wanted is None else wanted):
                    break
            for permit in permits[:-1]:
                opening.append(executor.submit(self._open_idle, permit, route, timeout))  # noqa: PERF401 - one by one
            errors = [outcome(each) for each in opening]
            executor.shutdown()
        finally:
            # Those that are being opened give their permits back themselves.
            for at, permit in enumerate(permits):
                if at >= len(opening) or opening[at].cancel():
                    self.gate.release(permit)
            executor.shutdown(wait=False)
        for error in errors:
            if error is not None:
                raise error
        return sum(each.result() for each in opening)

    def restart(self) -> None:
        """Begin anew in a forked process, without a connection; those inherited are the parent's."""
        self.stopped.clear()
        self.log.restart()
        self.gate.restart()
        self.sleepers.restart()
        self.hosts.restart()
        for connection in list(self._connections):
            connection.disown("this process was forked, and the connection is its parent's")
        self._connections.clear()
        self._connector.restart()

    def disclose(self) -> Books[Connection]:
        """Everything at one moment."""
        return self.gate.books()

    def stats(self) -> PoolStats:
        """The counts of this moment."""
        return self.gate.stats()

    def close_connection(self, connection: Connection, reason: str) -> None:
        """Close and tell; never called under the gate's lock."""
        self._connections.pop(connection, None)
        connection.close()
        if self.watch.closed is not None:
            try:
                self.watch.closed(connection.host, reason)
            except Exception:  # noqa: BLE001 - whatever a user's code may raise
                self.watch.drop()

    def _open(self, permit: Permit[Connection], route: Route, timeout: Timeout, deadline: Deadline) -> Connection:
        unusable, permit.item = permit.item is not None, None
        generation = self._generation
        started = self.clock.now()
        try:
            connected = self._connector.connect(route, timeout.connect, deadline)
        except ConnectionError as error:
            self._refuse(f"while {route.key} was being connected", error)
            raise
        try:
            now = self.clock.now()
            permit.item = connection = Connection(
                connected,
                route,
                self.clock,
                opened=now,
                # Jitter: connections opened together by a burst must not all be closed, and opened again, together.
                expires=now + self.limits.lifetime * random.uniform(0.9, 1.0),  # noqa: S311 - no secret
                max_uses=self.limits.max_uses,
                idle_limit=self.limits.idle,
            )
        except BaseException:  # an interrupt: nobody else knows of it yet
            connected.close()
            raise
        connection.permit = permit
        self._connections[connection] = None
        if generation != self._generation:
            connection.retire()
        self._refuse(f"while {route.key} was being connected")
        self.gate.note_opened(unusable=unusable)
        if self.watch.connected is not None:
            try:
                self.watch.connected(route.key, now - started)
            except Exception:  # noqa: BLE001 - whatever a user's code may raise
                self.watch.drop()
        return connection

    def _refuse(self, when: str, cause: Exception | None = None) -> None:
        """Raise if all connections have been cut, or this thread is to stop."""
        if self._cut:
            raise PoolClosed(f"{self._cut} {when}") from cause
        shift = self.stopped.shift_of(get_ident())
        if shift is not None:
            raise Cancelled(f"{shift.reason} {when}") from cause

    def _open_idle(self, permit: Permit[Connection], route: Route, timeout: Timeout) -> bool:
        """Open a connection for this permit and leave it idle; false if `refresh` came meanwhile."""
        permit.thread = get_ident()
        connection = None
        try:
            opened = self._open(permit, route, timeout, NEVER)
            opened.lie_idle(self.clock.now())
            if not opened.is_retired:
                connection = opened
        finally:
            if connection is None and permit.item is not None:
                self.close_connection(permit.item, "broken")
            self.gate.release(permit, connection)
        return connection is not None

    def _limit_for(self, key: Hashable) -> int:
        limit = self.limits.per_host
        if self.limits.overrides:
            origin = str(key).partition(" ")[0]
            limit = self.limits.for_host(origin.partition("://")[2].rpartition(":")[0].strip("[]"))
        return self.hosts.allowed(str(key), limit)

    def _relimit(self, key: str) -> None:
        """The governor allows a host another number of connections than before."""
        self.gate.relimit(key)


# For a forked process to begin them all anew.
_transports: weakref.WeakSet[Transport] = weakref.WeakSet()


def _restart_all() -> None:
    with contextlib.ExitStack() as restarts:  # one that fails keeps none of the others as they were
        for transport in list(_transports):
            restarts.callback(transport.restart)


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_restart_all)


def _may_resend(payload: Payload) -> bool:
    return payload.method in IDEMPOTENT and payload.is_replayable


def origin_key(scheme: str, host: str, port: int) -> str:
    """An origin as text (RFC 6454 §6.2, the port always shown)."""
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _make_route(
    origin: tuple[str, str, int],
    proxy: str | None,
    verify: bool | str | ssl.SSLContext,
    cert: Cert,
    partition: Hashable,
    proxy_fields: tuple[tuple[str, str], ...],
) -> Route:
    scheme, host, port = origin
    if scheme not in ("http", "https"):
        raise InvalidSchema(
            f"no URL with the scheme {scheme!r} can be fetched: only http and https, and what an adapter is mounted for"
        )
    key = origin_key(scheme, host, port)
    files = cert if cert is None or isinstance(cert, tuple) else os.fspath(cert)
    if proxy is None:
        return Route(key, (verify, files) if scheme == "https" else (), scheme, host, port, None, verify, files)
    try:
        url = _split_proxy(proxy)
    except InvalidURL as error:
        raise InvalidProxyURL(f"no way to {key}, for its proxy's URL cannot be used: {error}") from None
    if url.scheme not in PROXY_PORTS:
        raise InvalidSchema(f"a proxy's scheme must be one of {', '.join(sorted(PROXY_PORTS))}; got {url.scheme!r}")
    if not url.host:
        raise InvalidProxyURL("a proxy's URL needs a host, as in http://proxy.example.com:3128")
    if url.scheme in _socks.SCHEMES:
        _socks.check(url)
    key = f"{key} via {url.scheme}://{url.host}:{url.port or PROXY_PORTS[url.scheme]}"
    credentials = b""
    if url.auth and url.scheme not in _socks.SCHEMES:
        user, password = userinfo(url.auth)
        if not may_be_basic(user, password):
            raise InvalidProxyURL(
                f"no way to {key}: the proxy's URL has a user with a colon, or a control character in user or password"
            )
        credentials = b"Proxy-Authorization: %b\r\n" % basic_credentials(user, password).encode("ascii")
    fields = b"".join(b"%b: %b\r\n" % (name.encode("latin-1"), text.encode("latin-1")) for name, text in proxy_fields)
    identity = (url.auth, verify, files, partition, proxy_fields)
    return Route(key, identity, scheme, host, port, url, verify, files, partition, proxy_fields, (credentials, fields))


def _split_proxy(proxy: str) -> Url:
    if "://" not in proxy:
        return split_url(f"http://{proxy}")
    url = split_url(proxy)
    if url.scheme not in _socks.SCHEMES:
        return url
    # urllib3 brings hosts into their normal form (case, IDNA, zone) only with schemes that it knows.
    return split_url(f"http://{proxy.partition('://')[2]}")._replace(scheme=url.scheme)
