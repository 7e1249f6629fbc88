"""What crosses a process boundary: OpenAI's own types read our objects, and every command has one owner."""

import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, get_args

import openai.types
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.batch_create_params import BatchCreateParams
from openai.types.uploads import UploadPart
from pydantic import ValidationError

from batchyard.common.contracts import batches, billing, files, health, models, uploads
from batchyard.common.contracts.base import Command, Reply
from batchyard.common.contracts.batches import Batch, BatchErrors, BatchProblem, BatchStatus, RequestCounts
from batchyard.common.contracts.events import BatchEvent
from batchyard.common.contracts.files import CreateFile, ExpiresAfter, File, GetFile, ListFiles, Purpose
from batchyard.common.contracts.usage import Usage
from batchyard.common.errors import NotFound
from batchyard.common.messaging.permissions import COMMAND_OWNERS
from batchyard.common.subjects import EventSubject, parse_event

FILE = File(id="file-1", bytes=3, created_at=1, filename="a.jsonl", purpose=Purpose.BATCH)
BATCH = Batch(
    id="batch_1",
    endpoint="/v1/chat/completions",
    input_file_id="file-1",
    completion_window="24h",
    status=BatchStatus.COMPLETED,
    created_at=1,
    errors=BatchErrors(data=[BatchProblem(code="c", message="m", line=1)]),
    request_counts=RequestCounts(total=3, completed=2, failed=1),
    usage=Usage.of(10, 2, 5, 1),
    metadata={"a": "b"},
)
COUNTS = st.builds(RequestCounts, total=st.integers(0), completed=st.integers(0), failed=st.integers(0))
USAGES = st.builds(Usage.of, st.integers(0), st.integers(0), st.integers(0), st.integers(0))


def commands(root: type = Command) -> list[type[Command[Batch]]]:
    children: Sequence[type[Command[Batch]]] = root.__subclasses__()
    found = [kind for child in children for kind in (child, *commands(child))]
    ours = {module.__name__ for module in (batches, billing, files, health, models, uploads)}
    return [kind for kind in found if kind.__module__ in ours and "verb" in vars(kind)]


def test_openai_reads_our_file() -> None:
    read = openai.types.FileObject.model_validate_json(FILE.model_dump_json(), strict=True)
    assert (read.id, read.bytes, read.purpose, read.status) == ("file-1", 3, "batch", "processed")
    assert read.model_extra == {}


def test_openai_reads_our_upload() -> None:
    upload = uploads.Upload(
        id="upload_1",
        bytes=3,
        created_at=1,
        expires_at=3601,
        filename="a.jsonl",
        purpose=Purpose.BATCH,
        status=uploads.UploadStatus.COMPLETED,
        file=FILE,
    )
    read = openai.types.Upload.model_validate_json(upload.model_dump_json(), strict=True)
    assert (read.id, read.status, read.model_extra) == ("upload_1", "completed", {})
    assert read.file is not None
    assert read.file.id == FILE.id
    part = uploads.UploadPart(id="part_1", created_at=1, upload_id="upload_1")
    assert UploadPart.model_validate_json(part.model_dump_json(), strict=True).model_extra == {}


def test_every_status_of_an_upload_is_one_of_openais() -> None:
    assert set(get_args(openai.types.Upload.model_fields["status"].annotation)) == set(uploads.UploadStatus)


OURS = {"cost", "currency", "retry_of", "status_reason"}
"""What a batch says beyond OpenAI's fields."""


def test_openai_reads_our_batch() -> None:
    read = openai.types.Batch.model_validate_json(BATCH.model_dump_json(), strict=True)
    assert read.status == "completed"
    assert read.request_counts is not None
    assert read.request_counts.completed == 2
    assert read.usage is not None
    assert read.usage.input_tokens_details.cached_tokens == 2
    assert read.model_extra == dict.fromkeys(OURS)


def test_a_cost_is_a_plain_decimal_string_that_openai_reads() -> None:
    sent = BATCH.model_copy(update={"cost": Decimal("1E-10"), "currency": "EUR"}).model_dump_json()
    assert Batch.model_validate_json(sent).cost == Decimal("1E-10")
    read = openai.types.Batch.model_validate_json(sent, strict=True)
    assert read.model_extra == dict.fromkeys(OURS) | {"cost": "0.0000000001", "currency": "EUR"}


