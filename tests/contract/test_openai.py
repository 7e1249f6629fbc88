"""The unchanged `openai` SDK, with its strict validation of responses switched on."""

import asyncio
import json
import time
from pathlib import Path

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types import Batch

from support.stack import MODEL

_PATIENCE = 60.0
HEADERS = {"x-litellm-model": MODEL}


def ended(client: OpenAI, batch_id: str) -> Batch:
    deadline = time.monotonic() + _PATIENCE
    while True:
        batch = client.batches.retrieve(batch_id)
        if batch.status in {"completed", "failed", "expired", "cancelled"}:
            return batch
        assert time.monotonic() < deadline, batch
        time.sleep(0.05)


def custom_ids(path: Path) -> list[str]:
    return [json.loads(line)["custom_id"] for line in path.read_text().splitlines()]


def test_a_file_becomes_a_batch_becomes_answers(client: OpenAI, requests_file: Path) -> None:
    with requests_file.open("rb") as file:
        uploaded = client.files.create(file=file, purpose="batch", extra_headers=HEADERS)
    assert (uploaded.object, uploaded.purpose, uploaded.status) == ("file", "batch", "processed")
    assert uploaded.bytes == requests_file.stat().st_size
    batch = client.batches.create(
        input_file_id=uploaded.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"purpose": "contract"},
    )
    assert batch.status == "validating"
    assert batch.metadata == {"purpose": "contract"}
    batch = ended(client, batch.id)
    assert batch.status == "completed"
    assert batch.request_counts is not None
    assert batch.request_counts.completed == len(custom_ids(requests_file))
    assert batch.usage is not None
    assert batch.usage.total_tokens > 0
    assert batch.output_file_id is not None
    lines = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
    assert [line["custom_id"] for line in lines] == custom_ids(requests_file)
    assert all(line["response"]["body"]["choices"][0]["message"]["content"] for line in lines)


async def test_the_same_with_the_async_client(async_client: AsyncOpenAI, requests_file: Path) -> None:
    uploaded = await async_client.files.create(file=requests_file, purpose="batch", extra_headers=HEADERS)
    batch = await async_client.batches.create(
        input_file_id=uploaded.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    async with asyncio.timeout(_PATIENCE):
        while batch.status != "completed":
            await asyncio.sleep(0.05)
            batch = await async_client.batches.retrieve(batch.id)
    assert batch.output_file_id is not None
    content = await async_client.files.content(batch.output_file_id)
    assert len(content.text.splitlines()) == len(custom_ids(requests_file))


def test_content_streams(client: OpenAI, requests_file: Path, tmp_path: Path) -> None:
    uploaded = client.files.create(file=requests_file, purpose="batch")
    with client.files.with_streaming_response.content(uploaded.id) as response:
        response.stream_to_file(tmp_path / "copy.jsonl")
    assert (tmp_path / "copy.jsonl").read_bytes() == requests_file.read_bytes()


def test_files_are_listed_retrieved_and_deleted(client: OpenAI, requests_file: Path) -> None:
    uploaded = client.files.create(file=requests_file, purpose="batch", extra_headers=HEADERS)
    assert client.files.retrieve(uploaded.id) == uploaded
    assert uploaded.id in [file.id for file in client.files.list(purpose="batch", limit=100)]
    assert client.files.delete(uploaded.id).deleted
    with pytest.raises(openai.NotFoundError) as caught:
        client.files.retrieve(uploaded.id)
    assert caught.value.body == {
        "message": f"No such File object: {uploaded.id}",
        "type": "invalid_request_error",
        "param": "id",
        "code": None,
    }


def test_paging_walks_every_batch_once(client: OpenAI, requests_file: Path) -> None:
    uploaded = client.files.create(file=requests_file, purpose="batch", extra_headers=HEADERS)
    made = [
        client.batches.create(input_file_id=uploaded.id, endpoint="/v1/chat/completions", completion_window="24h").id
        for _ in range(5)
    ]
    found = [batch.id for batch in client.batches.list(limit=2)]
    assert len(found) == len(set(found))
    assert found[:5] == made[::-1]


def test_a_batch_can_be_cancelled(client: OpenAI, tmp_path: Path) -> None:
    path = tmp_path / "slow.jsonl"
    body = {"model": MODEL, "messages": [{"role": "user", "content": "wait [[fault:delay=30]]"}]}
    line = {"custom_id": "slow", "method": "POST", "url": "/v1/chat/completions", "body": body}
    path.write_text(json.dumps(line))
    uploaded = client.files.create(file=path, purpose="batch", extra_headers=HEADERS)
    batch = client.batches.create(input_file_id=uploaded.id, endpoint="/v1/chat/completions", completion_window="24h")
    assert client.batches.cancel(batch.id).status == "cancelling"
    assert ended(client, batch.id).status == "cancelled"
    with pytest.raises(openai.ConflictError, match="Cannot cancel a batch with status 'cancelled'."):
        client.batches.cancel(batch.id)


def test_failed_lines_are_retried_and_results_merged(client: OpenAI, tmp_path: Path) -> None:
    """Calls that OpenAI does not have, made with the client's own means, under its strict validation."""
    path = tmp_path / "some.jsonl"
    faults = ["", " [[fault:status=400,times=1]]", "", " [[fault:status=400]]"]
    bodies = [
        {"model": MODEL, "messages": [{"role": "user", "content": f"retry me {n}{fault}"}]}
        for n, fault in enumerate(faults)
    ]
    order = {"method": "POST", "url": "/v1/chat/completions"}
    path.write_text(
        "\n".join(json.dumps({"custom_id": f"r{n}", "body": body, **order}) for n, body in enumerate(bodies))
    )
    uploaded = client.files.create(file=path, purpose="batch", extra_headers=HEADERS)
    batch = client.batches.create(input_file_id=uploaded.id, endpoint="/v1/chat/completions", completion_window="24h")
    with pytest.raises(openai.ConflictError):
        client.get(f"/batches/{batch.id}/results", cast_to=str)
    batch = ended(client, batch.id)
    merged = client.get(f"/batches/{batch.id}/results", cast_to=str).splitlines()
    assert [json.loads(line)["custom_id"] for line in merged] == ["r0", "r1", "r2", "r3"]
    retry = ended(client, client.post(f"/batches/{batch.id}/retry", cast_to=Batch).id)
    assert retry.request_counts is not None
    assert (retry.request_counts.completed, retry.request_counts.failed) == (1, 1)
    assert (retry.to_dict()["retry_of"], batch.to_dict()["retry_of"]) == (batch.id, None)
    failed = client.get(f"/batches/{retry.id}/results", cast_to=str, options={"params": {"status": "failed"}})
    assert [json.loads(line)["custom_id"] for line in failed.splitlines()] == ["r3"]


def test_a_wrong_key_is_an_authentication_error(base_url: str) -> None:
    with (
        OpenAI(base_url=f"{base_url}/v1", api_key="sk-wrong-key-0000", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        client.files.list()
    assert caught.value.code == "invalid_api_key"
    assert "sk-wrong-key-0000" not in str(caught.value)


def test_models_are_listed(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
