"""A small batch does not wait for the large one before it."""

import time

import pytest

from support.systems import System, Yard, request_line

IN_FLIGHT = 16
LATENCY = 0.1
HEAD_START = 200
LARGE = 4_000
SMALL = 100
OVERHEAD = 3.0


def lines(name: str, count: int) -> bytes:
    return b"\n".join(request_line(f"{name}{index}", f"{name} {index}") for index in range(count))


async def seconds_of_a_small_batch(system: System, name: str) -> float:
    began = time.monotonic()
    batch = await system.ended((await system.submit(lines(name, SMALL)))["id"])
    assert batch["request_counts"] == {"total": SMALL, "completed": SMALL, "failed": 0}
    return time.monotonic() - began


@pytest.mark.timeout(120)
async def test_a_small_batch_behind_a_large_one_takes_about_twice_its_time_alone(yard: Yard) -> None:
    """One after another it would take `LARGE * LATENCY / IN_FLIGHT`, 25 seconds, for the large one alone."""
    sim = await yard.sim(base_latency=LATENCY)
    system = await yard.system(
        sim.url.removesuffix("/v1"), max_parallel_requests=IN_FLIGHT, head_start=HEAD_START, shutdown_grace=0
    )
    alone = await seconds_of_a_small_batch(system, "alone")
    large = await system.submit(lines("large", LARGE))
    await system.until(large["id"], lambda batch: batch["request_counts"]["completed"] >= HEAD_START * 1.5)
    beside = await seconds_of_a_small_batch(system, "beside")
    assert beside <= 2 * alone + OVERHEAD
    large = await system.call("GET", f"/batches/{large['id']}")
    assert large["status"] == "in_progress"
    assert large["request_counts"]["completed"] < LARGE / 2


@pytest.mark.scale
@pytest.mark.timeout(240)
async def test_a_hundred_lines_behind_fifty_thousand_take_less_than_twice_their_time_alone(yard: Yard) -> None:
    """Both times are taken in one run, the second time anew if the machine had something else to do."""
    sim = await yard.sim(base_latency=0.3)
    system = await yard.system(
        sim.url.removesuffix("/v1"), max_parallel_requests=IN_FLIGHT, head_start=HEAD_START, shutdown_grace=0
    )
    alone = await seconds_of_a_small_batch(system, "alone")
    large = await system.submit(lines("large", 50_000))
    await system.until(large["id"], lambda batch: batch["request_counts"]["completed"] >= HEAD_START * 1.5)
    beside = await seconds_of_a_small_batch(system, "beside")
    if beside > 2 * alone:
        await system.call("POST", f"/batches/{large['id']}/cancel")
        await system.ended(large["id"])
        alone = await seconds_of_a_small_batch(system, "alone again")
        large = await system.submit(lines("larger", 50_000))
        await system.until(large["id"], lambda batch: batch["request_counts"]["completed"] >= HEAD_START * 1.5)
        beside = await seconds_of_a_small_batch(system, "beside again")
    assert beside <= 2 * alone
    assert (await system.call("GET", f"/batches/{large['id']}"))["status"] == "in_progress"
