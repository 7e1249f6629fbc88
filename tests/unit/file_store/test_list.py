"""Listing over real commands: filters, order, cursors, and pages that fit into a message."""

import asyncio
from typing import Literal

import pytest
from unit.file_store.rig import OTHER, TENANT, Rig

from batchyard.common.contracts.files import CreateFile, DeleteFile, FilePage, ListFiles, Purpose
from batchyard.common.errors import InvalidRequest
from batchyard.common.ids import created_at_of, decode_id, encode_id, new_raw_id, raw_id_of
from batchyard.file_store.store import FileRecord

BATCH_ID = raw_id_of("batch", "0192f0c1" + "0" * 24)


async def walk(rig: Rig, command: ListFiles) -> list[str]:
    """The IDs of all pages, as the SDKs walk them."""
    found: list[str] = []
    while True:
        page = await rig.call(command)
        found += [file.id for file in page.data]
        if not page.has_more:
            return found
        command = command.model_copy(update={"after": page.last_id})


async def test_a_tenant_without_files_has_an_empty_page(rig: Rig) -> None:
    assert await rig.call(ListFiles()) == FilePage(data=[], first_id=None, last_id=None, has_more=False)


async def test_the_newest_file_is_first_unless_asked_otherwise(rig: Rig) -> None:
    files = [await rig.create(f"{number}.jsonl") for number in range(3)]
    page = await rig.call(ListFiles())
    assert page.data == files[::-1]
    assert (page.first_id, page.last_id, page.has_more) == (files[2].id, files[0].id, False)
    assert (await rig.call(ListFiles(order="asc"))).data == files


async def test_listed_ids_are_public(rig: Rig) -> None:
    file = await rig.create(model="org/m")
    page = await rig.call(ListFiles())
    assert [listed.id for listed in page.data] == [page.first_id] == [page.last_id] == [file.id]


async def test_only_the_tenants_own_files_are_listed(rig: Rig) -> None:
    mine = await rig.create()
    await rig.create(tenant=OTHER)
    await rig.create(tenant=f"{TENANT}1")
    assert (await rig.call(ListFiles())).data == [mine]


async def test_a_purpose_selects(rig: Rig) -> None:
    await rig.create(purpose=Purpose.BATCH)
    output = await rig.create(purpose=Purpose.BATCH_OUTPUT)
    assert (await rig.call(ListFiles(purpose="batch_output"))).data == [output]


async def test_an_unknown_purpose_selects_nothing(rig: Rig) -> None:
    await rig.create()
    assert (await rig.call(ListFiles(purpose="poetry"))).data == []


async def test_expired_files_are_not_listed(rig: Rig) -> None:
    lasting = await rig.create(purpose=Purpose.USER_DATA)
    await rig.create(seconds=3600)
    rig.clock.advance(3601)  # IDs are stamped by the real clock, and a second may begin in between
    page = await rig.call(ListFiles(limit=1))
    assert (page.data, page.has_more) == ([lasting], False)


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8])
async def test_walking_pages_sees_each_file_once(rig: Rig, order: Literal["asc", "desc"], limit: int) -> None:
    created = [(await rig.create(model="m" if number % 2 else None)).id for number in range(7)]
    expected = created if order == "asc" else created[::-1]
    assert await walk(rig, ListFiles(order=order, limit=limit)) == expected


async def test_a_cursor_may_be_any_form_of_the_id(rig: Rig) -> None:
    old, new = await rig.create(model="m"), await rig.create(model="m")
    raw_id = decode_id(new.id).raw
    for after in (raw_id, new.id, encode_id("file", raw_id, "another")):
        assert (await rig.call(ListFiles(after=after))).data == [old]


async def test_paging_goes_on_when_the_cursors_file_is_deleted(rig: Rig) -> None:
    old, middle, new = [await rig.create() for _ in range(3)]
    page = await rig.call(ListFiles(limit=2))
    assert page.last_id == middle.id
    await rig.call(DeleteFile(file_id=middle.id))
    assert (await rig.call(ListFiles(after=page.last_id))).data == [old]
    assert new in page.data


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_files_that_come_and_go_meanwhile_neither_hide_nor_repeat_the_others(
    rig: Rig, order: Literal["asc", "desc"]
) -> None:
    doomed, lasting = [], []
    for _ in range(8):
        doomed.append((await rig.create()).id)
        lasting.append((await rig.create()).id)
    stop, made = asyncio.Event(), 0

    async def meddle() -> None:
        nonlocal made
        while not stop.is_set():
            await rig.create(seconds=3600)
            made += 1
            if doomed:
                await rig.call(DeleteFile(file_id=doomed.pop(made % len(doomed))))

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(meddle())
        seen: list[str] = []
        command = ListFiles(order=order, limit=2)
        while len(seen) < 200:
            page = await rig.call(command)
            seen += [file.id for file in page.data]
            assert page.last_id == seen[-1]
            command = command.model_copy(update={"after": page.last_id})
            if seen[-1] >= lasting[-1] if order == "asc" else not page.has_more:
                break
            # The file that the cursor names may be gone by the next page, and often is.
            if page.last_id in doomed:
                doomed.remove(page.last_id)
                await rig.call(DeleteFile(file_id=page.last_id))
        stop.set()
    assert made > 0
    assert len(seen) == len(set(seen))
    assert seen == sorted(seen, reverse=order == "desc")
    assert [file_id for file_id in seen if file_id in lasting] == (lasting if order == "asc" else lasting[::-1])


@pytest.mark.parametrize("after", ["", "file-1", BATCH_ID, encode_id("batch", BATCH_ID, "m")])
async def test_a_cursor_that_is_no_files_id_is_refused(rig: Rig, after: str) -> None:
    with pytest.raises(InvalidRequest, match="is not the ID of a file") as caught:
        await rig.call(ListFiles(after=after))
    assert caught.value.param == "after"


async def test_more_files_than_a_message_holds_come_in_several_pages(rig: Rig) -> None:
    name = "😀" * 1_020 + ".txt"
    expected = []
    for _ in range(300):
        record = record_of(TENANT, name)
        await rig.records.create(record.key, record)
        expected.append(record.raw_id)
    first = await rig.call(ListFiles(order="asc"))
    assert first.has_more
    assert 100 < len(first.data) < 300
    assert await walk(rig, ListFiles(order="asc")) == sorted(expected)


def record_of(tenant: str, filename: str) -> FileRecord:
    raw_id = new_raw_id("file")
    command = CreateFile(filename=filename, purpose=Purpose.USER_DATA, content="")
    return FileRecord(
        raw_id=raw_id,
        tenant=tenant,
        filename=command.filename,
        purpose=command.purpose,
        bytes=0,
        etag="e",
        object_key="k",
        created_at=created_at_of(raw_id),
    )
