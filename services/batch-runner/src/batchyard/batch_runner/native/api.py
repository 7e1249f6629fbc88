"""The Files and Batch API of a server, as a client sees it."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec
from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector

from batchyard.batch_runner.lines import Tokens, read_answer
from batchyard.batch_runner.native.documents import (
    BATCH_KEY,
    Page,
    Refusal,
    UpstreamBatch,
    UpstreamFile,
    read_refusal,
)
from batchyard.batch_runner.native.upload import multipart
from batchyard.batch_runner.retry import is_retryable, parse_retry_after
from batchyard.common.clock import Clock
from batchyard.common.config import Deployment

_CONNECT_TIMEOUT = 10.0
_DOCUMENT_TIMEOUT = 60.0
_STALLED_TIMEOUT = 60.0
_MAX_DOCUMENT = 8 * 1024 * 1024
_DOWNLOAD_CHUNK = 256 * 1024
_PAGE = 100
_MAX_PAGES = 100
_WINDOW = "24h"  # the one window that every such server has; a shorter one of ours is kept by cancelling
_GONE = frozenset({404, 410})
_ENDED = frozenset({400, 409})
_CONFLICT = 409

T = TypeVar("T")


class NotAnswering(Exception):
    """The server cannot be reached, is overloaded, or says what cannot be understood: ask again later."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class Refused(Exception):
    """The server will not do it, however often it is asked."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(f"{refusal.status}: {refusal.message}")
        self.refusal = refusal


@dataclass(frozen=True, slots=True)
class Seen:
    """A batch as it is now.

    Attributes:
        used: Tokens of its answers, by the server's own account; none when it keeps no account.
        retry_after: Seconds that the server wants to be left alone for, if it says so.
    """

    batch: UpstreamBatch
    used: Tokens
    retry_after: float | None


class NativeApi:
    """Calls to servers that run batches of their own.

    Every method raises NotAnswering or Refused; cancelling one closes its connection.
    """

    def __init__(self, upload_timeout: float, clock: Clock) -> None:
        self._upload_timeout = upload_timeout
        self._clock = clock
        self._session: ClientSession | None = None

    async def __aenter__(self) -> Self:
        # The pools limit what is in flight; a limit here as well would only hide who waits. A connection is kept for
        # less than uvicorn keeps it (5 s), or a request would now and then be sent into one that is being closed.
        self._session = ClientSession(
            connector=TCPConnector(limit=0, keepalive_timeout=4, ttl_dns_cache=60),
            cookie_jar=DummyCookieJar(),
            timeout=ClientTimeout(total=_DOCUMENT_TIMEOUT, sock_connect=_CONNECT_TIMEOUT),
            headers={"user-agent": "batchyard", "accept-encoding": "identity"},
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def has_batches(self, deployment: Deployment) -> bool:
        """Whether the server has the API at all."""
        try:
            await self._document(deployment, "GET", "/files", Page[UpstreamFile], params={"limit": 1})
        except Refused:
            return False
        return True

    async def upload(self, deployment: Deployment, filename: str, content: AsyncIterator[bytes]) -> UpstreamFile:
        """Store a batch's input. What `content` raises is raised."""
        failures: list[Exception] = []

        async def guarded(limit: asyncio.Timeout) -> AsyncIterator[bytes]:
            try:
                async for chunk in content:
                    limit.reschedule(asyncio.get_running_loop().time() + self._upload_timeout)
                    yield chunk
            except Exception as error:
                failures.append(error)  # aiohttp tells it as a broken connection
                raise

        boundary = secrets.token_hex(16)
        try:
            async with asyncio.timeout(self._upload_timeout) as limit:
                return await self._document(
                    deployment,
                    "POST",
                    "/files",
                    UpstreamFile,
                    data=multipart(boundary, filename, guarded(limit)),
                    headers={"content-type": f"multipart/form-data; boundary={boundary}"},
                    timeout=ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT),
                )
        except TimeoutError as error:
            raise NotAnswering("the upload does not get on") from error
        except NotAnswering:
            if failures:
                raise failures[0] from None
            raise

    async def create(
        self, deployment: Deployment, raw_id: str, file_id: str, endpoint: str, turned_away: int = 0
    ) -> UpstreamBatch:
        """Start a batch for ours, whose raw ID it carries; `turned_away` is how often that came to nothing."""
        key = f"{raw_id}-{turned_away}" if turned_away else raw_id
        return await self._document(
            deployment,
            "POST",
            "/batches",
            UpstreamBatch,
            json={
                "input_file_id": file_id,
                "endpoint": endpoint,
                "completion_window": _WINDOW,
                "metadata": {BATCH_KEY: raw_id},
            },
            headers={"idempotency-key": key},
        )

    async def find(self, deployment: Deployment, raw_id: str, since: int) -> UpstreamBatch | None:
        """The batch that was created for ours, if there is one that was not turned away. Lists have the newest first:
        no page is read beyond `since`, a second of the server's own clock before which it cannot have been created."""
        after: str | None = None
        for _ in range(_MAX_PAGES):
            params = {"limit": _PAGE, **({"after": after} if after else {})}
            page = await self._document(deployment, "GET", "/batches", Page[UpstreamBatch], params=params)
            for batch in page.data:
                if batch.is_of(raw_id) and not batch.is_turned_away:
                    return batch
            if not page.has_more or not page.data or (page.data[-1].created_at or 0) < since:
                return None
            after = page.data[-1].id
        return None

    async def batch(self, deployment: Deployment, batch_id: str) -> Seen:
        async with self._asked(deployment, "GET", f"/batches/{batch_id}") as response:
            body = await _read(response)
            read = read_answer(body)
            return Seen(_decoded(body, UpstreamBatch), read.tokens if read else Tokens(), self._retry_after(response))

    async def cancel(self, deployment: Deployment, batch_id: str) -> None:
        """Stop a batch; one that has ended is left as it is."""
        await self._do(deployment, "POST", f"/batches/{batch_id}/cancel", _ENDED)

    async def content(self, deployment: Deployment, file_id: str) -> AsyncGenerator[bytes, None]:
        """The bytes of a file."""
        timeout = ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT, sock_read=_STALLED_TIMEOUT)
        async with self._asked(deployment, "GET", f"/files/{file_id}/content", timeout=timeout) as response:
            async for chunk in response.content.iter_chunked(_DOWNLOAD_CHUNK):
                yield chunk

    async def delete_file(self, deployment: Deployment, file_id: str) -> None:
        """Delete a file; one that is gone already is fine."""
        await self._do(deployment, "DELETE", f"/files/{file_id}", _GONE)

    async def files_named(self, deployment: Deployment, filename: str) -> list[str]:
        """The IDs of all input files of a name, as far as the newest pages show them."""
        found: list[str] = []
        after: str | None = None
        for _ in range(_MAX_PAGES):
            params = {"purpose": "batch", "limit": _PAGE, **({"after": after} if after else {})}
            page = await self._document(deployment, "GET", "/files", Page[UpstreamFile], params=params)
            found += [file.id for file in page.data if file.filename == filename]
            if not page.has_more or not page.data:
                break
            after = page.data[-1].id
        return found

    async def _do(self, deployment: Deployment, method: str, path: str, done: frozenset[int]) -> None:
        """Ask for something that an answer with one of the statuses `done` says to be so already."""
        try:
            async with self._asked(deployment, method, path, final=done):
                pass
        except Refused as error:
            if error.refusal.status not in done:
                raise

    async def _document(self, deployment: Deployment, method: str, path: str, kind: type[T], **options: Any) -> T:
        async with self._asked(deployment, method, path, **options) as response:
            return _decoded(await _read(response), kind)

    @asynccontextmanager
    async def _asked(
        self,
        deployment: Deployment,
        method: str,
        path: str,
        *,
        final: frozenset[int] = frozenset(),
        headers: dict[str, str] | None = None,
        **options: Any,
    ) -> AsyncIterator[ClientResponse]:
        """A 2xx answer whose body is still to be read. Statuses of `final` say no for good."""
        assert self._session is not None, "used outside its context"
        headers = dict(headers or {})
        if deployment.api_key is not None:
            headers["authorization"] = f"Bearer {deployment.api_key.get_secret_value()}"
        url = f"{deployment.base_url}/v1{path}"
        try:
            async with self._session.request(
                method, url, headers=headers, allow_redirects=False, **options
            ) as response:
                if not 200 <= response.status < 300:
                    await self._raise(response, final)
                yield response
        except TimeoutError as error:
            raise NotAnswering("no answer in time") from error
        except (ClientError, OSError) as error:
            raise NotAnswering(str(error) or type(error).__name__) from error

    async def _raise(self, response: ClientResponse, final: frozenset[int]) -> None:
        status = response.status
        is_final = status in final or (status == _CONFLICT and response.headers.get("x-should-retry") == "false")
        if is_retryable(status) and not is_final:
            raise NotAnswering(f"the server answered {status}", self._retry_after(response))
        raise Refused(read_refusal(status, await _read(response)))

    def _retry_after(self, response: ClientResponse) -> float | None:
        return parse_retry_after(response.headers.get("retry-after"), self._clock.now())


async def _read(response: ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_chunked(_DOWNLOAD_CHUNK):
        body += chunk
        if len(body) > _MAX_DOCUMENT:
            raise NotAnswering(f"a document of more than {_MAX_DOCUMENT} bytes")
    return bytes(body)


def _decoded(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotAnswering(f"not the document that was asked for: {error}") from error
