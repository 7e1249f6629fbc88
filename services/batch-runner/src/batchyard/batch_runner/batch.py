"""The batch record and its life, as pure functions from a record to the next.

    validating ─► in_progress ─► finalizing ─► completed
        │              │   ├────────────────► expired
        └► failed      │   └────────────────► failed (a server that runs batches of its own did not take it)
                       └► cancelling ───────► cancelled

A transition that the status does not allow raises `IllegalTransition`; counting and announcing what has been counted
and announced already changes nothing: every step may run again.
"""

from collections.abc import Callable, Collection, Iterator
from decimal import Decimal
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from batchyard.batch_runner import ranges
from batchyard.batch_runner.estimate import Size
from batchyard.common.contracts.access import Limits
from batchyard.common.contracts.batches import (
    Batch,
    BatchErrors,
    BatchProblem,
    BatchStatus,
    RequestCounts,
    Usage,
    Work,
    added_work,
)
from batchyard.common.contracts.events import BatchEvent
from batchyard.common.contracts.files import ExpiresAfter
from batchyard.common.errors import Conflict
from batchyard.common.ids import encode_id
from batchyard.common.pricing import Cost, told_work
from batchyard.common.subjects import encode_token

Ending = Literal[BatchStatus.COMPLETED, BatchStatus.EXPIRED, BatchStatus.CANCELLED]


class IllegalTransition(Exception):
    """The batch is not in a status from which this can happen."""


class ShardOutcome(BaseModel):
    """What one shard came to: written once, by whoever settles the shard first.

    `output_key` and `error_key` name objects with the shard's lines in input order, or are None when it has none.
    `not_run` lines stand in the error object, but count neither as completed nor as failed. `problems` say why the
    server that was to run the whole batch did not take it; there are none otherwise.
    """

    model_config = ConfigDict(frozen=True)

    shard: int
    completed: int = 0
    failed: int = 0
    not_run: int = 0
    usage_by_deployment: dict[str, Usage] = Field(default_factory=dict)
    work: tuple[Work, ...] = ()
    output_key: str | None = None
    error_key: str | None = None
    problems: tuple[BatchProblem, ...] = ()


class NativeNote(BaseModel):
    """What is known of a batch that a server runs as one of its own: enough for any runner to go on with it.

    Attributes:
        deployment: Whose server; chosen once.
        uploads: How often an upload of the input has begun: more than one may have left a file behind.
        file_id: The server's name for the input; the first one noted is the one that counts.
        file_created_at: When it was made, by the server's clock: its batch is not older.
        batch_id: The server's name for the batch; the first one noted is the one that counts.
        turned_away: How often the server had no room for the batch and ended it at once.
    """

    model_config = ConfigDict(frozen=True)

    deployment: str
    uploads: int = 0
    file_id: str | None = None
    file_created_at: int = 0
    batch_id: str | None = None
    turned_away: int = 0

    def uploading(self) -> "NativeNote":
        if self.file_id is not None:
            return self
        return self.model_copy(update={"uploads": self.uploads + 1})

    def with_file(self, file_id: str, created_at: int) -> "NativeNote":
        if self.file_id is not None:
            return self
        return self.model_copy(update={"file_id": file_id, "file_created_at": created_at})

    def with_batch(self, batch_id: str) -> "NativeNote":
        if self.batch_id is not None:
            return self
        return self.model_copy(update={"batch_id": batch_id})

    def without_batch(self, batch_id: str) -> "NativeNote":
        if self.batch_id != batch_id:
            return self
        return self.model_copy(update={"batch_id": None, "turned_away": self.turned_away + 1})


