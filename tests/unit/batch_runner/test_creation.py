"""Making batches: once for each wish, from a file or from lines that come along."""

import asyncio
from typing import Any

import pytest

from batchyard.batch_runner.claims import Claims
from batchyard.common.contracts.batches import (
    RETRY_WINDOW,
    Attempt,
    Batch,
    BatchStatus,
    CancelBatch,
    CreateBatch,
    ListBatches,
)
from batchyard.common.contracts.files import CreateFile, DeleteFile, GetFile, OpenPlace, Purpose
from batchyard.common.errors import ApiError, Conflict, InvalidRequest, NotFound
from batchyard.common.ids import decode_id

from .conftest import MODEL, Office, chat_line

ENDPOINT = "/v1/chat/completions"


async def wish(office: Office, **changes: Any) -> CreateBatch:
    file = await office.call.upload(chat_line("a", "hi"), model=MODEL)
    return CreateBatch(**{"input_file_id": file.id, "endpoint": ENDPOINT, **changes})


async def count(office: Office) -> int:
    return len((await office.call(ListBatches(limit=100))).data)


async def test_a_key_makes_one_batch_and_answers_it_as_it_is_now(office: Office) -> None:
    command = await wish(office, idempotency_key="k", metadata={"a": "b"})
    first = await office.call(command)
    await office.call.until(first.id, lambda batch: batch.status is BatchStatus.IN_PROGRESS)
    again = await office.call(command)
    assert (again.id, again.status) == (first.id, BatchStatus.IN_PROGRESS)
    assert await count(office) == 1


async def test_a_key_answers_its_batch_though_the_file_is_gone(office: Office) -> None:
    command = await wish(office, idempotency_key="k")
    first = await office.call(command)
    await office.call(DeleteFile(file_id=str(command.input_file_id)))
    assert (await office.call(command)).id == first.id


async def test_many_at_once_with_one_key_make_one_batch(office: Office) -> None:
    command = await wish(office, idempotency_key="k")
    found: list[Batch] = await asyncio.gather(*(office.call(command) for _ in range(12)))
    assert len({batch.id for batch in found}) == 1
    assert await count(office) == 1


async def test_a_claim_without_its_batch_is_made_good_under_the_same_id(office: Office) -> None:
    """A process was killed between the two."""
    command = await wish(office, idempotency_key="k")
    claim = await Claims(office.messaging.js).claim(office.call.tenant, command)
    batch = await office.call(command)
    assert decode_id(batch.id).raw == claim.raw_id
    assert (await office.call(command)).id == batch.id


async def test_a_wish_that_was_refused_leaves_its_key_free(office: Office) -> None:
    sound = await wish(office, idempotency_key="k")
    with pytest.raises(NotFound):
        await office.call(sound.model_copy(update={"input_file_id": "file-nope"}))
    assert (await office.call(sound)).status is BatchStatus.VALIDATING


async def test_another_wish_under_the_key_is_a_conflict(office: Office) -> None:
    command = await wish(office, idempotency_key="k")
    await office.call(command)
    with pytest.raises(Conflict) as caught:
        await office.call(command.model_copy(update={"completion_window": "1h"}))
    assert (caught.value.code, caught.value.param) == ("idempotency_key_reused", "idempotency_key")
    assert await count(office) == 1


async def test_a_retry_makes_no_second_batch_and_a_second_wish_does(office: Office) -> None:
    command = await wish(office)

    async def tried(token: str, asked_at: float, again: bool = False) -> str:
        attempt = Attempt(token=token, asked_at=asked_at, again=again)
        batch: Batch = await office.call(command.model_copy(update={"attempt": attempt}))
        return batch.id

    first = await tried("1", 0)
    assert await tried("1", 0) == first
    assert await tried("2", 1, again=True) == first
    second = await tried("3", 2)
    assert second != first
    assert await tried("4", 2 + RETRY_WINDOW + 1, again=True) not in (first, second)
    assert await count(office) == 3


async def test_without_key_and_attempt_every_command_is_a_wish(office: Office) -> None:
    command = await wish(office)
    assert (await office.call(command)).id != (await office.call(command)).id


def request(custom_id: str | None = None, **changes: Any) -> dict[str, Any]:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi ü"}]}
    return {**({} if custom_id is None else {"custom_id": custom_id}), "body": body, **changes}


