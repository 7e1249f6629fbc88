"""A batch's record and a shard's outcome, as tests of them begin with."""

from typing import Any

from batchyard.batch_runner import transitions
from batchyard.batch_runner.batch import BatchRecord
from batchyard.batch_runner.outcome import ShardOutcome
from batchyard.common.contracts.usage import Usage, Work

RAW_ID = "batch_" + "0" * 32
USAGE = Usage.of(10, 2, 5, 1)
WORK = Work(deployment="d", completed=9, failed=1, usage=USAGE, busy_microseconds=250)


def new_record(**changes: Any) -> BatchRecord:
    """A batch that has just been made, but for `changes`."""
    made = {
        "raw_id": RAW_ID,
        "tenant": "t",
        "endpoint": "/v1/chat/completions",
        "input_file_id": "file-x",
        "input_key": "files/t/x",
        "created_at": 1000,
        "expires_at": 87400,
    }
    return BatchRecord(**{**made, **changes})


def in_progress(shards: int = 3, dispatched: int = 3) -> BatchRecord:
    """One over shards of ten lines each, of which so many are queued."""
    record = transitions.planned(
        new_record(), 1001, pool="m", model="m", input_key="batches/i", plan_key="p", lines=shards * 10, shards=shards
    )
    return transitions.dispatched(record, range(dispatched))


def outcome(shard: int) -> ShardOutcome:
    """What a shard of ten lines came to of which one failed."""
    return ShardOutcome(
        shard=shard, completed=9, failed=1, usage_by_deployment={"d": USAGE}, work=(WORK,), output_key=f"o{shard}"
    )
