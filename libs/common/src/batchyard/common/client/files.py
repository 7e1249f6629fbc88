"""Files of one tenant."""

from collections.abc import AsyncGenerator, AsyncIterable, Callable
from contextlib import aclosing
from pathlib import Path

from batchyard.common.client.session import Session
from batchyard.common.client.transfer import Transfer, chunks_of
from batchyard.common.contracts.files import (
    FILE_LIST_MAX,
    CreateFile,
    DeletedFile,
    DeleteFile,
    ExpiresAfter,
    File,
    FilePage,
    GetFile,
    ListFiles,
    Purpose,
)

INLINE_BYTES = 64 * 1024
"""Up to here bytes travel in the command itself: two messages instead of a round trip to the object store."""

Source = Path | bytes | AsyncIterable[bytes]
Progress = Callable[[int], None]


class Files:
    """Every method raises ApiError: what a service answered, or ServiceUnavailable when none did."""

    def __init__(self, session: Session, transfer: Transfer) -> None:
        self._session = session
        self._transfer = transfer

    async def create(
        self,
        source: Source,
        *,
        filename: str | None = None,
        purpose: Purpose | str = Purpose.BATCH,
        model: str | None = None,
        expires_after: int | None = None,
        progress: Progress | None = None,
    ) -> File:
        """Upload a file.

        Args:
            source: A path, the bytes, or a stream of them; memory does not grow with it.
            filename: By default the path's name, or `input.jsonl`.
            purpose: What it is for.
            model: The model that batches over it run, where nothing else names one.
            expires_after: Seconds after which it goes by itself, 3600 to 2592000.
            progress: Told the number of bytes sent so far.

        Raises:
            FileNotFoundError: There is no such path.
        """
        name = filename or (source.name if isinstance(source, Path) else "input.jsonl")
        wish = CreateFile(
            filename=name,
            purpose=Purpose(purpose),
            model=model,
            expires_after=None if expires_after is None else ExpiresAfter(seconds=expires_after),
        )
        if (text := _inline(source)) is not None:
            # Not sent again when no answer comes: each try would make another file.
            file = await self._session.call(wish.model_copy(update={"content": text}), is_repeatable=False)
            if progress is not None:
                progress(file.bytes)
            return file
        key = await self._transfer.put(self._session, chunks_of(source, progress))
        return await self._session.call(wish.model_copy(update={"object_key": key}))

    async def content(self, file_id: str) -> AsyncGenerator[bytes, None]:
        """The bytes of a file, in chunks of any size."""
        async with aclosing(self._transfer.get(self._session, file_id)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def get(self, file_id: str) -> File:
        return await self._session.call(GetFile(file_id=file_id))

    async def list(
        self, *, purpose: Purpose | str | None = None, limit: int = FILE_LIST_MAX, after: str | None = None
    ) -> FilePage:
        """A page of files, the newest first; `after` is the last ID of the page before."""
        return await self._session.call(
            ListFiles(purpose=None if purpose is None else str(purpose), limit=limit, after=after)
        )

    async def delete(self, file_id: str) -> DeletedFile:
        """Raises NotFound, but not within 15 minutes of the deletion."""
        return await self._session.call(DeleteFile(file_id=file_id))


def _inline(source: Source) -> str | None:
    """The source as the text of a command, if it is small and is text."""
    if isinstance(source, Path):
        # One that grows between the look and the reading is read up to the limit, and then streamed.
        with source.open("rb") as file:
            data = file.read(INLINE_BYTES + 1)
    elif isinstance(source, bytes):
        data = source
    else:
        return None
    if len(data) > INLINE_BYTES:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None
