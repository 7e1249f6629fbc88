"""Why a shard is left, and what its lines get that were not run."""

from enum import Enum

from batchyard.batch_runner.batch import BatchRecord
from batchyard.batch_runner.lines import LineError, unanswered_line
from batchyard.batch_runner.segments import Kind, Result
from batchyard.batch_runner.tally import Tally
from batchyard.common.contracts.batches import BatchStatus


class Stop(Enum):
    """Why a shard is left before all of its lines have a result."""

    CANCELLED = "batch_cancelled"
    EXPIRED = "batch_expired"
    SHUTDOWN = "shutdown"
    SUPERSEDED = "superseded"  # another runner has handed it in
    WITHDRAWN = "withdrawn"  # its model is no longer configured here


NOT_RUN = {
    Stop.CANCELLED: "This request was not executed: the batch was cancelled.",
    Stop.EXPIRED: "This request could not be executed before the completion window expired.",
}


def stop_reason(record: BatchRecord) -> Stop:
    """Why the lines of an ending batch are left."""
    return Stop.EXPIRED if record.ending is BatchStatus.EXPIRED else Stop.CANCELLED


def not_run(line: int, identity: str, custom_id: bytes, why: Stop) -> Result:
    """The result of a line that was never answered."""
    text = unanswered_line(identity, custom_id, LineError(why.value, NOT_RUN[why]))
    return Result(line, Kind.NOT_RUN, Tally.NO_TOKENS, None, text)
