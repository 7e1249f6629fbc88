"""Parts become a file: announced, added in any order, joined once."""

import asyncio
import hashlib
from typing import Any

import pytest
from unit.file_store.rig import LIMITS, LINE, OTHER, Rig

from batchyard.common.contracts.base import Command
from batchyard.common.contracts.files import CreateFile, DeleteFile, ExpiresAfter, GetFile, ListFiles, Purpose
from batchyard.common.contracts.uploads import (
    AddPart,
    CancelUpload,
    CompleteUpload,
    CreateUpload,
    GetUpload,
    OpenPart,
    Upload,
)
from batchyard.common.errors import ApiError, InvalidRequest, NotFound, PayloadTooLarge, ServiceUnavailable
from batchyard.common.ids import created_at_of, decode_id, encode_id, new_raw_id
from batchyard.common.object_keys import part_key
from batchyard.common.objects import ObjectStoreUnavailable, read
from batchyard.file_store.upload import part_record_key

DAY = 86_400


async def content_of(rig: Rig, upload: Upload) -> bytes:
    assert upload.file is not None
    record = await rig.records.get(f"team=20a=2F1.{decode_id(upload.file.id).raw}")
    assert record is not None
    return await read(rig.objects, record.value.object_key, max_bytes=1 << 20)


async def refused(rig: Rig, command: Command[Any], code: str | None, kind: type[ApiError] = InvalidRequest) -> ApiError:
    with pytest.raises(kind) as caught:
        await rig.call(command)
    assert caught.value.code == code
    return caught.value


async def test_an_upload_is_announced(rig: Rig) -> None:
    upload = await rig.announce(5)
    assert (upload.bytes, upload.filename, upload.purpose) == (5, "notes.bin", Purpose.USER_DATA)
    assert (upload.status, upload.file) == ("pending", None)
    assert upload.created_at == created_at_of(upload.id)
    assert upload.expires_at == upload.created_at + 3600
    assert await rig.call(GetUpload(upload_id=upload.id)) == upload
    assert await rig.keys() == []


async def test_parts_become_a_file_in_the_order_of_completion(rig: Rig) -> None:
    upload = await rig.announce(9)
    second, third, first = [await rig.add(upload, content) for content in (b"def", b"ghi", b"abc")]
    done = await rig.complete(upload, first, second, third)
    assert (done.id, done.status) == (upload.id, "completed")
    assert await content_of(rig, done) == b"abcdefghi"
    assert done.file is not None
    assert (done.file.bytes, done.file.filename, done.file.purpose) == (9, "notes.bin", "user_data")
    assert await rig.call(GetFile(file_id=done.file.id)) == done.file
    assert (await rig.call(ListFiles())).data == [done.file]
    assert await rig.call(GetUpload(upload_id=upload.id)) == done


async def test_parts_may_come_at_once_and_be_left_out(rig: Rig) -> None:
    upload = await rig.announce(10)
    parts = await asyncio.gather(*(rig.add(upload, bytes([65 + number])) for number in range(12)))
    done = await rig.complete(upload, *reversed(parts[:10]))
    assert await content_of(rig, done) == b"JIHGFEDCBA"


async def test_the_file_carries_the_model_and_the_lifetime_that_were_announced(rig: Rig) -> None:
    command = CreateUpload(
        filename="in.jsonl",
        purpose=Purpose.BATCH,
        bytes=len(LINE),
        model="org/m;x",
        expires_after=ExpiresAfter(seconds=7200),
    )
    upload = await rig.call(command)
    done = await rig.complete(upload, await rig.add(upload, LINE.encode()), model="another")
    assert done.file is not None
    assert decode_id(done.file.id).model == "org/m;x"
    assert done.file.expires_at == done.file.created_at + 7200


async def test_a_model_may_be_named_at_completion(rig: Rig) -> None:
    upload = await rig.announce(len(LINE), "in.jsonl", Purpose.BATCH)
    done = await rig.complete(upload, await rig.add(upload, LINE.encode()), model="m")
    assert done.file is not None
    assert decode_id(done.file.id).model == "m"
    assert done.file.expires_at == done.file.created_at + 30 * DAY


async def test_completing_again_answers_the_same_upload(rig: Rig) -> None:
    upload = await rig.announce(2)
    parts = [await rig.add(upload, b"a"), await rig.add(upload, b"b")]
    first = await rig.complete(upload, *parts)
    assert await rig.complete(upload, *parts) == first
    error = await refused(rig, CompleteUpload(upload_id=upload.id, part_ids=tuple(parts[::-1])), "upload_completed")
    assert error.param == "part_ids"


