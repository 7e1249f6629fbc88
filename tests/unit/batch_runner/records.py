"""A batch's record, as tests of it begin with."""

from typing import Any

from batchyard.batch_runner.batch import BatchRecord

RAW_ID = "batch_" + "0" * 32


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
