"""How bytes get to the object store and back: by the store itself, or by URLs that file-store gives out for a file."""

import asyncio
import tempfile
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from batchyard.common.client.session import Session
from batchyard.common.client.settings import ClientSettings
from batchyard.common.contracts.files import OpenDownload, OpenPlace
from batchyard.common.errors import NotFound, ServiceUnavailable
from batchyard.common.objects import ObjectNotFound, ObjectStore, ObjectStoreUnavailable, open_objects

if TYPE_CHECKING:
    import httpx

_CHUNK = 256 * 1024
_IN_MEMORY = 4 * 1024 * 1024
_TRANSFER_SECONDS = 60.0
_TRIES = 4


class Transfer(Protocol):
    """The way of the bytes."""

    async def put(self, session: Session, data: AsyncGenerator[bytes, None]) -> str:
        """Store bytes; the key under which they can be claimed. The source is closed at the end.

        Raises:
            ServiceUnavailable: The object store or file-store did not answer.
        """
        ...

    def get(self, session: Session, file_id: str) -> AsyncGenerator[bytes, None]:
        """The bytes of a file.

        Raises:
            NotFound: There is no such file.
            ServiceUnavailable: The object store or file-store did not answer.
        """
        ...


@asynccontextmanager
async def open_transfer(settings: ClientSettings) -> AsyncIterator[Transfer]:
    """What the settings say: the object store, if they name one. Raises ConfigurationError when it cannot be used."""
    if settings.object_store is None:
        import httpx  # noqa: PLC0415  who has the store itself does without

        async with httpx.AsyncClient(timeout=_TRANSFER_SECONDS) as http:
            yield UrlTransfer(http)
        return
    async with open_objects(settings) as objects:
        yield StoreTransfer(objects)


class StoreTransfer:
    """By the object store: for who has the folder, or credentials for the bucket."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    async def put(self, session: Session, data: AsyncGenerator[bytes, None]) -> str:
        async with aclosing(data):
            place = await session.call(OpenPlace())
            with _store_errors():
                await self._objects.put(place.object_key, data)
            return place.object_key

    async def get(self, session: Session, file_id: str) -> AsyncGenerator[bytes, None]:
        download = await session.call(OpenDownload(file_id=file_id))
        with _store_errors(file_id):
            async with aclosing(self._objects.get(download.object_key)) as chunks:
                async for chunk in chunks:
                    yield chunk


class UrlTransfer:
    """By URLs: for who may do nothing with the object store but send and fetch single files."""

    def __init__(self, http: "httpx.AsyncClient") -> None:
        self._http = http

    async def put(self, session: Session, data: AsyncGenerator[bytes, None]) -> str:
        # S3 wants to know the length before the first byte, and a try that failed begins anew.
        with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as spool:
            size = 0
            async with aclosing(data):
                async for chunk in data:
                    size += len(chunk)
                    await asyncio.to_thread(spool.write, chunk)
            place = await session.call(OpenPlace(presigned=True))
            assert place.upload_url is not None
            for attempt in range(_TRIES):
                await asyncio.to_thread(spool.seek, 0)
                try:
                    await self._send(place.upload_url, spool, size)
                except ServiceUnavailable:
                    if attempt + 1 == _TRIES:
                        raise
                    await asyncio.sleep(0.2 * 2.0**attempt)
                else:
                    break
            return place.object_key

    async def get(self, session: Session, file_id: str) -> AsyncGenerator[bytes, None]:
        """A connection that breaks is opened again where it broke."""
        position, failures = 0, 0
        while True:
            download = await session.call(OpenDownload(file_id=file_id, presigned=True))
            assert download.download_url is not None
            if position >= download.file.bytes:
                return
            before = position
            try:
                async with aclosing(self._fetch(download.download_url, file_id, position)) as chunks:
                    async for chunk in chunks:
                        position += len(chunk)
                        yield chunk
            except ServiceUnavailable:
                failures = 1 if position > before else failures + 1
                if failures >= _TRIES:
                    raise
                await asyncio.sleep(0.1 * 2.0**failures)
            else:
                if position >= download.file.bytes:
                    return

    async def _send(self, url: str, spool: "IO[bytes]", size: int) -> None:
        import httpx  # noqa: PLC0415

        try:
            answer = await self._http.put(url, content=_read(spool), headers={"content-length": str(size)})
        except httpx.HTTPError as error:
            raise _no_answer() from error
        if not answer.is_success:
            raise ServiceUnavailable(f"The object store did not take the file: it answered {answer.status_code}.")

    async def _fetch(self, url: str, file_id: str, start: int) -> AsyncGenerator[bytes, None]:
        import httpx  # noqa: PLC0415

        headers = {"range": f"bytes={start}-", "accept-encoding": "identity"}
        try:
            async with self._http.stream("GET", url, headers=headers) as answer:
                if answer.status_code == httpx.codes.NOT_FOUND:
                    raise _gone(file_id)
                if answer.status_code != httpx.codes.PARTIAL_CONTENT:
                    raise ServiceUnavailable(f"The object store gave no file: it answered {answer.status_code}.")
                async for chunk in answer.aiter_bytes(_CHUNK):
                    yield chunk
        except httpx.HTTPError as error:
            raise _no_answer() from error


async def chunks_of(
    source: Path | bytes | AsyncIterable[bytes], progress: Callable[[int], None] | None
) -> AsyncGenerator[bytes, None]:
    """A source in chunks; `progress` is told how many bytes have been taken."""
    taken = 0
    async with aclosing(_opened(source)) as chunks:
        async for chunk in chunks:
            yield chunk
            taken += len(chunk)
            if progress is not None:
                progress(taken)


async def _opened(source: Path | bytes | AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    if isinstance(source, bytes):
        yield source
    elif isinstance(source, Path):
        with source.open("rb") as file:
            async with aclosing(_read(file)) as chunks:
                async for chunk in chunks:
                    yield chunk
    else:
        async for chunk in source:
            yield chunk


async def _read(file: IO[bytes]) -> AsyncGenerator[bytes, None]:
    while chunk := await asyncio.to_thread(file.read, _CHUNK):
        yield chunk


@contextmanager
def _store_errors(file_id: str | None = None) -> Iterator[None]:
    try:
        yield
    except ObjectNotFound as error:
        raise _gone(file_id) from error
    except ObjectStoreUnavailable as error:
        raise _no_answer() from error


def _gone(file_id: str | None) -> NotFound:
    return NotFound(f"The file '{file_id}' was deleted while it was read.", param="id")


def _no_answer() -> ServiceUnavailable:
    return ServiceUnavailable("The object store did not answer. Please retry shortly.")
