"""Creating and listing batches as the API's documentation has it, and what goes beyond it, with the `openai` SDK."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import openai
import pytest
from openai import OpenAI
from typer.testing import CliRunner

from batchyard.cli.main import app
from support.stack import MASTER_KEY, MODEL

from .test_openai import ended

ENDPOINT: Final = "/v1/chat/completions"
BODY = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
LINE = json.dumps({"custom_id": "a", "method": "POST", "url": ENDPOINT, "body": BODY}).encode()
MEMBERS = {
    *("id", "object", "endpoint", "model", "errors", "input_file_id", "completion_window", "status"),
    *("output_file_id", "error_file_id", "created_at", "in_progress_at", "expires_at", "finalizing_at"),
    *("completed_at", "failed_at", "expired_at", "cancelling_at", "cancelled_at", "request_counts", "usage"),
    "metadata",
}


@pytest.fixture
def client(base_url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{base_url}/v1", api_key=MASTER_KEY, max_retries=2) as client:
        yield client


@pytest.fixture
def http(base_url: str) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {MASTER_KEY}"}
    with httpx.Client(base_url=f"{base_url}/v1", headers=headers, trust_env=False, timeout=60) as http:
        yield http


@pytest.fixture
def file_id(client: OpenAI) -> str:
    return client.files.create(file=("in.jsonl", LINE), purpose="batch", extra_headers={"x-litellm-model": MODEL}).id


def test_a_batch_has_every_member_from_the_first_answer_on(client: OpenAI, http: httpx.Client, file_id: str) -> None:
    before = int(time.time())
    wish = {"input_file_id": file_id, "endpoint": ENDPOINT, "completion_window": "24h"}
    created = http.post("/batches", json=wish).json()
    assert set(created) >= MEMBERS
    assert {name: created[name] for name in ("object", "status", "endpoint", "completion_window", "metadata")} == {
        "object": "batch",
        "status": "validating",
        "endpoint": ENDPOINT,
        "completion_window": "24h",
        "metadata": None,
    }
    assert before <= created["created_at"] <= time.time()
    assert created["expires_at"] == created["created_at"] + 86_400
    assert created["request_counts"] == {"total": 0, "completed": 0, "failed": 0}
    ended(client, created["id"])
    batch = http.get(f"/batches/{created['id']}").json()
    assert set(batch) >= MEMBERS
    times = [batch[name] for name in ("created_at", "in_progress_at", "finalizing_at", "completed_at")]
    assert times == sorted(times)
    assert [batch[name] for name in ("failed_at", "expired_at", "cancelling_at", "cancelled_at")] == [None] * 4
    assert batch["request_counts"] == {"total": 1, "completed": 1, "failed": 0}
    usage = batch["usage"]
    assert set(usage) == {
        *("input_tokens", "input_tokens_details", "output_tokens", "output_tokens_details", "total_tokens")
    }
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"] > 0
    assert set(usage["input_tokens_details"]) == {"cached_tokens"}
    assert set(usage["output_tokens_details"]) == {"reasoning_tokens"}


@pytest.mark.parametrize(("window", "seconds"), [("1h", 3600), ("7d", 7 * 86_400), ("90m", 5400), ("30d", 30 * 86_400)])
def test_other_windows_than_a_day(client: OpenAI, file_id: str, window: Any, seconds: int) -> None:
    batch = client.batches.create(input_file_id=file_id, endpoint=ENDPOINT, completion_window=window)
    assert batch.completion_window == window
    assert batch.expires_at == batch.created_at + seconds


def test_a_key_creates_one_batch(client: OpenAI, file_id: str) -> None:
    headers = {"Idempotency-Key": f"nightly of {file_id[:100]}"}

    def create(**metadata: str) -> str:
        return client.batches.create(
            input_file_id=file_id,
            endpoint=ENDPOINT,
            completion_window="24h",
            metadata=metadata,
            extra_headers=headers,
        ).id

    first = create(a="b")
    assert create(a="b") == first
    ended(client, first)
    assert create(a="b") == first
    with pytest.raises(openai.ConflictError) as caught:
        create(a="c")
    assert caught.value.code == "idempotency_key_reused"
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert caught.value.response.request.headers["x-stainless-retry-count"] == "0"


def test_lines_in_the_request_itself(client: OpenAI) -> None:
    requests = [{"body": BODY}, {"custom_id": "mine", "body": {"messages": BODY["messages"]}}]
    batch = client.batches.create(
        input_file_id=None,  # type: ignore[arg-type]
        endpoint=ENDPOINT,
        completion_window="24h",
        extra_body={"requests": requests, "model": MODEL},
    )
    assert client.files.retrieve(batch.input_file_id).filename == "inline.jsonl"
    assert len(client.files.content(batch.input_file_id).text.splitlines()) == 2
    batch = ended(client, batch.id)
    assert batch.output_file_id is not None
    lines = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
    assert [line["custom_id"] for line in lines] == ["request-1", "mine"]


def test_a_dry_run_says_what_the_batch_would(client: OpenAI) -> None:
    bad = LINE + b"\n" + LINE.replace(b'"a"', b'"b"').replace(MODEL.encode(), b"ghost") + b"\n{\n"
    file = client.files.create(file=("in.jsonl", bad), purpose="batch")
    wish = {"input_file_id": file.id, "endpoint": ENDPOINT, "completion_window": "24h", "dry_run": True}
    before = [batch.id for batch in client.batches.list(limit=100)]
    verdict: Any = client.post("/batches", cast_to=object, body=wish)
    assert (verdict["object"], verdict["valid"], verdict["input_file_id"]) == ("batch.validation", False, file.id)
    assert verdict["request_counts"]["total"] == 3
    found = [(problem["code"], problem["line"]) for problem in verdict["errors"]["data"]]
    assert found == [("model_not_found", 2), ("invalid_json_line", 3)]
    assert [batch.id for batch in client.batches.list(limit=100)] == before
    batch = client.batches.create(input_file_id=file.id, endpoint=ENDPOINT, completion_window="24h")
    errors = ended(client, batch.id).errors
    assert errors is not None
    assert [problem.model_dump() for problem in errors.data or []] == verdict["errors"]["data"]


def test_a_running_batchyard_checks_a_file_for_the_command_line(client: OpenAI, base_url: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_bytes(LINE + b"\n" + LINE.replace(MODEL.encode(), b"ghost"))
    command = ["validate", str(path), "--url", f"{base_url}/v1", "--key"]
    done = CliRunner().invoke(app, [*command, MASTER_KEY])
    assert done.exit_code == 1, done.stderr
    assert done.stdout.startswith(f"{path}:2: duplicate_custom_id: ")
    assert "mine.txt.jsonl" not in [file.filename for file in client.files.list()]
    refused = CliRunner().invoke(app, [*command, "wrong"])
    assert (refused.exit_code, "401 Incorrect API key" in refused.stderr) == (1, True)


def test_the_sdk_lists_some_of_the_batches(client: OpenAI, file_id: str) -> None:
    marks = ["red", "blue", "red"]
    made = [
        client.batches.create(
            input_file_id=file_id,
            endpoint=ENDPOINT,
            completion_window="24h",
            metadata={"color": color, "of": file_id[:60]},
        ).id
        for color in marks
    ]
    for batch_id in made:
        ended(client, batch_id)
    query: dict[str, object] = {"metadata": {"color": "red", "of": file_id[:60]}, "status": ["completed", "failed"]}
    assert [batch.id for batch in client.batches.list(limit=1, extra_query=query)] == [made[2], made[0]]
    query["status"] = "cancelled"
    assert [batch.id for batch in client.batches.list(extra_query=query)] == []
    with pytest.raises(openai.BadRequestError) as caught:
        client.batches.list(extra_query={"created_after": "yesterday"})
    assert caught.value.param == "created_after"


@pytest.mark.parametrize("headers", [{}, {"content-type": "application/json"}])
def test_a_cancel_has_no_body(http: httpx.Client, file_id: str, headers: dict[str, str]) -> None:
    wish = {"input_file_id": file_id, "endpoint": ENDPOINT, "completion_window": "24h"}
    batch = http.post("/batches", json=wish).json()
    answer = http.post(f"/batches/{batch['id']}/cancel", headers=headers)
    assert answer.status_code in (200, 409), answer.text
    if answer.status_code == 409:  # it was faster
        assert answer.headers["x-should-retry"] == "false"
    else:
        assert answer.json()["status"] in ("cancelling", "cancelled")
