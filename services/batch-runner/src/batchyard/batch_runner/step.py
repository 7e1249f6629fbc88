"""What the steps of a batch share: what one comes to, the change that it makes, and the count of outcomes."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from batchyard.batch_runner import transitions
from batchyard.batch_runner.batch import BatchRecord
from batchyard.batch_runner.batch_store import BatchStore
from batchyard.batch_runner.transitions import IllegalTransition
from batchyard.common.contracts.batches import BatchStatus
from batchyard.common.crash import crash_point
from batchyard.common.ids import new_raw_id
from batchyard.common.logs import get_logger
from batchyard.common.messaging.work_loop import Done, Later

_log = get_logger(__name__)

Transition = Callable[[BatchRecord], BatchRecord]


@dataclass(frozen=True, slots=True)
class Again:
    """The status has changed, or may have: look again at once."""


Verdict = Done | Later | Again


async def change(store: BatchStore, record: BatchRecord, transition: Transition) -> Verdict:
    """Make a transition of the record."""
    try:
        changed = await store.change(record, transition)
    except IllegalTransition:
        # Someone else was faster (another replica, a cancel): go on from what they made of it.
        return Again()
    return Again() if changed is not None else Done()


async def count(store: BatchStore, record: BatchRecord, now: int) -> BatchRecord | None:
    """Take the outcomes of shards that have been handed in into the record. None when they have ended the batch."""
    found = await asyncio.gather(*(store.outcome(record, shard) for shard in record.outstanding()))
    outcomes = [outcome for outcome in found if outcome is not None]
    if not outcomes:
        return record
    problems = next((outcome.problems for outcome in outcomes if outcome.problems), ())
    if problems and record.status is BatchStatus.IN_PROGRESS:
        _log.info("batch.refused", batch=record.raw_id, problems=len(problems), first=problems[0].code)
        await change(store, record, lambda current: transitions.refused(current, now, problems))
        return None

    def counted_in(current: BatchRecord) -> BatchRecord:
        for outcome in outcomes:
            current = transitions.settled(current, outcome)
        return current

    counted = await store.change(record, counted_in)
    crash_point("outcomes.counted")
    if counted is not None:
        await store.tick(counted)
    return counted


def new_uuid() -> str:
    """The UUID of a file that is to be made, in hex."""
    return new_raw_id("file").removeprefix("file-")