async def test_completions_at_once_make_one_file(rig: Rig) -> None:
    upload = await rig.announce(2)
    parts = [await rig.add(upload, b"a"), await rig.add(upload, b"b")]
    # Different models and digests make different jobs: as on several replicas, each joins the parts by itself.
    md5 = hashlib.md5(b"ab").hexdigest()
    uploads = await asyncio.gather(
        *(rig.complete(upload, *parts, model=f"m{number}", md5=md5) for number in range(5)),
        *(rig.complete(upload, *parts) for _ in range(5)),
    )
    assert all(done == uploads[0] for done in uploads)
    assert len(await rig.keys("files/")) == 1
    assert (await rig.call(ListFiles())).data == [uploads[0].file]


async def test_completions_at_once_with_different_orders_make_one_file(rig: Rig) -> None:
    upload = await rig.announce(2)
    parts = [await rig.add(upload, b"a"), await rig.add(upload, b"b")]
    outcomes = await asyncio.gather(
        rig.complete(upload, *parts), rig.complete(upload, *reversed(parts)), return_exceptions=True
    )
    (done,) = (outcome for outcome in outcomes if isinstance(outcome, Upload))
    (lost,) = (outcome for outcome in outcomes if isinstance(outcome, InvalidRequest))
    assert lost.code == "upload_completed"
    assert await content_of(rig, done) == (b"ab" if outcomes[0] is done else b"ba")
    assert len(await rig.keys("files/")) == 1


async def test_a_deleted_file_does_not_come_back_with_another_completion(rig: Rig) -> None:
    upload = await rig.announce(1)
    part = await rig.add(upload, b"a")
    done = await rig.complete(upload, part)
    assert done.file is not None
    await rig.call(DeleteFile(file_id=done.file.id))
    again = await rig.complete(upload, part)
    assert (again.status, again.file) == ("completed", None)
    with pytest.raises(NotFound):
        await rig.call(GetFile(file_id=done.file.id))


async def test_the_md5_is_checked(rig: Rig) -> None:
    upload = await rig.announce(1500)
    parts = (await rig.add(upload, b"a" * 1000), await rig.add(upload, b"b" * 500))
    wrong = CompleteUpload(upload_id=upload.id, part_ids=parts, md5="0" * 32)
    assert (await refused(rig, wrong, "md5_mismatch")).param == "md5"
    assert (await rig.call(GetUpload(upload_id=upload.id))).status == "pending"
    right = hashlib.md5(b"a" * 1000 + b"b" * 500).hexdigest().upper()
    assert (await rig.complete(upload, *parts, md5=right)).status == "completed"


@pytest.mark.parametrize("size", [1, 5])
async def test_another_number_of_bytes_than_announced_is_refused(rig: Rig, size: int) -> None:
    upload = await rig.announce(size)
    part = await rig.add(upload, b"abc")
    error = await refused(rig, CompleteUpload(upload_id=upload.id, part_ids=(part,)), "size_mismatch")
    assert error.message == f"The parts hold 3 bytes in total, but the upload was created for {size} bytes."
    assert await rig.keys("files/") == []


async def test_only_the_uploads_own_parts_can_be_chosen(rig: Rig) -> None:
    upload, another = await rig.announce(1), await rig.announce(1)
    mine, theirs = await rig.add(upload, b"a"), await rig.add(another, b"b")
    for part_id in (theirs, new_raw_id("part"), "part_x", "*", ""):
        error = await refused(rig, CompleteUpload(upload_id=upload.id, part_ids=(mine, part_id)), "invalid_value")
        assert (error.message, error.param) == (f"No such Part object: {part_id}", "part_ids[1]")
    await refused(rig, CompleteUpload(upload_id=upload.id, part_ids=(mine, mine)), "invalid_value")
    await refused(rig, CompleteUpload(upload_id=upload.id, part_ids=()), "size_mismatch")


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"custom_id,method\n", "invalid_json_line"), (b"\xef\xbb\xbf\r\n \n", "empty_file"), (b" " * 30, "empty_file")],
)
async def test_what_no_batch_could_run_is_refused_as_in_a_direct_upload(rig: Rig, content: bytes, code: str) -> None:
    upload = await rig.announce(len(content), "in.jsonl", Purpose.BATCH)
    parts = (await rig.add(upload, content[:2]), await rig.add(upload, content[2:]))
    assert (await refused(rig, CompleteUpload(upload_id=upload.id, part_ids=parts), code)).param == "file"


async def test_a_first_line_may_reach_over_several_parts(rig: Rig) -> None:
    content = LINE.encode() * 3
    upload = await rig.announce(len(content), "in.jsonl", Purpose.BATCH)
    parts = [await rig.add(upload, content[start : start + 7]) for start in range(0, len(content), 7)]
    assert await content_of(rig, await rig.complete(upload, *parts)) == content


