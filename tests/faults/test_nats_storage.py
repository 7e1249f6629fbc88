"""JetStream without room: what is new is refused, what is under way waits, and nothing is lost."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from nats.js.api import StreamConfig
from nats.js.errors import ServiceUnavailableError

from batchyard.cli.stack import Nats
from batchyard.cli.supervisor import Supervisor
from support.many import running_many
from support.nats_cluster import NatsCluster, running_cluster
from support.outages import ask, check_unavailable, filled, small_disk, upload
from support.programs import variables
from support.stack import config_for

from .conftest import FaultYard, PatientSystem
from .endings import check_ended_well, encoded, ordinary

pytestmark = pytest.mark.timeout(240)

FILLER = "FILLER"
LINES = 120
LOOKS = 5
FEW = 3
REFUSALS = 3
BOUND = 10.0  # a call may try several commands of two seconds
SETTINGS: dict[str, object] = {
    "shard_lines": 20,
    "shard_window": 4,
    "max_parallel_requests": 16,
    "flush_interval": 0.2,
    "work_ack_wait": 2,
    "reconcile_interval": 0.5,
    "stale_after": 2,
    "command_timeout": 2,
}


@dataclass(frozen=True, slots=True)
class Site:
    """A system, and the NATS server below it."""

    system: PatientSystem
    nats: NatsCluster


@asynccontextmanager
async def site_in(directory: Path, jetstream: str = "") -> AsyncIterator[Site]:
    async with AsyncExitStack() as exits:
        yard = FaultYard(exits, directory)
        sim = await yard.sim(base_latency=0.15)
        nats = await exits.enter_async_context(running_cluster(directory / "nats", 1, jetstream))
        processes = await exits.enter_async_context(
            running_many(
                directory / "data",
                Nats(nats.url, nats.token),
                config_for(sim.url, directory / "config.yaml"),
                counts={},
                environment=variables(SETTINGS),
                supervisor=Supervisor(),
            )
        )
        yield Site(PatientSystem(processes.stack, await yard.client()), nats)


async def begun(system: PatientSystem) -> Any:
    batch = await system.submit(encoded(ordinary(LINES)))
    return await system.until(batch["id"], lambda batch: batch["request_counts"]["completed"] > LINES / 8)


@asynccontextmanager
async def jetstream_full(nats: NatsCluster) -> AsyncIterator[None]:
    """The server's room for JetStream, used up by a stream of somebody else's until the context ends."""
    async with nats.connected() as connection:
        js = connection.jetstream()
        await js.add_stream(StreamConfig(name=FILLER, subjects=[FILLER]))
        for size in (20_000, 1000, 100, 1):
            with suppress(ServiceUnavailableError):
                while True:
                    await js.publish(FILLER, b"\0" * size)
        yield
        await js.delete_stream(FILLER)


async def look(system: PatientSystem, batch: Any) -> None:
    """What is new is refused at once, and clearly."""
    check_unavailable(await upload(system, encoded(ordinary(1))), BOUND)
    check_unavailable(await ask(system, "POST", "/v1/batches", json=order_for(batch["input_file_id"])), BOUND)


def order_for(file_id: str) -> dict[str, str]:
    return {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}


async def test_jetstream_used_up_in_the_middle_of_a_batch(tmp_path: Path) -> None:
    async with site_in(tmp_path, "max_file_store: 1MB") as site:
        system = site.system
        batch = await begun(system)
        files = (await system.call("GET", "/files"))["data"]
        async with jetstream_full(site.nats):
            for _ in range(LOOKS):
                await look(system, batch)
                now = await ask(system, "GET", f"/v1/batches/{batch['id']}")
                assert (now.status, now.body["status"]) == (200, "in_progress")
                await asyncio.sleep(0.2)
            assert (await system.call("GET", "/files"))["data"] == files
        await check_ended_well(system, await system.ended(batch["id"]), ordinary(LINES))
        assert [one["id"] for one in (await system.call("GET", "/batches"))["data"]] == [batch["id"]]


async def test_the_disk_under_jetstream_full_in_the_middle_of_a_batch(tmp_path: Path) -> None:
    with small_disk(tmp_path / "nats", "24m"):
        async with site_in(tmp_path) as site:
            system, (node,) = site.system, site.nats.nodes
            batch = await begun(system)
            with filled(tmp_path / "nats"):
                files, batches = await acknowledged_meanwhile(system)
            # NATS itself gives up its JetStream on a full disk, until it is started again.
            node.end()
            node.start()
            await check_ended_well(system, await system.ended(batch["id"]), ordinary(LINES))
            for one in batches:
                await check_ended_well(system, await system.ended(one), ordinary(FEW))
            for one in files:
                await system.call("GET", f"/files/{one}")


async def acknowledged_meanwhile(system: PatientSystem) -> tuple[list[str], list[str]]:
    """The files and batches that were acknowledged until nothing more was: each stream may have some room left."""
    files, batches, refused = [], [], 0
    while refused < REFUSALS:
        answered = await upload(system, encoded(ordinary(FEW)))
        if answered.status == httpx.codes.OK:
            files.append(answered.body["id"])
            answered = await ask(system, "POST", "/v1/batches", json=order_for(files[-1]))
        if answered.status == httpx.codes.OK:
            batches.append(answered.body["id"])
        else:
            check_unavailable(answered, BOUND)
            refused += 1
    return files, batches
