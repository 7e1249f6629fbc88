"""Parts are removed when their upload has ended; a completed upload's file is there, whatever died in between."""

import asyncio

import pytest
from unit.file_store.rig import CLAIM_WITHIN, Rig

from batchyard.common.contracts.files import ListFiles
from batchyard.common.contracts.uploads import CancelUpload, GetUpload, OpenPart, Upload
from batchyard.common.errors import NotFound, ServiceUnavailable
from batchyard.common.ids import new_raw_id
from batchyard.common.messaging.topology import PARTS_BUCKET, UPLOADS_BUCKET
from batchyard.common.object_keys import part_key
from batchyard.common.service import Messaging
from batchyard.file_store.store import record_key
from batchyard.file_store.upkeep import CLAIM_GRACE
from batchyard.file_store.upload_upkeep import REMEMBERED

TOO_OLD = CLAIM_WITHIN + CLAIM_GRACE + 1
TENANT = "team a/1"


async def ended(rig: Rig, status: str) -> Upload:
    """An upload with a part, a part that was never claimed, and an end."""
    upload = await rig.announce(1)
    part = await rig.add(upload, b"a")
    await rig.objects.put((await rig.call(OpenPart(upload_id=upload.id))).object_key, b"b")
    if status == "completed":
        await rig.complete(upload, part)
    elif status == "cancelled":
        await rig.call(CancelUpload(upload_id=upload.id))
    else:
        rig.clock.advance(3601 + CLAIM_GRACE)
    return upload


async def parts_recorded(messaging: Messaging) -> int:
    return (await messaging.js.stream_info(f"KV_{PARTS_BUCKET}")).state.messages


@pytest.mark.parametrize("status", ["completed", "cancelled", "expired"])
async def test_parts_go_when_their_upload_has_ended(rig: Rig, messaging: Messaging, status: str) -> None:
    upload = await ended(rig, status)
    before = await rig.call(GetUpload(upload_id=upload.id))
    assert len(await rig.keys("uploads/")) == 2
    await rig.upload_upkeep.settle()
    assert await rig.keys("uploads/") == []
    assert await parts_recorded(messaging) == 0
    assert await rig.call(GetUpload(upload_id=upload.id)) == before
    assert before.status == status
    assert len(await rig.keys("files/")) == (status == "completed")


async def test_parts_in_use_stay(rig: Rig) -> None:
    upload = await rig.announce(1)
    part = await rig.add(upload, b"a")
    rig.clock.advance(3599)
    await rig.upload_upkeep.settle()
    await rig.upkeep.sweep_places()
    await rig.upload_upkeep.sweep()
    assert (await rig.complete(upload, part)).status == "completed"


async def test_an_upload_is_forgotten_a_day_after_its_end(rig: Rig, messaging: Messaging) -> None:
    uploads = [await ended(rig, status) for status in ("completed", "cancelled", "expired")]
    await rig.upload_upkeep.settle()
    rig.clock.advance(REMEMBERED)
    await rig.upload_upkeep.settle()
    for upload in uploads:
        with pytest.raises(NotFound):
            await rig.call(GetUpload(upload_id=upload.id))
    assert [entry async for entry in rig.upload_records.list("")] == []
    assert len((await rig.call(ListFiles())).data) == 1


async def test_a_file_that_a_crash_kept_back_is_recorded(rig: Rig, messaging: Messaging) -> None:
    upload = await ended(rig, "completed")
    (entry,) = [entry async for entry in rig.records.list("")]
    await messaging.js.purge_stream("KV_files")  # as if the process had died before it wrote the file's record
    assert (await rig.call(ListFiles())).data == []
    await rig.upload_upkeep.settle()
    (file,) = (await rig.call(ListFiles())).data
    assert file.id == entry.value.raw_id
    assert (await rig.call(GetUpload(upload_id=upload.id))).file == file


async def test_a_file_that_was_deleted_before_its_parts_does_not_come_back(rig: Rig) -> None:
    await ended(rig, "completed")
    (entry,) = [entry async for entry in rig.records.list("")]
    await rig.files.remove(entry)
    await rig.upload_upkeep.settle()
    assert (await rig.call(ListFiles())).data == []


async def test_replicas_settle_the_same_uploads(rig: Rig) -> None:
    uploads = [await ended(rig, status) for status in ("completed", "cancelled", "completed", "expired")]
    await asyncio.gather(*(rig.upload_upkeep.settle() for _ in range(3)))
    assert await rig.keys("uploads/") == []
    states = [(await rig.call(GetUpload(upload_id=upload.id))).status for upload in uploads]
    assert states == ["completed", "cancelled", "completed", "expired"]


async def test_settling_again_changes_nothing(rig: Rig) -> None:
    upload = await ended(rig, "cancelled")
    await rig.upload_upkeep.settle()
    entry = await rig.upload_records.get(record_key(TENANT, upload.id))
    await rig.upload_upkeep.settle()
    assert await rig.upload_records.get(record_key(TENANT, upload.id)) == entry


async def test_bytes_of_parts_that_came_too_late_are_swept(rig: Rig) -> None:
    upload = await ended(rig, "cancelled")
    await rig.upload_upkeep.settle()
    late = part_key(TENANT, upload.id.removeprefix("upload_"), new_raw_id("part").removeprefix("part_"))
    orphan = part_key("nobody", new_raw_id("upload").removeprefix("upload_"), late[-32:])
    waiting = await rig.announce(1)
    kept = (await rig.call(OpenPart(upload_id=waiting.id))).object_key
    for key in (late, orphan, kept, "uploads/t/not-a-part"):
        await rig.objects.put(key, b"x")
    await rig.upload_upkeep.sweep()
    assert len(await rig.keys("uploads/")) == 4
    rig.clock.advance(TOO_OLD)
    await rig.upload_upkeep.sweep()
    assert set(await rig.keys("uploads/")) == {kept, "uploads/t/not-a-part"}


async def test_nothing_is_swept_when_the_records_are_missing_as_a_whole(rig: Rig, messaging: Messaging) -> None:
    upload = await rig.announce(1)
    await rig.add(upload, b"a")
    rig.clock.advance(TOO_OLD)
    await messaging.js.delete_stream(f"KV_{UPLOADS_BUCKET}")
    with pytest.raises(ServiceUnavailable):
        await rig.upload_upkeep.sweep()
    assert len(await rig.keys("uploads/")) == 1
