"""Pages of files: a window over the records, cut at a limit and at what one reply can hold."""

import heapq
from typing import Literal

from batchyard.common.contracts.files import File, FilePage
from batchyard.common.errors import InvalidRequest
from batchyard.common.ids import decode_id, is_raw_id
from batchyard.file_store.store import FileRecord

# A reply is one NATS message, of at most 1 MiB; the rest of it is for the envelope.
PAGE_BYTES = 960 * 1024


class PageWindow:
    """The first `limit` files after a cursor, whatever order they are offered in.

    Raw IDs sort by creation, so a position in a listing is a raw ID, and stays one when its file is gone. At most
    `limit + 1` records are held: the one too many says that there is more.

    Args:
        limit: The largest number of files on the page; at least 1.
        order: By creation: `asc` is oldest first.
        after: The raw ID after which, in that order, the page begins; None for the beginning.
    """

    def __init__(self, limit: int, order: Literal["asc", "desc"], after: str | None = None) -> None:
        self._limit = limit
        self._sign = 1 if order == "desc" else -1
        self._after = None if after is None else self._rank(after)
        self._ranks: list[int] = []  # a heap: the last file of the window is on top
        self._records: dict[int, FileRecord] = {}

    def offer(self, record: FileRecord) -> None:
        """Take a record in, if it belongs on the page as far as is known yet."""
        rank = self._rank(record.raw_id)
        if self._after is not None and rank >= self._after:
            return
        if rank in self._records:
            self._records[rank] = record
        elif len(self._ranks) <= self._limit:
            heapq.heappush(self._ranks, rank)
            self._records[rank] = record
        elif rank > self._ranks[0]:
            del self._records[heapq.heapreplace(self._ranks, rank)]
            self._records[rank] = record

    def page(self, max_bytes: int = PAGE_BYTES) -> FilePage:
        """The page: at most `limit` files, and only as many as `max_bytes` of JSON hold, but at least one."""
        data: list[File] = []
        size = 0
        for rank in sorted(self._ranks, reverse=True)[: self._limit]:
            file = self._records[rank].as_file()
            size += len(file.model_dump_json().encode()) + 1
            if data and size > max_bytes:
                break
            data.append(file)
        return FilePage(
            data=data,
            first_id=data[0].id if data else None,
            last_id=data[-1].id if data else None,
            has_more=len(self._ranks) > len(data),
        )

    def _rank(self, raw_id: str) -> int:
        """A number that falls from the first file of the listing to the last."""
        return self._sign * int(raw_id.removeprefix("file-"), 16)


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
