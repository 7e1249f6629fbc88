"""Counting the results of one shard, each line once."""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from batchyard.batch_runner.lines import Tokens
from batchyard.batch_runner.segments import Kind, Result
from batchyard.common.contracts.usage import Usage, Work, added_work


class ShardProgress(BaseModel):
    """How far a running shard is, counting only what would survive its runner.

    Attributes:
        starts: Times that a runner has begun on the shard and nothing more of it has become durable: more than a few
            say that the shard kills whoever works on it.
        suspect: The line that the last of them worked on, alone.
        caught: How many of them were lost over that line.
        waits_for: The model of which no server answers, if it waits for one.
    """

    model_config = ConfigDict(frozen=True)

    completed: int = 0
    failed: int = 0
    usage: Usage = Usage()
    work: tuple[Work, ...] = ()
    starts: int = 0
    suspect: int | None = None
    caught: int = 0
    waits_for: str | None = None

    @property
    def results(self) -> int:
        return self.completed + self.failed


class Tally:
    """Counts, tokens and time by model and deployment. Of two results for a line the first one counts."""

    NO_TOKENS: ClassVar = Tokens()

    def __init__(self) -> None:
        self._lines: set[int] = set()
        self._counts = dict.fromkeys(Kind, 0)
        self._work: dict[tuple[str | None, str | None], list[int]] = {}

    def __contains__(self, line: int) -> bool:
        return line in self._lines

    def add(self, result: Result) -> None:
        if result.line in self._lines:
            return
        self._lines.add(result.line)
        self._counts[result.kind] += 1
        if result.kind is Kind.NOT_RUN:
            return
        tokens = result.tokens
        sums = self._work.setdefault((result.model, result.deployment), [0] * 7)
        sums[0] += result.kind is Kind.COMPLETED
        sums[1] += result.kind is Kind.FAILED
        sums[2] += result.busy
        sums[3] += tokens.prompt
        sums[4] += tokens.cached
        sums[5] += tokens.output
        sums[6] += tokens.reasoning

    @property
    def lines(self) -> int:
        return len(self._lines)

    @property
    def completed(self) -> int:
        return self._counts[Kind.COMPLETED]

    @property
    def failed(self) -> int:
        return self._counts[Kind.FAILED]

    @property
    def not_run(self) -> int:
        return self._counts[Kind.NOT_RUN]

    def progress(self) -> ShardProgress:
        work = self.work()
        usage = sum((part.usage for part in work), Usage())
        return ShardProgress(completed=self.completed, failed=self.failed, usage=usage, work=work)

    def work(self) -> tuple[Work, ...]:
        return added_work(
            Work(
                model=model,
                deployment=deployment,
                completed=completed,
                failed=failed,
                usage=Usage.of(*tokens),
                busy_microseconds=busy,
            )
            for (model, deployment), (completed, failed, busy, *tokens) in self._work.items()
        )

    def usage_by_deployment(self) -> dict[str, Usage]:
        usage: dict[str, Usage] = {}
        for part in self.work():
            if part.deployment is not None and part.usage != Usage():
                usage[part.deployment] = usage.get(part.deployment, Usage()) + part.usage
        return usage
