"""Two runners on the same queues: one is paused for so long that it is taken for dead, or dies."""

import signal
from typing import Any

import pytest

from batchyard.cli.running import RunningStack
from batchyard.cli.waiting import until_found
from support.programs import RUNNER, add_runner

from .conftest import FaultYard, said
from .endings import Line, check_ended_well, encoded, ordinary, sent

SECOND = "batch-runner-2"

LINES = 400
SHARD_LINES = 100
SHARDS = LINES // SHARD_LINES
LATENCY = 0.2
IN_FLIGHT = 8
LOOK_SECONDS = 3
SETTINGS: dict[str, object] = {
    "shard_lines": SHARD_LINES,
    "shards_per_pool": 3 * SHARDS,  # half of them are kept for the next batch
    "max_parallel_requests": IN_FLIGHT,
    "flush_interval": 0.2,
    "work_ack_wait": 1,
    "reconcile_interval": 0.5,
    "stale_after": 2,
    "command_timeout": 2,
}


async def started(stack: RunningStack, name: str, times: int = 1) -> None:
    """Wait until a runner has come so far as to take shards."""
    await until_found(lambda: len(said(stack, name, "service.started")) >= times or None)


def settled_by_another(stack: RunningStack, name: str) -> set[int]:
    return {entry["shard"] for entry in said(stack, name, "shard.settled_by_another")}


@pytest.mark.timeout(120)
async def test_a_runner_that_wakes_after_the_end_changes_nothing(yard: FaultYard) -> None:
    sim = await yard.sim(base_latency=LATENCY)
    system = await yard.system(sim.url.removesuffix("/v1"), **SETTINGS)
    lines = ordinary(LINES)
    batch = await system.submit(encoded(lines))
    await system.until(batch["id"], lambda batch: batch["request_counts"]["completed"] >= IN_FLIGHT)

    zombie = system.stack.kill(RUNNER, signal.SIGSTOP)
    try:
        add_runner(system.stack, SECOND, max_parallel_requests=64)
        ended = await system.ended(batch["id"])
        await check_ended_well(system, ended, lines)
        seen = sim.state.log.total
    finally:
        system.stack.kill(RUNNER, signal.SIGCONT)

    taken = set(range(SHARDS))  # the paused one had them all
    await until_found(lambda: settled_by_another(system.stack, RUNNER) == taken or None)
    assert sim.state.log.total - seen <= IN_FLIGHT * (1 + LOOK_SECONDS / LATENCY)
    assert system.stack.pids[RUNNER] == zombie
    assert await system.call("GET", f"/batches/{batch['id']}") == ended
    await check_ended_well(system, ended, lines)


@pytest.mark.timeout(120)
async def test_a_runner_that_wakes_in_the_middle_leaves_what_another_has_settled(yard: FaultYard) -> None:
    sim = await yard.sim(base_latency=LATENCY)
    system = await yard.system(sim.url.removesuffix("/v1"), **SETTINGS)
    # One shard more, which keeps the batch running until it is cancelled.
    lines = [*ordinary(LINES), Line("last", "left")]
    batch = await system.submit(encoded(lines))
    await system.until(batch["id"], lambda batch: batch["request_counts"]["completed"] >= IN_FLIGHT)

    system.stack.kill(RUNNER, signal.SIGSTOP)
    try:
        add_runner(system.stack, SECOND, max_parallel_requests=64)
        await until_found(lambda: len(said(system.stack, SECOND, "shard.settled")) == SHARDS or None)
        await system.until(batch["id"], lambda batch: _done(batch) == LINES)
        seen = sim.state.log.total
    finally:
        system.stack.kill(RUNNER, signal.SIGCONT)

    taken = set(range(SHARDS))
    await until_found(lambda: settled_by_another(system.stack, RUNNER) == taken or None)
    assert sim.state.log.total - seen <= IN_FLIGHT * (1 + LOOK_SECONDS / LATENCY)
    assert (await system.call("GET", f"/batches/{batch['id']}"))["status"] == "in_progress"
    await system.call("POST", f"/batches/{batch['id']}/cancel")
    await check_ended_well(system, await system.ended(batch["id"]), lines)


@pytest.mark.timeout(120)
async def test_one_of_two_runners_killed_in_the_middle_loses_nothing(yard: FaultYard) -> None:
    settings = {**SETTINGS, "shard_lines": SHARD_LINES // 4, "shards_per_pool": 2}
    sim = await yard.sim(base_latency=LATENCY)
    system = await yard.system(sim.url.removesuffix("/v1"), **settings)
    add_runner(system.stack, SECOND)
    await started(system.stack, SECOND)
    lines = ordinary(LINES)
    batch = await system.submit(encoded(lines))
    await until_found(
        lambda: all(said(system.stack, name, "shard.settled") for name in (RUNNER, SECOND)) or None,
    )
    await system.stack.restarted(RUNNER, system.stack.kill(RUNNER))
    await check_ended_well(system, await system.ended(batch["id"]), lines)

    assert [restart.exit_code for restart in yard.restarts] == [-signal.SIGKILL]
    counts = sent(sim)
    assert len(counts) == LINES
    one_flush = IN_FLIGHT * 2
    assert sum(counts.values()) - LINES <= IN_FLIGHT + one_flush, "only what had no durable result is sent again"


def _done(batch: Any) -> int:
    return int(batch["request_counts"]["completed"] + batch["request_counts"]["failed"])
