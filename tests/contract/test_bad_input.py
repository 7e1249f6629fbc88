"""Bad input ends as the API says, with the line's number."""

import json
from pathlib import Path

import openai
import pytest
from openai import OpenAI

from support.stack import MODEL

from .test_openai import ended

MESSAGES = [{"role": "user", "content": "hi"}]
GOOD: dict[str, object] = {
    "custom_id": "good",
    "method": "POST",
    "url": "/v1/chat/completions",
    "body": {"model": MODEL, "messages": MESSAGES},
}


def line(**changes: object) -> str:
    return json.dumps(
        {key: value for key, value in {**GOOD, "custom_id": "bad", **changes}.items() if value is not ...}
    )


@pytest.mark.parametrize(
    ("bad", "code", "param"),
    [
        ("{this is not JSON", "invalid_json_line", None),
        (line(custom_id=...), "missing_required_parameter", "custom_id"),
        (line(method=...), "missing_required_parameter", "method"),
        (line(url=...), "missing_required_parameter", "url"),
        (line(body=...), "missing_required_parameter", "body"),
        (json.dumps(GOOD), "duplicate_custom_id", "custom_id"),
        (line(url="/v1/embeddings"), "invalid_url", "url"),
        (line(method="GET"), "invalid_method", "method"),
        (line(body={"model": "ghost"}), "model_not_found", "body.model"),
        (line(body={"model": MODEL, "messages": MESSAGES, "stream": True}), "streaming_unsupported", "body.stream"),
    ],
)
@pytest.mark.parametrize("headers", [{"x-litellm-model": MODEL}, {}], ids=["model in the ID", "model in the lines"])
def test_a_bad_line_fails_the_batch_and_is_named(
    client: OpenAI, tmp_path: Path, bad: str, code: str, param: str | None, headers: dict[str, str]
) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(f"{json.dumps(GOOD)}\n{bad}\n")
    file = client.files.create(file=path, purpose="batch", extra_headers=headers)
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    batch = ended(client, batch.id)
    assert batch.status == "failed"
    assert batch.failed_at is not None
    assert batch.request_counts is not None
    assert batch.request_counts.total == 0
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert [(problem.code, problem.param, problem.line) for problem in batch.errors.data] == [(code, param, 2)]
    assert batch.errors.data[0].message


def test_an_unknown_model_named_at_upload_fails_the_batch(client: OpenAI, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps(GOOD))
    file = client.files.create(file=path, purpose="batch", extra_headers={"x-litellm-model": "ghost"})
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    batch = ended(client, batch.id)
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert batch.errors.data[0].code == "model_not_found"
    assert "'ghost'" in (batch.errors.data[0].message or "")
    assert batch.errors.data[0].line == 1


def test_a_file_of_blank_lines_is_empty(client: OpenAI, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text("\n\n\n")
    with pytest.raises(openai.BadRequestError, match="empty"):
        client.files.create(file=path, purpose="batch")


def test_an_empty_file_is_refused_at_upload(client: OpenAI, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"")
    with pytest.raises(openai.BadRequestError, match="empty"):
        client.files.create(file=path, purpose="batch")


def test_a_file_that_is_not_named_jsonl_is_refused_at_upload(client: OpenAI, tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_text(json.dumps(GOOD))
    with pytest.raises(openai.BadRequestError, match="jsonl"):
        client.files.create(file=path, purpose="batch")


def test_a_first_line_that_is_not_json_is_refused_at_upload(client: OpenAI, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text("custom_id,prompt\n1,hello\n")
    with pytest.raises(openai.BadRequestError, match="JSON"):
        client.files.create(file=path, purpose="batch")


def test_an_unknown_endpoint_is_refused(client: OpenAI, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps(GOOD))
    file = client.files.create(file=path, purpose="batch")
    with pytest.raises(openai.BadRequestError) as caught:
        client.batches.create(input_file_id=file.id, endpoint="/v1/audio", completion_window="24h")  # type: ignore[arg-type]
    assert (caught.value.code, caught.value.param) == ("invalid_value", "endpoint")
    assert "Supported values are: '/v1/chat/completions'" in caught.value.message


def test_an_unknown_input_file_is_not_found(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="No such File object: file-nope"):
        client.batches.create(input_file_id="file-nope", endpoint="/v1/chat/completions", completion_window="24h")
