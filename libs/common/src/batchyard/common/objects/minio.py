"""Objects in a bucket of MinIO or any other S3 server: the store of more than one machine."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from batchyard.common.objects.errors import ObjectStoreUnavailable, ObjectTooLarge
from batchyard.common.objects.keys import check_key, check_prefix
from batchyard.common.objects.minio_calls import S3Calls
from batchyard.common.objects.minio_client import S3Client
from batchyard.common.objects.minio_upload import multipart_upload
from batchyard.common.objects.parts import MAX_PARTS, PackedPart, plan_parts
from batchyard.common.objects.streams import check_range, in_blocks
from batchyard.common.objects.threads import in_windows

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence

    from urllib3 import BaseHTTPResponse

    from batchyard.common.objects.minio_client import MinioConfig
    from batchyard.common.objects.port import ObjectInfo

READ_BYTES = 1024 * 1024
_PAGE = 1000
_SMALL_CALLS = 16
_CHECK_TIMEOUT_S = 5.0
_STREAM_WAIT_S = 30.0


class MinioObjectStore:
    """An `ObjectStore` in one bucket.

    A put holds at most `parallel_parts + 2` parts of `part_bytes` in memory. What a process that crashes in a
    put leaves is an unfinished multipart upload: MinIO drops these by itself after a day, other servers need a
    lifecycle rule (AbortIncompleteMultipartUpload), which a bucket that we make gets.
    """

    def __init__(self, config: MinioConfig) -> None:
        """Take the settings. Nothing is sent before the first call."""
        self._config = config
        self._calls = S3Calls(config)
        self._client = self._calls.client
        # A signature covers the host, so it takes a client for that address, which sends nothing itself.
        public = config.public_endpoint
        self._signer = self._client if public is None else S3Client(replace(config, endpoint=public))
        # A readiness check that takes minutes is no answer.
        patience = min(config.read_timeout, _CHECK_TIMEOUT_S)
        self._prober = S3Calls(replace(config, read_timeout=patience, retries=1, threads=1))
        self._streams = asyncio.Semaphore(config.max_streams)

    async def put(self, key: str, data: AsyncIterable[bytes] | bytes, *, max_bytes: int | None = None) -> ObjectInfo:
        """See `ObjectStore.put`. An object smaller than `part_bytes` takes one request."""
        check_key(key)
        size = self._config.part_bytes
        async with aclosing(in_blocks(data, size, key=key, max_bytes=max_bytes)) as blocks:
            first = await anext(blocks, b"")
            if len(first) < size:
                return await self._calls.run(key, self._client.put, key, first)
            async with multipart_upload(self._calls, self._config, key) as upload:
                await upload.send(first)
                del first
                async for block in blocks:
                    await upload.send(block)
            return upload.result

    async def put_url(self, key: str, seconds: float) -> str | None:
        """See `ObjectStore.put_url`."""
        check_key(key)
        return self._signer.put_url(key, seconds)

    async def get_url(self, key: str, seconds: float) -> str | None:
        """See `ObjectStore.get_url`."""
        check_key(key)
        return self._signer.get_url(key, seconds)

    async def get(self, key: str, *, start: int = 0, length: int | None = None) -> AsyncGenerator[bytes, None]:
        """See `ObjectStore.get`. An open stream holds one connection of `max_streams`."""
        check_key(key)
        check_range(start, length)
        if length == 0:
            await self.stat(key)
            return
        async with self._stream():
            opening = partial(self._client.open, key, start, length)
            response = await self._calls.acquire(key, opening, _close)
            try:
                while response is not None and (chunk := await self._calls.run(key, _read, response)):
                    yield chunk
            finally:
                _close(response)

    async def stat(self, key: str) -> ObjectInfo:
        """See `ObjectStore.stat`."""
        check_key(key)
        return await self._calls.run(key, self._client.describe, key)

    async def list(self, prefix: str = "") -> AsyncGenerator[ObjectInfo, None]:
        """See `ObjectStore.list`. The order is the server's: S3's own is that of the keys' bytes."""
        check_prefix(prefix)
        found = self._client.walk(prefix)
        while page := await self._calls.run(None, _take, found):
            for info in page:
                yield info

    async def delete(self, keys: Iterable[str]) -> None:
        """See `ObjectStore.delete`."""
        remaining = iter(keys)
        while page := list(islice(remaining, _PAGE)):
            for key in page:
                check_key(key)
            await self._calls.run(None, self._client.remove, page)

    async def concatenate(self, key: str, sources: Sequence[str]) -> ObjectInfo:
        """See `ObjectStore.concatenate`. Sources of 5 MiB or more never leave the server."""
        check_key(key)
        for source in sources:
            check_key(source)
        sizes: list[tuple[str, int]] = []
        async for infos in in_windows(self.stat, sources, _SMALL_CALLS):
            sizes += [(info.key, info.size) for info in infos]
        parts = list(plan_parts(sizes, self._config.part_bytes))
        if len(parts) > MAX_PARTS:
            raise ObjectTooLarge(key, self._config.part_bytes * MAX_PARTS)
        match parts:
            case []:
                return await self._calls.run(key, self._client.put, key, b"")
            case [PackedPart() as only]:
                content = await self._calls.pack(only)
                return await self._calls.run(key, self._client.put, key, content)
        async with multipart_upload(self._calls, self._config, key) as upload:
            for part in parts:
                await upload.join(part)
        return upload.result

    async def check(self) -> None:
        """See `ObjectStore.check`. Makes the bucket if `create_bucket` is set; leaves nothing in it."""
        create = self._config.create_bucket
        await self._prober.run(None, self._prober.client.probe, create_bucket=create)

    async def close(self) -> None:
        """See `ObjectStore.close`."""
        await self._calls.close()
        await self._prober.close()
        self._signer.close()

    @asynccontextmanager
    async def _stream(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(_STREAM_WAIT_S):
                await self._streams.acquire()
        except TimeoutError:
            raise ObjectStoreUnavailable(f"{self._config.max_streams} objects are being read already") from None
        try:
            yield
        finally:
            self._streams.release()


def _read(response: BaseHTTPResponse) -> bytes:
    return response.read(READ_BYTES, decode_content=False)


def _close(response: BaseHTTPResponse | None) -> None:
    if response is not None:
        response.close()  # before its end this closes the connection, after its end it does nothing
        response.release_conn()


def _take(found: Iterator[ObjectInfo]) -> list[ObjectInfo]:
    return list(islice(found, _PAGE))
