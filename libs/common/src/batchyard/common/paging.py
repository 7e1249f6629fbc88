"""Pages: a window over records in the order of their creation, cut at a limit and at what one reply can hold."""

import heapq
from collections.abc import Iterable
from typing import Generic, Literal, TypeVar

from pydantic import BaseModel

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

# A reply is one NATS message, of at most 1 MiB; the rest of it is for the envelope.
REPLY_BYTES = 960 * 1024
_UUID_DIGITS = 32


class PageWindow(Generic[T]):
    """The first `limit` records after a cursor, whatever order they are offered in.

    Raw IDs sort by creation, so a position in a listing is a raw ID, and stays one when its record is gone. At most
    `limit + 1` records are held: the one too many says that there is more.

    Args:
        limit: The largest number of records on the page.
        order: By creation: `asc` is oldest first.
        after: The raw ID after which, in that order, the page begins; None for the beginning.
    """

    def __init__(self, limit: int, order: Literal["asc", "desc"] = "desc", after: str | None = None) -> None:
        self._limit = limit
        self._sign = 1 if order == "desc" else -1
        self._after = None if after is None else self._rank(after)
        self._ranks: list[int] = []  # a heap: the last record of the window is on top
        self._records: dict[int, T] = {}

    def offer(self, raw_id: str, record: T) -> None:
        """Take a record in, if it belongs on the page as far as is known yet; a later version replaces an earlier."""
        rank = self._rank(raw_id)
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

    def records(self) -> list[T]:
        """The page, in order."""
        return [self._records[rank] for rank in sorted(self._ranks, reverse=True)[: self._limit]]

    def has_more(self, shown: int) -> bool:
        """Whether records follow after the first `shown` of them."""
        return len(self._ranks) > shown

    def _rank(self, raw_id: str) -> int:
        """A number that falls from the first record of the listing to the last."""
        return self._sign * int(raw_id[-_UUID_DIGITS:], 16)


def fitting(objects: Iterable[M], max_bytes: int = REPLY_BYTES) -> list[M]:
    """As many of `objects` from the first on as `max_bytes` of JSON hold, but at least one if there is one."""
    page: list[M] = []
    size = 0
    for item in objects:
        size += len(item.model_dump_json().encode()) + 1
        if page and size > max_bytes:
            break
        page.append(item)
    return page
