"""Pages of files."""

from batchyard.common.contracts.files import FilePage
from batchyard.common.errors import InvalidRequest
from batchyard.common.ids import decode_id, is_raw_id
from batchyard.common.paging import REPLY_BYTES, PageWindow, fitting
from batchyard.file_store.store import FileRecord


def page_of(window: PageWindow[FileRecord], max_bytes: int = REPLY_BYTES) -> FilePage:
    """The page: only as many files as `max_bytes` of JSON hold, but at least one if there is one."""
    data = fitting((record.as_file() for record in window.records()), max_bytes)
    return FilePage(
        data=data,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
        has_more=window.has_more(len(data)),
    )


def read_cursor(after: str | None) -> str | None:
    """The raw ID in `after`, which may be any form of a file's ID. Raises InvalidRequest when it is none."""
    if after is None:
        return None
    raw_id = decode_id(after).raw
    if not is_raw_id("file", raw_id):
        raise InvalidRequest(
            f"Invalid 'after': '{after}' is not the ID of a file.", param="after", code="invalid_value"
        )
    return raw_id
