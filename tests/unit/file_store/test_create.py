"""Bytes become a file: claimed from an upload, or sent inline."""

import asyncio

import pytest
from unit.file_store.rig import CLAIM_WITHIN, LINE, OTHER, TENANT, Rig

from batchyard.common.contracts.files import (
    CreateFile,
    DeleteFile,
    ExpiresAfter,
    GetFile,
    ListFiles,
    OpenPlace,
    Purpose,
)
from batchyard.common.errors import InvalidRequest, NotFound, ServiceUnavailable
from batchyard.common.ids import created_at_of, encode_id
from batchyard.common.object_keys import file_key
from batchyard.common.objects import ObjectStoreUnavailable, read
from batchyard.file_store.upkeep import CLAIM_GRACE

DAY = 86_400


def claim(object_key: str, *, filename: str = "input.jsonl", purpose: Purpose = Purpose.BATCH) -> CreateFile:
    return CreateFile(filename=filename, purpose=purpose, object_key=object_key)


async def test_a_claimed_upload_is_the_file_it_was_opened_as(rig: Rig) -> None:
    upload = await rig.upload(b"12345")
    file = await rig.call(claim(upload.object_key))
    assert file.id == upload.file_id
    assert file.bytes == 5
    assert file.filename == "input.jsonl"
    assert file.status == "processed"
    assert file.created_at == created_at_of(upload.file_id)


async def test_opening_an_upload_records_nothing(rig: Rig) -> None:
    upload = await rig.call(OpenPlace())
    assert upload.object_key == file_key(TENANT, upload.file_id.removeprefix("file-"))
    assert (await rig.call(ListFiles())).data == []


async def test_a_folder_has_no_urls_to_send_bytes_to(rig: Rig) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await rig.call(OpenPlace(presigned=True))
    assert (caught.value.code, caught.value.param) == ("presigned_unsupported", "presigned")


async def test_claiming_again_answers_the_same_file(rig: Rig) -> None:
    upload = await rig.upload()
    first = await rig.call(claim(upload.object_key))
    assert await rig.call(claim(upload.object_key, filename="other.jsonl")) == first


async def test_claims_at_once_answer_the_same_file(rig: Rig) -> None:
    upload = await rig.upload()
    names = [f"{number}.jsonl" for number in range(10)]
    files = await asyncio.gather(*(rig.call(claim(upload.object_key, filename=name)) for name in names))
    assert all(file == files[0] for file in files)


async def test_inline_content_is_stored_whole(rig: Rig) -> None:
    content = "snö 😀\n"
    file = await rig.call(CreateFile(filename="a.jsonl", purpose=Purpose.BATCH, content=content))
    key = file_key(TENANT, file.id.removeprefix("file-"))
    assert (await read(rig.objects, key, max_bytes=100)).decode() == content
    assert file.bytes == len(content.encode())


async def test_the_public_id_carries_the_model(rig: Rig) -> None:
    upload = await rig.upload()
    command = claim(upload.object_key).model_copy(update={"model": "org/m;x"})
    assert (await rig.call(command)).id == encode_id("file", upload.file_id, "org/m;x")


async def test_an_upload_without_bytes_cannot_be_claimed(rig: Rig) -> None:
    upload = await rig.call(OpenPlace())
    with pytest.raises(InvalidRequest, match="No such upload") as caught:
        await rig.call(claim(upload.object_key))
    assert caught.value.param == "object_key"


async def test_another_tenants_upload_answers_like_one_that_does_not_exist(rig: Rig) -> None:
    upload = await rig.upload(tenant=OTHER)
    with pytest.raises(InvalidRequest) as caught:
        await rig.call(claim(upload.object_key))
    assert caught.value.message == f"No such upload: {upload.object_key}"
    assert (await rig.call(claim(upload.object_key), OTHER)).id == upload.file_id


@pytest.mark.parametrize(
    "key", ["batches/t/x", "files/../etc", "", f"files/team=20a=2F1/{'0' * 32}", f"files/=FF/{'0' * 32}"]
)
async def test_a_key_that_is_no_uploads_is_refused(rig: Rig, key: str) -> None:
    with pytest.raises(InvalidRequest, match="No such upload"):
        await rig.call(claim(key))


