"""A line's way to the model server and back."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Any, Protocol, Self

import aiohttp
from aiohttp import ClientConnectorError, ClientError, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector
from yarl import URL

from batchyard.common.config import Deployment

_CONNECT_TIMEOUT = 10.0
_HEALTH_TIMEOUT = 5.0
_METRICS_TIMEOUT = 2.0
_METRICS_BYTES = 8 * 1024 * 1024
_READ_CHUNK = 256 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete HTTP answer."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class Health(Enum):
    """What a server says of itself: `UNWELL` is a server error, `SILENT` no answer."""

    ALIVE = "alive"
    UNWELL = "unwell"
    SILENT = "silent"


class UpstreamError(Exception):
    """No answer; the message is for people and names no secret."""


class NotSent(UpstreamError):
    """The server could not be reached, so the request has had no effect."""


class TimedOut(UpstreamError):
    """The server took longer than it may."""


class Broken(UpstreamError):
    """The connection ended before the answer did."""


class TooLarge(UpstreamError):
    """The answer passed the size limit."""


class Upstream(Protocol):
    """Sends requests to deployments. Cancelling a call closes its connection, which makes vLLM abort the request."""

    async def post(self, deployment: Deployment, path: str, body: bytes, request_id: str) -> Answer:
        """POST JSON to `path` (`/v1/…`).

        Raises:
            UpstreamError: One of its kinds.
        """
        ...

    async def health(self, deployment: Deployment) -> Health:
        """What the server answers to `GET /health`; anything but a server error is well."""
        ...

    async def models(self, deployment: Deployment) -> list[str] | None:
        """The names in `GET /v1/models`, or None when the server cannot say."""
        ...

    async def metrics(self, deployment: Deployment) -> str | None:
        """What `GET /metrics` answers, or None when it is no text of a bearable size."""
        ...


def open_session(longest: float | None) -> ClientSession:
    """Connections to servers, whose answers may take `longest` seconds."""
    # The pools limit what is in flight; a limit here as well would only hide who waits. A connection is kept for less
    # than uvicorn keeps it (5 s), or a request would now and then be sent into one that is being closed.
    return ClientSession(
        connector=TCPConnector(limit=0, keepalive_timeout=4, ttl_dns_cache=60),
        cookie_jar=DummyCookieJar(),
        timeout=ClientTimeout(total=longest, sock_connect=_CONNECT_TIMEOUT),
        headers={"user-agent": "batchyard", "accept-encoding": "identity"},
    )


class AiohttpUpstream:
    """`Upstream` over aiohttp, which costs a twentieth of httpx per request (see docs/architecture)."""

    def __init__(self, request_timeout: float, max_response_bytes: int) -> None:
        self._request_timeout = request_timeout
        self._max_response_bytes = max_response_bytes
        self._headers: dict[str, tuple[Deployment, dict[str, str]]] = {}
        self._urls: dict[tuple[str, str], URL] = {}
        self._session: ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = open_session(None)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def post(self, deployment: Deployment, path: str, body: bytes, request_id: str) -> Answer:
        headers = {**self._headers_of(deployment), "x-request-id": request_id}
        timeout = deployment.timeout or self._request_timeout
        try:
            async with (
                asyncio.timeout(timeout),
                self._open.post(
                    self._url_of(deployment, path), data=body, headers=headers, allow_redirects=False
                ) as response,
            ):
                return Answer(response.status, await self._read(response, self._max_response_bytes), response.headers)
        except TimeoutError as error:
            # aiohttp's own connect timeout is a TimeoutError too, but one before anything was sent.
            if isinstance(error, aiohttp.ConnectionTimeoutError):
                raise NotSent(f"no connection within {_CONNECT_TIMEOUT:g} s") from error
            raise TimedOut(f"no complete answer within {timeout:g} s") from error
        except ClientConnectorError as error:
            raise NotSent(_reason(error)) from error
        except (ClientError, OSError) as error:
            raise Broken(_reason(error)) from error

    async def health(self, deployment: Deployment) -> Health:
        try:
            async with (
                asyncio.timeout(_HEALTH_TIMEOUT),
                self._open.get(self._url_of(deployment, "/health"), headers=self._headers_of(deployment)) as response,
            ):
                return Health.ALIVE if response.status < 500 else Health.UNWELL
        except (ClientError, OSError, TimeoutError):
            return Health.SILENT

    async def models(self, deployment: Deployment) -> list[str] | None:
        try:
            async with (
                asyncio.timeout(_HEALTH_TIMEOUT),
                self._open.get(
                    self._url_of(deployment, "/v1/models"), headers=self._headers_of(deployment)
                ) as response,
            ):
                document: Any = await response.json(content_type=None) if response.status == 200 else None
        except (ClientError, OSError, TimeoutError, ValueError):
            return None
        if not isinstance(document, dict) or not isinstance(document.get("data"), list):
            return None
        return [
            entry["id"] for entry in document["data"] if isinstance(entry, dict) and isinstance(entry.get("id"), str)
        ]

    async def metrics(self, deployment: Deployment) -> str | None:
        try:
            async with (
                asyncio.timeout(_METRICS_TIMEOUT),
                self._open.get(
                    self._url_of(deployment, "/metrics"), headers=self._headers_of(deployment), allow_redirects=False
                ) as response,
            ):
                if response.status != 200:
                    return None
                return (await self._read(response, _METRICS_BYTES)).decode(errors="replace")
        except (ClientError, OSError, TimeoutError, TooLarge):
            return None

    async def _read(self, response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
        declared = response.content_length
        if declared is not None and declared <= max_bytes:
            return await response.read()
        chunks: list[bytes] = []
        size = 0
        async for chunk in response.content.iter_chunked(_READ_CHUNK):
            size += len(chunk)
            if size > max_bytes:
                raise TooLarge(f"the answer is larger than {max_bytes} bytes")
            chunks.append(chunk)
        return b"".join(chunks)

    @property
    def _open(self) -> ClientSession:
        assert self._session is not None, "used outside its context"
        return self._session

    def _url_of(self, deployment: Deployment, path: str) -> URL:
        url = self._urls.get((deployment.base_url, path))
        if url is None:
            url = self._urls[deployment.base_url, path] = URL(deployment.base_url + path)
        return url

    def _headers_of(self, deployment: Deployment) -> dict[str, str]:
        known, headers = self._headers.get(deployment.id, (None, {}))
        if known is not deployment:  # it is new, or its key is
            headers = {"content-type": "application/json"}
            if deployment.api_key is not None:
                headers["authorization"] = f"Bearer {deployment.api_key.get_secret_value()}"
            self._headers[deployment.id] = (deployment, headers)
        return headers


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
