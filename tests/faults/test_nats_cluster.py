"""Three NATS servers that keep three copies of everything: each is lost and comes back while batches run.

`make test-faults` (OUTAGE_SECONDS) takes the leader of every kind of stream in turn, and stops one for a while.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from batchyard.cli.stack import Nats
from batchyard.cli.supervisor import Supervisor
from batchyard.common.messaging.topology import BATCHES_BUCKET, EVENTS, SHARDS_BUCKET, STEPS, WORK
from batchyard.vllm_sim.testing import RunningSim
from support.many import running_many
from support.nats_cluster import NatsCluster, running_cluster
from support.programs import variables
from support.stack import config_for

from .conftest import FaultYard, PatientSystem
from .endings import Line, check_ended_well, encoded, ordinary

pytestmark = pytest.mark.timeout(300)
in_one_loop = pytest.mark.asyncio(loop_scope="module")

IS_LONG = "OUTAGE_SECONDS" in os.environ
only_long = pytest.mark.skipif(not IS_LONG, reason="takes long: make test-faults")
LEADERS = (f"KV_{BATCHES_BUCKET}", *((WORK, STEPS, EVENTS, f"KV_{SHARDS_BUCKET}") if IS_LONG else ()))
PAUSE_SECONDS = 15.0
LINES = 240
FEW = 5
SETTINGS: dict[str, object] = {
    "nats_replicas": 3,
    "shard_lines": 20,
    "max_parallel_requests": 8,
    "flush_interval": 0.2,
    "work_ack_wait": 2,
    "reconcile_interval": 0.5,
    "stale_after": 2,
    "command_timeout": 2,
}


@dataclass(frozen=True, slots=True)
class Clustered:
    """A system on a cluster."""

    system: PatientSystem
    cluster: NatsCluster
    sim: RunningSim


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def clustered(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Clustered]:
    directory: Path = tmp_path_factory.mktemp("cluster")
    async with AsyncExitStack() as exits:
        yard = FaultYard(exits, directory)
        sim = await yard.sim(base_latency=0.15)
        cluster = await exits.enter_async_context(running_cluster(directory / "nats"))
        many = await exits.enter_async_context(
            running_many(
                directory / "data",
                Nats(cluster.url, cluster.token),
                config_for(sim.url, directory / "config.yaml"),
                counts={"batch-runner": 2},
                environment=variables(SETTINGS),
                supervisor=Supervisor(),
            )
        )
        yield Clustered(PatientSystem(many.stack, await yard.client()), cluster, sim)


async def begun(system: PatientSystem, lines: list[Line]) -> Any:
    """A batch in its middle."""
    batch = await system.submit(encoded(lines))
    return await system.until(batch["id"], lambda batch: batch["request_counts"]["completed"] > len(lines) / 8)


@pytest.mark.parametrize("stream", LEADERS)
@in_one_loop
async def test_the_leader_of_a_stream_killed_in_the_middle_of_batches(clustered: Clustered, stream: str) -> None:
    """One batch runs, and others are created all the while: also while there is no leader, which takes some seconds."""
    system, cluster = clustered.system, clustered.cluster
    lines = ordinary(LINES)
    batch = await begun(system, lines)
    over = asyncio.Event()
    creating = asyncio.create_task(created_until(system, over))
    leader = await cluster.leader(stream)
    leader.end()
    ended = await system.ended(batch["id"])
    leader.start()
    await cluster.healed()
    over.set()
    await check_ended_well(system, ended, lines)
    created = await creating
    for one in created:
        await check_ended_well(system, await system.ended(one), ordinary(FEW))
    made = (await system.call("GET", "/batches", params={"limit": 100}))["data"]
    assert [one["id"] for one in made][: len(created)] == created[::-1], "a batch for each that was asked for"


async def created_until(system: PatientSystem, over: asyncio.Event) -> list[str]:
    """Create small batches one after another, as a client does that asks again; their IDs."""
    created = []
    while not over.is_set():
        created.append((await system.submit(encoded(ordinary(FEW))))["id"])
        await asyncio.sleep(0.5)
    return created


@in_one_loop
async def test_a_follower_killed_in_the_middle_of_a_batch(clustered: Clustered) -> None:
    system, cluster = clustered.system, clustered.cluster
    lines = ordinary(LINES)
    batch = await begun(system, lines)
    follower = await cluster.leader(WORK, is_leader=False)
    follower.end()
    ended = await system.ended(batch["id"])
    follower.start()
    await cluster.healed()
    await check_ended_well(system, ended, lines)


@in_one_loop
async def test_every_node_restarted_one_after_another_in_the_middle_of_a_batch(clustered: Clustered) -> None:
    system, cluster = clustered.system, clustered.cluster
    lines = ordinary(3 * LINES)
    batch = await begun(system, lines)
    for node in cluster.nodes:
        node.end(signal.SIGTERM)
        node.start()
        await node.healthy()
    await check_ended_well(system, await system.ended(batch["id"]), lines)


@only_long
@in_one_loop
async def test_a_leader_that_stands_still_and_goes_on(clustered: Clustered) -> None:
    system, cluster = clustered.system, clustered.cluster
    lines = ordinary(LINES)
    batch = await begun(system, lines)
    leader = await cluster.leader(f"KV_{BATCHES_BUCKET}")
    leader.send(signal.SIGSTOP)
    try:
        await asyncio.sleep(PAUSE_SECONDS)
    finally:
        leader.send(signal.SIGCONT)
    await check_ended_well(system, await system.ended(batch["id"]), lines)
    await cluster.healed()
