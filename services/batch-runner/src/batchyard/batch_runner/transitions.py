"""The life of a batch, as pure functions from its record to the next.

    validating ─► in_progress ─► finalizing ─► completed
        │              │   ├────────────────► expired
        └► failed      │   └────────────────► failed (a server that runs batches of its own did not take it)
                       └► cancelling ───────► cancelled

A transition that the status does not allow raises `IllegalTransition`; counting and announcing what has been counted
and announced already changes nothing: every step may run again.
"""

from collections.abc import Callable, Collection

from batchyard.batch_runner import ranges
from batchyard.batch_runner.batch import BatchRecord, Ending
from batchyard.batch_runner.estimate import Size
from batchyard.batch_runner.native_note import NativeNote
from batchyard.batch_runner.outcome import ShardOutcome
from batchyard.common.contracts.batches import BatchProblem, BatchStatus
from batchyard.common.contracts.usage import Usage, added_work
from batchyard.common.errors import Conflict
from batchyard.common.pricing import Cost


class IllegalTransition(Exception):
    """The batch is not in a status from which this can happen."""


def planned(
    record: BatchRecord,
    now: int,
    *,
    pool: str | None,
    model: str | None,
    input_key: str,
    plan_key: str,
    lines: int,
    shards: int,
    native: NativeNote | None = None,
    size: Size | None = None,
    models: tuple[str, ...] = (),
) -> BatchRecord:
    """The input is sound: the batch begins, over a copy of its own."""
    _check_status(record, BatchStatus.VALIDATING)
    return _enter(
        record,
        BatchStatus.IN_PROGRESS,
        in_progress_at=now,
        pool=pool,
        model=model,
        input_key=input_key,
        plan_key=plan_key,
        lines=lines,
        shards=shards,
        native=native,
        size=size,
        models=models,
        held=None,
    )


def held(record: BatchRecord, reason: str, size: Size, models: tuple[str, ...]) -> BatchRecord:
    """The input is sound, but larger than was thought: the batch waits until there is room for it."""
    _check_status(record, BatchStatus.VALIDATING)
    return record.model_copy(update={"held": reason, "size": size, "models": models})


def rejected(record: BatchRecord, now: int, problems: tuple[BatchProblem, ...]) -> BatchRecord:
    """The input cannot be run."""
    _check_status(record, BatchStatus.VALIDATING)
    return _enter(record, BatchStatus.FAILED, failed_at=now, problems=problems)


def refused(record: BatchRecord, now: int, problems: tuple[BatchProblem, ...]) -> BatchRecord:
    """The server that was to run the whole batch did not take it: as if the input had not been sound."""
    _check_status(record, BatchStatus.IN_PROGRESS)
    return _enter(record, BatchStatus.FAILED, failed_at=now, problems=problems, lines=0)


def noted(record: BatchRecord, note: Callable[[NativeNote], NativeNote]) -> BatchRecord:
    """Something more is known of the server's own batch."""
    if record.status.is_terminal or record.native is None:
        raise IllegalTransition(record.status)
    return record.model_copy(update={"native": note(record.native)})


def dispatched(record: BatchRecord, shards: Collection[int]) -> BatchRecord:
    """These shards are being queued."""
    _check_status(record, BatchStatus.IN_PROGRESS)
    up_to = max((record.dispatched, *(shard + 1 for shard in shards)))
    left = ranges.joined((*record.passed_over, (record.dispatched, up_to)))
    for shard in shards:
        left = ranges.removed(left, shard)
    return record.model_copy(update={"dispatched": up_to, "passed_over": left})


def settled(record: BatchRecord, outcome: ShardOutcome) -> BatchRecord:
    """Count a shard's outcome, once."""
    if record.status.is_terminal or record.is_settled(outcome.shard):
        return record
    usage = dict(record.usage_by_deployment)
    for deployment, used in outcome.usage_by_deployment.items():
        usage[deployment] = usage.get(deployment, Usage()) + used
    return record.model_copy(
        update={
            "settled": ranges.added(record.settled, outcome.shard),
            "completed": record.completed + outcome.completed,
            "failed": record.failed + outcome.failed,
            "usage_by_deployment": usage,
            "work": added_work(record.work, outcome.work),
        }
    )


def finalizing(record: BatchRecord, now: int, ending: Ending, output_uuid: str, error_uuid: str) -> BatchRecord:
    """Nothing more is sent: the results are put together."""
    _check_status(record, BatchStatus.IN_PROGRESS)
    return _enter(
        record,
        BatchStatus.FINALIZING,
        finalizing_at=now,
        ending=ending,
        output_uuid=output_uuid,
        error_uuid=error_uuid,
    )


def cancel_requested(
    record: BatchRecord, now: int, output_uuid: str, error_uuid: str, *, again: bool = False
) -> BatchRecord:
    """A client does not want the rest. Asking again while it is being done is fine.

    Args:
        again: Whether the client repeats itself because it got no answer: then a batch that is cancelled is its doing.

    Raises:
        Conflict: The batch has ended, or its results are being put together.
    """
    if record.status is BatchStatus.CANCELLING or (again and record.status is BatchStatus.CANCELLED):
        return record
    if record.status not in (BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS):
        raise Conflict(f"Cannot cancel a batch with status '{record.status}'.")
    return _enter(
        record,
        BatchStatus.CANCELLING,
        cancelling_at=now,
        ending=BatchStatus.CANCELLED,
        output_uuid=output_uuid,
        error_uuid=error_uuid,
    )


def refiled(record: BatchRecord, output_uuid: str, error_uuid: str) -> BatchRecord:
    """The files could not be registered under the IDs that were chosen: take others."""
    _check_status(record, BatchStatus.FINALIZING, BatchStatus.CANCELLING)
    return record.model_copy(update={"output_uuid": output_uuid, "error_uuid": error_uuid})


def finished(
    record: BatchRecord, now: int, output_file_id: str | None, error_file_id: str | None, cost: Cost | None = None
) -> BatchRecord:
    """The files are there: the batch has ended as it was about to."""
    if record.status not in (BatchStatus.FINALIZING, BatchStatus.CANCELLING) or record.ending is None:
        raise IllegalTransition(record.status)
    return _enter(
        record,
        record.ending,
        **{f"{record.ending}_at": now},
        output_file_id=output_file_id,
        error_file_id=error_file_id,
        cost=cost.amount if cost else None,
        currency=cost.currency if cost else None,
    )


def announced(record: BatchRecord, status: BatchStatus) -> BatchRecord:
    """The event of `status` has been published."""
    return record.model_copy(update={"outbox": tuple(waiting for waiting in record.outbox if waiting is not status)})


def swept(record: BatchRecord) -> BatchRecord:
    """The working objects are gone."""
    return record.model_copy(update={"swept": True})


def _check_status(record: BatchRecord, *allowed: BatchStatus) -> None:
    if record.status not in allowed:
        raise IllegalTransition(record.status)


def _enter(record: BatchRecord, status: BatchStatus, **changes: object) -> BatchRecord:
    return record.model_copy(update={"status": status, "outbox": (*record.outbox, status), **changes})
