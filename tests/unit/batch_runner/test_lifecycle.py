"""A batch from its creation to its end: the runner over real NATS, a real file-store, a simulated vLLM."""

import asyncio
import time
from decimal import Decimal
from typing import Any

import pytest
from uuid_utils import uuid7

from batchyard.batch_runner import worker
from batchyard.batch_runner.batch import BatchRecord, record_key
from batchyard.batch_runner.tally import ShardProgress
from batchyard.batch_runner.transitions import finalizing
from batchyard.common import subjects
from batchyard.common.contracts.batches import BatchStatus, CancelBatch, CreateBatch, GetBatch, ListBatches
from batchyard.common.contracts.events import BatchEvent
from batchyard.common.contracts.files import CreateFile, DeleteFile, ExpiresAfter, GetFile, OpenPlace, Purpose
from batchyard.common.contracts.models import ListModels
from batchyard.common.errors import ApiError, Conflict, InvalidRequest, NotFound
from batchyard.common.ids import decode_id
from batchyard.common.messaging.commands import CommandClient
from batchyard.common.messaging.records import Records
from batchyard.common.messaging.topology import BATCHES_BUCKET, EVENTS, PROGRESS_BUCKET, WORK
from batchyard.vllm_sim.answers import chat_text
from batchyard.vllm_sim.settings import SimSettings
from support.services import Caller

from .conftest import ENDPOINT, MODEL, chat_line, expire_now, lines


async def test_every_line_of_a_batch_is_answered_in_order(open_yard: Any) -> None:
    yard = await open_yard()
    batch = await yard.batch(*lines(95), metadata={"job": "nightly"})
    assert (batch.status, batch.metadata, batch.model) == (BatchStatus.VALIDATING, {"job": "nightly"}, MODEL)
    batch = await yard.call.ended(batch.id)
    assert batch.status is BatchStatus.COMPLETED
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (95, 95, 0)
    output = await yard.call.content(batch.output_file_id)
    assert [line["custom_id"] for line in output] == [f"r{index}" for index in range(95)]
    for index, line in enumerate(output):
        expected = chat_text([{"role": "user", "content": f"question {index}"}], MODEL)
        assert line["response"]["body"]["choices"][0]["message"]["content"] == expected
    assert batch.error_file_id is None
    assert batch.usage is not None
    assert batch.usage.total_tokens == sum(line["response"]["body"]["usage"]["total_tokens"] for line in output)


async def test_ids_of_batch_and_files_carry_the_model(open_yard: Any) -> None:
    yard = await open_yard()
    batch = await yard.call.ended((await yard.batch(*lines(3))).id)
    for public_id in (batch.id, batch.input_file_id, batch.output_file_id):
        assert decode_id(public_id).model == MODEL
    output = await yard.call(GetFile(file_id=batch.output_file_id))
    assert output.purpose is Purpose.BATCH_OUTPUT


async def test_the_lines_name_the_model_when_the_upload_does_not(open_yard: Any) -> None:
    yard = await open_yard()
    batch = await yard.call.ended((await yard.batch(*lines(3), model=None)).id)
    assert (batch.status, batch.model, decode_id(batch.id).model) == (BatchStatus.COMPLETED, MODEL, None)


async def test_a_batch_whose_every_line_fails_is_completed_without_output(open_yard: Any) -> None:
    yard = await open_yard()
    batch = await yard.call.ended((await yard.batch(*lines(12, " [[fault:status=400]]"))).id)
    assert (batch.status, batch.output_file_id) == (BatchStatus.COMPLETED, None)
    assert (batch.request_counts.completed, batch.request_counts.failed) == (0, 12)
    assert len(await yard.call.content(batch.error_file_id)) == 12


async def test_a_bad_input_fails_the_batch_with_the_line(open_yard: Any) -> None:
    yard = await open_yard()
    batch = await yard.call.ended((await yard.batch(lines(1)[0], b"{nonsense")).id)
    assert (batch.status, batch.request_counts.total, batch.output_file_id) == (BatchStatus.FAILED, 0, None)
    assert batch.failed_at is not None
    assert batch.errors is not None
    assert [(problem.code, problem.line) for problem in batch.errors.data] == [("invalid_json_line", 2)]
    assert not yard.sim.state.log.records()


