"""The window over records, for any files, order, limit and message size: nothing twice, nothing left out."""

from collections.abc import Iterable
from typing import Literal

from hypothesis import given
from hypothesis import strategies as st

from batchyard.common.contracts.files import FilePage, Purpose
from batchyard.common.ids import raw_id_of
from batchyard.common.paging import PageWindow
from batchyard.file_store import listing
from batchyard.file_store.listing import read_cursor
from batchyard.file_store.store import FileRecord

Order = Literal["asc", "desc"]

positions = st.integers(min_value=0, max_value=2**128 - 1) | st.integers(min_value=0, max_value=50)
orders: st.SearchStrategy[Order] = st.sampled_from(["asc", "desc"])
limits = st.integers(min_value=1, max_value=20)
sizes = st.integers(min_value=1, max_value=2_000) | st.just(1_000_000)


def record(position: int) -> FileRecord:
    return FileRecord(
        raw_id=raw_id_of("file", f"{position:032x}"),
        tenant="t",
        filename="f" * (position % 300 + 1),
        purpose=Purpose.BATCH,
        bytes=1,
        etag="e",
        object_key="k",
        model="m" if position % 2 else None,
        created_at=1,
    )


def page_of(files: Iterable[int], order: Order, limit: int, size: int, after: str | None) -> FilePage:
    window = PageWindow[FileRecord](limit, order, read_cursor(after))
    for position in files:
        window.offer(record(position).raw_id, record(position))
    return listing.page_of(window, size)


@given(files=st.lists(positions, unique=True), order=orders, limit=limits, size=sizes)
def test_walking_sees_each_file_exactly_once_in_order(files: list[int], order: Order, limit: int, size: int) -> None:
    expected = [record(position).public_id for position in sorted(files, reverse=order == "desc")]
    seen: list[str] = []
    after = None
    while True:
        page = page_of(files, order, limit, size, after)
        seen += [file.id for file in page.data]
        assert len(page.data) <= limit
        assert page.has_more == (len(seen) < len(expected))
        if not page.has_more:
            break
        after = page.last_id
    assert seen == expected


@given(
    lasting=st.sets(positions, min_size=1),
    changing=st.lists(st.sets(positions), min_size=1, max_size=8),
    order=orders,
    limit=limits,
)
def test_files_that_come_and_go_meanwhile_neither_hide_nor_repeat_the_others(
    lasting: set[int], changing: list[set[int]], order: Order, limit: int
) -> None:
    seen: list[str] = []
    after, step = None, 0
    while True:
        there = lasting | changing[step % len(changing)]
        page = page_of(there, order, limit, 1_000_000, after)
        seen += [file.id for file in page.data]
        if not page.has_more:
            break
        after, step = page.last_id, step + 1
    assert len(seen) == len(set(seen))
    assert {record(position).public_id for position in lasting} <= set(seen)


@given(position=positions, order=orders)
def test_a_record_offered_twice_is_listed_once(position: int, order: Order) -> None:
    page = page_of([position, position], order, 5, 1_000_000, None)
    assert [file.id for file in page.data] == [record(position).public_id]
    assert not page.has_more


def test_a_file_larger_than_the_page_is_still_listed() -> None:
    page = page_of([1, 2], "asc", 10, 1, None)
    assert [file.id for file in page.data] == [record(1).public_id]
    assert page.has_more
