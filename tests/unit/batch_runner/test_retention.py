"""Batches that ended long ago are forgotten, where it is wished."""

from typing import Any

import pytest

from batchyard.batch_runner.batch_store import BatchStore
from batchyard.batch_runner.retention import Retention
from batchyard.batch_runner.settings import RunnerSettings
from batchyard.common.clock import ManualClock
from batchyard.common.contracts.batches import GetBatch, ListBatches
from batchyard.common.contracts.files import DeleteFile
from batchyard.common.errors import NotFound
from batchyard.common.messaging.commands import CommandClient

from .conftest import lines

DAY = 86_400


async def test_a_batch_is_known_for_its_time_and_as_long_as_it_has_results(open_yard: Any) -> None:
    yard = await open_yard()
    kept, first, second = [await yard.call.ended((await yard.batch(*lines(1))).id) for _ in range(3)]
    for batch in (first, second):
        await yard.call(DeleteFile(file_id=batch.output_file_id))
    store = BatchStore(yard.messaging.connection, yard.messaging.js, yard.objects)
    clock = ManualClock(kept.completed_at + DAY - 60)

    async def known_after(**settings: Any) -> list[str]:
        commands = CommandClient(yard.messaging.connection)
        await Retention(store, commands, RunnerSettings(**settings), clock).sweep()
        return [batch.id for batch in (await yard.call(ListBatches())).data]

    everything = [second.id, first.id, kept.id]
    assert await known_after(batch_retention=DAY) == everything
    clock.advance(2 * 3600)
    assert await known_after() == everything
    assert await known_after(batch_retention=DAY, idempotency_max_age=2 * DAY) == everything
    assert await known_after(batch_retention=DAY) == [kept.id]
    with pytest.raises(NotFound):
        await yard.call(GetBatch(batch_id=first.id))
    page = await yard.call(ListBatches(after=second.id))  # a page goes on where a batch was
    assert [batch.id for batch in page.data] == [kept.id]
