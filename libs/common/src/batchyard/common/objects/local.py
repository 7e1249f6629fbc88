"""Objects in a folder of one machine: the store that needs no server."""

from __future__ import annotations

import errno
from contextlib import aclosing, contextmanager
from itertools import islice
from threading import Lock
from typing import TYPE_CHECKING

from batchyard.common.objects import local_files
from batchyard.common.objects.errors import InvalidObjectKey, ObjectNotFound, ObjectStoreUnavailable
from batchyard.common.objects.keys import check_key, check_prefix
from batchyard.common.objects.local_files import GrowingFile, SourceFile
from batchyard.common.objects.streams import check_range, in_blocks
from batchyard.common.objects.threads import BlockingCalls

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Iterator, Sequence
    from pathlib import Path
    from typing import ParamSpec, TypeVar

    from batchyard.common.objects.port import ObjectInfo

    P = ParamSpec("P")
    T = TypeVar("T")

WRITE_BYTES = 1024 * 1024
_THREADS = 8
_LIST_BATCH = 256
_DELETE_BATCH = 64


class LocalObjectStore:
    """An `ObjectStore` in a folder, which any number of processes of one machine may use at once.

    What `put` and `concatenate` have returned survives a power cut: file and folders are synced to disk. A put
    holds at most two blocks of 1 MiB.
    """

    def __init__(self, root: Path) -> None:
        """Take a folder that may not exist yet. Nothing is read or written before the first call."""
        self._root = root
        self._calls = BlockingCalls(_THREADS, "objects")
        self._prepared = False
        self._preparing = Lock()

    async def put(self, key: str, data: AsyncIterable[bytes] | bytes, *, max_bytes: int | None = None) -> ObjectInfo:
        """See `ObjectStore.put`."""
        check_key(key)
        file = GrowingFile(self._root)
        try:
            async with aclosing(in_blocks(data, WRITE_BYTES, key=key, max_bytes=max_bytes)) as blocks:
                async for block in blocks:
                    if len(block) < WRITE_BYTES:  # the last one: write and publish in one go
                        return await self._run(self._publish, file, key, block)
                    await self._run(self._write, file, block)
            return await self._run(self._publish, file, key, b"")
        finally:
            if file.is_open:
                await self._calls.finish(file.discard)

    async def put_url(self, key: str, seconds: float) -> str | None:  # noqa: ARG002  the port's
        """See `ObjectStore.put_url`. Nobody answers for a folder."""
        check_key(key)
        return None

    async def get_url(self, key: str, seconds: float) -> str | None:  # noqa: ARG002  the port's
        """See `ObjectStore.get_url`."""
        check_key(key)
        return None

    async def get(self, key: str, *, start: int = 0, length: int | None = None) -> AsyncGenerator[bytes, None]:
        """See `ObjectStore.get`."""
        check_key(key)
        check_range(start, length)
        source = SourceFile(self._root / "objects" / key, key, start, length)
        try:
            while chunk := await self._run(source.read):
                yield chunk
                if source.is_exhausted:
                    return
        finally:
            source.close()

    async def stat(self, key: str) -> ObjectInfo:
        """See `ObjectStore.stat`."""
        check_key(key)
        return await self._run(local_files.stat, self._root, key)

    async def list(self, prefix: str = "") -> AsyncGenerator[ObjectInfo, None]:
        """See `ObjectStore.list`. Memory grows with the largest folder, by about 100 bytes a name."""
        check_prefix(prefix)
        found = local_files.walk(self._root, prefix)
        while batch := await self._run(self._take, found):
            for info in batch:
                yield info

    async def delete(self, keys: Iterable[str]) -> None:
        """See `ObjectStore.delete`."""
        remaining = iter(keys)
        while batch := list(islice(remaining, _DELETE_BATCH)):
            for key in batch:
                check_key(key)
            await self._run(self._remove, batch)

    async def concatenate(self, key: str, sources: Sequence[str]) -> ObjectInfo:
        """See `ObjectStore.concatenate`. The bytes are copied by the kernel where it can."""
        check_key(key)
        for source in sources:
            check_key(source)
        file = GrowingFile(self._root)
        try:
            for name in sources:
                await self._append(file, name)
            return await self._run(self._publish, file, key, b"")
        finally:
            if file.is_open:
                await self._calls.finish(file.discard)

    async def check(self) -> None:
        """See `ObjectStore.check`. Makes the folder, and removes what crashed processes left in it."""
        await self._run(self._probe)

    async def close(self) -> None:
        """See `ObjectStore.close`."""
        await self._calls.close()

    async def _append(self, file: GrowingFile, name: str) -> None:
        source = SourceFile(self._root / "objects" / name, name)
        try:
            while await self._run(self._copy, file, source) and not source.is_exhausted:
                pass
        finally:
            source.close()

    async def _run(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        with self._translated():
            return await self._calls.run(self._judged, call, *args, **kwargs)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ObjectStoreUnavailable(f"object store {self._root}: {error.strerror}") from error

    def _judged(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return call(*args, **kwargs)
        except (ObjectNotFound, InvalidObjectKey):
            self._require_folder()
            raise

    def _require_folder(self) -> None:
        """Without its folder, as after a lost mount, the store knows nothing of any object."""
        if self._prepared and not (self._root / "objects").is_dir():
            raise OSError(errno.ENODEV, "its folder is missing")

    def _take(self, found: Iterator[ObjectInfo]) -> Sequence[ObjectInfo]:
        batch = tuple(islice(found, _LIST_BATCH))
        self._require_folder()
        return batch

    def _write(self, file: GrowingFile, block: bytes) -> None:
        self._prepare()
        file.write(block)

    def _copy(self, file: GrowingFile, source: SourceFile) -> bool:
        self._prepare()
        return file.copy_from(source)

    def _publish(self, file: GrowingFile, key: str, block: bytes) -> ObjectInfo:
        self._prepare()
        return file.publish(key, block)

    def _remove(self, keys: Iterable[str]) -> None:
        for key in keys:
            local_files.remove(self._root, key)
        self._require_folder()

    def _probe(self) -> None:
        self._prepare()
        file = GrowingFile(self._root)
        try:
            file.write(b"\0")
        finally:
            file.discard()

    def _prepare(self) -> None:
        with self._preparing:
            if self._prepared:
                return
            local_files.make_folders(self._root / "objects")
            local_files.make_folders(self._root / ".tmp")
            local_files.remove_stale(self._root)
            self._prepared = True
