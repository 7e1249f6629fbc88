"""All nine operations of the `openai` SDK in every way it can make a call, its typed errors, and its pagination."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from support.stack import MODEL

from .test_openai import ended

Call = Callable[..., Awaitable[Any]]
"""`call("files", "create", **arguments)`: what the SDK makes of the answer; the bytes of a content."""

SLOW = {"model": MODEL, "messages": [{"role": "user", "content": "wait [[fault:delay=30]]"}]}
BATCH: dict[str, Any] = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}


@pytest.fixture
def slow_file(tmp_path: Path) -> Path:
    path = tmp_path / "slow.jsonl"
    path.write_text(json.dumps({"custom_id": "s", "method": "POST", "url": "/v1/chat/completions", "body": SLOW}))
    return path


def _answered(response: Any) -> None:
    assert response.status_code == 200
    assert response.headers["x-request-id"].startswith("req_")


@pytest.fixture(params=["sync", "sync raw", "sync streaming", "async", "async raw", "async streaming"])
def call(request: pytest.FixtureRequest, client: OpenAI, async_client: AsyncOpenAI) -> Call:
    """One way to make a call."""

    async def plain(noun: str, verb: str, /, *arguments: Any, **named: Any) -> Any:
        found = getattr(getattr(client, noun), verb)(*arguments, **named)
        return found.read() if verb == "content" else found

    async def raw(noun: str, verb: str, /, *arguments: Any, **named: Any) -> Any:
        response = getattr(getattr(client, noun).with_raw_response, verb)(*arguments, **named)
        _answered(response)
        return response.content if verb == "content" else response.parse()

    async def streaming(noun: str, verb: str, /, *arguments: Any, **named: Any) -> Any:
        with getattr(getattr(client, noun).with_streaming_response, verb)(*arguments, **named) as response:
            _answered(response)
            return b"".join(response.iter_bytes()) if verb == "content" else response.parse()

    async def async_plain(noun: str, verb: str, /, *arguments: Any, **named: Any) -> Any:
        found = await getattr(getattr(async_client, noun), verb)(*arguments, **named)
        return found.read() if verb == "content" else found

    async def async_raw(noun: str, verb: str, /, *arguments: Any, **named: Any) -> Any:
        response = await getattr(getattr(async_client, noun).with_raw_response, verb)(*arguments, **named)
        _answered(response)
        return response.content if verb == "content" else response.parse()

    async def async_streaming(noun: str, verb: str, /, *arguments: Any, **named: Any) -> Any:
        made = getattr(getattr(async_client, noun).with_streaming_response, verb)(*arguments, **named)
        async with made as response:
            _answered(response)
            if verb == "content":
                return b"".join([chunk async for chunk in response.iter_bytes()])
            return await response.parse()

    ways: dict[str, Call] = {
        "sync": plain,
        "sync raw": raw,
        "sync streaming": streaming,
        "async": async_plain,
        "async raw": async_raw,
        "async streaming": async_streaming,
    }
    return ways[request.param]


async def test_every_operation_can_be_called_in_every_way(call: Call, slow_file: Path) -> None:
    headers = {"x-litellm-model": MODEL}
    file = await call("files", "create", file=slow_file, purpose="batch", extra_headers=headers)
    assert (file.object, file.filename, file.bytes) == ("file", "slow.jsonl", slow_file.stat().st_size)
    assert await call("files", "retrieve", file.id) == file
    assert (await call("files", "list", purpose="batch", limit=1)).data == [file]
    assert await call("files", "content", file.id) == slow_file.read_bytes()

    batch = await call("batches", "create", input_file_id=file.id, metadata={"a": "b"}, **BATCH)
    assert (batch.object, batch.status, batch.input_file_id) == ("batch", "validating", file.id)
    assert (batch.metadata, batch.endpoint) == ({"a": "b"}, "/v1/chat/completions")
    assert batch.expires_at == batch.created_at + 86_400
    assert (await call("batches", "retrieve", batch.id)).id == batch.id
    assert [entry.id for entry in (await call("batches", "list", limit=1)).data] == [batch.id]
    assert (await call("batches", "cancel", batch.id)).status == "cancelling"

    deleted = await call("files", "delete", file.id)
    assert (deleted.id, deleted.object, deleted.deleted) == (file.id, "file", True)


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_files_are_paged_through(
    client: OpenAI, async_client: AsyncOpenAI, requests_file: Path, order: Any
) -> None:
    made = [client.files.create(file=requests_file, purpose="user_data").id for _ in range(7)]
    expected = made if order == "asc" else made[::-1]
    for limit in (1, 3, 7, 100):
        found = [file.id for file in client.files.list(purpose="user_data", limit=limit, order=order)]
        assert found == expected
        found = [file.id async for file in async_client.files.list(purpose="user_data", limit=limit, order=order)]
        assert found == expected
    after = client.files.list(purpose="user_data", limit=2, order=order, after=expected[3])
    assert [file.id for file in after.data] == expected[4:6]
    assert [len(page.data) for page in client.files.list(purpose="user_data", limit=3, order=order).iter_pages()] == [
        3,
        3,
        1,
    ]
    for file_id in made:
        client.files.delete(file_id)


async def test_batches_are_paged_through(client: OpenAI, async_client: AsyncOpenAI, requests_file: Path) -> None:
    file = client.files.create(file=requests_file, purpose="batch", extra_headers={"x-litellm-model": MODEL})
    made = [client.batches.create(input_file_id=file.id, **BATCH).id for _ in range(7)][::-1]
    for limit in (3, 7):
        found = [batch.id for batch in client.batches.list(limit=limit)]
        assert found[:7] == made
        assert found == [batch.id async for batch in async_client.batches.list(limit=limit)]
        assert len(set(found)) == len(found)
    assert [batch.id for batch in client.batches.list(limit=2, after=made[3]).data] == made[4:6]


REFUSALS: dict[str, tuple[Callable[[OpenAI], Any], type[openai.APIStatusError], str | None, str | None]] = {
    "retrieve a file": (lambda c: c.files.retrieve("file-nope"), openai.NotFoundError, "id", None),
    "content of a file": (lambda c: c.files.content("file-nope"), openai.NotFoundError, "id", None),
    "delete a file": (lambda c: c.files.delete("file-nope"), openai.NotFoundError, "id", None),
    "retrieve a batch": (lambda c: c.batches.retrieve("batch_nope"), openai.NotFoundError, "id", None),
    "cancel a batch": (lambda c: c.batches.cancel("batch_nope"), openai.NotFoundError, "id", None),
    "a batch over no file": (
        lambda c: c.batches.create(input_file_id="file-nope", **BATCH), openai.NotFoundError, "id", None
    ),
    "an unknown model": (lambda c: c.models.retrieve("ghost"), openai.NotFoundError, "model", "model_not_found"),
    "no such path": (lambda c: c.post("/nowhere", cast_to=object), openai.NotFoundError, None, "unknown_url"),
    "a purpose that is none": (
        lambda c: c.files.create(file=("a.jsonl", b"{}"), purpose="x"),  # type: ignore[arg-type]
        openai.BadRequestError, "purpose", None,
    ),
    "a name that is not .jsonl": (
        lambda c: c.files.create(file=("a.txt", b"{}"), purpose="batch"),
        openai.BadRequestError, "file", "invalid_value",
    ),
    "an expiry below an hour": (
        lambda c: c.files.create(
            file=("a.jsonl", b"{}"), purpose="batch", expires_after={"anchor": "created_at", "seconds": 60}
        ),
        openai.BadRequestError, "expires_after.seconds", "integer_below_min_value",
    ),
    "a page of files too large": (
        lambda c: c.files.list(limit=10_001), openai.BadRequestError, "limit", "integer_above_max_value"
    ),
    "a page of batches too large": (
        lambda c: c.batches.list(limit=101), openai.BadRequestError, "limit", "integer_above_max_value"
    ),
    "no input file": (
        lambda c: c.batches.create(input_file_id=openai.omit, **BATCH),  # type: ignore[arg-type]
        openai.BadRequestError, "input_file_id", "missing_required_parameter",
    ),
    "another window": (
        lambda c: c.batches.create(
            input_file_id="file-nope", endpoint="/v1/chat/completions", completion_window="soon"  # type: ignore[arg-type]
        ),
        openai.BadRequestError, "completion_window", "invalid_value",
    ),
    "metadata that is no text": (
        lambda c: c.batches.create(input_file_id="file-nope", metadata={"a": 1}, **BATCH),  # type: ignore[dict-item]
        openai.BadRequestError, "metadata.a", "invalid_type",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("refused", "kind", "param", "code"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_is_a_typed_error_and_is_not_tried_again(
    options: dict[str, Any],
    refused: Callable[[OpenAI], Any],
    kind: type[openai.APIStatusError],
    param: str | None,
    code: str | None,
) -> None:
    sent: list[httpx.Request] = []
    http = openai.DefaultHttpxClient(event_hooks={"request": [sent.append]})
    with OpenAI(**{**options, "max_retries": 2}, http_client=http) as client, pytest.raises(kind) as caught:
        refused(client)
    error = caught.value
    assert (error.param, error.code, error.type) == (param, code, "invalid_request_error")
    assert error.request_id is not None
    assert error.request_id.startswith("req_")
    assert len(sent) == 1


def test_a_conflict_is_final(options: dict[str, Any], client: OpenAI, requests_file: Path) -> None:
    file = client.files.create(file=requests_file, purpose="batch", extra_headers={"x-litellm-model": MODEL})
    batch = ended(client, client.batches.create(input_file_id=file.id, **BATCH).id)
    sent: list[httpx.Request] = []
    http = openai.DefaultHttpxClient(event_hooks={"request": [sent.append]})
    with (
        OpenAI(**{**options, "max_retries": 2}, http_client=http) as retrying,
        pytest.raises(openai.ConflictError, match="Cannot cancel a batch with status 'completed'."),
    ):
        retrying.batches.cancel(batch.id)
    assert len(sent) == 1


@pytest.mark.parametrize(
    ("authorization", "code"), [("Bearer sk-wrong-key-000000000000", "invalid_api_key"), ("Basic sk-wrong-key-0", None)]
)
def test_without_the_right_key_nothing_is_done(options: dict[str, Any], authorization: str, code: str | None) -> None:
    headers = {"Authorization": authorization}
    calls: list[Callable[[OpenAI], Any]] = [
        lambda c: c.files.create(file=("a.jsonl", b"{}"), purpose="batch"),
        lambda c: c.files.list(),
        lambda c: c.files.retrieve("file-nope"),
        lambda c: c.files.content("file-nope"),
        lambda c: c.files.delete("file-nope"),
        lambda c: c.batches.create(input_file_id="file-nope", **BATCH),
        lambda c: c.batches.list(),
        lambda c: c.batches.retrieve("batch_nope"),
        lambda c: c.batches.cancel("batch_nope"),
    ]
    with OpenAI(**options, default_headers=headers) as client:
        for call in calls:
            with pytest.raises(openai.AuthenticationError) as caught:
                call(client)
            assert caught.value.code == code
            assert "sk-wrong-key-0" not in str(caught.value)
