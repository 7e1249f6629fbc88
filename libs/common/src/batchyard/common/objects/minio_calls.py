"""The S3 calls, awaited: on threads of their own, with the port's errors."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import structlog

from batchyard.common.objects.errors import ObjectStoreError
from batchyard.common.objects.minio_client import S3Client
from batchyard.common.objects.minio_errors import FAILURES, explain
from batchyard.common.objects.threads import BlockingCalls, in_windows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import ParamSpec, TypeVar

    from batchyard.common.objects.minio_client import MinioConfig
    from batchyard.common.objects.parts import PackedPart, Piece

    P = ParamSpec("P")
    T = TypeVar("T")

_PARALLEL_PIECES = 16
_log = structlog.get_logger(__name__)


class S3Calls:
    """One bucket, awaited. Every method raises an `ObjectStoreError` when the server fails."""

    def __init__(self, config: MinioConfig) -> None:
        self.client = S3Client(config)
        self._endpoint = config.endpoint
        self._threads = BlockingCalls(config.threads, "objects")

    async def run(self, key: str | None, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Make a call; `key` is the object that is missing if the server says that one is."""
        with self._explained(key):
            return await self._threads.run(call, *args, **kwargs)

    async def acquire(self, key: str, call: Callable[[], T], release: Callable[[T], object]) -> T:
        """Make a call whose result is released if we are cancelled meanwhile."""
        with self._explained(key):
            return await self._threads.acquire(call, release)

    async def pack(self, part: PackedPart) -> bytes:
        """Read the pieces of a part, several at a time, into one value."""
        content = bytearray()
        async for window in in_windows(self._read_piece, part.pieces, _PARALLEL_PIECES):
            for chunk in window:
                content += chunk
        if len(content) != sum(piece.length for piece in part.pieces):
            raise ObjectStoreError("a source was replaced while it was joined")
        return bytes(content)

    async def begin_upload(self, key: str) -> str:
        """Begin a multipart upload, and return its ID."""
        return await self.acquire(key, partial(self.client.begin, key), partial(self.client.abort, key))

    async def abort_upload(self, key: str, upload: str) -> None:
        """Drop an upload and its parts, even while we are cancelled."""
        try:
            await self._threads.finish(self.client.abort, key, upload)
        except FAILURES as error:  # the reason for the abort is the one to report
            _log.warning("objects.upload_not_aborted", key=key, upload=upload, error=type(error).__name__)

    async def close(self) -> None:
        """Let the running calls end, and free threads and connections."""
        await self._threads.close()
        self.client.close()

    async def _read_piece(self, piece: Piece) -> bytes:
        return await self.run(piece.key, self.client.read_piece, piece)

    @contextmanager
    def _explained(self, key: str | None) -> Iterator[None]:
        try:
            yield
        except FAILURES as error:
            raise explain(error, key, self._endpoint) from error
