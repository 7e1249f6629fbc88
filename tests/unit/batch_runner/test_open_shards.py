"""A few shards of a batch at a time, of many batches, within one bound of memory."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from batchyard.batch_runner.open_shards import OpenShards
from batchyard.batch_runner.settings import MIB, RunnerSettings

LIMITS = RunnerSettings(shards_per_batch=2, shard_memory_bytes=8 * MIB, results_memory_bytes=24 * MIB)


class Shard:
    """A shard that stays until it is told to go."""

    def __init__(self, shards: OpenShards, batch: str, pool: str = "m") -> None:
        self.stopped: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_in = False
        self._go = asyncio.Event()
        self.task = asyncio.create_task(self._stay(shards, batch, pool))

    async def _stay(self, shards: OpenShards, batch: str, pool: str) -> None:
        async with shards.entered(batch, pool, self.stopped):
            self.is_in = True
            await self._go.wait()

    async def leave(self) -> None:
        self._go.set()
        await asyncio.wait_for(self.task, 5)


async def settled() -> None:
    """Whoever can enter has entered."""
    for _ in range(10):
        await asyncio.sleep(0)


@asynccontextmanager
async def entering(*batches: str) -> AsyncIterator[tuple[OpenShards, list[Shard]]]:
    shards = OpenShards(LIMITS)
    inside = [Shard(shards, batch) for batch in batches]
    await settled()
    yield shards, inside
    for shard in inside:
        await shard.leave()
    assert not shards._doors
    assert shards.working.total() == 0


async def test_a_batch_has_a_few_shards_open_and_they_follow_in_order() -> None:
    async with entering("a", "a", "a", "a", "b") as (_, inside):
        assert [shard.is_in for shard in inside] == [True, True, False, False, True]
        await inside[1].leave()
        await settled()
        assert [shard.is_in for shard in inside] == [True, True, True, False, True]


async def test_a_shard_that_is_stopped_does_not_wait_to_be_let_in() -> None:
    async with entering("a", "a", "a", "a") as (shards, inside):
        inside[3].stopped.set_result(None)
        await settled()
        assert [shard.is_in for shard in inside] == [True, True, False, True]
        await inside[3].leave()
        await settled()
        assert not inside[2].is_in, "it had no place that another could have now"
        assert shards.memory_bytes() == 8 * MIB


async def test_who_gives_up_waiting_takes_no_place() -> None:
    async with entering("a", "a", "a", "a") as (_, inside):
        inside[2].task.cancel()
        await asyncio.gather(inside[2].task, return_exceptions=True)
        await inside[0].leave()
        await settled()
        assert inside[3].is_in
        del inside[2]


async def test_memory_is_shared_by_those_that_are_open() -> None:
    async with entering("a", "a", "a", "b") as (shards, inside):
        assert shards.memory_bytes() == 8 * MIB, "three are open, and one waits"
        more = [Shard(shards, batch) for batch in "cdefg"]
        await settled()
        assert shards.memory_bytes() == 3 * MIB
        inside.extend(more)