async def test_a_batch_input_not_named_jsonl_is_refused_at_once(rig: Rig) -> None:
    command = CreateUpload(filename="in.csv", purpose=Purpose.BATCH, bytes=1)
    assert (await refused(rig, command, "invalid_value")).param == "filename"


async def test_an_upload_larger_than_allowed_is_refused_at_once(rig: Rig) -> None:
    command = CreateUpload(filename="a", purpose=Purpose.EVALS, bytes=LIMITS.max_bytes + 1)
    assert (await refused(rig, command, None, PayloadTooLarge)).param == "bytes"


async def test_a_part_without_bytes_or_with_too_many_is_refused(rig: Rig) -> None:
    upload = await rig.announce(1)
    for content, kind, code in ((b"", InvalidRequest, "empty_part"), (b"x" * 1001, PayloadTooLarge, None)):
        place = await rig.call(OpenPart(upload_id=upload.id))
        assert place.max_bytes == 1000
        await rig.objects.put(place.object_key, content)
        await refused(rig, AddPart(upload_id=upload.id, object_key=place.object_key), code, kind)


async def test_a_place_in_which_nothing_lies_is_no_part(rig: Rig) -> None:
    upload, another = await rig.announce(1), await rig.announce(1)
    empty = (await rig.call(OpenPart(upload_id=upload.id))).object_key
    elsewhere = (await rig.call(OpenPart(upload_id=another.id))).object_key
    await rig.objects.put(elsewhere, b"x")
    timeless = part_key("team a/1", upload.id.removeprefix("upload_"), "0" * 32)
    for key in (empty, elsewhere, timeless, "files/t/x", ""):
        error = await refused(rig, AddPart(upload_id=upload.id, object_key=key), None)
        assert error.param == "object_key"


async def test_claiming_a_part_again_answers_the_same_part(rig: Rig) -> None:
    upload = await rig.announce(1)
    place = await rig.call(OpenPart(upload_id=upload.id))
    await rig.objects.put(place.object_key, b"a")
    claim = AddPart(upload_id=upload.id, object_key=place.object_key)
    first = await rig.call(claim)
    assert (first.id, first.upload_id, first.object) == (place.part_id, upload.id, "upload.part")
    assert await rig.call(claim) == first
    assert (await rig.complete(upload, first.id)).status == "completed"
    assert await rig.call(claim) == first


async def test_an_upload_has_only_so_many_parts(rig: Rig) -> None:
    upload = await rig.announce(1)
    for _ in range(LIMITS.max_parts):
        await rig.add(upload, b"x")
    with pytest.raises(InvalidRequest, match="at most 12 parts") as caught:
        await rig.add(upload, b"x")
    assert caught.value.code == "too_many_parts"


async def test_an_upload_that_never_was_is_not_found(rig: Rig) -> None:
    theirs = await rig.call(CreateUpload(filename="a", purpose=Purpose.EVALS, bytes=1), OTHER)
    for upload_id in (theirs.id, new_raw_id("upload"), "upload_x", "", "*", ">", new_raw_id("file")):
        commands: list[Command[Any]] = [
            GetUpload(upload_id=upload_id),
            OpenPart(upload_id=upload_id),
            AddPart(upload_id=upload_id, object_key="x"),
            CompleteUpload(upload_id=upload_id, part_ids=()),
            CancelUpload(upload_id=upload_id),
        ]
        for command in commands:
            with pytest.raises(NotFound, match="No such Upload object") as caught:
                await rig.call(command)
            assert (caught.value.message, caught.value.param) == (f"No such Upload object: {upload_id}", "id")


async def test_an_upload_that_has_ended_takes_nothing_more(rig: Rig) -> None:
    uploads = {status: await rig.announce(1) for status in ("completed", "cancelled", "expired")}
    parts = {status: await rig.add(upload, b"a") for status, upload in uploads.items()}
    places = {status: await rig.call(OpenPart(upload_id=upload.id)) for status, upload in uploads.items()}
    for place in places.values():
        await rig.objects.put(place.object_key, b"b")
    await rig.complete(uploads["completed"], parts["completed"])
    await rig.call(CancelUpload(upload_id=uploads["cancelled"].id))
    rig.clock.advance(3601)
    for status, upload in uploads.items():
        assert (await rig.call(GetUpload(upload_id=upload.id))).status == status
        code = f"upload_{status}"
        error = await refused(rig, OpenPart(upload_id=upload.id), code)
        assert error.message == f"Cannot add a part to an upload with status '{status}'."
        await refused(rig, AddPart(upload_id=upload.id, object_key=places[status].object_key), code)
        if status != "cancelled":
            error = await refused(rig, CancelUpload(upload_id=upload.id), code)
            assert error.message == f"Cannot cancel an upload with status '{status}'."
        if status != "completed":
            command = CompleteUpload(upload_id=upload.id, part_ids=(parts[status],))
            assert (await refused(rig, command, code)).message == f"Cannot complete an upload with status '{status}'."