def test_what_has_not_happened_is_null_and_not_absent() -> None:
    sent = json.loads(BATCH.model_dump_json())
    assert set(sent) == set(openai.types.Batch.model_fields) | OURS
    assert sent["cancelled_at"] is None
    assert sent["output_file_id"] is None


def test_every_status_is_one_of_openais() -> None:
    status: Any = openai.types.Batch.model_fields["status"].annotation
    assert set(get_args(status)) == set(BatchStatus)


def test_every_batch_endpoint_of_openai_that_vllm_has_is_ours() -> None:
    theirs = str(BatchCreateParams.__annotations__["endpoint"])
    for endpoint in ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"):
        assert endpoint in theirs
        assert endpoint in batches.ENDPOINTS


def test_a_finished_batch_is_in_a_terminal_status() -> None:
    assert {status for status in BatchStatus if status.is_terminal} == {"completed", "failed", "expired", "cancelled"}


def test_nobody_may_upload_as_batch_output() -> None:
    assert Purpose.BATCH_OUTPUT not in files.UPLOAD_PURPOSES
    assert len(files.UPLOAD_PURPOSES) == len(Purpose) - 1


@pytest.mark.parametrize("seconds", [3599, 2_592_001])
def test_a_file_expires_within_an_hour_and_thirty_days(seconds: int) -> None:
    with pytest.raises(ValidationError):
        ExpiresAfter(seconds=seconds)


@given(parts=st.lists(COUNTS))
def test_counts_add_up(parts: list[RequestCounts]) -> None:
    whole = sum(parts, RequestCounts())
    assert whole.total == sum(part.total for part in parts)
    assert whole.completed == sum(part.completed for part in parts)
    assert whole.failed == sum(part.failed for part in parts)


@given(parts=st.lists(USAGES))
def test_usage_adds_up(parts: list[Usage]) -> None:
    whole = sum(parts, Usage())
    assert whole.input_tokens == sum(part.input_tokens for part in parts)
    assert whole.output_tokens == sum(part.output_tokens for part in parts)
    assert whole.total_tokens == whole.input_tokens + whole.output_tokens
    assert whole.input_tokens_details.cached_tokens == sum(part.input_tokens_details.cached_tokens for part in parts)
    assert whole.output_tokens_details.reasoning_tokens == sum(
        part.output_tokens_details.reasoning_tokens for part in parts
    )


@pytest.mark.parametrize("command", commands(), ids=lambda command: command.__name__)
def test_every_command_has_an_owner(command: type[Command[Batch]]) -> None:
    services = {"file-store", "batch-runner", "billing"}
    assert COMMAND_OWNERS.get(command.noun, command.verb) in services


def test_no_two_commands_share_a_subject() -> None:
    subjects = [command.subject("t") for command in commands()]
    assert len(subjects) == len(set(subjects)) >= 14


def test_a_command_refuses_an_option_it_does_not_know() -> None:
    with pytest.raises(ValidationError):
        ListFiles.model_validate({"limits": 3})


def test_a_newer_peers_members_are_ignored() -> None:
    assert File.model_validate(FILE.model_dump() | {"colour": "red"}) == FILE


def test_what_was_sent_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        FILE.bytes = 4  # type: ignore[misc]
    with pytest.raises(ValidationError):
        GetFile(file_id="a").file_id = "b"  # type: ignore[misc]


def test_a_command_survives_its_journey() -> None:
    sent = CreateFile(filename="a", purpose=Purpose.BATCH, content="", expires_after=ExpiresAfter(seconds=3600))
    assert CreateFile.model_validate_json(sent.model_dump_json(exclude_none=True)) == sent


@pytest.mark.parametrize("reply", [{}, {"result": FILE, "error": NotFound("x").body()}])
def test_a_reply_is_a_result_or_an_error(reply: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="a result or an error"):
        Reply[File].model_validate(reply)


def test_an_event_survives_its_journey_and_stands_on_the_subject_of_its_fact() -> None:
    event = BatchEvent(
        id="batch_1.completed",
        occurred_at=1.5,
        tenant="team a",
        raw_batch_id="batch_1",
        status=BatchStatus.COMPLETED,
        batch=BATCH,
        usage_by_deployment={"gpu-1": Usage.of(10, 2, 5, 1)},
    )
    assert BatchEvent.model_validate_json(event.model_dump_json()) == event
    assert parse_event(event.subject) == EventSubject("team a", "batches", "batch_1", "completed")
