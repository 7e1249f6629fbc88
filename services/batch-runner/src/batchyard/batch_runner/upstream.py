"""A line's way to the model server and back."""

import json
import time
from base64 import b64encode
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Any, Protocol, Self

from yarl import URL

from batchyard.batch_runner.exchange import Answer, UpstreamError
from batchyard.batch_runner.http_client import HttpClient, Origin
from batchyard.batch_runner.redirects import described, is_redirect
from batchyard.common.config import Deployment
from batchyard.common.logs import get_logger

_HEALTH_TIMEOUT = 5.0
_METRICS_TIMEOUT = 2.0
_DOCUMENT_BYTES = 8 * 1024 * 1024
_TOLD_EVERY = 60.0  # seconds
_log = get_logger(__name__)


class Health(Enum):
    """What a server says of itself: `UNWELL` is a server error, `SILENT` no answer."""

    ALIVE = "alive"
    UNWELL = "unwell"
    SILENT = "silent"


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


@dataclass(frozen=True, slots=True)
class _Route:
    """Where requests of one path go, and the head that all of them have, but for what is each request's own."""

    deployment: Deployment
    origin: Origin
    head: bytes


class HttpUpstream:
    """`Upstream` over HTTP/1.1."""

    def __init__(self, request_timeout: float, max_response_bytes: int) -> None:
        self._request_timeout = request_timeout
        self._max_response_bytes = max_response_bytes
        self._routes: dict[tuple[str, str, str], _Route] = {}
        self._told: dict[str, float] = {}
        self._client = HttpClient()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    async def post(self, deployment: Deployment, path: str, body: bytes, request_id: str) -> Answer:
        route = self._route("POST", deployment, path)
        own = b"content-type: application/json\r\nx-request-id: %b\r\ncontent-length: %d\r\n\r\n"
        answer = await self._client.send(
            route.origin,
            b"".join((route.head, own % (request_id.encode(), len(body)), body)),
            most=self._max_response_bytes,
            timeout=deployment.timeout or self._request_timeout,
        )
        if is_redirect(answer):
            self._tell_redirect(deployment, path, answer)
        return answer

    async def health(self, deployment: Deployment) -> Health:
        answer = await self._get(deployment, "/health", _HEALTH_TIMEOUT)
        if answer is None:
            return Health.SILENT
        return Health.ALIVE if answer.status < 500 else Health.UNWELL

    async def models(self, deployment: Deployment) -> list[str] | None:
        answer = await self._get(deployment, "/v1/models", _HEALTH_TIMEOUT)
        if answer is None or answer.status != 200:
            return None
        try:
            document: Any = json.loads(answer.body)
        except (ValueError, RecursionError):
            return None
        if not isinstance(document, dict) or not isinstance(document.get("data"), list):
            return None
        return [
            entry["id"] for entry in document["data"] if isinstance(entry, dict) and isinstance(entry.get("id"), str)
        ]

    async def metrics(self, deployment: Deployment) -> str | None:
        answer = await self._get(deployment, "/metrics", _METRICS_TIMEOUT)
        return None if answer is None or answer.status != 200 else answer.body.decode(errors="replace")

    async def _get(self, deployment: Deployment, path: str, timeout: float) -> Answer | None:
        """What the server answers, or None if it does not, or not within so many seconds."""
        route = self._route("GET", deployment, path)
        try:
            answer = await self._client.send(
                route.origin, route.head + b"\r\n", most=_DOCUMENT_BYTES, timeout=timeout, repeatable=True
            )
        except UpstreamError:
            return None
        if is_redirect(answer):
            self._tell_redirect(deployment, path, answer)
        return answer

    def _tell_redirect(self, deployment: Deployment, path: str, answer: Answer) -> None:
        """Tell whoever runs the server, once a minute: it happens to every request."""
        now = time.monotonic()
        if now - self._told.get(deployment.id, -_TOLD_EVERY) < _TOLD_EVERY:
            return
        self._told[deployment.id] = now
        detail = described(answer, deployment.base_url)
        _log.warning("deployment.redirects", deployment=deployment.id, pool=deployment.pool, path=path, detail=detail)

    def _route(self, method: str, deployment: Deployment, path: str) -> _Route:
        key = (method, deployment.id, path)
        route = self._routes.get(key)
        if route is None or route.deployment is not deployment:  # it is new, or its server or its key is
            route = self._routes[key] = _route(method, deployment, path)
        return route


def _route(method: str, deployment: Deployment, path: str) -> _Route:
    """Raises ValueError for a URL or a key that cannot stand in a request."""
    url = URL(deployment.base_url + path)
    if url.raw_host is None or url.port is None:
        raise ValueError("the server's URL names no host")
    lines = [
        f"{method} {url.raw_path_qs} HTTP/1.1",
        f"host: {url.host_port_subcomponent}",
        "user-agent: batchyard",
        "accept: */*",
        "accept-encoding: identity",
    ]
    if deployment.api_key is not None:
        lines.append(f"authorization: Bearer {deployment.api_key.get_secret_value()}")
    elif url.user is not None:
        credentials = b64encode(f"{url.user}:{url.password or ''}".encode()).decode()
        lines.append(f"authorization: Basic {credentials}")
    if any(character in line for line in lines for character in "\r\n\0"):
        raise ValueError("the server's URL or key has characters that cannot stand in a header")
    head = "".join(f"{line}\r\n" for line in lines).encode()
    return _Route(deployment, Origin(url.raw_host, url.port, url.scheme == "https"), head)
