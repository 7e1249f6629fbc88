"""A runner that is asked to stop hands back what it has, and nobody does it again."""

import signal
import time

import pytest

from batchyard.cli.waiting import until_found
from support.programs import RUNNER

from .conftest import FaultYard, said
from .endings import Line, check_ended_well, encoded, ordinary, sent

LINES = 240
SHARD_LINES = 60
SETTINGS: dict[str, object] = {
    "shard_lines": SHARD_LINES,
    "max_parallel_requests": 8,
    "work_ack_wait": 1,
    "reconcile_interval": 0.5,
    "stale_after": 2,
}
GRACE = 5.0


@pytest.mark.timeout(120)
async def test_a_runner_asked_to_stop_hands_its_shards_back(yard: FaultYard) -> None:
    sim = await yard.sim(base_latency=0.2)
    # So rarely is a checkpoint made that only the stop can have made one.
    system = await yard.system(sim.url.removesuffix("/v1"), flush_interval=600, **SETTINGS)
    lines = ordinary(LINES)
    batch = await system.submit(encoded(lines))
    await sim.until(lambda state: state.log.total > LINES / 4, timeout=30)

    asked = time.monotonic()
    system.stack.kill(RUNNER, signal.SIGTERM)
    await until_found(lambda: yard.restarts or None)
    assert time.monotonic() - asked < GRACE
    assert [(restart.name, restart.exit_code) for restart in yard.restarts] == [(RUNNER, 0)]
    assert said(system.stack, RUNNER, "shard.handed_back")

    await check_ended_well(system, await system.ended(batch["id"]), lines)
    counts = sent(sim)
    assert len(counts) == LINES
    assert set(counts.values()) == {1}, "what was done, or in flight when the stop came, is not sent again"


@pytest.mark.timeout(120)
async def test_what_takes_longer_than_the_grace_is_all_that_is_sent_again(yard: FaultYard) -> None:
    sim = await yard.sim(base_latency=0.2)
    system = await yard.system(sim.url.removesuffix("/v1"), flush_interval=600, shutdown_grace=1, **SETTINGS)
    slow = [Line(f"slow{index}", "slow") for index in range(4)]
    lines = [*slow, *ordinary(LINES)]
    batch = await system.submit(encoded(lines))
    await sim.until(lambda state: state.log.total > LINES / 4, timeout=30)

    asked = time.monotonic()
    system.stack.kill(RUNNER, signal.SIGTERM)
    await until_found(lambda: yard.restarts or None)
    assert time.monotonic() - asked < GRACE
    assert [restart.exit_code for restart in yard.restarts] == [0]

    await check_ended_well(system, await system.ended(batch["id"]), lines)
    counts = sent(sim)
    assert len(counts) == len(lines)
    assert sorted(counts.values(), reverse=True)[: len(slow) + 1] == [2] * len(slow) + [1]
