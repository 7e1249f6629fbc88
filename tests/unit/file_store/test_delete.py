"""A deleted file is gone at once, its bytes too."""

import asyncio

import pytest
from unit.file_store.rig import OTHER, Rig

from batchyard.common.contracts.files import DeletedFile, DeleteFile, GetFile, ListFiles, OpenDownload
from batchyard.common.errors import NotFound
from batchyard.common.ids import decode_id
from batchyard.common.objects import ObjectStoreUnavailable
from batchyard.file_store.files import DELETION_REMEMBERED


async def test_a_deleted_file_is_gone_with_its_bytes(rig: Rig) -> None:
    file = await rig.create(model="m")
    key = (await rig.call(OpenDownload(file_id=file.id))).object_key
    assert await rig.call(DeleteFile(file_id=decode_id(file.id).raw)) == DeletedFile(id=file.id)
    assert not await rig.has_bytes(key)
    assert (await rig.call(ListFiles())).data == []
    with pytest.raises(NotFound):
        await rig.call(GetFile(file_id=file.id))


async def test_a_deletion_sent_again_is_answered_alike_for_a_while(rig: Rig) -> None:
    file = await rig.create()
    for _ in range(2):
        assert await rig.call(DeleteFile(file_id=file.id)) == DeletedFile(id=file.id)
    with pytest.raises(NotFound, match=f"No such File object: {file.id}"):
        await rig.call(DeleteFile(file_id=file.id), OTHER)
    rig.clock.advance(DELETION_REMEMBERED + 5)
    with pytest.raises(NotFound, match=f"No such File object: {file.id}"):
        await rig.call(DeleteFile(file_id=file.id))


async def test_deletions_at_once_all_succeed(rig: Rig) -> None:
    file = await rig.create()
    deletions = (rig.call(DeleteFile(file_id=file.id)) for _ in range(8))
    assert await asyncio.gather(*deletions) == [DeletedFile(id=file.id)] * 8


async def test_bytes_that_cannot_be_deleted_do_not_keep_the_file(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: object) -> None:
        raise ObjectStoreUnavailable("away")

    file = await rig.create()
    monkeypatch.setattr(rig.objects, "delete", away)
    assert await rig.call(DeleteFile(file_id=file.id)) == DeletedFile(id=file.id)
    with pytest.raises(NotFound):
        await rig.call(GetFile(file_id=file.id))
