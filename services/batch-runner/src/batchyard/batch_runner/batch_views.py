"""What others are shown of a batch: the object that a client sees, and the facts that other services hear."""

from batchyard.batch_runner.batch import BatchRecord
from batchyard.common.contracts.batches import Batch, BatchErrors, BatchStatus, RequestCounts
from batchyard.common.contracts.events import BatchEvent
from batchyard.common.contracts.usage import Usage
from batchyard.common.pricing import Cost


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
