"""OpenAI's own client, unchanged."""

from collections.abc import AsyncIterator

import openai
import pytest
from unit.gateway.peers import BATCH, MODELS, Recorder
from unit.gateway.rig import KEY, LINE, Served

from batchyard.common.contracts.batches import CancelBatch, CreateBatch
from batchyard.common.errors import Conflict, ServiceUnavailable


@pytest.fixture
async def client(gateway: Served) -> AsyncIterator[openai.AsyncOpenAI]:
    http = openai.DefaultAsyncHttpxClient(trust_env=False)
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=KEY, http_client=http, max_retries=2) as client:
        yield client


async def test_a_file_lives_and_dies(client: openai.AsyncOpenAI) -> None:
    file = await client.files.create(
        file=("in.jsonl", LINE), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert (file.bytes, file.filename, file.status) == (len(LINE), "in.jsonl", "processed")
    assert (await client.files.retrieve(file.id)) == file
    assert (await client.files.content(file.id)).content == LINE
    assert (await client.files.delete(file.id)).deleted


async def test_listing_pages_by_itself(client: openai.AsyncOpenAI) -> None:
    created = [(await client.files.create(file=("a.jsonl", LINE), purpose="batch")).id for _ in range(5)]
    listed = [file.id async for file in client.files.list(limit=2, order="asc")]
    assert listed == created


async def test_a_batch_is_created_retrieved_listed_and_cancelled(client: openai.AsyncOpenAI) -> None:
    batch = await client.batches.create(
        input_file_id="file-1", endpoint="/v1/chat/completions", completion_window="24h", metadata={"a": "b"}
    )
    assert batch.id == BATCH.id
    assert (await client.batches.retrieve(batch.id)).status == "validating"
    assert [listed.id async for listed in client.batches.list(limit=1)] == [BATCH.id]
    assert (await client.batches.cancel(batch.id)).id == BATCH.id


async def test_extra_body_reaches_the_model(client: openai.AsyncOpenAI, recorder: Recorder) -> None:
    await client.batches.create(
        input_file_id="file-1",
        endpoint="/v1/chat/completions",
        completion_window="24h",
        extra_body={"model": "llama"},
    )
    assert recorder.only(CreateBatch).model == "llama"


async def test_models_are_listed(client: openai.AsyncOpenAI) -> None:
    names = [model.id async for model in client.models.list()]
    assert names == [model.id for model in MODELS.data]
    assert (await client.models.retrieve(names[1])).id == names[1]


async def test_errors_are_what_the_client_knows(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        await client.files.retrieve("file-nope")
    assert missing.value.param == "id"
    with pytest.raises(openai.BadRequestError) as bad:
        await client.files.create(file=b"{}", purpose="batch")  # raw bytes are named `upload`
    assert bad.value.code == "invalid_value"
    with pytest.raises(openai.AuthenticationError):
        await client.with_options(api_key="wrong").files.list()


async def test_a_final_conflict_is_not_tried_again(client: openai.AsyncOpenAI, recorder: Recorder) -> None:
    recorder.answers[CancelBatch] = Conflict("Cannot cancel a batch with status 'completed'.")
    with pytest.raises(openai.ConflictError):
        await client.batches.cancel("batch_1")
    assert len(recorder.asked) == 1


async def test_a_missing_service_is_tried_again(client: openai.AsyncOpenAI, recorder: Recorder) -> None:
    recorder.answers[CancelBatch] = ServiceUnavailable("away", retry_after=0)
    with pytest.raises(openai.InternalServerError):
        await client.batches.cancel("batch_1")
    assert len(recorder.asked) == 3
