"""What may become a file, and for how long it stays."""

from batchyard.common.contracts.files import ExpiresAfter, Purpose
from batchyard.common.errors import InvalidRequest

BATCH_FILE_LIFETIME = 30 * 86_400


def expires_at(created_at: int, purpose: Purpose, expires_after: ExpiresAfter | None) -> int | None:
    """The Unix second from which a file is gone: as asked, else 30 days for batch input, else never.

    Source: https://platform.openai.com/docs/api-reference/files/create (`expires_after`).
    """
    if expires_after is not None:
        return created_at + expires_after.seconds
    return created_at + BATCH_FILE_LIFETIME if purpose is Purpose.BATCH else None


def line_count(content: bytes) -> int:
    """How many lines there are, blank ones too; the last one need not end."""
    return content.count(b"\n") + (not content.endswith(b"\n") and content != b"")


def check_batch_input(filename: str, purpose: Purpose, size: int, named_by: str = "file") -> None:
    """Raise InvalidRequest for a batch input of `size` bytes that no batch could ever read.

    `named_by` is the parameter that brought the name along.
    """
    if purpose is not Purpose.BATCH:
        return
    if not filename.lower().endswith(".jsonl"):
        raise InvalidRequest(
            f"Invalid file format for Batch API: '{filename}'. Must be .jsonl.", param=named_by, code="invalid_value"
        )
    if size == 0:
        raise InvalidRequest(
            "The input file is empty. Please ensure that the batch contains at least one request.",
            param="file",
            code="empty_file",
        )
