"""Which batches a listing is about."""

from batchyard.batch_runner.batch import BatchRecord
from batchyard.common.contracts.batches import ListBatches


def fits(record: BatchRecord, wanted: ListBatches) -> bool:
    """Whether a batch is one of those that a listing asks for."""
    return (
        (not wanted.status or record.status in wanted.status)
        and (wanted.model is None or _served(record.model) == _served(wanted.model))
        and wanted.metadata.items() <= (record.metadata or {}).items()
        and (wanted.created_after is None or record.created_at >= wanted.created_after)
        and (wanted.created_before is None or record.created_at < wanted.created_before)
    )


def _served(model: str | None) -> str | None:
    return model.removeprefix("hosted_vllm/") if model is not None else None
