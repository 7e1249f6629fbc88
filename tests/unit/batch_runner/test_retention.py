"""Batches that ended long ago are forgotten, where it is wished."""

import asyncio
from typing import Any

import pytest

from batchyard.batch_runner.batch_store import BatchStore
from batchyard.batch_runner.retention import Retention
from batchyard.batch_runner.settings import RunnerSettings
from batchyard.common import subjects
from batchyard.common.clock import ManualClock
from batchyard.common.contracts.batches import GetBatch, ListBatches
from batchyard.common.contracts.files import DeleteFile, GetFile
from batchyard.common.errors import NotFound
from batchyard.common.messaging.commands import CommandClient

from .conftest import Yard, lines

DAY = 86_400


async def store_of(yard: Yard) -> BatchStore:
    """The records, once nothing is left to do for any of their batches."""
    store = BatchStore(yard.messaging.connection, yard.messaging.js, yard.objects)
    async with asyncio.timeout(20):
        while [entry.key async for entry in store.records.list("") if entry.value.unfinished_business]:
            await asyncio.sleep(0.01)
    return store


class Sweeps:
    """Passes of one runner, and how often they ask for a file."""

    def __init__(self, yard: Yard, store: BatchStore, clock: ManualClock, **settings: Any) -> None:
        self.yard = yard
        self.clock = clock
        self.is_first = True
        commands = CommandClient(yard.messaging.connection)
        self._retention = Retention(store, commands, RunnerSettings(**settings), clock, lambda: self.is_first)

    async def asked_in(self, hours: int) -> int:
        """How often they ask in so many passes, an hour apart."""
        connection = self.yard.messaging.connection
        asked = await connection.subscribe(subjects.command_filter(GetFile.noun, GetFile.verb))
        for _ in range(hours):
            self.clock.advance(3600)
            await self._retention.sweep()
        await connection.flush()
        await asked.unsubscribe()
        return asked.pending_msgs


async def test_files_are_asked_for_when_a_batchs_time_is_over_and_then_once_a_day(open_yard: Any) -> None:
    yard = await open_yard()
    batch = await yard.call.ended((await yard.batch(*lines(1))).id)
    sweeps = Sweeps(yard, await store_of(yard), ManualClock(batch.completed_at), batch_retention=2 * DAY)
    assert await sweeps.asked_in(47) == 0
    assert await sweeps.asked_in(1) == 1
    assert await sweeps.asked_in(24) == 1
    assert await sweeps.asked_in(72) == 3
    sweeps.is_first = False
    assert await sweeps.asked_in(24) == 0
    sweeps.is_first = True
    await yard.call(DeleteFile(file_id=batch.output_file_id))
    assert await sweeps.asked_in(48) == 1
    assert (await yard.call(ListBatches())).data == []


async def test_a_batch_is_known_for_its_time_and_as_long_as_it_has_results(open_yard: Any) -> None:
    yard = await open_yard()
    kept, first, second = [await yard.call.ended((await yard.batch(*lines(1))).id) for _ in range(3)]
    for batch in (first, second):
        await yard.call(DeleteFile(file_id=batch.output_file_id))
    store = await store_of(yard)
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
