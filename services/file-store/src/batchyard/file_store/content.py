"""Content that lies in several objects, read as one stream."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from batchyard.common.errors import InvalidRequest
from batchyard.common.first_line import FirstLine
from batchyard.common.objects import ObjectStore


async def chunks_of(objects: ObjectStore, keys: Sequence[str]) -> AsyncGenerator[bytes, None]:
    """The bytes of objects, one after the other, in chunks of at most 1 MiB. Raises ObjectStoreError."""
    for key in keys:
        async with aclosing(objects.get(key)) as chunks:
            async for chunk in chunks:
                yield chunk


async def check_first_line(objects: ObjectStore, keys: Sequence[str], max_bytes: int) -> None:
    """Raise InvalidRequest if the content cannot be the input of a batch, reading no further than its first line."""
    first_line = FirstLine(max_bytes)
    async with aclosing(chunks_of(objects, keys)) as chunks:
        async for chunk in chunks:
            first_line.feed(chunk)
            if first_line.is_settled:
                break
        else:
            first_line.end()
    first_line.check()


async def check_md5(objects: ObjectStore, keys: Sequence[str], expected: str) -> None:
    """Raise InvalidRequest unless the content has this MD5, in hexadecimal digits. Memory is one chunk."""
    digest = hashlib.md5(usedforsecurity=False)
    async with aclosing(chunks_of(objects, keys)) as chunks:
        async for chunk in chunks:
            await asyncio.to_thread(digest.update, chunk)
    found = digest.hexdigest()
    if found != expected.lower():
        raise InvalidRequest(
            f"The MD5 of the uploaded bytes is '{found}', not '{expected}'.", param="md5", code="md5_mismatch"
        )
