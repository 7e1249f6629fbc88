"""Limits on what may be enqueued, kept by batch-runner whoever sends the command."""

import asyncio
from typing import Any

import pytest

from batchyard.batch_runner.batch import BatchRecord, record_key
from batchyard.batch_runner.enqueued import Enqueued, EnqueuedRecord
from batchyard.common.contracts.access import Limits, Team
from batchyard.common.contracts.batches import (
    Batch,
    BatchStatus,
    CancelBatch,
    CreateBatch,
    ListBatches,
    RetryBatch,
)
from batchyard.common.contracts.enqueued import GetEnqueued
from batchyard.common.errors import ServiceUnavailable, TooManyRequests
from batchyard.common.ids import decode_id
from batchyard.common.messaging.records import Records
from batchyard.common.messaging.topology import BATCHES_BUCKET, ENQUEUED_BUCKET, TEAMS_BUCKET
from batchyard.common.subjects import encode_token
from support.services import Caller

from .conftest import ENDPOINT, MODEL, Office, chat_line, lines

KEY = "ab" * 32


async def follows(call: Caller, limits: Limits) -> None:
    """Wait until the runner knows the team's limits."""
    async with asyncio.timeout(10):
        while (await call(GetEnqueued())).team.limits != limits:
            await asyncio.sleep(0.005)


class Gate:
    """An office with a team that has limits."""

    def __init__(self, office: Office) -> None:
        self.office = office
        self.call = office.call
        self.teams = Records(office.messaging.js, TEAMS_BUCKET, Team)
        self.counts = Records(office.messaging.js, ENQUEUED_BUCKET, EnqueuedRecord)

    async def allow(self, *, models: dict[str, Limits] | None = None, **limits: Any) -> None:
        team = Team(team_id="default", limits=Limits(**limits), model_limits=models or {}, created_at=1, updated_at=1)
        await self.teams.put(encode_token("default"), team)
        await follows(self.call, team.limits)

    async def create(self, *content: bytes, counted: bool = True, **more: Any) -> Batch:
        file = await self.call.upload(b"\n".join(content) + b"\n", model=MODEL, lines=len(content) if counted else None)
        batch: Batch = await self.call(CreateBatch(input_file_id=file.id, endpoint=ENDPOINT, **more))
        return batch

    async def refused(self, *content: bytes, **more: Any) -> TooManyRequests:
        with pytest.raises(TooManyRequests) as raised:
            await self.create(*content, **more)
        return raised.value

    async def counted(self) -> dict[str, Enqueued]:
        entry = await self.counts.get(encode_token("default"))
        return {} if entry is None else entry.value.open()

    async def in_progress(self, batch: Batch) -> Batch:
        return await self.call.until(batch.id, lambda now: now.status is BatchStatus.IN_PROGRESS)

    async def end(self, batch: Batch) -> Batch:
        await self.call(CancelBatch(batch_id=batch.id))
        return await self.call.ended(batch.id)


@pytest.fixture
async def gate(open_office: Any) -> Gate:
    return Gate(await open_office(audit_interval=0.3, settle_patience=0))


async def test_a_batch_too_many_is_refused_until_one_has_ended(gate: Gate) -> None:
    await gate.allow(max_batches=1)
    first = await gate.create(chat_line("a", "hi"))
    error = await gate.refused(chat_line("a", "hi"))
    assert error.retry_after
    assert "Limit: 1 enqueued batches; 1 are enqueued" in error.message
    assert len((await gate.call(ListBatches())).data) == 1
    await gate.end(first)
    assert (await gate.create(chat_line("a", "hi"))).status is BatchStatus.VALIDATING  # at once: no wait for a sweep


