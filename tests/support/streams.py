"""Sources of bytes that do what a test wants."""

import asyncio
import random
from collections.abc import AsyncIterator


def content(size: int, seed: int = 0) -> bytes:
    """Bytes that no two offsets share by accident."""
    return random.Random(seed).randbytes(size)


async def chunked(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def endless(chunk: bytes, seen: list[int] | None = None) -> AsyncIterator[bytes]:
    """Yield the same chunk for ever, noting each one's size before it is taken."""
    while True:
        if seen is not None:
            seen.append(len(chunk))
        yield chunk


class SourceFailed(Exception):
    pass


async def failing(data: bytes, size: int = 65536) -> AsyncIterator[bytes]:
    async for chunk in chunked(data, size):
        yield chunk
    raise SourceFailed


class HeldSource:
    """Yields its bytes, then says so and waits until it is let go."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.drained = asyncio.Event()
        self.let_go = asyncio.Event()
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in chunked(self._data, 65536):
                yield chunk
            self.drained.set()
            await self.let_go.wait()
        finally:
            self.closed = True