async def test_lines_that_come_along_become_a_file(office: Office) -> None:
    batch = await office.call(CreateBatch(requests=(request(), request("mine")), endpoint=ENDPOINT, model=MODEL))
    file = await office.call(GetFile(file_id=batch.input_file_id))
    assert (file.filename, file.purpose) == ("inline.jsonl", Purpose.BATCH)
    assert decode_id(batch.id).model == decode_id(batch.input_file_id).model == MODEL
    assert await office.call.content(batch.input_file_id) == [
        {"custom_id": "request-1", "method": "POST", "url": ENDPOINT, "body": request()["body"]},
        {"custom_id": "mine", "method": "POST", "url": ENDPOINT, "body": request()["body"]},
    ]
    planned = await office.call.until(batch.id, lambda batch: batch.status is not BatchStatus.VALIDATING)
    assert (planned.status, planned.request_counts.total) == (BatchStatus.IN_PROGRESS, 2)


async def test_lines_that_come_along_under_a_key_make_one_batch_and_one_file(office: Office) -> None:
    command = CreateBatch(requests=(request(),), endpoint=ENDPOINT, idempotency_key="k")
    first, again = await office.call(command), await office.call(command)
    assert (again.id, again.input_file_id) == (first.id, first.input_file_id)
    with pytest.raises(Conflict):
        await office.call(command.model_copy(update={"requests": (request("other"),)}))


async def test_a_claim_for_lines_without_its_batch_is_made_good(office: Office) -> None:
    """A process was killed after it had claimed a place for the lines: that place becomes the file."""
    place = await office.call(OpenPlace())
    await office.objects.put(place.object_key, chat_line("a", "hi"))
    command = CreateBatch(upload_key=place.object_key, input_digest="d", endpoint=ENDPOINT, idempotency_key="k")
    await Claims(office.messaging.js).claim(office.call.tenant, command)
    other = await office.call(OpenPlace())
    await office.objects.put(other.object_key, chat_line("a", "hi"))
    batch = await office.call(command.model_copy(update={"upload_key": other.object_key}))
    assert batch.input_file_id == place.file_id


async def test_lines_that_are_gone_before_their_batch_was_made_are_told_of(office: Office) -> None:
    place = await office.call(OpenPlace())
    command = CreateBatch(upload_key=place.object_key, input_digest="d", endpoint=ENDPOINT, idempotency_key="k")
    await Claims(office.messaging.js).claim(office.call.tenant, command)
    with pytest.raises(Conflict, match="new Idempotency-Key") as caught:
        await office.call(command)
    assert "files/" not in caught.value.message


async def test_a_place_that_became_another_kind_of_file_is_no_input(office: Office) -> None:
    place = await office.call(OpenPlace())
    await office.objects.put(place.object_key, chat_line("a", "hi"))
    await office.call(CreateFile(filename="a.txt", purpose=Purpose.USER_DATA, object_key=place.object_key))
    with pytest.raises(InvalidRequest, match="has the purpose 'user_data'") as caught:
        await office.call(CreateBatch(upload_key=place.object_key, endpoint=ENDPOINT))
    assert caught.value.param == "upload_key"


async def test_the_place_of_another_tenant_is_no_input(office: Office) -> None:
    place = await office.caller("other")(OpenPlace())
    await office.objects.put(place.object_key, chat_line("a", "hi"))
    with pytest.raises(InvalidRequest, match="No such upload"):
        await office.call(CreateBatch(upload_key=place.object_key, endpoint=ENDPOINT))


@pytest.mark.parametrize(
    ("source", "param", "code"),
    [
        ({}, "input_file_id", "missing_required_parameter"),
        ({"input_file_id": "file-1", "requests": (request(),)}, "requests", "mutually_exclusive_parameters"),
        ({"input_file_id": "file-1", "upload_key": "files/x/y"}, "upload_key", "mutually_exclusive_parameters"),
        ({"upload_key": "nonsense"}, "upload_key", None),
    ],
)
async def test_the_lines_are_said_in_one_way(
    office: Office, source: dict[str, Any], param: str, code: str | None
) -> None:
    with pytest.raises(ApiError) as caught:
        await office.call(CreateBatch(**source, endpoint=ENDPOINT))
    assert (caught.value.http_status, caught.value.param, caught.value.code) == (400, param, code)


async def test_a_file_that_is_no_input_is_refused(office: Office) -> None:
    place = await office.call(OpenPlace())
    await office.objects.put(place.object_key, b"x")
    file = await office.call(CreateFile(filename="x", purpose=Purpose.ASSISTANTS, object_key=place.object_key))
    with pytest.raises(InvalidRequest, match="purpose 'assistants'"):
        await office.call(CreateBatch(input_file_id=file.id, endpoint=ENDPOINT))


async def test_a_batch_that_was_cancelled_is_what_its_key_answers(office: Office) -> None:
    command = await wish(office, idempotency_key="k")
    batch = await office.call(command)
    await office.call(CancelBatch(batch_id=batch.id))
    ended = await office.call.ended(batch.id)
    assert await office.call(command) == ended
