"""A batch that would not end before its deadline goes ahead of others, in a whole runner."""

from typing import Any

import pytest

from batchyard.batch_runner import worker
from batchyard.batch_runner.batch import BatchRecord, record_key
from batchyard.common.contracts.batches import Batch
from batchyard.common.ids import decode_id
from batchyard.common.messaging.records import Records
from batchyard.common.messaging.topology import BATCHES_BUCKET
from batchyard.vllm_sim.settings import SimSettings

from .conftest import Yard, lines

LINES = 2_000
LATENCY = 0.1
IN_FLIGHT = 8


async def look(yard: Yard, batch: Batch) -> Batch:
    return await yard.call.until(batch.id, lambda _: True)


async def due_in(yard: Yard, batch: Batch, seconds: int) -> None:
    """Bring the deadline forward."""
    records = Records(yard.messaging.js, BATCHES_BUCKET, BatchRecord)
    key = record_key(yard.call.tenant, decode_id(batch.id).raw)
    now = int((await look(yard, batch)).in_progress_at or 0)
    await records.change(key, lambda record: record.model_copy(update={"expires_at": now + seconds}))


async def test_a_batch_that_would_be_late_goes_ahead(open_yard: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone it would take 25 seconds, and with half of the servers twice that."""
    monkeypatch.setattr(worker, "_LOOK_SECONDS", 0.2)
    yard = await open_yard(
        SimSettings(port=0, base_latency=LATENCY),
        max_parallel_requests=IN_FLIGHT,
        shard_lines=100,
        head_start=0,
        flush_interval=0.1,
        shutdown_grace=0,
    )
    batches = [await yard.batch(*lines(LINES, name)) for name in ("calm", "late")]
    late = batches[1]
    for batch in batches:
        await yard.call.until(batch.id, lambda seen: seen.request_counts.completed > 0)
    await due_in(yard, late, 40)

    async def completed() -> list[int]:
        return [(await look(yard, batch)).request_counts.completed for batch in batches]

    before = await completed()
    await yard.call.until(late.id, lambda seen: seen.request_counts.completed > before[1] + 300)
    calm_lines, late_lines = (after - start for start, after in zip(before, await completed(), strict=True))
    assert late_lines > 1.7 * calm_lines, "of four places three"
    assert calm_lines > 0.15 * late_lines
