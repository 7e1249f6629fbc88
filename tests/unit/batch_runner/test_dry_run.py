"""Checking without making: the same findings as the batch itself, and nothing left behind."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from nats.js import JetStreamContext

from batchyard.batch_runner.validate import MAX_PROBLEMS
from batchyard.common.contracts.batches import BatchValidation, CreateBatch, ListBatches, ValidateBatch
from batchyard.common.contracts.files import OpenPlace
from batchyard.common.errors import ApiError, ServiceUnavailable
from batchyard.common.messaging.topology import BATCHES_BUCKET, CREATIONS_BUCKET, STEPS

from .conftest import MODEL, Office, chat_line

ENDPOINT = "/v1/chat/completions"
SOUND = chat_line("a", "hi")


async def traces(js: JetStreamContext) -> list[int]:
    """How much was ever written where creating a batch writes."""
    names = (f"KV_{BATCHES_BUCKET}", f"KV_{CREATIONS_BUCKET}", STEPS)
    return [(await js.stream_info(name)).state.last_seq for name in names]


async def test_a_sound_input_is_valid_and_nothing_is_made(office: Office) -> None:
    file = await office.call.upload(b"\n".join([SOUND, chat_line("b", "ho")]), model=MODEL)
    keys = await office.keys()
    verdict = await office.call(ValidateBatch(input_file_id=file.id, endpoint=ENDPOINT))
    assert verdict.model_dump(mode="json") == {
        "object": "batch.validation",
        "valid": True,
        "endpoint": ENDPOINT,
        "model": MODEL,
        "input_file_id": file.id,
        "request_counts": {"total": 2, "completed": 0, "failed": 0},
        "errors": None,
        "truncated": False,
    }
    assert (await office.call(ListBatches())).data == []
    assert await traces(office.messaging.js) == [0, 0, 0]
    assert await office.keys() == keys


@pytest.mark.parametrize(
    "content",
    [
        b"{nonsense",
        b"\n".join([SOUND, SOUND]),
        chat_line("b", "hi", model="ghost"),
        chat_line("b", "hi", stream=True),
        b'{"custom_id": "a", "method": "GET", "url": "/v1/embeddings", "body": {}}',
        b"\n".join([b"{"] * (MAX_PROBLEMS + 5)),
        b"\n\n",
    ],
)
async def test_it_finds_what_the_batch_finds(office: Office, content: bytes) -> None:
    file = await office.call.upload(content, model=MODEL)
    source = {"input_file_id": file.id, "endpoint": ENDPOINT}
    verdict: BatchValidation = await office.call(ValidateBatch(**source))
    batch = await office.call.ended((await office.call(CreateBatch(**source))).id)
    assert not verdict.valid
    assert verdict.errors == batch.errors
    assert verdict.errors is not None
    assert verdict.truncated is (verdict.errors.data[-1].code == "too_many_problems")


async def test_lines_that_come_along_are_checked_where_they_are(office: Office) -> None:
    requests = ({"body": {"model": MODEL}}, {"body": {"model": "ghost"}})
    verdict = await office.call(ValidateBatch(requests=requests, endpoint=ENDPOINT))
    assert [(problem.code, problem.line) for problem in verdict.errors.data] == [("model_not_found", 2)]
    assert await office.keys() == []
    place = await office.call(OpenPlace())
    await office.objects.put(place.object_key, SOUND)
    verdict = await office.call(ValidateBatch(upload_key=place.object_key, endpoint=ENDPOINT))
    assert (verdict.valid, verdict.model, verdict.input_file_id) == (True, MODEL, None)


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"input_file_id": "file-nope"}, 404, "id"),
        ({"input_file_id": None}, 400, "input_file_id"),
        ({"input_file_id": None, "upload_key": "files/other/" + "0" * 32}, 400, "upload_key"),
        ({"input_file_id": None, "upload_key": "files/default/" + "0" * 32}, 400, "input_file_id"),
        ({"endpoint": "/v1/audio"}, 400, "endpoint"),
        ({"completion_window": "soon"}, 400, "completion_window"),
    ],
)
async def test_what_a_create_would_refuse_at_once_is_refused(
    office: Office, change: dict[str, Any], status: int, param: str
) -> None:
    file = await office.call.upload(SOUND, model=MODEL)
    with pytest.raises(ApiError) as caught:
        await office.call(ValidateBatch(**{"input_file_id": file.id, "endpoint": ENDPOINT, **change}))
    assert (caught.value.http_status, caught.value.param) == (status, param)


async def test_what_takes_too_long_is_given_up(open_office: Callable[..., Any]) -> None:
    office = await open_office(validation_timeout=0.05, max_requests=10**6)
    file = await office.call.upload(b"\n".join(chat_line(str(n), "hi") for n in range(60_000)), model=MODEL)
    with pytest.raises(ServiceUnavailable, match="could not be checked in time"):
        await office.call(ValidateBatch(input_file_id=file.id, endpoint=ENDPOINT))


async def test_many_at_once_are_all_checked(open_office: Callable[..., Any]) -> None:
    office = await open_office(validation_slots=1)
    file = await office.call.upload(b"\n".join(chat_line(str(n), "hi") for n in range(2000)), model=MODEL)
    command = ValidateBatch(input_file_id=file.id, endpoint=ENDPOINT)
    verdicts = await asyncio.gather(*(office.call(command) for _ in range(5)))
    assert [verdict.request_counts.total for verdict in verdicts] == [2000] * 5
