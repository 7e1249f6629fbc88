"""Result lines: what the `id` of one says, and putting several result files back into the order of the input."""

import heapq
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing

_CHUNK_BYTES = 256 * 1024
_OURS = re.compile(rb'\{"id":"batch_req_[0-9a-f]{32}(?P<line>[0-9a-f]{8,16})"')


def request_id(batch_hex: str, line: int) -> str:
    """The ID of a line's request: the same whenever and however often it is sent. It ends in the line's number."""
    return f"batch_req_{batch_hex}{line:08x}"


def line_number(result: bytes) -> int | None:
    """The number of the input line that a result line answers, from 1; None when its `id` is not one of ours."""
    match = _OURS.match(result)
    return int(match["line"], 16) if match else None


async def merged_results(sources: Sequence[AsyncGenerator[bytes, None]]) -> AsyncGenerator[bytes, None]:
    """The result lines of several sources in input order, each with its newline, gathered into chunks worth sending.

    Memory is a line and what it holds open of each source, and one chunk. A line whose number cannot be read stays
    behind the one that stands before it in its source.

    Args:
        sources: Result lines without newline, each in input order; closed with this generator.
    """
    async with AsyncExitStack() as stack:
        heads: list[tuple[int, int, bytes]] = []
        for source, lines in enumerate(sources):
            await stack.enter_async_context(aclosing(lines))
            if (text := await anext(lines, None)) is not None:
                heads.append((line_number(text) or 0, source, text))
        heapq.heapify(heads)
        chunk = bytearray()
        while heads:
            number, source, text = heads[0]
            chunk += text
            chunk += b"\n"
            if len(chunk) >= _CHUNK_BYTES:
                yield bytes(chunk)
                chunk.clear()
            if (following := await anext(sources[source], None)) is None:
                heapq.heappop(heads)
            else:
                heapq.heapreplace(heads, (line_number(following) or number, source, following))
        if chunk:
            yield bytes(chunk)