async def test_an_upload_too_old_to_claim_is_refused_before_the_sweep_would_take_it(rig: Rig) -> None:
    upload = await rig.upload()
    rig.clock.advance(CLAIM_WITHIN + CLAIM_GRACE / 2)
    with pytest.raises(InvalidRequest, match="No such upload"):
        await rig.call(claim(upload.object_key))
    await rig.upkeep.sweep_places()
    assert await rig.has_bytes(upload.object_key)


async def test_a_file_that_would_have_expired_already_is_refused(rig: Rig) -> None:
    upload = await rig.upload()
    rig.clock.advance(3601)
    command = claim(upload.object_key).model_copy(update={"expires_after": ExpiresAfter(seconds=3600)})
    with pytest.raises(InvalidRequest, match="would have expired"):
        await rig.call(command)


async def test_a_deleted_files_upload_cannot_be_claimed_again(rig: Rig) -> None:
    upload = await rig.upload()
    await rig.call(claim(upload.object_key))
    await rig.call(DeleteFile(file_id=upload.file_id))
    with pytest.raises(InvalidRequest, match="No such upload"):
        await rig.call(claim(upload.object_key))


@pytest.mark.parametrize("sources", [{}, {"object_key": "files/a/b", "content": "x"}])
async def test_exactly_one_source_is_needed(rig: Rig, sources: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest, match="Exactly one"):
        await rig.call(CreateFile.model_validate({"filename": "a.jsonl", "purpose": "batch", **sources}))


async def test_an_empty_batch_input_is_refused(rig: Rig) -> None:
    upload = await rig.upload(b"")
    with pytest.raises(InvalidRequest, match="The input file is empty"):
        await rig.call(claim(upload.object_key))


async def test_empty_inline_batch_input_is_refused_and_leaves_no_bytes(rig: Rig) -> None:
    with pytest.raises(InvalidRequest, match="The input file is empty"):
        await rig.call(CreateFile(filename="a.jsonl", purpose=Purpose.BATCH, content=""))
    assert [info async for info in rig.objects.list()] == []


async def test_a_batch_input_not_named_jsonl_is_refused(rig: Rig) -> None:
    upload = await rig.upload()
    with pytest.raises(InvalidRequest, match=r"Must be \.jsonl"):
        await rig.call(claim(upload.object_key, filename="input.csv"))


async def test_files_of_other_purposes_may_be_empty_and_have_any_name(rig: Rig) -> None:
    file = await rig.call(CreateFile(filename="notes", purpose=Purpose.USER_DATA, content=""))
    assert file.bytes == 0


async def test_batch_inputs_expire_after_thirty_days_by_default(rig: Rig) -> None:
    file = await rig.create(purpose=Purpose.BATCH)
    assert file.expires_at == file.created_at + 30 * DAY


@pytest.mark.parametrize("purpose", [Purpose.BATCH_OUTPUT, Purpose.ASSISTANTS])
async def test_other_files_never_expire_by_default(rig: Rig, purpose: Purpose) -> None:
    assert (await rig.create(purpose=purpose)).expires_at is None


async def test_expiry_counts_from_creation(rig: Rig) -> None:
    file = await rig.create(purpose=Purpose.BATCH_OUTPUT, seconds=3600)
    assert file.expires_at == file.created_at + 3600


async def test_a_tenant_too_long_for_a_key_is_refused_clearly(rig: Rig) -> None:
    with pytest.raises(InvalidRequest, match="cannot hold this tenant's files"):
        await rig.call(OpenPlace(), "t" * 300)


async def test_an_object_store_that_is_away_is_told(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: object) -> None:
        raise ObjectStoreUnavailable("disk on fire")

    upload = await rig.upload()
    monkeypatch.setattr(rig.objects, "stat", away)
    with pytest.raises(ServiceUnavailable) as caught:
        await rig.call(claim(upload.object_key))
    assert caught.value.retry_after == 2
    assert "fire" not in caught.value.message


async def test_a_created_file_is_found(rig: Rig) -> None:
    file = await rig.create()
    assert await rig.call(GetFile(file_id=file.id)) == file
    with pytest.raises(NotFound):
        await rig.call(GetFile(file_id=file.id), OTHER)
    assert file.bytes == len(LINE)
