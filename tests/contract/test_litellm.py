"""The unchanged `litellm` SDK, with Batchyard as its `hosted_vllm` server."""

import asyncio
import gc
import json
import warnings
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import litellm
import pytest
from litellm.llms.custom_httpx.async_client_cleanup import close_litellm_async_clients

from support.stack import MASTER_KEY, MODEL

# The client's own warnings are its authors' business.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
async def _connections_closed() -> AsyncIterator[None]:
    """The SDK leaves connections to the garbage collector: have it collect them here, where nobody else is blamed."""
    yield
    await close_litellm_async_clients()  # type: ignore[no-untyped-call]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


@pytest.fixture
def server(base_url: str) -> dict[str, Any]:
    return {"custom_llm_provider": "hosted_vllm", "api_base": f"{base_url}/v1", "api_key": MASTER_KEY}


async def upload(server: dict[str, Any], path: Path) -> Any:
    with path.open("rb") as file:
        return await litellm.acreate_file(file=file, purpose="batch", **server)


async def test_a_file_becomes_a_batch_becomes_answers(server: dict[str, Any], requests_file: Path) -> None:
    file = await upload(server, requests_file)
    batch = await litellm.acreate_batch(
        completion_window="24h", endpoint="/v1/chat/completions", input_file_id=file.id, metadata={"a": "b"}, **server
    )
    assert batch.status == "validating"
    async with asyncio.timeout(60):
        while batch.status != "completed":
            await asyncio.sleep(0.05)
            batch = await litellm.aretrieve_batch(batch_id=batch.id, **server)
    content = await litellm.afile_content(file_id=batch.output_file_id, **server)
    lines = [json.loads(line) for line in content.content.splitlines()]
    expected = [json.loads(line)["custom_id"] for line in requests_file.read_text().splitlines()]
    assert [line["custom_id"] for line in lines] == expected
    assert {line["response"]["body"]["model"] for line in lines} == {MODEL}


async def test_files_are_retrieved_listed_and_deleted(server: dict[str, Any], requests_file: Path) -> None:
    file = await upload(server, requests_file)
    found = await litellm.afile_retrieve(file_id=file.id, **server)
    assert found.id == file.id
    listed = await litellm.afile_list(**server)
    assert file.id in [entry.id for entry in listed.data]
    deleted = await litellm.afile_delete(file_id=file.id, **server)
    assert deleted.deleted


async def test_batches_are_listed_and_cancelled(server: dict[str, Any], requests_file: Path, tmp_path: Path) -> None:
    slow = tmp_path / "slow.jsonl"
    body = {"model": MODEL, "messages": [{"role": "user", "content": "wait [[fault:delay=30]]"}]}
    slow.write_text(json.dumps({"custom_id": "s", "method": "POST", "url": "/v1/chat/completions", "body": body}))
    file = await upload(server, slow)
    batch = await litellm.acreate_batch(
        completion_window="24h", endpoint="/v1/chat/completions", input_file_id=file.id, **server
    )
    listed = await litellm.alist_batches(**server)
    assert batch.id in [entry.id for entry in listed.data]
    cancelled = await litellm.acancel_batch(batch_id=batch.id, **server)
    assert cancelled.status in {"cancelling", "cancelled"}
