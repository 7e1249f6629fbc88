"""The server's results on their way to ours: gathered in whatever order they come, and put into the input's."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass, field

import msgspec

from batchyard.batch_runner.lines import LineError, Tokens, unanswered_line
from batchyard.batch_runner.native.documents import read_result
from batchyard.batch_runner.plan import raw_lines
from batchyard.batch_runner.segments import Kind, Result, encode_result, merged
from batchyard.batch_runner.shard_input import ShardInput, numbered_requests
from batchyard.common.contracts.batches import BatchProblem
from batchyard.common.contracts.usage import Usage
from batchyard.common.objects import ObjectStore
from batchyard.common.result_lines import request_id


class Collection:
    """What a server has answered, as segments: each holds as much as may be in memory, in the order of its lines."""

    def __init__(
        self, store: ObjectStore, name: str, batch_hex: str, deployment: str, *, memory_bytes: int, line_bytes: int
    ) -> None:
        self._store = store
        self._name = name
        self._batch_hex = batch_hex
        self._deployment = deployment
        self._memory_bytes = memory_bytes
        self._line_bytes = line_bytes
        self._results: list[Result] = []
        self._bytes = 0
        self.segments: list[str] = []
        self.foreign = 0

    async def take(self, chunks: AsyncIterator[bytes]) -> None:
        """Read one of the server's result files. Lines that are no results of this batch are counted as `foreign`."""
        async for line in raw_lines(chunks, self._line_bytes):
            if not line.text.strip():
                continue
            result = None if line.size > self._line_bytes else read_result(line.text, self._batch_hex, self._deployment)
            if result is None:
                self.foreign += 1
                continue
            self._results.append(result)
            self._bytes += len(result.text)
            if self._bytes >= self._memory_bytes:
                await self.store()

    async def store(self) -> None:
        """Let go of what is in memory."""
        if not self._results:
            return
        results, self._results, self._bytes = self._results, [], 0
        results.sort(key=lambda result: result.line)
        self.segments.append(f"{self._name}-{len(self.segments):06d}")
        await self._store.put(self.segments[-1], _encoded(results))


async def _encoded(results: list[Result]) -> AsyncIterator[bytes]:
    for result in results:
        yield encode_result(result)


@dataclass(frozen=True, slots=True)
class Missing:
    """What is said of lines without an answer.

    Attributes:
        kind: Whether they failed, or were not run since nobody wanted them any more.
        problems: What the server has against single lines, by their number in our input.
    """

    kind: Kind
    code: str
    message: str
    problems: Mapping[int, BatchProblem] = field(default_factory=dict)

    def result(self, line: int, identity: str, custom_id: bytes) -> Result:
        problem = self.problems.get(line)
        code, message = (problem.code, problem.message) if problem else (self.code, self.message)
        return Result(line, self.kind, Tokens(), None, unanswered_line(identity, custom_id, LineError(code, message)))


@dataclass
class Counts:
    """Results by kind, and the tokens of their answers."""

    by_kind: dict[Kind, int] = field(default_factory=lambda: dict.fromkeys(Kind, 0))
    prompt: int = 0
    cached: int = 0
    output: int = 0
    reasoning: int = 0

    def add(self, result: Result) -> None:
        self.by_kind[result.kind] += 1
        tokens = result.tokens
        self.prompt += tokens.prompt
        self.cached += tokens.cached
        self.output += tokens.output
        self.reasoning += tokens.reasoning

    @property
    def is_marred(self) -> bool:
        """Whether anything stands in the error file."""
        return self.by_kind[Kind.FAILED] + self.by_kind[Kind.NOT_RUN] > 0

    @property
    def usage(self) -> Usage:
        return Usage.of(self.prompt, self.cached, self.output, self.reasoning)


async def joined(
    store: ObjectStore, shard: ShardInput, segments: list[str], missing: Missing, counts: Counts | None = None
) -> AsyncGenerator[Result, None]:
    """Every line of the input once, in its order: as the server answered it, else as `missing` says.

    Of two answers for a line the one that came first counts. Memory is a chunk of each segment.

    Args:
        segments: Those of a `Collection`, at most `MERGE_WIDTH` of them.
        counts: Counts the results as they pass.
    """
    answers = merged(store, segments, ())
    answer = await anext(answers, None)
    async for line, request in numbered_requests(store, shard.object_key, shard.range, shard.models):
        identity, custom_id = request_id(shard.batch_hex, line), bytes(request.custom_id)
        while answer is not None and answer.line < line:
            answer = await anext(answers, None)
        if answer is not None and answer.line == line:
            head = b'{"id":"%b","custom_id":%b,' % (identity.encode(), custom_id)
            result = msgspec.structs.replace(answer, text=head + answer.text)
        else:
            result = missing.result(line, identity, custom_id)
        if counts is not None:
            counts.add(result)
        yield result


async def in_our_lines(
    store: ObjectStore, shard: ShardInput, problems: tuple[BatchProblem, ...]
) -> tuple[BatchProblem, ...]:
    """Problems whose lines count the requests that were sent, with the lines of the input that they came from."""
    wanted = {problem.line for problem in problems if problem.line is not None}
    if not wanted:
        return problems
    lines: dict[int, int] = {}
    requests = numbered_requests(store, shard.object_key, shard.range, shard.models)
    number = 0
    async for line, _ in requests:
        number += 1
        if number in wanted:
            lines[number] = line
            if len(lines) == len(wanted):
                break
    return tuple(
        problem if problem.line is None else problem.model_copy(update={"line": lines.get(problem.line)})
        for problem in problems
    )