class BatchRecord(BaseModel):
    """Everything that is known of a batch. Times are Unix seconds.

    Attributes:
        input_key: The object with the lines: the client's file, from planning on the batch's own copy of it, so that
            the file may be deleted or expire while the batch runs.
        retry_of: The public ID of the batch whose lines without success these are.
        retried_key: The object that names them: that batch's error file.
        id_model: The model that the public ID carries: what was known at creation.
        model: The name clients use; found in the lines when it was not known before, None when they name several.
        pool: The pool that serves it, once planned; None in a batch of several models, whose shards have one each.
        native: What is known of the server's own batch, when a server runs it whole.
        plan_key: The object that holds the shard table.
        key_models: The models that the key may name, as it was when the batch was made; none: all.
        shards: How many there are; those below `dispatched` have been queued, save for those in `passed_over`.
        passed_over: Shards of a pool that has enough of them in its queue, while other pools' that come later in the
            table have been queued. None in a batch of one model.
        settled: Shards whose outcome is counted below.
        ending: What the batch is about to end as, once it is finalizing or cancelling.
        key_limits: What the key that asked may do, as it was then.
        size: The estimated work: by the size of the input at first, by its lines once they have been read.
        models: All that the lines name, once they have been read.
        held: Why the batch, though it has been read, is not begun yet: it is larger than was thought, and has to wait.
        output_uuid: The file IDs' UUIDs are chosen when finalizing begins, so that a second try makes the same files.
        cost: What it came to in `currency`, at the prices of its end: kept, so that a price changed later does not
            rewrite it. None before its end, and where nothing has a price.
        outbox: Statuses reached whose events have not been published yet.
        swept: Whether the working objects have been removed.
    """

    model_config = ConfigDict(frozen=True)

    raw_id: str
    tenant: str
    endpoint: str
    input_file_id: str
    input_key: str
    retry_of: str | None = None
    retried_key: str | None = None
    id_model: str | None = None
    model: str | None = None
    pool: str | None = None
    completion_window: str = "24h"
    metadata: dict[str, str] | None = None
    output_expires_after: ExpiresAfter | None = None
    key_id: str | None = None
    key_alias: str | None = None
    key_models: tuple[str, ...] = ()
    key_limits: Limits | None = None

    status: BatchStatus = BatchStatus.VALIDATING
    created_at: int
    expires_at: int
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None

    problems: tuple[BatchProblem, ...] = ()
    native: NativeNote | None = None
    plan_key: str | None = None
    size: Size | None = None
    models: tuple[str, ...] = ()
    held: str | None = None
    lines: int = 0
    shards: int = 0
    dispatched: int = 0
    passed_over: ranges.Ranges = ()
    settled: ranges.Ranges = ()
    completed: int = 0
    failed: int = 0
    usage_by_deployment: dict[str, Usage] = Field(default_factory=dict)
    work: tuple[Work, ...] = ()

    ending: Ending | None = None
    output_uuid: str | None = None
    error_uuid: str | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    cost: Decimal | None = None
    currency: str | None = None
    outbox: tuple[BatchStatus, ...] = (BatchStatus.VALIDATING,)
    swept: bool = False

    @property
    def key(self) -> str:
        return record_key(self.tenant, self.raw_id)

    @property
    def public_id(self) -> str:
        return encode_id("batch", self.raw_id, self.id_model)

    @property
    def usage(self) -> Usage:
        return sum(self.usage_by_deployment.values(), Usage())

    @property
    def all_work(self) -> list[Work]:
        """What is counted by now, for its price."""
        return told_work(self.work, self.usage_by_deployment)

    @property
    def counts(self) -> RequestCounts:
        return RequestCounts(total=self.lines, completed=self.completed, failed=self.failed)

    @property
    def unfinished_business(self) -> bool:
        """Whether a step still has something to do for this batch."""
        return not (self.status.is_terminal and self.swept and not self.outbox)

    @property
    def ended_at(self) -> int | None:
        return self.completed_at or self.failed_at or self.expired_at or self.cancelled_at

    @property
    def is_answered(self) -> bool:
        """Whether every line has a result of its own."""
        return self.completed + self.failed == self.lines

    def is_settled(self, shard: int) -> bool:
        return ranges.holds(self.settled, shard)

    def is_queued(self, shard: int) -> bool:
        """Whether a shard is in the queue, or has been."""
        return shard < self.dispatched and not ranges.holds(self.passed_over, shard)

    def outstanding(self) -> Iterator[int]:
        """The shards that have been queued and are not settled."""
        return ranges.gaps(ranges.joined((*self.settled, *self.passed_over)), self.dispatched)

    def unqueued(self) -> Iterator[int]:
        """The shards that have not been queued yet."""
        return ranges.numbers((*self.passed_over, (self.dispatched, self.shards)))

    @property
    def settled_count(self) -> int:
        return sum(end - start for start, end in self.settled)


def record_key(tenant: str, raw_id: str) -> str:
    """The key of a batch's record."""
    return f"{encode_token(tenant)}.{raw_id}"


