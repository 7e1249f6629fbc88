"""Planning: read the input once, check every line, cut it into shards.

Memory is one chunk, one line, a digest for each custom_id and the shard table: bounded by the limits on lines, whatever
the size of the file.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass

from batchyard.batch_runner.lines import BLANK
from batchyard.batch_runner.settings import RunnerSettings
from batchyard.batch_runner.shard import ShardRange, ShardTable
from batchyard.batch_runner.validate import MAX_PROBLEMS, CheckedLine, LineRules, SeenIds, check_line, shortened
from batchyard.common.config import ANY_MODEL
from batchyard.common.contracts.batches import BatchProblem
from batchyard.common.objects import ObjectStore

_NEWLINES = re.compile(rb"\n+")
_BOM = b"\xef\xbb\xbf"

PoolOf = Callable[[str], Awaitable[str | None]]


@dataclass(frozen=True, slots=True)
class Plan:
    """A sound input: the shards, and who serves them."""

    model: str
    pool: str
    lines: int
    table: ShardTable


@dataclass(frozen=True, slots=True)
class Rejection:
    """An input that cannot be run, with up to `MAX_PROBLEMS` reasons."""

    problems: tuple[BatchProblem, ...]


@dataclass(frozen=True, slots=True)
class RawLine:
    """A line as it lies in the file. `text` is cut off at one byte beyond the limit on lines; `size` is not.

    `end` is the offset after its newline.
    """

    number: int
    offset: int
    end: int
    text: bytes
    size: int


async def raw_lines(chunks: AsyncIterator[bytes], max_line_bytes: int) -> AsyncIterator[RawLine]:
    """Cut a byte stream into lines; empty ones are only counted, a whole run of them at once.

    A line beyond the limit is measured but not kept, so that none fills the memory.
    """
    number, start, position = 1, 0, 0
    kept = bytearray()
    async for chunk in chunks:
        begin = 0
        while (newline := chunk.find(b"\n", begin)) >= 0:
            if newline == begin and not kept:
                run = _NEWLINES.match(chunk, begin)
                assert run is not None
                number, begin, start = number + len(run[0]), run.end(), position + run.end()
                continue
            end = position + newline + 1
            if not kept and newline - begin <= max_line_bytes:
                text = chunk[begin:newline]
            else:
                _keep(kept, chunk, begin, newline, max_line_bytes)
                text = bytes(kept)
            yield RawLine(number, start, end, text, end - 1 - start)
            kept.clear()
            number, start, begin = number + 1, end, newline + 1
        _keep(kept, chunk, begin, len(chunk), max_line_bytes)
        position += len(chunk)
    if position > start:
        yield RawLine(number, start, position, bytes(kept), position - start)


def _keep(kept: bytearray, chunk: bytes, begin: int, end: int, limit: int) -> None:
    room = limit + 1 - len(kept)
    if room > 0:
        kept += chunk[begin : min(end, begin + room)]


class Planner:
    """Plans one batch. `pool_of` tells which pool serves a model name, if any does."""

    def __init__(self, settings: RunnerSettings, rules: LineRules, model: str | None, pool_of: PoolOf) -> None:
        self._settings = settings
        self._rules = rules
        self._pool_of = pool_of
        self._model = model
        self._pool: str | None = None
        self._pools: dict[str, str | None] = {}
        self._seen = SeenIds()
        self._problems: list[BatchProblem] = []
        self._cutter = _Cutter(settings.shard_lines, settings.shard_bytes)
        self._requests = 0

    async def plan(self, store: ObjectStore, key: str) -> Plan | Rejection:
        """Read the object `key` and say what there is to run."""
        if self._model is not None:
            self._pool = await self._lookup(self._model)
        async with aclosing(store.get(key)) as chunks:
            async for line in raw_lines(chunks, self._settings.max_line_bytes):
                await self._take(line)
                if len(self._problems) >= MAX_PROBLEMS:
                    break
        return self._verdict()

    async def _take(self, line: RawLine) -> None:
        if line.number == 1 and line.text.startswith(_BOM):
            line = RawLine(1, line.offset + len(_BOM), line.end, line.text[len(_BOM) :], line.size - len(_BOM))
        if not line.text.strip(BLANK):
            return
        self._requests += 1
        if self._requests > self._settings.max_requests:
            return
        checked = check_line(line.number, line.text, self._rules)
        problem = (
            checked.problem or self._duplicate(line.number, checked) or await self._model_problem(line.number, checked)
        )
        if problem is not None:
            self._problems.append(problem)
        self._cutter.add(line)

    def _duplicate(self, number: int, checked: CheckedLine) -> BatchProblem | None:
        assert checked.custom_id is not None
        if self._seen.is_new(checked.custom_id):
            return None
        return BatchProblem(
            code="duplicate_custom_id",
            message=(
                f"The custom_id '{shortened(checked.custom_id)}' for this request is a duplicate of another request. "
                "The custom_id parameter must be unique for each request in a batch."
            ),
            param="custom_id",
            line=number,
        )

    async def _model_problem(self, number: int, checked: CheckedLine) -> BatchProblem | None:
        """The batch's model is the one it was given, else the first line's; every line has to fit it."""
        named = checked.model
        if self._model is None:
            if named is None:
                return _problem(number, "invalid_request", "Model parameter is required.")
            self._pool = await self._lookup(named)
            if self._pool is None:
                return _unsupported(number, named)
            self._model = named
        if self._pool is None:
            return _unsupported(number, self._model)
        if named is not None and _served(named) != _served(self._model):
            pool = await self._lookup(named)
            if pool is None:
                return _unsupported(number, named)
            if pool != self._pool or pool == ANY_MODEL:
                return _problem(
                    number,
                    "mismatched_model",
                    f"The model '{shortened(named)}' for this request does not match the rest of the batch. "
                    "Each batch must contain requests for a single model.",
                )
        return None

    async def _lookup(self, model: str) -> str | None:
        if model not in self._pools:
            self._pools[model] = await self._pool_of(model)
        return self._pools[model]

    def _verdict(self) -> Plan | Rejection:
        limit = self._settings.max_requests
        if self._requests == 0:
            message = "The input file is empty. Please ensure that the batch contains at least one request."
            return Rejection((BatchProblem(code="empty_file", message=message),))
        if self._requests > limit:
            message = f"The batch has {self._requests} requests; at most {limit} are allowed. Split the file."
            self._problems.append(BatchProblem(code="too_many_tasks", message=message))
        if self._problems:
            return Rejection(tuple(self._problems[:MAX_PROBLEMS]))
        assert self._model is not None
        assert self._pool is not None
        return Plan(self._model, self._pool, self._requests, self._cutter.table())


class _Cutter:
    """Cuts lines into shards: a shard is closed when it has enough lines or enough bytes."""

    def __init__(self, max_lines: int, max_bytes: int) -> None:
        self._max_lines = max_lines
        self._max_bytes = max_bytes
        self._shards: list[ShardRange] = []
        self._first: RawLine | None = None
        self._last: RawLine | None = None
        self._requests = 0

    def add(self, line: RawLine) -> None:
        if self._first is None:
            self._first = line
        self._last = line
        self._requests += 1
        if self._requests >= self._max_lines or line.end - self._first.offset >= self._max_bytes:
            self._close()

    def table(self) -> ShardTable:
        self._close()
        return ShardTable(self._shards)

    def _close(self) -> None:
        if self._first is None or self._last is None:
            return
        first, last = self._first, self._last
        self._shards.append(ShardRange(first.offset, last.end - first.offset, first.number, self._requests))
        self._first, self._requests = None, 0


def _served(model: str) -> str:
    return model.removeprefix("hosted_vllm/")


def _problem(number: int, code: str, message: str) -> BatchProblem:
    return BatchProblem(code=code, message=message, param="body.model", line=number)


def _unsupported(number: int, model: str) -> BatchProblem:
    return _problem(
        number, "model_not_found", f"The provided model '{shortened(model)}' is not supported by the Batch API."
    )
