"""One signed request to an endpoint, by https://www.standardwebhooks.com: any 2xx takes the event over.

A name is looked up, its addresses are checked, and the connection goes to one of these: nothing looks it up again.
No redirect is followed, no proxy is asked, and of the answer nothing is read but its head.
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import cache, partial

import httpx
from standardwebhooks.webhooks import Webhook

from batchyard.gateway.webhooks.addresses import Addresses
from batchyard.gateway.webhooks.endpoint import WebhookEndpoint
from batchyard.gateway.webhooks.message import Message

Resolve = Callable[[str, int], Awaitable[list[str]]]

_LOOKUPS_AT_ONCE = 16
_LONGEST_CONNECT = 5.0
_MOST_ADDRESSES = 4
_PORTS = {"https": 443, "http": 80}


class Unreachable(Exception):
    """Nobody answered, for a reason that the endpoint's owner may be told."""


class Sender:
    """Sends messages to endpoints.

    Args:
        client: Keeps no connection: one that was opened to an address for one name must not serve another.
        resolve: The IP addresses of a host. Raises OSError or UnicodeError.
        addresses: Which of them are called.
        timeout: Seconds until the head of an answer has to be there.
    """

    def __init__(self, client: httpx.AsyncClient, resolve: Resolve, addresses: Addresses, timeout: float) -> None:
        self._client = client
        self._resolve = resolve
        self._addresses = addresses
        self._timeout = timeout

    async def send(self, endpoint: WebhookEndpoint, message: Message, now: float) -> int:
        """The status that the endpoint answers. Raises Unreachable."""
        try:
            async with asyncio.timeout(self._timeout):
                return await self._send(httpx.URL(endpoint.url), signed_headers(endpoint, message, now), message.body)
        except TimeoutError as error:
            raise Unreachable(f"it did not answer in {self._timeout:g} seconds") from error

    async def _send(self, url: httpx.URL, headers: dict[str, str], body: str) -> int:
        trouble: httpx.TransportError | None = None
        for address in await self._reachable(url):
            try:
                return await self._post(url, address, headers, body)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                trouble = error
            except httpx.TransportError as error:
                raise Unreachable(f"it gave no answer: {_reason(error)}") from error
        raise Unreachable(f"it could not be connected to: {_reason(trouble)}") from trouble

    async def _reachable(self, url: httpx.URL) -> list[str]:
        try:
            found = await self._resolve(url.host, url.port or _PORTS[url.scheme])
        except (OSError, UnicodeError) as error:
            raise Unreachable("its name is not known to DNS") from error
        allowed = [address for address in dict.fromkeys(found) if self._addresses.allow(address)]
        if not allowed:
            raise Unreachable("its name stands for no public address, and others are not called")
        return allowed[:_MOST_ADDRESSES]

    async def _post(self, url: httpx.URL, address: str, headers: dict[str, str], body: str) -> int:
        request = self._client.build_request(
            "POST",
            url.copy_with(host=address),
            headers={**headers, "host": url.netloc.decode("ascii")},
            content=body,
            extensions={"sni_hostname": url.raw_host.decode("ascii")},
        )
        response = await self._client.send(request, stream=True)
        await response.aclose()
        return response.status_code


def signed_headers(endpoint: WebhookEndpoint, message: Message, now: float) -> dict[str, str]:
    """The headers of one try: the signature holds for `now`, under each secret that is in force."""
    moment = datetime.fromtimestamp(int(now), UTC)
    signatures = (Webhook(secret).sign(message.id, moment, message.body) for secret in endpoint.secrets_at(now))
    return {
        "content-type": "application/json",
        "user-agent": "Batchyard-Webhooks/1",
        "webhook-id": message.id,
        "webhook-timestamp": str(int(now)),
        "webhook-signature": " ".join(signatures),
    }


@asynccontextmanager
async def open_sender(addresses: Addresses, timeout: float) -> AsyncIterator[Sender]:
    """A sender while the context is open.

    Names are looked up in threads of its own: a name server that does not answer holds up no other part of the process.
    """
    threads = ThreadPoolExecutor(_LOOKUPS_AT_ONCE, thread_name_prefix="webhook-dns")
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    connect = min(timeout, _LONGEST_CONNECT)
    try:
        async with httpx.AsyncClient(
            verify=_trust(),
            trust_env=False,
            follow_redirects=False,
            limits=limits,
            timeout=httpx.Timeout(timeout, connect=connect),
        ) as client:
            yield Sender(client, partial(_look_up, threads), addresses, timeout)
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


@cache
def _trust() -> ssl.SSLContext:
    """Whose certificates are believed: the authorities of `certifi` and the system's. Read once, in 50 ms."""
    context = httpx.create_ssl_context(trust_env=False)
    context.load_default_certs()
    return context


async def _look_up(threads: ThreadPoolExecutor, host: str, port: int) -> list[str]:
    look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    found = await asyncio.get_running_loop().run_in_executor(threads, look_up)
    return [str(address[0]) for *_, address in found]


def _reason(error: httpx.TransportError | None) -> str:
    return "no address was left to try" if error is None else str(error) or type(error).__name__
