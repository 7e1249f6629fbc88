"""Three runners and two of every other service on one NATS, as several machines would have them; one of each dies."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from batchyard.cli.services import MODULES
from batchyard.cli.stack import Nats
from batchyard.cli.supervisor import Restart, RestartPolicy, Supervisor
from batchyard.cli.waiting import until_found
from batchyard.vllm_sim.testing import RunningSim
from support.many import Processes, running_many
from support.nats import running_nats
from support.programs import variables
from support.stack import config_for

from .conftest import FaultYard, PatientSystem, said
from .endings import check_ended_well, encoded, ordinary, sent

pytestmark = pytest.mark.timeout(240)
in_one_loop = pytest.mark.asyncio(loop_scope="module")

COUNTS = {"batch-runner": 3, "gateway": 2, "file-store": 2, "billing": 2}
TOKEN = "many"
LINES = 120
IN_FLIGHT = 8
SETTINGS: dict[str, object] = {
    "shard_lines": 20,
    "shards_per_pool": 4,
    "max_parallel_requests": IN_FLIGHT,
    "flush_interval": 0.2,
    "work_ack_wait": 2,
    "reconcile_interval": 0.5,
    "stale_after": 2,
    "command_timeout": 2,
}


@dataclass(frozen=True, slots=True)
class Site:
    """The processes, and the same system through each gateway."""

    processes: Processes
    systems: list[PatientSystem]
    sim: RunningSim
    restarts: list[Restart]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    directory: Path = tmp_path_factory.mktemp("many")
    restarts: list[Restart] = []
    async with AsyncExitStack() as exits:
        yard = FaultYard(exits, directory)
        sim = await yard.sim(base_latency=0.15)
        url = exits.enter_context(running_nats(directory / "nats", options=("--auth", TOKEN)))
        processes = await exits.enter_async_context(
            running_many(
                directory / "data",
                Nats(url, TOKEN),
                config_for(sim.url, directory / "config.yaml"),
                counts=COUNTS,
                environment=variables(SETTINGS),
                supervisor=Supervisor(RestartPolicy(first=0.1, factor=1.0), notify=restarts.append),
            )
        )
        client = await yard.client()
        yield Site(processes, [PatientSystem(stack, client) for stack in processes.stacks], sim, restarts)


@in_one_loop
async def test_batches_through_every_gateway_are_shared_by_all_runners(site: Site) -> None:
    lines = ordinary(LINES)
    batches = await asyncio.gather(*(system.submit(encoded(lines)) for system in site.systems))
    for system, other, batch in zip(site.systems, reversed(site.systems), batches, strict=True):
        ended = await other.ended(batch["id"])
        assert await system.call("GET", f"/batches/{batch['id']}") == ended
        await check_ended_well(system, ended, lines)
    for runner in site.processes.names["batch-runner"]:
        assert said(site.processes.stack, runner, "shard.settled"), f"{runner} did nothing"


@in_one_loop
async def test_one_of_each_service_killed_in_the_middle_of_batches(site: Site) -> None:
    stack, before = site.processes.stack, sent(site.sim)
    lines = ordinary(LINES)
    batches = [await system.submit(encoded(lines)) for system in site.systems]
    for batch in batches:
        await site.systems[0].until(batch["id"], lambda batch: batch["request_counts"]["completed"] > LINES / 8)

    killed = {names[-1]: stack.kill(names[-1]) for names in site.processes.names.values()}
    # Those that are left take what comes meanwhile.
    batches.append(await site.systems[0].submit(encoded(lines)))
    for name, pid in killed.items():
        await stack.restarted(name, pid)
    for number, batch in enumerate(batches):
        system = site.systems[number % len(site.systems)]
        await check_ended_well(system, await system.ended(batch["id"]), lines)

    assert {restart.name for restart in site.restarts} == {names[-1] for names in site.processes.names.values()}
    assert {restart.exit_code for restart in site.restarts} == {-signal.SIGKILL}
    counts = sent(site.sim) - before
    assert len(counts) == LINES * len(batches)
    one_flush = IN_FLIGHT * 2
    assert counts.total() - len(counts) <= IN_FLIGHT + one_flush, "only what had no durable result is sent again"


@in_one_loop
async def test_every_process_of_each_service_but_one_killed(site: Site) -> None:
    stack = site.processes.stack
    lines = ordinary(LINES)
    batch = await site.systems[0].submit(encoded(lines))
    await site.systems[0].until(batch["id"], lambda batch: batch["request_counts"]["completed"] > LINES / 8)
    spared = {service: names[0] for service, names in site.processes.names.items()}
    assert spared.keys() == MODULES.keys()
    site.restarts.clear()
    doomed = [name for names in site.processes.names.values() for name in names if name not in spared.values()]
    for name in doomed:
        stack.kill(name)
    await check_ended_well(site.systems[0], await site.systems[0].ended(batch["id"]), lines)
    await until_found(lambda: len(site.restarts) == len(doomed) or None)
    await site.processes.ready()