async def test_every_status_is_told_once_in_order(open_yard: Any) -> None:
    yard = await open_yard()
    batch = await yard.call.ended((await yard.batch(*lines(3))).id)
    subscription = await yard.messaging.js.pull_subscribe(subjects.ALL_EVENTS, stream=EVENTS)
    async with asyncio.timeout(10):
        events: list[BatchEvent] = []
        while len(events) < 4:
            for message in await subscription.fetch(10, timeout=5):
                events.append(BatchEvent.model_validate_json(message.data))
                assert message.subject == events[-1].subject
                await message.ack()
    assert [event.status for event in events] == ["validating", "in_progress", "finalizing", "completed"]
    assert events[-1].batch == batch
    assert sum(usage.total_tokens for usage in events[-1].usage_by_deployment.values()) == batch.usage.total_tokens


async def test_a_finished_batch_leaves_nothing_but_its_files(open_yard: Any) -> None:
    yard = await open_yard()
    batch = await yard.call.ended((await yard.batch(*lines(25))).id)
    async with asyncio.timeout(10):
        while await yard.working_objects():
            await asyncio.sleep(0.02)
    for bucket in ("shards", "progress"):
        info = await yard.messaging.js.stream_info(f"KV_{bucket}")
        async with asyncio.timeout(10):
            while info.state.messages:
                await asyncio.sleep(0.02)
                info = await yard.messaging.js.stream_info(f"KV_{bucket}")
    assert (await yard.messaging.js.stream_info(WORK)).state.messages == 0
    assert len(await yard.call.content(batch.output_file_id)) == 25


async def test_the_input_may_be_deleted_while_the_batch_runs(open_yard: Any) -> None:
    yard = await open_yard(SimSettings(port=0, base_latency=0.05), max_parallel_requests=4)
    batch = await yard.batch(*lines(30))
    await yard.call.until(batch.id, lambda batch: batch.status is BatchStatus.IN_PROGRESS)
    await yard.call(DeleteFile(file_id=batch.input_file_id))
    batch = await yard.call.ended(batch.id)
    assert (batch.status, batch.request_counts.completed) == (BatchStatus.COMPLETED, 30)


async def test_progress_is_seen_while_a_shard_runs(open_yard: Any) -> None:
    yard = await open_yard(
        SimSettings(port=0, base_latency=0.05),
        output_price=0.00001,
        max_parallel_requests=2,
        shard_lines=500,
        flush_interval=0.1,
    )
    batch = await yard.batch(*lines(60))
    assert batch.cost is None
    seen = await yard.call.until(batch.id, lambda batch: 0 < batch.request_counts.completed < 60)
    assert seen.usage is not None
    assert seen.usage.total_tokens > 0
    assert (seen.cost, seen.currency) == (seen.usage.output_tokens * Decimal("0.00001"), "USD")
    ended = await yard.call.ended(batch.id)
    assert ended.request_counts.completed == 60
    assert ended.cost == ended.usage.output_tokens * Decimal("0.00001")


async def test_many_batches_are_at_work_at_once(open_yard: Any) -> None:
    yard = await open_yard(SimSettings(port=0, base_latency=0.2), max_parallel_requests=12, flush_interval=0.1)
    batches = await asyncio.gather(*(yard.batch(*lines(60, f"of {number}")) for number in range(12)))
    for batch in batches:
        seen = await yard.call.until(batch.id, lambda batch: batch.request_counts.completed > 0)
        assert seen.status is BatchStatus.IN_PROGRESS, "it began before any had ended"
    for batch in batches:
        assert (await yard.call.ended(batch.id)).request_counts.completed == 60