def shard_key(tenant: str, raw_id: str, shard: int) -> str:
    """The key of one shard's outcome, and of its progress."""
    return f"{record_key(tenant, raw_id)}.{shard}"


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
    if record.status is not BatchStatus.VALIDATING:
        raise IllegalTransition(record.status)
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
    if record.status is not BatchStatus.VALIDATING:
        raise IllegalTransition(record.status)
    return record.model_copy(update={"held": reason, "size": size, "models": models})


def rejected(record: BatchRecord, now: int, problems: tuple[BatchProblem, ...]) -> BatchRecord:
    """The input cannot be run."""
    if record.status is not BatchStatus.VALIDATING:
        raise IllegalTransition(record.status)
    return _enter(record, BatchStatus.FAILED, failed_at=now, problems=problems)


def refused(record: BatchRecord, now: int, problems: tuple[BatchProblem, ...]) -> BatchRecord:
    """The server that was to run the whole batch did not take it: as if the input had not been sound."""
    if record.status is not BatchStatus.IN_PROGRESS:
        raise IllegalTransition(record.status)
    return _enter(record, BatchStatus.FAILED, failed_at=now, problems=problems, lines=0)


def noted(record: BatchRecord, note: Callable[[NativeNote], NativeNote]) -> BatchRecord:
    """Something more is known of the server's own batch."""
    if record.status.is_terminal or record.native is None:
        raise IllegalTransition(record.status)
    return record.model_copy(update={"native": note(record.native)})


def dispatched(record: BatchRecord, shards: Collection[int]) -> BatchRecord:
    """These shards are being queued."""
    if record.status is not BatchStatus.IN_PROGRESS:
        raise IllegalTransition(record.status)
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
    if record.status is not BatchStatus.IN_PROGRESS:
        raise IllegalTransition(record.status)
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
    if record.status not in (BatchStatus.FINALIZING, BatchStatus.CANCELLING):
        raise IllegalTransition(record.status)
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


def to_batch(
    record: BatchRecord,
    extra: RequestCounts | None = None,
    extra_usage: Usage | None = None,
    reason: str | None = None,
    cost: Cost | None = None,
) -> Batch:
    """The object a client sees; `extra` is what running shards have done and is not counted in the record yet, `cost`
    the estimate for one that has not ended."""
    counts = record.counts + extra if extra else record.counts
    usage = record.usage + extra_usage if extra_usage else record.usage
    return Batch(
        id=record.public_id,
        endpoint=record.endpoint,
        model=record.model,
        errors=BatchErrors(data=list(record.problems)) if record.problems else None,
        input_file_id=record.input_file_id,
        completion_window=record.completion_window,
        status=record.status,
        output_file_id=record.output_file_id,
        error_file_id=record.error_file_id,
        created_at=record.created_at,
        in_progress_at=record.in_progress_at,
        expires_at=record.expires_at,
        finalizing_at=record.finalizing_at,
        completed_at=record.completed_at,
        failed_at=record.failed_at,
        expired_at=record.expired_at,
        cancelling_at=record.cancelling_at,
        cancelled_at=record.cancelled_at,
        request_counts=counts,
        usage=usage,
        metadata=record.metadata,
        status_reason=record.held if record.status is BatchStatus.VALIDATING else reason,
        retry_of=record.retry_of,
        cost=cost.amount if cost else record.cost,
        currency=cost.currency if cost else record.currency,
    )


def to_event(record: BatchRecord, status: BatchStatus) -> BatchEvent:
    """The fact that the batch reached `status`."""
    times = {
        BatchStatus.VALIDATING: record.created_at,
        BatchStatus.IN_PROGRESS: record.in_progress_at,
        BatchStatus.FINALIZING: record.finalizing_at,
        BatchStatus.COMPLETED: record.completed_at,
        BatchStatus.FAILED: record.failed_at,
        BatchStatus.EXPIRED: record.expired_at,
        BatchStatus.CANCELLING: record.cancelling_at,
        BatchStatus.CANCELLED: record.cancelled_at,
    }
    return BatchEvent(
        id=f"{record.raw_id}.{status}",
        occurred_at=times[status] or record.created_at,
        tenant=record.tenant,
        raw_batch_id=record.raw_id,
        status=status,
        batch=to_batch(record),
        key_id=record.key_id,
        key_alias=record.key_alias,
        usage_by_deployment=record.usage_by_deployment,
        work=record.work,
    )


def _enter(record: BatchRecord, status: BatchStatus, **changes: object) -> BatchRecord:
    return record.model_copy(update={"status": status, "outbox": (*record.outbox, status), **changes})
