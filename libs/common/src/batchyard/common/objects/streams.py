"""Streams of bytes: into even blocks on the way in, into one value on the way out."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from batchyard.common.objects.errors import ObjectTooLarge

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable

    from batchyard.common.objects.port import ObjectStore


async def read(store: ObjectStore, key: str, *, start: int = 0, length: int | None = None, max_bytes: int) -> bytes:
    """Read an object, or a range of it, into memory.

    Raises:
        ObjectNotFound: no object has the key.
        ObjectTooLarge: the range holds more than `max_bytes`; at most one chunk more has been read.
    """
    content = bytearray()
    async with aclosing(store.get(key, start=start, length=length)) as chunks:
        async for chunk in chunks:
            content += chunk
            if len(content) > max_bytes:
                raise ObjectTooLarge(key, max_bytes)
    return bytes(content)


async def read_lines(
    store: ObjectStore, key: str, *, start: int = 0, length: int | None = None
) -> AsyncGenerator[bytes, None]:
    """The lines of an object, without their newlines; memory is one chunk and one line."""
    async with aclosing(lines_of(store.get(key, start=start, length=length))) as lines:
        async for line in lines:
            yield line


async def lines_of(data: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The lines of a stream, which is closed at the end; memory is one chunk and one line."""
    rest: list[bytes] = []
    async with aclosing(data) as chunks:
        async for chunk in chunks:
            head, newline, tail = chunk.partition(b"\n")
            if not newline:
                rest.append(chunk)
                continue
            yield b"".join((*rest, head))
            *lines, last = tail.split(b"\n")
            for line in lines:
                yield line
            rest = [last] if last else []
    if rest:
        yield b"".join(rest)


async def in_blocks(
    data: AsyncIterable[bytes] | bytes, size: int, *, key: str, max_bytes: int | None
) -> AsyncGenerator[bytes, None]:
    """Cut a source into blocks of exactly `size` bytes; the last one may be smaller, none is empty.

    The source is closed when this generator ends for whatever reason.

    Raises:
        ObjectTooLarge: as soon as more than `max_bytes` have come in; `key` names the object.
    """
    source = aiter(_one(data) if isinstance(data, bytes) else data)
    buffer = bytearray()
    total = 0
    try:
        async for chunk in source:
            total += len(chunk)
            if max_bytes is not None and total > max_bytes:
                raise ObjectTooLarge(key, max_bytes)
            rest = memoryview(chunk)
            while len(buffer) + len(rest) >= size:
                taken = size - len(buffer)
                buffer += rest[:taken]
                rest = rest[taken:]
                yield bytes(buffer)
                buffer.clear()
            buffer += rest
        if buffer:
            yield bytes(buffer)
    finally:
        close = getattr(source, "aclose", None)
        if close is not None:
            await close()


async def _one(data: bytes) -> AsyncGenerator[bytes, None]:
    yield data


def check_range(start: int, length: int | None) -> None:
    """Raise ValueError unless both are counts of bytes."""
    if start < 0 or (length is not None and length < 0):
        raise ValueError(f"start and length must not be negative: {start}, {length}")