@pytest.mark.parametrize("window", [2, 16])
async def test_a_cancelled_batch_keeps_what_finished_and_names_the_rest(open_yard: Any, window: int) -> None:
    """With the larger window most of its shards wait in the runner for their turn."""
    yard = await open_yard(SimSettings(port=0, base_latency=0.1), max_parallel_requests=2, shard_window=window)
    batch = await yard.batch(*lines(200))
    await yard.call.until(batch.id, lambda _: len(yard.sim.state.log.records()) > 10)
    cancelling = await yard.call(CancelBatch(batch_id=batch.id))
    assert cancelling.status is BatchStatus.CANCELLING
    batch = await yard.call.ended(batch.id, timeout=15)
    assert batch.status is BatchStatus.CANCELLED
    output = await yard.call.content(batch.output_file_id)
    errors = await yard.call.content(batch.error_file_id)
    assert len(output) == batch.request_counts.completed > 0
    assert batch.request_counts.failed == 0
    assert {line["error"]["code"] for line in errors} == {"batch_cancelled"}
    ids = sorted([line["custom_id"] for line in (*output, *errors)])
    assert ids == sorted(f"r{index}" for index in range(200))
    with pytest.raises(Conflict, match="'cancelled'"):
        await yard.call(CancelBatch(batch_id=batch.id))


async def test_a_cancelled_batch_of_several_models_names_every_line_in_input_order(open_yard: Any) -> None:
    models = ("a", "b", "c")
    yard = await open_yard(
        SimSettings(port=0, base_latency=0.05, models=models),
        mixed_models=True,
        max_parallel_requests=2,
        shard_window=1,
    )
    requests = [chat_line(f"r{index}", f"question {index}", model=models[index % 7 % 3]) for index in range(200)]
    batch = await yard.batch(*requests, model=None)
    await yard.call.until(batch.id, lambda _: yard.sim.state.log.total > 40)
    await yard.call(CancelBatch(batch_id=batch.id))
    batch = await yard.call.ended(batch.id, timeout=15)
    assert (batch.status, batch.model, batch.request_counts.total) == (BatchStatus.CANCELLED, None, 200)
    output = [int(line["custom_id"][1:]) for line in await yard.call.content(batch.output_file_id)]
    errors = [int(line["custom_id"][1:]) for line in await yard.call.content(batch.error_file_id)]
    assert len(output) == batch.request_counts.completed > 20
    assert output == sorted(output)
    assert errors == sorted(errors)
    assert sorted(output + errors) == list(range(200))
    async with asyncio.timeout(10):
        while (await yard.messaging.js.stream_info(WORK)).state.messages or await yard.working_objects():
            await asyncio.sleep(0.02)


async def test_an_expired_batch_keeps_what_finished_and_names_the_rest(open_yard: Any) -> None:
    yard = await open_yard(
        SimSettings(port=0, base_latency=0.2), max_parallel_requests=1, reconcile_interval=0.1, shard_window=2
    )
    file = await yard.call.upload(b"\n".join(lines(60)), model=MODEL)
    batch = await yard.call(CreateBatch(input_file_id=file.id, endpoint=ENDPOINT, completion_window="1m"))
    await yard.call.until(batch.id, lambda _: len(yard.sim.state.log.records()) > 2)
    await expire_now(yard, batch)
    batch = await yard.call.ended(batch.id, timeout=20)
    assert batch.status is BatchStatus.EXPIRED
    assert batch.expired_at is not None
    output = await yard.call.content(batch.output_file_id)
    errors = await yard.call.content(batch.error_file_id)
    assert 0 < len(output) < 60
    assert {line["error"]["code"] for line in errors} == {"batch_expired"}
    assert sorted(line["custom_id"] for line in (*output, *errors)) == sorted(f"r{index}" for index in range(60))


async def test_a_batch_answered_in_full_is_completed_though_its_deadline_has_passed(open_yard: Any) -> None:
    yard = await open_yard(SimSettings(port=0, base_latency=0.3), cancel_grace=10, reconcile_interval=30)
    batch = await yard.batch(*lines(5))
    await yard.sim.until(lambda state: state.log.total == 5)
    await expire_now(yard, batch)
    assert (await yard.call.ended(batch.id)).status is BatchStatus.COMPLETED


