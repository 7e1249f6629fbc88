"""Admission: who runs, who waits, and who has gone."""

import asyncio

import pytest
from unit.vllm_sim.asking import Client, Start

from batchyard.vllm_sim.capacity import Capacity
from batchyard.vllm_sim.changes import Changes
from batchyard.vllm_sim.engine import Engine
from batchyard.vllm_sim.settings import SimSettings
from batchyard.vllm_sim.state import SimState
from batchyard.vllm_sim.work import Usage


def capacity(slots: int = 1, *, by_priority: bool = False) -> Capacity:
    return Capacity(slots, by_priority=by_priority, changes=Changes())


async def order_of(queue: Capacity, priorities: list[int]) -> list[int]:
    """Return the order in which requests of these priorities run, one at a time."""
    ran: list[int] = []

    async def one(number: int, priority: int) -> None:
        await queue.acquire(priority)
        ran.append(number)
        queue.release()

    await queue.acquire()
    async with asyncio.TaskGroup() as group:
        for number, priority in enumerate(priorities):
            group.create_task(one(number, priority))
        await asyncio.sleep(0)
        queue.release()
    return ran


async def test_first_come_first_served_whatever_the_priority() -> None:
    assert await order_of(capacity(), [3, 1, 2]) == [0, 1, 2]


async def test_a_lower_priority_goes_first_and_equals_in_order() -> None:
    assert await order_of(capacity(by_priority=True), [3, 1, 2, 1]) == [1, 3, 2, 0]


async def test_whoever_is_cancelled_while_waiting_is_skipped() -> None:
    queue = capacity()
    await queue.acquire()
    gone, stays = asyncio.create_task(queue.acquire()), asyncio.create_task(queue.acquire())
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    queue.release()
    await stays
    assert (queue.running, queue.waiting) == (1, 0)


async def test_whoever_is_cancelled_just_as_the_turn_comes_passes_it_on() -> None:
    queue = capacity()
    await queue.acquire()
    gone, stays = asyncio.create_task(queue.acquire()), asyncio.create_task(queue.acquire())
    await asyncio.sleep(0)
    queue.release()
    gone.cancel()
    await stays
    assert (queue.running, queue.waiting) == (1, 0)


async def test_a_queue_that_is_left_again_and_again_stays_small() -> None:
    queue = capacity()
    await queue.acquire()
    for _ in range(100):
        gone = asyncio.create_task(queue.acquire())
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
    assert len(queue._queue) <= 17


async def test_no_more_than_max_num_seqs_run(start: Start) -> None:
    client = await start(max_num_seqs=2, base_latency=0.001)
    await asyncio.gather(*(client.chat(f"question {number}") for number in range(10)))
    totals = (await client.get("/sim/requests")).json
    assert (totals["max_running"], totals["max_in_flight"]) == (2, 10)


async def test_with_the_priority_policy_the_lowest_priority_goes_first(start: Start) -> None:
    client = await start(max_num_seqs=1, scheduling_policy="priority", base_latency=0.01)
    answered: list[int] = []

    async def ask(priority: int) -> None:
        await client.chat("hello", priority=priority)
        answered.append(priority)

    hanging = asyncio.create_task(client.chat("[[fault:hang]]"))
    await client.sim.until(lambda state: state.capacity.running == 1)
    async with asyncio.TaskGroup() as group:
        for priority in (2, -1, 0):
            group.create_task(ask(priority))
        await client.sim.until(lambda state: state.capacity.waiting == 3)
        hanging.cancel()
    assert answered == [-1, 0, 2]


async def test_a_client_that_goes_away_frees_its_slot(start: Start) -> None:
    client = await start(max_num_seqs=1)
    hanging = asyncio.create_task(client.chat("[[fault:hang]]"))
    await client.sim.until(lambda state: state.capacity.running == 1)
    hanging.cancel()
    assert (await client.chat("hello")).status == 200
    assert client.outcomes() == ["fault:hang", "answered"]


async def test_a_client_that_goes_away_while_waiting_is_not_served(start: Start) -> None:
    client = await start(max_num_seqs=1)
    tasks = [asyncio.create_task(client.chat("[[fault:hang]]"))]
    await client.sim.until(lambda state: state.capacity.running == 1)
    tasks.append(asyncio.create_task(client.chat("hello")))
    await client.sim.until(lambda state: state.capacity.waiting == 1)
    tasks[1].cancel()
    await client.sim.until(lambda state: state.capacity.waiting == 0)
    assert client.outcomes() == ["pending", "disconnected"]
    tasks[0].cancel()


async def test_a_client_that_leaves_a_stream_frees_its_slot(start: Start) -> None:
    client = await start(token_latency=0.01, max_num_seqs=1)
    body = {"prompt": "hello", "stream": True, "max_tokens": 1000, "ignore_eos": True}
    async with client.session.post(f"{client.sim.url}/v1/completions", json=body) as response:
        await response.content.readline()
        response.close()
    await client.sim.until(lambda state: state.capacity.running == 0)
    assert client.outcomes() == ["disconnected"]


@pytest.mark.parametrize("setting", ["base_latency", "token_latency", "prompt_token_latency"])
async def test_latency_is_added_up(start: Start, setting: str) -> None:
    client = await start(**{setting: 0.02})
    loop = asyncio.get_running_loop()
    began = loop.time()
    await client.chat("hello", max_tokens=1)
    assert loop.time() - began >= 0.02


def test_cached_prompt_tokens_take_no_time() -> None:
    engine = Engine(SimState(SimSettings(base_latency=0.5, prompt_token_latency=0.25)))
    assert engine.prefill_seconds(Usage(prompt=10, completion=0, cached=8), None) == 1.0


async def test_waiting_for_what_never_comes_times_out(client: Client) -> None:
    with pytest.raises(TimeoutError):
        await client.sim.until(lambda state: state.log.total > 0, timeout=0.01)
