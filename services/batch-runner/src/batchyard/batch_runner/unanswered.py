"""The input of a retry: the lines of another batch's input that its error file names.

Memory is a chunk, a line, and a digest for each line that the error file names.
"""

from collections.abc import AsyncIterator
from contextlib import aclosing

import msgspec

from batchyard.batch_runner.lines import BLANK
from batchyard.batch_runner.plan import BOM
from batchyard.batch_runner.segments import CHUNK_BYTES
from batchyard.batch_runner.validate import id_digest
from batchyard.common.objects import ObjectStore, read_lines


class _Named(msgspec.Struct):
    custom_id: str


_decoder = msgspec.json.Decoder(_Named)


async def unanswered_lines(store: ObjectStore, input_key: str, error_key: str) -> AsyncIterator[bytes]:
    """The input as it is, but with an empty line for each one that is not named: every line keeps its number.

    Raises:
        ObjectNotFound: One of the two is gone.
    """
    wanted = await _named_in(store, error_key)
    chunk = bytearray()
    async with aclosing(read_lines(store, input_key)) as lines:
        async for line in lines:
            text = line.removeprefix(BOM)
            if text.strip(BLANK) and _digest_of(text) in wanted:
                chunk += text
            chunk += b"\n"
            if len(chunk) >= CHUNK_BYTES:
                yield bytes(chunk)
                chunk.clear()
    yield bytes(chunk)


async def _named_in(store: ObjectStore, error_key: str) -> set[bytes]:
    async with aclosing(read_lines(store, error_key)) as lines:
        return {_digest_of(line) async for line in lines if line}


def _digest_of(line: bytes) -> bytes:
    return id_digest(_decoder.decode(line).custom_id)