async def test_a_second_cancel_answers_like_the_first(rig: Rig) -> None:
    upload = await rig.announce(1)
    first = await rig.call(CancelUpload(upload_id=upload.id))
    assert first.status == "cancelled"
    assert await rig.call(CancelUpload(upload_id=upload.id)) == first


async def test_of_a_cancel_and_a_completion_at_once_one_wins(rig: Rig) -> None:
    for _ in range(5):
        upload = await rig.announce(1)
        part = await rig.add(upload, b"a")
        await asyncio.gather(
            rig.complete(upload, part), rig.call(CancelUpload(upload_id=upload.id)), return_exceptions=True
        )
        ended = await rig.call(GetUpload(upload_id=upload.id))
        assert (ended.status, ended.file is None) in {("completed", False), ("cancelled", True)}
    files = (await rig.call(ListFiles())).data
    assert len(await rig.keys("files/")) == len(files)


async def test_a_completion_that_takes_long_says_so_and_goes_on(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = await rig.announce(1)
    part = await rig.add(upload, b"a")
    go, join, joined = asyncio.Event(), rig.objects.concatenate, 0

    async def slowly(*args: Any) -> Any:
        nonlocal joined
        joined += 1
        await go.wait()
        return await join(*args)

    monkeypatch.setattr(rig.objects, "concatenate", slowly)
    assert (await rig.complete(upload, part, wait=0.05)).status == "pending"
    rig.clock.advance(3601)  # what has begun in time is finished
    assert (await rig.complete(upload, part, wait=0.05)).status == "pending"
    go.set()
    assert (await rig.complete(upload, part)).status == "completed"
    assert joined == 1


async def test_a_store_that_is_away_is_told_and_the_completion_can_be_repeated(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise ObjectStoreUnavailable("away")

    upload = await rig.announce(1)
    part = await rig.add(upload, b"a")
    with monkeypatch.context() as patch:
        patch.setattr(rig.objects, "concatenate", away)
        with pytest.raises(ServiceUnavailable):
            await rig.complete(upload, part)
    assert (await rig.complete(upload, part)).status == "completed"


async def test_a_part_whose_bytes_are_lost_is_told(rig: Rig) -> None:
    upload = await rig.announce(1)
    part = await rig.add(upload, b"a")
    await rig.objects.delete(await rig.keys("uploads/"))
    with pytest.raises(InvalidRequest, match="The bytes of a part are gone") as caught:
        await rig.complete(upload, part)
    assert caught.value.param == "part_ids"


async def test_a_completion_that_lost_its_parts_to_another_answers_the_others_file(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = await rig.announce(1)
    part = await rig.add(upload, b"a")
    begun, go, join = asyncio.Event(), asyncio.Event(), rig.objects.concatenate

    async def late(*args: Any) -> Any:
        begun.set()
        await go.wait()
        return await join(*args)

    with monkeypatch.context() as patch:
        patch.setattr(rig.objects, "concatenate", late)
        loser = asyncio.create_task(rig.complete(upload, part, model="m"))
        await begun.wait()
    done = await rig.complete(upload, part)
    await rig.upload_upkeep.settle()
    go.set()
    assert await loser == done
    assert len(await rig.keys()) == 1


async def test_records_of_parts_stay_small(rig: Rig) -> None:
    upload = await rig.announce(1)
    part = await rig.add(upload, b"a")
    record = await rig.upload_records.get(f"team=20a=2F1.{upload.id}")
    assert record is not None
    assert await rig.part_records.get(part_record_key(record.value, part)) is not None
    assert len(record.value.model_dump_json(exclude_defaults=True)) < 400


async def test_a_file_made_of_parts_is_like_any_other(rig: Rig) -> None:
    upload = await rig.announce(len(LINE), "in.jsonl", Purpose.BATCH)
    done = await rig.complete(upload, await rig.add(upload, LINE.encode()))
    direct = await rig.call(CreateFile(filename="in.jsonl", purpose=Purpose.BATCH, content=LINE))
    assert done.file is not None
    same = {"id": "", "created_at": 0, "expires_at": 0}
    assert done.file.model_copy(update=same) == direct.model_copy(update=same)
    assert encode_id("file", done.file.id, None) == done.file.id
