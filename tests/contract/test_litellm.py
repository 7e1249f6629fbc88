"""The unchanged `litellm` SDK, with Batchyard as its `hosted_vllm` server."""

import asyncio
import gc
import json
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import litellm
import openai
import pytest
from litellm.llms.custom_httpx.async_client_cleanup import close_litellm_async_clients
from openai import AsyncOpenAI, OpenAI

from support.stack import MASTER_KEY, MODEL

Call = Callable[..., Awaitable[Any]]

# The client's own warnings are its authors' business.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
async def _connections_closed() -> AsyncIterator[None]:
    """The SDK leaves connections to the garbage collector: have it collect them here, where nobody else is blamed."""
    yield
    await close_litellm_async_clients()  # type: ignore[no-untyped-call]
    for found in gc.get_objects():
        if type(found) in (OpenAI, httpx.Client):
            found.close()
        elif type(found) is AsyncOpenAI:
            await found.close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


@pytest.fixture(params=["async", "sync"])
def call(request: pytest.FixtureRequest, base_url: str) -> Call:
    """`call("create_file", **arguments)`: the SDK's function, or its async twin, for this server."""
    server = {"custom_llm_provider": "hosted_vllm", "api_base": f"{base_url}/v1", "api_key": MASTER_KEY}

    async def sync_call(name: str, **arguments: Any) -> Any:
        return await asyncio.to_thread(getattr(litellm, name), **server | arguments)

    async def async_call(name: str, **arguments: Any) -> Any:
        return await getattr(litellm, f"a{name}")(**server | arguments)

    return sync_call if request.param == "sync" else async_call


async def upload(call: Call, path: Path) -> Any:
    with path.open("rb") as file:
        return await call("create_file", file=file, purpose="batch")


async def start(call: Call, file: Any, **more: Any) -> Any:
    return await call(
        "create_batch", completion_window="24h", endpoint="/v1/chat/completions", input_file_id=file.id, **more
    )


async def test_a_file_becomes_a_batch_becomes_answers(call: Call, requests_file: Path) -> None:
    file = await upload(call, requests_file)
    batch = await start(call, file, metadata={"a": "b"})
    assert (batch.status, batch.metadata) == ("validating", {"a": "b"})
    async with asyncio.timeout(60):
        while batch.status != "completed":
            await asyncio.sleep(0.05)
            batch = await call("retrieve_batch", batch_id=batch.id)
    assert batch.request_counts.completed == 2
    content = await call("file_content", file_id=batch.output_file_id)
    lines = [json.loads(line) for line in content.content.splitlines()]
    expected = [json.loads(line)["custom_id"] for line in requests_file.read_text().splitlines()]
    assert [line["custom_id"] for line in lines] == expected
    assert {line["response"]["body"]["model"] for line in lines} == {MODEL}


async def test_files_are_retrieved_listed_and_deleted(call: Call, requests_file: Path) -> None:
    file = await upload(call, requests_file)
    found = await call("file_retrieve", file_id=file.id)
    assert (found.id, found.bytes, found.purpose) == (file.id, requests_file.stat().st_size, "batch")
    assert (await call("file_content", file_id=file.id)).content == requests_file.read_bytes()
    listed = await call("file_list")
    assert file.id in [entry.id for entry in listed.data]
    deleted = await call("file_delete", file_id=file.id)
    assert deleted.deleted
    with pytest.raises(openai.NotFoundError, match=f"No such File object: {file.id}"):
        await call("file_retrieve", file_id=file.id)


async def test_batches_are_listed_and_cancelled(call: Call, tmp_path: Path) -> None:
    slow = tmp_path / "slow.jsonl"
    body = {"model": MODEL, "messages": [{"role": "user", "content": "wait [[fault:delay=30]]"}]}
    slow.write_text(json.dumps({"custom_id": "s", "method": "POST", "url": "/v1/chat/completions", "body": body}))
    batch = await start(call, await upload(call, slow))
    listed = await call("list_batches")
    assert batch.id in [entry.id for entry in listed.data]
    cancelled = await call("cancel_batch", batch_id=batch.id)
    assert cancelled.status in {"cancelling", "cancelled"}


async def test_a_wrong_key_is_refused(call: Call) -> None:
    with pytest.raises(openai.AuthenticationError, match="Incorrect API key provided"):
        await call("file_retrieve", file_id="file-nope", api_key="sk-wrong-key-000000000000")
