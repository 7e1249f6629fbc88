"""A multipart upload: parts go out in parallel, and become one object at the end, or nothing."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from batchyard.common.objects.errors import ObjectTooLarge
from batchyard.common.objects.parts import MAX_PARTS, CopiedPart
from batchyard.common.objects.threads import single_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    from batchyard.common.objects.minio_calls import S3Calls
    from batchyard.common.objects.minio_client import MinioConfig
    from batchyard.common.objects.parts import PackedPart, Part
    from batchyard.common.objects.port import ObjectInfo


class MultipartUpload:
    """An upload that has begun; `result` is there when its context has ended well."""

    result: ObjectInfo

    def __init__(self, calls: S3Calls, config: MinioConfig, key: str, upload: str) -> None:
        self._calls = calls
        self._max_bytes = config.part_bytes * MAX_PARTS
        self._slots = asyncio.Semaphore(config.parallel_parts)
        self._tasks = asyncio.TaskGroup()
        self._key = key
        self._upload = upload
        self._number = 0
        self._etags: dict[int, str] = {}
        self._size = 0

    async def send(self, data: bytes) -> None:
        """Send the next part, as soon as fewer than `parallel_parts` are on their way."""
        number = await self._next()
        self._start(self._send(number, data))

    async def join(self, part: Part) -> None:
        """Add the next part out of stored objects, as `send` does."""
        number = await self._next()
        self._start(self._copy(number, part) if isinstance(part, CopiedPart) else self._repack(number, part))

    @asynccontextmanager
    async def publishing(self) -> AsyncIterator[None]:
        """Publish the object when the block and all parts have ended, unless one of them failed."""
        with single_error():
            async with self._tasks:
                yield
        complete = self._calls.client.complete
        self.result = await self._calls.run(None, complete, self._key, self._upload, self._etags, self._size)

    async def _next(self) -> int:
        if self._number == MAX_PARTS:
            raise ObjectTooLarge(self._key, self._max_bytes)
        await self._slots.acquire()
        self._number += 1
        return self._number

    def _start(self, work: Coroutine[None, None, None]) -> None:
        self._tasks.create_task(work).add_done_callback(lambda _: self._slots.release())

    async def _send(self, number: int, data: bytes) -> None:
        send = self._calls.client.send_part
        self._etags[number] = await self._calls.run(None, send, self._key, self._upload, number, data)
        self._size += len(data)

    async def _copy(self, number: int, part: CopiedPart) -> None:
        copy, piece = self._calls.client.copy_part, part.piece
        self._etags[number] = await self._calls.run(piece.key, copy, self._key, self._upload, number, piece)
        self._size += piece.length

    async def _repack(self, number: int, part: PackedPart) -> None:
        await self._send(number, await self._calls.pack(part))


@asynccontextmanager
async def multipart_upload(calls: S3Calls, config: MinioConfig, key: str) -> AsyncIterator[MultipartUpload]:
    """Begin an upload, and publish it at the end of the block; abort it if anything fails or is cancelled.

    Raises:
        ObjectStoreError: the server failed.
        ObjectTooLarge: more than 10,000 parts.
    """
    begun = await calls.begin_upload(key)
    upload = MultipartUpload(calls, config, key, begun)
    try:
        async with upload.publishing():
            yield upload
    except BaseException:
        await calls.abort_upload(key, begun)
        raise
