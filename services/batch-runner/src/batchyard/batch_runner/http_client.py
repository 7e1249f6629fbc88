"""Connections to servers, kept for the next request.

A batch is nothing but requests to few servers: this costs a sixth of what a client for everything does (see
docs/architecture). No cookies, no proxies, and a redirect is an answer like any other.
"""

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from aiohappyeyeballs import start_connection

from batchyard.batch_runner.exchange import Answer, Broken, NotSent, TimedOut
from batchyard.batch_runner.http_connection import Connection
from batchyard.common.tasks import end

_CONNECT_TIMEOUT = 10.0
_SHUTDOWN_TIMEOUT = 1.0  # seconds for a TLS connection's last words
_KEEPALIVE = 4.0  # seconds: uvicorn ends a connection after 5, and would now and then do so under a request
_ADDRESSES_KNOWN = 60.0  # seconds
_LOOK_TIMEOUT = 5.0  # seconds after which a resolver gives up a server that does not answer it, and asks the next
_NEXT_FAMILY = 0.25  # seconds after which another address is tried as well (RFC 8305)

_Address = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a server listens. `host` is a name or an address without brackets."""

    host: str
    port: int
    is_tls: bool


@dataclass(slots=True)
class _Lookup:
    """The addresses of an origin, once they are known.

    Attributes:
        until: The loop's second from which on somebody else looks them up anew.
    """

    finding: asyncio.Task[Sequence[_Address]]
    until: float
    turns: int = 0

    def addresses(self) -> list[_Address]:
        """All of them, each time another one first: a name may stand for several servers."""
        found = self.finding.result()
        first = self.turns % len(found)
        self.turns += 1
        return [*found[first:], *found[:first]]


class HttpClient:
    """Sends requests, each over a connection of its own for as long as it takes. Nobody else limits how many."""

    def __init__(self) -> None:
        self._idle: dict[Origin, deque[Connection]] = {}
        self._lookups: dict[Origin, _Lookup] = {}
        self._looking: set[asyncio.Task[Sequence[_Address]]] = set()
        self._tidying: asyncio.TimerHandle | None = None
        self._is_closed = False

    async def send(
        self,
        origin: Origin,
        request: bytes,
        *,
        most: int,
        timeout: float,
        repeatable: bool = False,
    ) -> Answer:
        """The answer to a whole request, head and body. Cancelling closes the connection.

        Args:
            most: Bytes that the answer's body may have.
            timeout: Seconds that everything may take.
            repeatable: Whether to send it once more if it met a connection that the server was just closing.

        Raises:
            UpstreamError: One of its kinds.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout
        try:
            connection = self._kept(origin, loop.time())
            if connection is not None:
                try:
                    answer = await connection.ask(request, most=most, until=until)
                except Broken:
                    if not repeatable or connection.has_received:
                        raise
                else:
                    self._keep(origin, connection, loop)
                    return answer
            connection = await self._connect(origin, until)
            answer = await connection.ask(request, most=most, until=until)
        except TimeoutError as error:
            raise TimedOut(f"no complete answer within {timeout:g} s") from error
        self._keep(origin, connection, loop)
        return answer

    async def close(self) -> None:
        """Close the connections that are not in use; those that are in use are closed when they no longer are."""
        self._is_closed = True
        if self._tidying is not None:
            self._tidying.cancel()
        for connections in self._idle.values():
            for connection in connections:
                connection.close()
        self._idle.clear()
        await end(self._looking)

    def _kept(self, origin: Origin, now: float) -> Connection | None:
        """A connection that is there already: the one that was in use last, so that as few as possible are kept."""
        connections = self._idle.get(origin)
        while connections:
            connection = connections.pop()
            if connection.is_open and now - connection.idle_since < _KEEPALIVE:
                return connection
            connection.close()
        return None

    def _keep(self, origin: Origin, connection: Connection, loop: asyncio.AbstractEventLoop) -> None:
        if self._is_closed or not connection.is_open:
            connection.close()
            return
        connection.idle_since = loop.time()
        self._idle.setdefault(origin, deque()).append(connection)
        if self._tidying is None:
            self._tidying = loop.call_later(_KEEPALIVE, self._tidy)

    def _tidy(self) -> None:
        """Close what has not been used for long."""
        loop = asyncio.get_running_loop()
        for origin, connections in list(self._idle.items()):
            while connections and loop.time() - connections[0].idle_since >= _KEEPALIVE:
                connections.popleft().close()
            if not connections:
                del self._idle[origin]
        self._tidying = loop.call_later(_KEEPALIVE, self._tidy) if self._idle else None

    async def _connect(self, origin: Origin, until: float) -> Connection:
        """A new connection. Raises NotSent; TimeoutError where the request may not take as long as connecting may."""
        patience = min(until - asyncio.get_running_loop().time(), _CONNECT_TIMEOUT)
        try:
            async with asyncio.timeout(patience) as limit:
                return await self._connected(origin)
        except (OSError, RuntimeError, UnicodeError) as error:  # the kernel has a TimeoutError of its own
            self._forget(origin)
            if not limit.expired():
                raise NotSent(f"no connection to {origin.host}:{origin.port}: {error}") from error
            if patience < _CONNECT_TIMEOUT:
                raise TimeoutError from error
            raise NotSent(f"no connection within {patience:g} s") from error

    async def _connected(self, origin: Origin) -> Connection:
        loop = asyncio.get_running_loop()
        addresses: Any = await self._addresses(origin)
        tls = self._tls if origin.is_tls else None
        connected = await start_connection(addresses, happy_eyeballs_delay=_NEXT_FAMILY, interleave=1)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _, connection = await loop.create_connection(
            Connection,
            sock=connected,
            ssl=tls,
            server_hostname=origin.host if tls else None,
            ssl_handshake_timeout=_CONNECT_TIMEOUT if tls else None,  # what is cancelled is kept in memory until then
            ssl_shutdown_timeout=_SHUTDOWN_TIMEOUT if tls else None,
        )
        return connection

    async def _addresses(self, origin: Origin) -> list[_Address]:
        """Who all ask at once share one look, which outlives them: nothing can stop a resolver. One that hangs is left
        to itself, and whoever comes then looks anew."""
        loop = asyncio.get_running_loop()
        lookup = self._lookups.get(origin)
        if lookup is None or lookup.until <= loop.time():
            finding = loop.create_task(_found(origin))
            lookup = self._lookups[origin] = _Lookup(finding, loop.time() + _LOOK_TIMEOUT)
            self._looking.add(finding)
            finding.add_done_callback(partial(self._looked, origin, lookup))
        await asyncio.wait((lookup.finding,))
        if lookup.finding.cancelled():
            raise OSError("the client was closed")
        return lookup.addresses()

    def _looked(self, origin: Origin, lookup: _Lookup, finding: asyncio.Task[Sequence[_Address]]) -> None:
        self._looking.discard(finding)
        if not finding.cancelled() and finding.exception() is None:
            lookup.until = asyncio.get_running_loop().time() + _ADDRESSES_KNOWN
        elif self._lookups.get(origin) is lookup:
            del self._lookups[origin]

    def _forget(self, origin: Origin) -> None:
        """Where it was found nobody answers: it may have moved."""
        lookup = self._lookups.get(origin)
        if lookup is not None and lookup.finding.done():
            del self._lookups[origin]

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        context.set_alpn_protocols(["http/1.1"])
        return context


async def _found(origin: Origin) -> Sequence[_Address]:
    found = await asyncio.get_running_loop().getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
    if not found:
        raise OSError("the name has no address")
    return found