async def test_ten_at_once_do_not_slip_through(gate: Gate) -> None:
    await gate.allow(max_enqueued_lines=10)
    file = await gate.call.upload(b"\n".join(lines(3)) + b"\n", model=MODEL, lines=3)
    wishes = [gate.call(CreateBatch(input_file_id=file.id, endpoint=ENDPOINT)) for _ in range(10)]
    answers = await asyncio.gather(*wishes, return_exceptions=True)
    assert sum(isinstance(answer, Batch) for answer in answers) == 3
    assert sum(isinstance(answer, TooManyRequests) for answer in answers) == 7
    assert len(await gate.counted()) == 3


async def test_a_team_without_limits_is_not_counted(gate: Gate) -> None:
    await gate.create(chat_line("a", "hi"))
    assert await gate.counts.get(encode_token("default")) is None


async def test_what_was_there_before_the_first_limit_counts(gate: Gate) -> None:
    await gate.in_progress(await gate.create(*lines(6)))
    await gate.allow(max_enqueued_lines=10)
    assert "6 are enqueued and this batch needs 5" in (await gate.refused(*lines(5))).message
    await gate.create(*lines(4))


async def test_a_limit_of_a_model_and_of_a_key(gate: Gate) -> None:
    await gate.allow(models={MODEL: Limits(max_enqueued_lines=4)})
    await gate.create(*lines(3))
    assert f"for the model '{MODEL}'" in (await gate.refused(*lines(2))).message
    of_key: Any = {"key_id": KEY, "key_limits": Limits(max_batches=1)}
    await gate.create(*lines(1), **of_key)
    await gate.allow()
    assert "for the API key" in (await gate.refused(*lines(1), **of_key)).message
    await gate.create(*lines(1), key_id="cd" * 32, key_limits=Limits(max_batches=1))


async def test_once_planned_a_batch_counts_as_what_it_is(gate: Gate) -> None:
    await gate.allow(max_enqueued_tokens=10_000)
    batch = await gate.in_progress(await gate.create(chat_line("a", "hi", max_tokens=7), chat_line("b", "x" * 400)))
    (entry,) = (await gate.counted()).values()
    assert (entry.lines, entry.models) == (2, (MODEL,))
    assert 7 + 256 + 100 < entry.tokens < 7 + 256 + 300
    await gate.end(batch)
    assert await gate.counted() == {}


async def test_a_batch_larger_than_it_seemed_waits_and_says_why(gate: Gate) -> None:
    await gate.allow(max_enqueued_tokens=20_000)
    first = await gate.in_progress(await gate.create(chat_line("a", "hi", max_tokens=10_000)))
    second = await gate.create(chat_line("a", "hi", max_tokens=15_000))
    waiting = await gate.call.until(second.id, lambda batch: batch.status_reason is not None)
    assert waiting.status is BatchStatus.VALIDATING
    assert waiting.status_reason is not None
    assert "Enqueued token limit reached for the team" in waiting.status_reason
    assert "It waits until other batches have ended" in waiting.status_reason
    assert (await gate.refused(chat_line("a", "hi", max_tokens=1))).code == "token_limit_exceeded"
    await gate.end(first)
    running = await gate.in_progress(second)
    assert running.status_reason is None


async def test_a_batch_that_waits_for_room_can_be_cancelled(gate: Gate) -> None:
    await gate.allow(max_enqueued_tokens=20_000)
    await gate.in_progress(await gate.create(chat_line("a", "hi", max_tokens=19_000)))
    waiting = await gate.create(chat_line("a", "hi", max_tokens=5_000))
    await gate.call.until(waiting.id, lambda batch: batch.status_reason is not None)
    ended = await gate.end(waiting)
    assert (ended.status, ended.status_reason) == (BatchStatus.CANCELLED, None)
    assert len(await gate.counted()) == 1


@pytest.mark.parametrize(
    ("limit", "content", "code"),
    [
        ({"max_enqueued_tokens": 5_000}, [chat_line("a", "hi", max_tokens=6_000)], "token_limit_exceeded"),
        ({"max_enqueued_lines": 3}, lines(4), "too_many_tasks"),
    ],
)
async def test_one_that_could_never_fit_fails(gate: Gate, limit: Any, content: list[bytes], code: str) -> None:
    await gate.allow(**limit)
    batch = await gate.call.ended((await gate.create(*content, counted=False)).id)
    assert batch.status is BatchStatus.FAILED
    assert batch.errors is not None
    assert batch.errors.data[0].code == code
    assert "split the file" in batch.errors.data[0].message
    async with asyncio.timeout(5):
        while await gate.counted():
            await asyncio.sleep(0.02)


