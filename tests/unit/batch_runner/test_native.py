"""A batch on a server that runs it whole: over real NATS, a real file-store, and HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from batchyard.batch_runner.batch import BatchRecord, record_key
from batchyard.common.contracts.batches import (
    Batch,
    BatchProblem,
    BatchStatus,
    CancelBatch,
    CreateBatch,
    GetBatch,
    ValidateBatch,
)
from batchyard.common.contracts.health import CheckBatchRunner, CheckFileStore
from batchyard.common.ids import decode_id
from batchyard.common.messaging.commands import CommandClient
from batchyard.common.messaging.records import Records
from batchyard.common.messaging.topology import BATCHES_BUCKET
from batchyard.common.objects import open_object_store
from batchyard.common.service import Messaging
from batchyard.common.settings import Settings
from batchyard.vllm_sim.settings import SimSettings
from batchyard.vllm_sim.testing import running_sim
from support.batch_server import BatchServer, answered, listening
from support.services import Caller, file_store_and_runner

from .conftest import MODEL, chat_line

ENDPOINT = "/v1/chat/completions"
THEIRS = "their-model"
OTHER = "other-model"
QUICK = {
    "native_poll_first": 0.02,
    "native_poll_cap": 0.1,
    "native_cancel_grace": 2.0,
    "shard_lines": 10,
    "retry_base": 0.01,
    "reconcile_interval": 0.2,
}


class Yard:
    """A batch-runner whose one server runs whole batches."""

    def __init__(self, server: BatchServer, call: Caller, messaging: Messaging) -> None:
        self.server = server
        self.call = call
        self._records = Records(messaging.js, BATCHES_BUCKET, BatchRecord)

    async def batch(self, *lines: bytes, **options: Any) -> Batch:
        file = await self.call.upload(b"\n".join(lines) + b"\n", model=MODEL)
        batch: Batch = await self.call(CreateBatch(input_file_id=file.id, endpoint=ENDPOINT, **options))
        return batch

    async def results(self, batch: Batch) -> tuple[list[Any], list[Any]]:
        return await self.call.content(batch.output_file_id), await self.call.content(batch.error_file_id)

    def key(self, batch: Batch) -> str:
        return record_key(self.call.tenant, decode_id(batch.id).raw)

    async def record(self, batch: Batch) -> BatchRecord:
        entry = await self._records.get(self.key(batch))
        assert entry is not None
        return entry.value

    async def swept(self, batch: Batch) -> None:
        async with asyncio.timeout(20):
            while not (await self.record(batch)).swept:
                await asyncio.sleep(0.02)

    async def change(self, batch: Batch, **changes: object) -> None:
        await self._records.change(self.key(batch), lambda record: record.model_copy(update=changes))


@pytest.fixture
async def open_yard(settings: Settings, messaging: Messaging, tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    async with AsyncExitStack() as stack:

        async def opened(mode: str = "native", api_base: str | None = None, **behaviour: Any) -> Yard:
            server = await stack.enter_async_context(listening(BatchServer(**behaviour)))
            config = tmp_path / "config.yaml"
            entry = {"model": f"hosted_vllm/{THEIRS}", "api_base": api_base or server.url}
            document = {
                "model_list": [
                    {
                        "model_name": MODEL,
                        "litellm_params": {**entry, "batch_mode": mode},
                        "model_info": {"id": "upstream"},
                    },
                    {"model_name": OTHER, "litellm_params": {"model": OTHER, "api_base": server.url}},
                ]
            }
            config.write_text(json.dumps(document))
            await stack.enter_async_context(file_store_and_runner(settings, **{**QUICK, "config": config}))
            objects = open_object_store(settings.object_store)
            stack.push_async_callback(objects.close)
            caller = Caller(CommandClient(messaging.connection), objects)
            await caller.ready(CheckFileStore(), CheckBatchRunner())
            return Yard(server, caller, messaging)

        yield opened


def lines(count: int) -> list[bytes]:
    return [chat_line(f"r{index}", f"question {index}") for index in range(count)]


def number_of(line: Any) -> int:
    return int(line["body"]["messages"][0]["content"].split()[-1])


async def test_the_server_gets_the_lines_under_its_own_name_for_the_model(open_yard: Any) -> None:
    yard = await open_yard()
    batch = await yard.call.ended((await yard.batch(*lines(25))).id)
    assert batch.status is BatchStatus.COMPLETED
    (upload,) = yard.server.uploads
    sent = [json.loads(line) for line in upload.splitlines()]
    assert [number_of(line) for line in sent] == list(range(25))
    assert {(line["method"], line["url"], line["body"]["model"]) for line in sent} == {("POST", ENDPOINT, THEIRS)}
    raw_id = decode_id(batch.id).raw
    (theirs,) = yard.server.batches.values()
    assert theirs["metadata"] == {"batchyard_batch": raw_id}
    assert (theirs["endpoint"], theirs["completion_window"]) == (ENDPOINT, "24h")
    assert yard.server.headers[0]["idempotency-key"] == raw_id


async def test_results_stand_in_our_order_under_our_names(open_yard: Any) -> None:
    yard = await open_yard(
        reverse=True, answer=lambda line: answered(line, 400 if number_of(line) % 5 == 3 else 200, number_of(line))
    )
    batch = await yard.call.ended((await yard.batch(*lines(25))).id)
    output, errors = await yard.results(batch)
    refused = [index for index in range(25) if index % 5 == 3]
    assert [line["custom_id"] for line in output] == [f"r{n}" for n in range(25) if n not in refused]
    assert [line["custom_id"] for line in errors] == [f"r{n}" for n in refused]
    hex_id = decode_id(batch.id).raw.removeprefix("batch_")
    for line in (*output, *errors):
        number = int(line["custom_id"][1:])
        assert line["id"] == f"batch_req_{hex_id}{number + 1:08x}"
        assert line["response"]["request_id"] == f"req-{line['id']}"
    for line in output:
        assert line["response"]["body"]["said"] == [{"role": "user", "content": f"question {line['custom_id'][1:]}"}]
    assert {line["response"]["status_code"] for line in errors} == {400}
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (25, 20, 5)
    used = sum(n for n in range(25) if n not in refused)
    assert batch.usage is not None
    assert (batch.usage.input_tokens, batch.usage.output_tokens) == (used, 20)
    assert (await yard.record(batch)).usage_by_deployment == {"upstream": batch.usage}


async def test_results_beyond_the_memory_bound_come_in_order_too(open_yard: Any, monkeypatch: Any) -> None:
    monkeypatch.setitem(QUICK, "shard_memory_bytes", 1024 * 1024)
    padding = "x" * 50_000

    def answer(line: Any) -> Any:
        result = answered(line)
        result["response"]["body"]["padding"] = padding
        return result

    yard = await open_yard(reverse=True, answer=answer)
    batch = await yard.call.ended((await yard.batch(*lines(90))).id)
    output, _ = await yard.results(batch)
    assert [line["custom_id"] for line in output] == [f"r{n}" for n in range(90)]


async def test_the_server_is_left_as_it_was_found(open_yard: Any) -> None:
    yard = await open_yard(answer=lambda line: answered(line, 400 if number_of(line) == 1 else 200))
    batch = await yard.call.ended((await yard.batch(*lines(3))).id)
    await yard.swept(batch)
    assert yard.server.files == {}
    assert len(yard.server.deleted) == 3, "the input, the output and the error file"


@pytest.mark.parametrize(
    ("ending", "code"),
    [("completed", "upstream_no_answer"), ("expired", "upstream_expired"), ("cancelled", "upstream_cancelled")],
)
async def test_lines_that_the_server_never_answered_are_named(open_yard: Any, ending: str, code: str) -> None:
    def answer(line: Any) -> Any:
        if number_of(line) == 0:
            return answered(line)
        if number_of(line) == 1:
            return None
        error = {"code": "batch_expired", "message": "too late"}
        return {"custom_id": line["custom_id"], "response": None, "error": error}

    yard = await open_yard(ending=ending, answer=answer)
    batch = await yard.call.ended((await yard.batch(*lines(3))).id)
    output, errors = await yard.results(batch)
    assert [line["custom_id"] for line in output] == ["r0"]
    assert [(line["custom_id"], line["error"]["code"]) for line in errors] == [("r1", code), ("r2", code)]
    assert (batch.status, batch.request_counts.failed) == (BatchStatus.COMPLETED, 2)


async def test_a_batch_that_the_server_refuses_fails_with_its_reasons(open_yard: Any) -> None:
    problems = [
        {"code": "invalid_request", "message": "no such tool", "param": "body.tools", "line": 2},
        {"code": "too_much", "message": "too much", "param": None, "line": None},
    ]
    yard = await open_yard(problems=problems)
    first, second = lines(2)
    batch = await yard.call.ended((await yard.batch(first, b"", b"", second)).id)
    assert batch.status is BatchStatus.FAILED
    assert batch.errors is not None
    assert batch.errors.data == [
        BatchProblem(code="invalid_request", message="no such tool", param="body.tools", line=4),
        BatchProblem(code="too_much", message="too much"),
    ]
    assert (batch.output_file_id, batch.error_file_id, batch.request_counts.total) == (None, None, 0)
    await yard.swept(batch)
    assert yard.server.files == {}


async def test_a_server_without_room_is_asked_again(open_yard: Any) -> None:
    yard = await open_yard(full=2)
    batch = await yard.call.ended((await yard.batch(*lines(5))).id)
    assert (batch.status, batch.request_counts.completed) == (BatchStatus.COMPLETED, 5)
    assert [theirs["status"] for theirs in yard.server.batches.values()] == ["failed", "failed", "completed"]
    assert len({headers["idempotency-key"] for headers in yard.server.headers}) == 3
    assert len(yard.server.uploads) == 1


async def test_lines_for_a_server_of_whole_batches_stand_in_no_batch_with_others(
    open_yard: Any, monkeypatch: Any
) -> None:
    monkeypatch.setitem(QUICK, "mixed_models", True)
    yard = await open_yard()
    mixed = b"\n".join([*lines(2), lines(3)[2].replace(MODEL.encode(), OTHER.encode())])
    file = await yard.call.upload(mixed)
    verdict = await yard.call(ValidateBatch(input_file_id=file.id, endpoint=ENDPOINT))
    batch = await yard.call.ended((await yard.call(CreateBatch(input_file_id=file.id, endpoint=ENDPOINT))).id)
    assert batch.status is BatchStatus.FAILED
    assert [problem.code for problem in batch.errors.data] == ["mismatched_model"]
    assert (verdict.valid, verdict.errors) == (False, batch.errors)
    assert yard.server.uploads == []


async def test_an_outage_costs_nothing_and_is_told(open_yard: Any) -> None:
    yard = await open_yard(held=True)
    batch = await yard.batch(*lines(5))
    await yard.server.until(lambda server: bool(server.batches))
    yard.server.outage = (429, {"retry-after": "0"})
    stuck = await yard.call.until(batch.id, lambda batch: batch.status_reason is not None)
    assert (stuck.status, stuck.request_counts.failed) == (BatchStatus.IN_PROGRESS, 0)
    yard.server.outage = (503, {})
    yard.server.held = False
    seen = len(yard.server.asked)
    await yard.server.until(lambda server: len(server.asked) > seen + 1)
    yard.server.outage = None
    batch = await yard.call.ended(batch.id)
    assert (batch.status, batch.request_counts.completed) == (BatchStatus.COMPLETED, 5)
    assert len(yard.server.batches) == 1


async def test_a_download_that_breaks_off_is_made_again(open_yard: Any) -> None:
    yard = await open_yard(cuts=2)
    batch = await yard.call.ended((await yard.batch(*lines(200))).id)
    output, _ = await yard.results(batch)
    assert [line["custom_id"] for line in output] == [f"r{n}" for n in range(200)]


async def test_a_cancel_passes_through_and_keeps_what_the_server_had_done(open_yard: Any) -> None:
    yard = await open_yard(held=True, answer=lambda line: answered(line) if number_of(line) < 3 else None)
    batch = await yard.batch(*lines(8))
    await yard.server.until(lambda server: any(b["status"] == "in_progress" for b in server.batches.values()))
    await yard.call(CancelBatch(batch_id=batch.id))
    batch = await yard.call.ended(batch.id, timeout=10)
    assert batch.status is BatchStatus.CANCELLED
    (theirs,) = yard.server.batches.values()
    assert theirs["status"] == "cancelled"
    output, errors = await yard.results(batch)
    assert [line["custom_id"] for line in output] == ["r0", "r1", "r2"]
    assert {line["error"]["code"] for line in errors} == {"batch_cancelled"}
    assert [line["custom_id"] for line in errors] == [f"r{n}" for n in range(3, 8)]
    assert (batch.request_counts.completed, batch.request_counts.failed) == (3, 0)


async def test_a_cancel_waits_no_longer_than_its_grace_for_a_server_that_is_away(open_yard: Any) -> None:
    yard = await open_yard(held=True)
    batch = await yard.batch(*lines(4))
    await yard.server.until(lambda server: any(b["status"] == "in_progress" for b in server.batches.values()))
    yard.server.outage = (503, {})
    await yard.call(CancelBatch(batch_id=batch.id))
    batch = await yard.call.ended(batch.id, timeout=10)
    _, errors = await yard.results(batch)
    assert (batch.status, len(errors)) == (BatchStatus.CANCELLED, 4)


async def test_our_deadline_is_kept_by_cancelling(open_yard: Any) -> None:
    yard = await open_yard(held=True, answer=lambda line: answered(line) if number_of(line) == 0 else None)
    batch = await yard.batch(*lines(3), completion_window="1m")
    record = await yard.record(batch)
    await yard.change(batch, expires_at=record.created_at + 3)
    batch = await yard.call.ended(batch.id, timeout=20)
    assert batch.status is BatchStatus.EXPIRED
    (theirs,) = yard.server.batches.values()
    assert theirs["status"] == "cancelled"
    output, errors = await yard.results(batch)
    assert len(output) == 1
    assert {line["error"]["code"] for line in errors} == {"batch_expired"}


async def test_a_batch_that_the_server_has_forgotten_ends(open_yard: Any) -> None:
    yard = await open_yard(held=True)
    batch = await yard.batch(*lines(2))
    await yard.server.until(lambda server: bool(server.batches))
    yard.server.batches.clear()
    batch = await yard.call.ended(batch.id)
    _, errors = await yard.results(batch)
    assert [line["error"]["code"] for line in errors] == ["upstream_lost", "upstream_lost"]


@pytest.mark.parametrize("mode", ["native", "auto"])
async def test_a_server_without_the_api_is_found_out(open_yard: Any, mode: str) -> None:
    async with running_sim(SimSettings(models=(THEIRS,))) as sim:
        yard = await open_yard(mode=mode, api_base=sim.url)
        batch = await yard.call.ended((await yard.batch(*lines(12))).id)
    if mode == "auto":
        assert (batch.status, batch.request_counts.total) == (BatchStatus.COMPLETED, 12)
    else:
        assert batch.status is BatchStatus.FAILED
        assert [problem.code for problem in batch.errors.data] == ["upstream_error"]
        assert "did not take the batch" in batch.errors.data[0].message


async def test_auto_waits_for_a_server_that_has_never_answered(open_yard: Any) -> None:
    yard = await open_yard(mode="auto", outage=(503, {}))
    batch = await yard.batch(*lines(3))
    await yard.server.until(lambda server: "GET /v1/files" in server.asked)
    assert (await yard.call(GetBatch(batch_id=batch.id))).status is BatchStatus.VALIDATING
    yard.server.outage = None
    batch = await yard.call.ended(batch.id)
    assert (batch.status, len(yard.server.batches)) == (BatchStatus.COMPLETED, 1)
