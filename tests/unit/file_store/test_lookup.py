"""Which IDs name a file, and for whom."""

from typing import Any

import pytest
from unit.file_store.rig import LINE, OTHER, TENANT, Rig

from batchyard.common.contracts.base import Command
from batchyard.common.contracts.files import DeleteFile, GetFile, OpenDownload, Purpose
from batchyard.common.errors import NotFound
from batchyard.common.ids import decode_id, encode_id, new_raw_id, raw_id_of
from batchyard.common.object_keys import file_key
from batchyard.common.objects import read

Asking = GetFile | DeleteFile | OpenDownload
ASKING: list[type[Asking]] = [GetFile, DeleteFile, OpenDownload]

BATCH_ID = raw_id_of("batch", "0192f0c1" + "0" * 24)


async def not_found(rig: Rig, command: Command[Any], file_id: str, tenant: str = TENANT) -> None:
    with pytest.raises(NotFound) as caught:
        await rig.call(command, tenant)
    assert caught.value.message == f"No such File object: {file_id}"
    assert caught.value.param == "id"


async def test_a_file_with_a_model_is_found_by_its_raw_id_too(rig: Rig) -> None:
    file = await rig.create(model="m")
    assert await rig.call(GetFile(file_id=decode_id(file.id).raw)) == file


async def test_a_file_is_not_found_under_another_model(rig: Rig) -> None:
    file = await rig.create(model="m")
    wrong = encode_id("file", decode_id(file.id).raw, "n")
    await not_found(rig, GetFile(file_id=wrong), wrong)


async def test_a_file_without_a_model_is_found_under_any(rig: Rig) -> None:
    file = await rig.create()
    assert await rig.call(GetFile(file_id=encode_id("file", file.id, "m"))) == file


@pytest.mark.parametrize(
    "file_id",
    ["", "file-", "file-1", "x.y.>", "*", BATCH_ID, encode_id("file", "../x", "m"), "file-" + "é" * 9],
)
async def test_what_is_no_id_is_not_found(rig: Rig, file_id: str) -> None:
    await not_found(rig, GetFile(file_id=file_id), file_id)


@pytest.mark.parametrize("command", ASKING)
async def test_a_file_that_never_was_is_not_found(rig: Rig, command: type[Asking]) -> None:
    file_id = new_raw_id("file")
    await not_found(rig, command(file_id=file_id), file_id)


@pytest.mark.parametrize("command", ASKING)
async def test_another_tenants_file_is_not_found(rig: Rig, command: type[Asking]) -> None:
    file = await rig.create()
    await not_found(rig, command(file_id=file.id), file.id, OTHER)
    assert await rig.call(GetFile(file_id=file.id)) == file


@pytest.mark.parametrize("command", ASKING)
async def test_an_expired_file_is_not_found(rig: Rig, command: type[Asking]) -> None:
    file = await rig.create(seconds=3600)
    rig.clock.advance(3601)  # IDs are stamped by the real clock, and a second may begin in between
    await not_found(rig, command(file_id=file.id), file.id)


async def test_a_file_is_found_up_to_its_last_second(rig: Rig) -> None:
    file = await rig.create(seconds=3600)
    assert file.expires_at is not None
    rig.clock.advance(file.expires_at - 0.001 - rig.clock.now())
    assert await rig.call(GetFile(file_id=file.id)) == file


async def test_a_download_says_where_the_bytes_are(rig: Rig) -> None:
    file = await rig.create(model="m")
    raw_id = decode_id(file.id).raw
    download = await rig.call(OpenDownload(file_id=file.id))
    assert download.file == file
    assert (download.raw_id, download.model) == (raw_id, "m")
    assert download.object_key == file_key(TENANT, raw_id.removeprefix("file-"))
    assert (await rig.objects.stat(download.object_key)).etag == download.etag
    assert await read(rig.objects, download.object_key, max_bytes=100) == LINE.encode()


async def test_a_download_of_a_file_without_a_model_names_the_one_asked_with(rig: Rig) -> None:
    file = await rig.create(purpose=Purpose.ASSISTANTS)
    assert (await rig.call(OpenDownload(file_id=encode_id("file", file.id, "m")))).model == "m"
    assert (await rig.call(OpenDownload(file_id=file.id))).model is None
