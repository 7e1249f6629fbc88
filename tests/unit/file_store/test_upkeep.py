"""Expired files and unclaimed uploads go; everything else stays."""

import asyncio

import pytest
from structlog.testing import capture_logs
from unit.file_store.rig import CLAIM_WITHIN, Rig

from batchyard.common.contracts.files import CreateFile, DeleteFile, File, OpenDownload, Purpose
from batchyard.common.errors import ServiceUnavailable
from batchyard.common.messaging.topology import FILES_BUCKET
from batchyard.common.service import Messaging
from batchyard.file_store.upkeep import CLAIM_GRACE

TOO_OLD = CLAIM_WITHIN + CLAIM_GRACE + 1


async def key_of(rig: Rig, file: File) -> str:
    return (await rig.call(OpenDownload(file_id=file.id))).object_key


async def recorded(rig: Rig) -> set[str]:
    return {entry.value.raw_id async for entry in rig.records.list("")}


async def test_an_expired_files_record_and_bytes_are_removed(rig: Rig) -> None:
    file = await rig.create(seconds=3600)
    key = await key_of(rig, file)
    rig.clock.advance(3601)  # IDs are stamped by the real clock, and a second may begin in between
    await rig.upkeep.remove_expired()
    assert await recorded(rig) == set()
    assert not await rig.has_bytes(key)


async def test_files_whose_time_has_not_come_stay(rig: Rig) -> None:
    later, never = await rig.create(seconds=7200), await rig.create(purpose=Purpose.ASSISTANTS)
    rig.clock.advance(3601)  # IDs are stamped by the real clock, and a second may begin in between
    await rig.upkeep.remove_expired()
    assert await recorded(rig) == {later.id, never.id}
    assert await rig.has_bytes(await key_of(rig, later))


async def test_replicas_remove_each_expired_file_once(rig: Rig) -> None:
    files = [await rig.create(seconds=3600) for _ in range(20)]
    rig.clock.advance(3601)  # IDs are stamped by the real clock, and a second may begin in between
    with capture_logs() as logs:
        await asyncio.gather(*(rig.upkeep.remove_expired() for _ in range(3)))
    expired = [log["file_id"] for log in logs if log["event"] == "file.expired"]
    assert sorted(expired) == sorted(file.id for file in files)


async def test_nothing_is_left_of_files_that_went_long_ago(rig: Rig, messaging: Messaging) -> None:
    async def kept() -> int:
        return (await messaging.js.stream_info(f"KV_{FILES_BUCKET}")).state.messages

    stays, gone = await rig.create(), await rig.create()
    await rig.call(DeleteFile(file_id=gone.id))
    await rig.upkeep.forget_removed()
    assert await kept() == 2
    rig.clock.advance(TOO_OLD)
    await rig.upkeep.forget_removed()
    assert await kept() == 1
    assert await recorded(rig) == {stays.id}


async def test_an_upload_never_claimed_is_swept(rig: Rig) -> None:
    upload = await rig.upload()
    rig.clock.advance(TOO_OLD)
    with capture_logs() as logs:
        await rig.upkeep.sweep_places()
    assert not await rig.has_bytes(upload.object_key)
    assert [log["object_key"] for log in logs if log["event"] == "place.swept"] == [upload.object_key]


async def test_a_young_upload_is_not_swept(rig: Rig) -> None:
    upload = await rig.upload()
    rig.clock.advance(CLAIM_WITHIN - 60)
    await rig.upkeep.sweep_places()
    claim = CreateFile(filename="a.jsonl", purpose=Purpose.BATCH, object_key=upload.object_key)
    assert (await rig.call(claim)).id == upload.file_id


async def test_a_files_bytes_are_not_swept(rig: Rig) -> None:
    file = await rig.create()
    rig.clock.advance(TOO_OLD)
    await rig.upkeep.sweep_places()
    assert await rig.has_bytes(await key_of(rig, file))


async def test_bytes_that_a_crash_left_after_their_record_was_deleted_are_swept(rig: Rig) -> None:
    file = await rig.create()
    key = await key_of(rig, file)
    (entry,) = [entry async for entry in rig.records.list("")]
    await rig.records.delete(entry.key, entry.revision)
    rig.clock.advance(TOO_OLD)
    await rig.upkeep.sweep_places()
    assert not await rig.has_bytes(key)


@pytest.mark.parametrize("key", ["files/t/not-a-uuid", "batches/t/x/segment", "elsewhere"])
async def test_objects_that_are_no_uploads_are_left_alone(rig: Rig, key: str) -> None:
    await rig.objects.put(key, b"x")
    rig.clock.advance(TOO_OLD)
    await rig.upkeep.sweep_places()
    assert await rig.has_bytes(key)


async def test_nothing_is_swept_when_the_records_are_missing_as_a_whole(rig: Rig, messaging: Messaging) -> None:
    upload = await rig.upload()
    rig.clock.advance(TOO_OLD)
    await messaging.js.delete_stream(f"KV_{FILES_BUCKET}")
    with pytest.raises(ServiceUnavailable):
        await rig.upkeep.sweep_places()
    assert await rig.has_bytes(upload.object_key)
