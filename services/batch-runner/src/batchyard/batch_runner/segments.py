"""Results on their way to the output file.

A *segment* is a checkpoint: the results that a running shard has gathered since the last one, as one object. When the
shard is done, its segments and what is still in memory are merged in input order into two *parts*, one for the output
file and one for the error file.

A segment has a line for each result: the fields that are counted, then the result line itself.

    <line> <kind> <prompt>,<cached>,<output>,<reasoning>,<busy> <deployment>/<model> <result line>

Segments from before there were `busy` and the model are read as well; a model is named in a batch of several alone.
"""

import heapq
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, aclosing
from enum import StrEnum

import msgspec

from batchyard.batch_runner.lines import Tokens
from batchyard.common.objects import ObjectStore, read_lines
from batchyard.common.subjects import decode_token, encode_token

CHUNK_BYTES = 256 * 1024
MERGE_WIDTH = 16
_NOBODY = "-"


class Kind(StrEnum):
    """Where a result goes, and how it counts."""

    COMPLETED = "c"
    FAILED = "f"
    NOT_RUN = "n"


class Result(msgspec.Struct, frozen=True):
    """What became of one line. `line` counts from 1 in the input file; `text` is the result line without newline.

    `busy` is the line's share of its deployment's time, in microseconds. `model` is told in a batch of several models.
    """

    line: int
    kind: Kind
    tokens: Tokens
    deployment: str | None
    text: bytes
    busy: int = 0
    model: str | None = None


def encode_result(result: Result) -> bytes:
    """One line of a segment, newline included."""
    tokens = result.tokens
    who = encode_token(result.deployment) if result.deployment else _NOBODY
    if result.model is not None:
        who = f"{who}/{encode_token(result.model)}"
    return b"%d %b %d,%d,%d,%d,%d %b %b\n" % (
        result.line,
        result.kind.encode(),
        tokens.prompt,
        tokens.cached,
        tokens.output,
        tokens.reasoning,
        result.busy,
        who.encode(),
        result.text,
    )


def decode_result(line: bytes) -> Result:
    """Raises ValueError for a line that `encode_result` did not make."""
    number, kind, tokens, deployment, text = line.split(b" ", 4)
    prompt, cached, output, reasoning, *busy = map(int, tokens.split(b","))
    who, _, model = deployment.decode().partition("/")
    return Result(
        line=int(number),
        kind=Kind(kind.decode()),
        tokens=Tokens(prompt, cached, output, reasoning),
        deployment=None if who == _NOBODY else decode_token(who),
        text=text,
        busy=busy[0] if busy else 0,
        model=decode_token(model) if model else None,
    )


async def read_segment(store: ObjectStore, key: str) -> AsyncGenerator[Result, None]:
    """The results in a segment, in the order of their lines."""
    async with aclosing(read_lines(store, key)) as lines:
        async for line in lines:
            yield decode_result(line)


async def merged(store: ObjectStore, segments: Sequence[str], memory: Sequence[Result]) -> AsyncIterator[Result]:
    """All results in input order; of two for the same line the earlier segment's counts, memory comes last.

    Args:
        segments: Keys of segments, each in the order of its lines; one chunk of each is held at a time.
        memory: Results that are in no segment, in the order of their lines.
    """
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(aclosing(read_segment(store, key))) for key in segments]
        streams.append(_replay(memory))
        heads: list[tuple[int, int, Result]] = []
        for source, stream in enumerate(streams):
            first = await anext(stream, None)
            if first is not None:
                heads.append((first.line, source, first))
        heapq.heapify(heads)
        last = 0
        while heads:
            line, source, result = heads[0]
            if line != last:
                last = line
                yield result
            following = await anext(streams[source], None)
            if following is None:
                heapq.heappop(heads)
            else:
                heapq.heapreplace(heads, (following.line, source, following))


async def compacted(store: ObjectStore, segments: Sequence[str], name: str) -> list[str]:
    """The same results in at most `MERGE_WIDTH` segments: a merge holds a stream of each of its sources open.

    Args:
        segments: Keys of segments, the ones that count first first.
        name: How the keys of new segments begin.
    """
    keys, number = list(segments), 0
    while len(keys) > MERGE_WIDTH:
        groups = [keys[start : start + MERGE_WIDTH] for start in range(0, len(keys), MERGE_WIDTH)]
        keys = []
        for group in groups:
            keys.append(f"{name}-{number:06d}")
            number += 1
            await store.put(keys[-1], _encoded(merged(store, group, ())))
    return keys


async def _encoded(results: AsyncIterator[Result]) -> AsyncIterator[bytes]:
    async for result in results:
        yield encode_result(result)


async def _replay(results: Iterable[Result]) -> AsyncGenerator[Result, None]:
    for result in results:
        yield result


async def texts(results: AsyncIterator[Result], kinds: frozenset[Kind]) -> AsyncGenerator[bytes, None]:
    """The result lines of some kinds, each with its newline, gathered into chunks worth writing."""
    chunk = bytearray()
    async for result in results:
        if result.kind in kinds:
            chunk += result.text
            chunk += b"\n"
            if len(chunk) >= CHUNK_BYTES:
                yield bytes(chunk)
                chunk.clear()
    if chunk:
        yield bytes(chunk)


OUTPUT_KINDS = frozenset({Kind.COMPLETED})
ERROR_KINDS = frozenset({Kind.FAILED, Kind.NOT_RUN})
