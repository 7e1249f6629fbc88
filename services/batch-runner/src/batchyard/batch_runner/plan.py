"""Planning: read the input once, check every line, cut it into shards.

Memory is one chunk, one line, a digest for each custom_id and the shard table: bounded by the limits on lines, whatever
the size of the file.
"""

import math
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import msgspec

from batchyard.batch_runner.estimate import Size
from batchyard.batch_runner.lines import BLANK
from batchyard.batch_runner.routing import MayUse, NameOf, PoolOf, Routing
from batchyard.batch_runner.settings import RunnerSettings
from batchyard.batch_runner.shard import ShardRange, ShardTable
from batchyard.batch_runner.sharing import Sharing
from batchyard.batch_runner.validate import MAX_PROBLEMS, CheckedLine, LineRules, SeenIds, check_line, shortened
from batchyard.common.config import bare
from batchyard.common.contracts.batches import BatchProblem
from batchyard.common.objects import ObjectStore

_NEWLINES = re.compile(rb"\n+")
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Plan:
    """A sound input: the shards, and who serves them. A batch of several models has neither a model nor a pool of its
    own: its table tells them. `models` are all that the lines name, as they are shown."""

    model: str | None
    pool: str | None
    lines: int
    table: ShardTable
    size: Size
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rejection:
    """An input that cannot be run, with up to `MAX_PROBLEMS` reasons, the last of which says when there may be more."""

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
    """Plans one batch. `pool_of` tells which pool serves a model name, if any does, and `name_of` the one name under
    which a model is shown, of the several that clients may use; `may_use`, whether a model may be named at all."""

    def __init__(
        self,
        settings: RunnerSettings,
        rules: LineRules,
        model: str | None,
        pool_of: PoolOf,
        name_of: NameOf = bare,
        may_use: MayUse = lambda _: True,
    ) -> None:
        self._settings = settings
        self._rules = rules
        self._routing = Routing(model, pool_of, name_of, may_mix=settings.mixed_models, may_use=may_use)
        self._seen = SeenIds()
        self._sharing = Sharing(rules.endpoint)
        self._problems: list[BatchProblem] = []
        self._cutters: dict[str, _Cutter] = {}
        self._requests = 0
        self._estimate = settings.estimate
        self._input_bytes = self._output_tokens = 0

    async def plan(self, store: ObjectStore, key: str) -> Plan | Rejection:
        """Read the object `key` and say what there is to run."""
        async with aclosing(store.get(key)) as chunks:
            return await self.plan_chunks(chunks)

    async def plan_chunks(self, chunks: AsyncIterator[bytes]) -> Plan | Rejection:
        """Read lines as they come and say what there is to run."""
        async for line in raw_lines(chunks, self._settings.max_line_bytes):
            await self._take(line)
            if len(self._problems) >= MAX_PROBLEMS:
                break
        return self._verdict()

    @property
    def requests(self) -> int:
        """How many requests have been read so far."""
        return self._requests

    async def _take(self, line: RawLine) -> None:
        if line.number == 1 and line.text.startswith(BOM):
            line = RawLine(1, line.offset + len(BOM), line.end, line.text[len(BOM) :], line.size - len(BOM))
        if not line.text.strip(BLANK):
            return
        self._requests += 1
        if self._requests > self._settings.max_requests:
            return
        checked = check_line(line.number, line.text, self._rules)
        route = (
            checked.problem
            or self._duplicate(line.number, checked)
            or await self._routing.route(line.number, checked.model)
        )
        if isinstance(route, BatchProblem):
            self._problems.append(route)
        else:
            self._sharing.see(line.text)
            self._cutter_of(route).add(line)
            self._input_bytes += line.size
            self._output_tokens += self._estimate.output_of(self._rules.endpoint, checked.allowed_output)

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

    def _verdict(self) -> Plan | Rejection:
        limit = self._settings.max_requests
        if self._requests == 0:
            message = "The input file is empty. Please ensure that the batch contains at least one request."
            return Rejection((BatchProblem(code="empty_file", message=message),))
        self._problems += self._routing.problems()
        if self._requests > limit:
            message = f"The batch has {self._requests} requests; at most {limit} are allowed. Split the file."
            self._problems.append(BatchProblem(code="too_many_tasks", message=message))
        if self._problems:
            return Rejection(capped(sorted(self._problems, key=_place)))
        size = Size(
            lines=self._requests,
            input_tokens=self._estimate.input_tokens(self._input_bytes),
            output_tokens=self._output_tokens,
        )
        return Plan(
            self._routing.model, self._routing.pool, self._requests, self._table(), size, self._routing.shown_models
        )

    def _cutter_of(self, pool: str) -> "_Cutter":
        cutter = self._cutters.get(pool)
        if cutter is None:
            cutter = self._cutters[pool] = _Cutter(self._settings.shard_lines, self._settings.shard_bytes)
        return cutter

    def _table(self) -> ShardTable:
        models, most = self._routing.models, self._lines_in_a_shard()
        if models is None:
            (cutter,) = self._cutters.values()
            return ShardTable(cutter.shards(most))
        shards = [
            msgspec.structs.replace(shard, pool=pool)
            for pool, cutter in self._cutters.items()
            for shard in cutter.shards(most)
        ]
        return ShardTable(shards, models, self._routing.names)

    def _lines_in_a_shard(self) -> int:
        """More than usual where that brings lines that begin alike together, but so few that the batch has shards for
        as many as a runner works on at a time."""
        settings = self._settings
        usual = settings.shard_lines
        more = min(settings.shard_lines_shared, self._requests // settings.shards_per_batch)
        if not settings.arrange_prefixes or more <= usual or not self._sharing.is_worth(usual, more):
            return usual
        return more


def capped(problems: Sequence[BatchProblem]) -> tuple[BatchProblem, ...]:
    """As many problems as a batch reports; a last one says so where there may be more."""
    if len(problems) < MAX_PROBLEMS:
        return tuple(problems)
    message = f"Only the first {MAX_PROBLEMS} problems are listed; there may be more."
    return (*problems[:MAX_PROBLEMS], BatchProblem(code="too_many_problems", message=message))


def _place(problem: BatchProblem) -> float:
    """Where a problem stands in the file; those of the whole of it come last."""
    return problem.line if problem.line is not None else math.inf


class _Cutter:
    """Cuts one pool's lines into shards: a shard is closed when it has enough lines or enough bytes of its own."""

    def __init__(self, max_lines: int, max_bytes: int) -> None:
        self._max_lines = max_lines
        self._max_bytes = max_bytes
        self._shards: list[tuple[ShardRange, int]] = []  # with the bytes of their own lines
        self._open: ShardRange | None = None
        self._bytes = 0

    def add(self, line: RawLine) -> None:
        first = self._open or ShardRange(line.offset, 0, line.number, 0)
        self._open = ShardRange(first.offset, line.end - first.offset, first.first_line, first.requests + 1)
        self._bytes += line.end - line.offset
        if self._open.requests >= self._max_lines or self._bytes >= self._max_bytes:
            self._close()

    def shards(self, most: int) -> list[ShardRange]:
        """The shards of all lines, the last of which is closed now; neighbours become one where that has no more than
        `most` lines, and no more bytes than a shard may have."""
        self._close()
        joined: list[tuple[ShardRange, int]] = []
        for shard, size in self._shards:
            if joined:
                last, taken = joined[-1]
                if last.requests + shard.requests <= most and taken + size <= self._max_bytes:
                    length = shard.offset + shard.length - last.offset
                    both = ShardRange(last.offset, length, last.first_line, last.requests + shard.requests)
                    joined[-1] = (both, taken + size)
                    continue
            joined.append((shard, size))
        return [shard for shard, _ in joined]

    def _close(self) -> None:
        if self._open is not None:
            self._shards.append((self._open, self._bytes))
        self._open, self._bytes = None, 0
