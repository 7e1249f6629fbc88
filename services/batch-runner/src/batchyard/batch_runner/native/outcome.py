"""What a batch on a server came to: its parts, and a word on every line that has no answer."""

from dataclasses import dataclass

from batchyard.batch_runner.native.collect import Counts, Missing, joined
from batchyard.batch_runner.native.documents import UpstreamBatch
from batchyard.batch_runner.segments import ERROR_KINDS, OUTPUT_KINDS, Kind, compacted, texts
from batchyard.batch_runner.shard_input import ShardInput
from batchyard.batch_runner.stop import NOT_RUN, Stop
from batchyard.common.contracts.batches import BatchProblem
from batchyard.common.objects import ObjectStore

_UNANSWERED = {
    "completed": ("upstream_no_answer", "The server ended its batch without a result for this request."),
    "expired": ("upstream_expired", "The server's own batch expired before it had executed this request."),
    "cancelled": (
        "upstream_cancelled",
        "The server's own batch was cancelled there before it had executed this request.",
    ),
    "failed": ("upstream_failed", "The server's own batch failed before it had executed this request."),
}
_LOST = ("upstream_lost", "The server no longer knows the batch that this request was part of.")
_REFUSED = ("upstream_refused", "This request was not executed: the server did not take the batch that it was part of.")


@dataclass(frozen=True, slots=True)
class Parts:
    """The two parts of a batch; the key of one that has no lines is None."""

    counts: Counts
    output_key: str | None
    error_key: str | None


def missing(stopped: Stop | None, problems: tuple[BatchProblem, ...], batch: UpstreamBatch | None) -> Missing:
    """What is to be said of lines that have no answer.

    Args:
        stopped: Why the run was stopped, if it was.
        problems: What the server had against the batch as a whole.
        batch: How the server's batch ended; None when the server has forgotten it.
    """
    if problems:
        by_line = {problem.line: problem for problem in problems if problem.line is not None}
        return Missing(Kind.FAILED, *_REFUSED, by_line)
    if stopped in NOT_RUN:
        return Missing(Kind.NOT_RUN, stopped.value, NOT_RUN[stopped])
    return Missing(Kind.FAILED, *(_LOST if batch is None else _UNANSWERED[batch.status]))


async def write_parts(store: ObjectStore, shard: ShardInput, segments: list[str], missing: Missing) -> Parts:
    """Put what was collected into the input's order, and into two objects."""
    output_key, error_key = (f"{shard.prefix}{what}-{shard.attempt}" for what in ("output", "error"))
    few = await compacted(store, segments, f"{shard.prefix}collected-{shard.attempt}-merged")
    counts = Counts()
    if few:
        await store.put(output_key, texts(joined(store, shard, few, missing, counts), OUTPUT_KINDS))
    if not few or counts.is_marred:
        counts = Counts()
        await store.put(error_key, texts(joined(store, shard, few, missing, counts), ERROR_KINDS))
    return Parts(
        counts, output_key if counts.by_kind[Kind.COMPLETED] else None, error_key if counts.is_marred else None
    )