async def test_a_batch_waits_for_a_fleet_that_is_down(open_yard: Any) -> None:
    yard = await open_yard(max_attempts=1, probe_interval=0.05)
    yard.sim.state.healthy = False
    batch = await yard.batch(*lines(20))
    await yard.sim.until(lambda state: len(state.log.records()) > 0)
    assert (await yard.call(GetBatch(batch_id=batch.id))).status is BatchStatus.IN_PROGRESS
    yard.sim.state.healthy = True
    batch = await yard.call.ended(batch.id)
    assert (batch.request_counts.completed, batch.request_counts.failed) == (20, 0)


async def test_a_batch_says_why_it_does_not_move(open_yard: Any) -> None:
    yard = await open_yard(probe_interval=0.05)
    yard.sim.state.healthy = False
    batch = await yard.batch(*lines(5))
    stuck = await yard.call.until(batch.id, lambda batch: batch.status_reason is not None)
    assert stuck.status is BatchStatus.IN_PROGRESS
    assert stuck.status_reason == f"No server of the model '{MODEL}' answers. The requests wait for one; none is lost."
    yard.sim.state.healthy = True
    assert (await yard.call.ended(batch.id)).status_reason is None


async def test_a_checkpoint_does_not_take_back_why_a_batch_does_not_move(
    open_yard: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_LOOK_SECONDS", 0.02)
    yard = await open_yard(SimSettings(port=0, base_latency=0.02), max_parallel_requests=1, flush_interval=1.5)
    batch = await yard.batch(*lines(10))
    await yard.sim.until(lambda state: state.log.total == 5)
    yard.sim.state.healthy = False
    stuck = await yard.call.until(batch.id, lambda batch: batch.status_reason is not None)
    assert stuck.request_counts.completed == 0, "the first answers are in no checkpoint yet"
    stuck = await yard.call.until(batch.id, lambda batch: batch.request_counts.completed > 0)
    assert stuck.status_reason is not None
    yard.sim.state.healthy = True
    assert (await yard.call.ended(batch.id)).status_reason is None


async def test_leftovers_of_batches_that_are_over_are_removed(open_yard: Any) -> None:
    yard = await open_yard(
        SimSettings(port=0, base_latency=0.5), orphan_sweep_interval=0.2, orphan_min_age=0, max_parallel_requests=2
    )
    running = await yard.batch(*lines(6))
    await yard.call.until(running.id, lambda batch: batch.status is BatchStatus.IN_PROGRESS)
    leftover = f"batches/default/batch_{'0' * 32}/00000000/segment-x"
    await yard.objects.put(leftover, b"x")
    progress = Records(yard.messaging.js, PROGRESS_BUCKET, ShardProgress)
    await progress.put(f"default.batch_{'0' * 32}.0", ShardProgress(completed=1))
    async with asyncio.timeout(10):
        while leftover in await yard.working_objects() or await progress.get(f"default.batch_{'0' * 32}.0"):
            await asyncio.sleep(0.05)
    assert await yard.working_objects(), "what a running batch works with stays"
    assert (await yard.call.ended(running.id)).request_counts.completed == 6


async def test_batches_are_listed_newest_first_page_by_page(open_yard: Any) -> None:
    yard = await open_yard()
    made = [(await yard.batch(lines(1)[0])).id for _ in range(5)]
    found: list[str] = []
    after = None
    while True:
        page = await yard.call(ListBatches(limit=2, after=after))
        found += [batch.id for batch in page.data]
        if not page.has_more:
            break
        after = page.last_id
    assert found == made[::-1]
    assert (await yard.call(ListBatches(limit=0))).data == []


async def test_another_tenants_batch_does_not_exist(open_yard: Any) -> None:
    yard = await open_yard()
    batch = await yard.batch(lines(1)[0])
    stranger = Caller(CommandClient(yard.messaging.connection), yard.objects, "stranger")
    for command in (GetBatch(batch_id=batch.id), CancelBatch(batch_id=batch.id)):
        with pytest.raises(NotFound) as caught:
            await stranger(command)
        assert caught.value.message == f"No batch found with id '{batch.id}'."
    with pytest.raises(NotFound):
        await stranger(CreateBatch(input_file_id=batch.input_file_id, endpoint=ENDPOINT))
    assert (await stranger(ListBatches())).data == []


@pytest.mark.parametrize(
    ("change", "error", "param"),
    [
        ({"input_file_id": "file-nope"}, NotFound, "id"),
        ({"endpoint": "/v1/audio"}, InvalidRequest, "endpoint"),
        ({"completion_window": "soon"}, InvalidRequest, "completion_window"),
        ({"completion_window": "90d"}, InvalidRequest, "completion_window"),
    ],
)
async def test_a_batch_that_cannot_be_is_refused_at_once(
    open_yard: Any, change: dict[str, str], error: type[ApiError], param: str
) -> None:
    yard = await open_yard()
    file = await yard.call.upload(lines(1)[0], model=MODEL)
    with pytest.raises(error) as caught:
        await yard.call(CreateBatch(**{"input_file_id": file.id, "endpoint": ENDPOINT, **change}))
    assert caught.value.param == param


async def test_a_file_of_another_purpose_is_no_input(open_yard: Any) -> None:
    yard = await open_yard()
    place = await yard.call(OpenPlace())
    await yard.objects.put(place.object_key, b"x")
    file = await yard.call(CreateFile(filename="x", purpose=Purpose.ASSISTANTS, object_key=place.object_key))
    with pytest.raises(InvalidRequest, match="purpose 'assistants'"):
        await yard.call(CreateBatch(input_file_id=file.id, endpoint=ENDPOINT))


async def test_output_files_expire_as_asked(open_yard: Any) -> None:
    yard = await open_yard()
    batch = await yard.batch(lines(1)[0], output_expires_after=ExpiresAfter(seconds=3600))
    batch = await yard.call.ended(batch.id)
    output = await yard.call(GetFile(file_id=batch.output_file_id))
    assert output.expires_at == output.created_at + 3600


async def test_the_configured_models_are_listed(open_yard: Any) -> None:
    yard = await open_yard()
    assert [model.id for model in (await yard.call(ListModels())).data] == [MODEL]


async def test_files_whose_places_are_too_old_to_be_claimed_get_others(open_yard: Any) -> None:
    """As when file-store is away for longer than the results are to be kept: their time began with their IDs."""
    yard = await open_yard(reconcile_interval=0.1, stale_after=0.2, settle_patience=5)
    batch = await yard.batch(
        chat_line("r0", "answered"),
        chat_line("r1", "left [[fault:hang]]"),
        output_expires_after=ExpiresAfter(seconds=3600),
    )
    await yard.call.until(batch.id, lambda batch: batch.request_counts.completed == 1)
    milliseconds = (int(time.time()) - 2 * 3600) * 1000
    long_ago = [f"{milliseconds:012x}{uuid7().hex[12:]}" for _ in range(2)]
    await Records(yard.messaging.js, BATCHES_BUCKET, BatchRecord).change(
        record_key(yard.call.tenant, decode_id(batch.id).raw),
        lambda record: finalizing(record, int(time.time()), BatchStatus.EXPIRED, *long_ago),
    )
    batch = await yard.call.ended(batch.id)
    assert batch.status is BatchStatus.EXPIRED
    assert [line["custom_id"] for line in await yard.call.content(batch.output_file_id)] == ["r0"]
    assert [line["error"]["code"] for line in await yard.call.content(batch.error_file_id)] == ["batch_expired"]
    file = await yard.call(GetFile(file_id=batch.output_file_id))
    assert file.expires_at > time.time()
    assert decode_id(file.id).raw.removeprefix("file-") not in long_ago
