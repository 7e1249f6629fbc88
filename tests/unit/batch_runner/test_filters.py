"""Listing some of the batches, page by page, while others come and change."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batchyard.batch_runner.filters import fits
from batchyard.common.contracts.batches import Batch, BatchPage, BatchStatus, CancelBatch, CreateBatch, ListBatches
from batchyard.common.errors import InvalidRequest

from .conftest import MODEL, Office, chat_line
from .records import new_record

RECORD = new_record(
    model="llama", metadata={"team": "search", "job": "nightly"}, created_at=1000, status=BatchStatus.IN_PROGRESS
)


@pytest.mark.parametrize(
    ("wanted", "is_fit"),
    [
        ({}, True),
        ({"status": (BatchStatus.IN_PROGRESS,)}, True),
        ({"status": (BatchStatus.FAILED, BatchStatus.IN_PROGRESS)}, True),
        ({"status": (BatchStatus.FAILED,)}, False),
        ({"model": "llama"}, True),
        ({"model": "hosted_vllm/llama"}, True),
        ({"model": "other"}, False),
        ({"metadata": {"team": "search"}}, True),
        ({"metadata": {"team": "search", "job": "nightly"}}, True),
        ({"metadata": {"team": "search", "job": "daily"}}, False),
        ({"metadata": {"absent": ""}}, False),
        ({"created_after": 1000}, True),
        ({"created_after": 1001}, False),
        ({"created_before": 1001}, True),
        ({"created_before": 1000}, False),
        ({"created_after": 1000, "created_before": 1001, "model": "llama"}, True),
        ({"created_after": 1000, "created_before": 1001, "model": "other"}, False),
    ],
)
def test_what_fits(wanted: dict[str, Any], is_fit: bool) -> None:
    assert fits(RECORD, ListBatches(**wanted)) is is_fit


def test_a_batch_without_metadata_or_model_fits_no_filter_on_them() -> None:
    bare = RECORD.model_copy(update={"metadata": None, "model": None})
    assert not fits(bare, ListBatches(metadata={"a": "b"}))
    assert not fits(bare, ListBatches(model="llama"))


class Shelf:
    """Makes batches over one file."""

    def __init__(self, office: Office, file_id: str) -> None:
        self._office = office
        self._file_id = file_id

    async def add(self, **metadata: str) -> str:
        command = CreateBatch(input_file_id=self._file_id, endpoint="/v1/chat/completions", metadata=metadata)
        batch: Batch = await self._office.call(command)
        return batch.id


@pytest.fixture
async def shelf(office: Office) -> Shelf:
    return Shelf(office, (await office.call.upload(chat_line("a", "hi"), model=MODEL)).id)


async def test_pages_under_a_filter_while_batches_are_created(office: Office, shelf: Shelf) -> None:
    red = []
    for _ in range(7):
        red.append(await shelf.add(color="red"))
        await shelf.add(color="blue")
    found: list[str] = []
    after, pages = None, 0
    while True:
        page: BatchPage = await office.call(ListBatches(limit=3, after=after, metadata={"color": "red"}))
        found += [batch.id for batch in page.data]
        pages += 1
        await shelf.add(color="red")  # newer than every page still to come
        if not page.has_more:
            break
        after = page.last_id
    assert found == red[::-1]
    assert pages == 3


async def test_a_cursor_holds_though_its_batch_no_longer_fits(office: Office, shelf: Shelf) -> None:
    made = [await shelf.add() for _ in range(4)]
    for batch_id in made:
        await office.call.until(batch_id, lambda batch: batch.status is BatchStatus.IN_PROGRESS)
    wanted = {"status": (BatchStatus.IN_PROGRESS,), "limit": 2}
    first: BatchPage = await office.call(ListBatches(**wanted))
    assert ([batch.id for batch in first.data], first.has_more) == (made[:1:-1], True)
    await office.call(CancelBatch(batch_id=str(first.last_id)))
    await office.call.ended(str(first.last_id))
    second: BatchPage = await office.call(ListBatches(**wanted, after=first.last_id))
    assert ([batch.id for batch in second.data], second.has_more) == (made[1::-1], False)


async def test_has_more_counts_only_what_fits(office: Office, shelf: Shelf) -> None:
    await shelf.add(color="blue")
    red = await shelf.add(color="red")
    page: BatchPage = await office.call(ListBatches(limit=1, metadata={"color": "red"}))
    assert ([batch.id for batch in page.data], page.has_more) == ([red], False)
    page = await office.call(ListBatches(limit=0, metadata={"color": "red"}))
    assert (page.data, page.has_more) == ([], False)
    page = await office.call(ListBatches(metadata={"color": "green"}))
    assert (page.data, page.first_id, page.last_id, page.has_more) == ([], None, None, False)


async def test_a_model_is_found_by_each_of_its_names(open_office: Callable[..., Any], tmp_path: Path) -> None:
    config = tmp_path / "aliased.yaml"
    config.write_text(
        f"model_list:\n  - model_name: {MODEL}\n    litellm_params:\n"
        f"      model: hosted_vllm/{MODEL}\n      api_base: http://127.0.0.1:9\n"
        f"router_settings:\n  model_group_alias:\n    fast: {MODEL}\n"
    )
    office = await open_office(config=config)
    batch_id = await Shelf(office, (await office.call.upload(chat_line("a", "hi"), model="fast")).id).add()
    for name in ("fast", MODEL, f"hosted_vllm/{MODEL}"):
        page: BatchPage = await office.call(ListBatches(model=name))
        assert [batch.id for batch in page.data] == [batch_id], name
    assert (await office.call(ListBatches(model="other"))).data == []


async def test_a_cursor_that_is_no_batch_is_refused(office: Office) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await office.call(ListBatches(after="file-1"))
    assert (caught.value.param, caught.value.code) == ("after", "invalid_value")