async def test_tokens_per_minute(gate: Gate) -> None:
    await gate.allow(tpm_limit=600)
    await gate.end(await gate.create(chat_line("a", "hi")))
    error = await gate.refused(*lines(2))
    assert error.code == "token_limit_exceeded"
    assert error.retry_after is not None
    assert 50 <= error.retry_after <= 60


async def test_a_retry_is_bound_by_limits_too(open_yard: Any) -> None:
    yard = await open_yard()
    broken = [chat_line(f"bad{index}", f"{index} [[fault:status=400,times=1]]") for index in range(3)]
    ended = await yard.call.ended((await yard.batch(*lines(2), *broken)).id)
    assert ended.request_counts.failed == 3
    teams = Records(yard.messaging.js, TEAMS_BUCKET, Team)
    limits = Limits(max_enqueued_lines=2)
    await teams.put("default", Team(team_id="default", limits=limits, created_at=1, updated_at=1))
    await follows(yard.call, limits)
    with pytest.raises(TooManyRequests, match="needs 3"):
        await yard.call(RetryBatch(batch_id=ended.id))


async def test_the_audit_mends_what_a_crash_left(gate: Gate) -> None:
    await gate.allow(max_batches=5)
    batch = await gate.in_progress(await gate.create(chat_line("a", "hi")))
    mine = decode_id(batch.id).raw
    ended = decode_id((await gate.end(await gate.create(chat_line("a", "hi")))).id).raw
    leaked = Enqueued(lines=9, tokens=9, at=1.0)
    await gate.counts.put("default", EnqueuedRecord(batches={ended: leaked, "batch_" + "0" * 32: leaked}))
    async with asyncio.timeout(10):
        while set(await gate.counted()) != {mine}:
            await asyncio.sleep(0.05)


async def test_a_wish_that_was_counted_and_not_made_is_made_by_its_retry(gate: Gate) -> None:
    await gate.allow(max_batches=1)
    first = await gate.create(chat_line("a", "hi"), idempotency_key="k")
    records = Records(gate.office.messaging.js, BATCHES_BUCKET, BatchRecord)
    await records.delete(record_key("default", decode_id(first.id).raw))  # as if it had died before that was written
    again = CreateBatch(input_file_id=first.input_file_id, endpoint=ENDPOINT, idempotency_key="k")
    assert decode_id((await gate.call(again)).id).raw == decode_id(first.id).raw
    assert len(await gate.counted()) == 1


async def test_how_much_is_used_can_be_asked(gate: Gate) -> None:
    await gate.allow(max_enqueued_lines=100, models={MODEL: Limits(max_batches=9)})
    await gate.in_progress(await gate.create(*lines(3), key_id=KEY))
    await gate.in_progress(await gate.create(*lines(4)))
    report = await gate.call(GetEnqueued(key_id=KEY, key_limits=Limits(max_batches=2)))
    assert (report.team.limits.max_enqueued_lines, report.team.used.batches, report.team.used.lines) == (100, 2, 7)
    assert report.models[MODEL].used.lines == 7
    assert (report.key.limits.max_batches, report.key.used.lines) == (2, 3)
    assert report.team.used.tokens == report.team.used.tokens_of_last_minute > 0


async def test_a_budget_that_cannot_be_asked_for_refuses_with_503(gate: Gate) -> None:
    await gate.allow(max_budget="1")
    with pytest.raises(ServiceUnavailable, match="budget cannot be checked now"):
        await gate.create(chat_line("a", "hi"))
    await gate.allow(max_batches=1)
    await gate.create(chat_line("a", "hi"))
