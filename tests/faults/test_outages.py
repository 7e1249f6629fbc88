"""What goes away comes back, and the batch with it: each row of docs/faults.md.

OUTAGE_SECONDS says for how long the parts are away: a few seconds show all there is to see, and half a minute is what
`make test-faults` takes.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from batchyard.cli.running import running_stack
from batchyard.vllm_sim.testing import RunningSim
from support.outages import (
    ask,
    asked,
    check_results,
    check_unavailable,
    content,
    filled,
    logged,
    nats_refusing,
    new_client,
    objects_gone,
    paused,
    proxy_to,
    sim_at,
    small_disk,
    submit,
    trickling,
    upload,
    write_config,
)
from support.systems import System

OUTAGE_SECONDS = float(os.environ.get("OUTAGE_SECONDS", "6"))
LINES = 240
COMMAND_TIMEOUT = 1.5
BOUND = 2 * COMMAND_TIMEOUT + 3  # a call may try more than one command; two busy cores take their time
QUICK = {
    "work_ack_wait": 2,
    "max_parallel_requests": 16,
    "shard_lines": 60,
    "flush_interval": 0.1,
    "probe_interval": 0.2,
    "retry_base": 0.05,
    "retry_cap": 0.2,
    "reconcile_interval": 0.5,
    "stale_after": 2,
    "command_timeout": COMMAND_TIMEOUT,
}


class Site:
    """Starts what a test needs, and ends it with the test."""

    def __init__(self, exits: AsyncExitStack, directory: Path) -> None:
        self._exits = exits
        self._directory = directory

    @property
    def data(self) -> Path:
        return self._directory / "data"

    async def sim(self, **settings: Any) -> RunningSim:
        return await self._exits.enter_async_context(sim_at(0, **settings))

    async def system(self, *deployments: str | Mapping[str, object], **environment: object) -> System:
        config = write_config(
            self._directory / "config.yaml",
            [{"api_base": one} if isinstance(one, str) else one for one in deployments],
        )
        variables = {f"BATCHYARD_{name.upper()}": str(value) for name, value in {**QUICK, **environment}.items()}
        stack = await self._exits.enter_async_context(running_stack(self.data, config=config, environment=variables))
        return System(stack, await self._exits.enter_async_context(new_client()))


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with AsyncExitStack() as exits:
        yield Site(exits, tmp_path)


async def begun(system: System, count: int = LINES) -> Any:
    """A batch in its middle."""
    batch = await system.submit(content(count))
    return await system.until(batch["id"], lambda batch: batch["request_counts"]["completed"] > count / 6)


async def throughout_the_outage(look: Callable[[], Awaitable[None]]) -> None:
    """Look again and again until the part has been away for long enough."""
    loop = asyncio.get_running_loop()
    until = loop.time() + OUTAGE_SECONDS
    while True:
        await look()
        if loop.time() >= until:
            return
        await asyncio.sleep(0.2)


async def test_nats_killed_in_the_middle_of_a_batch(site: Site) -> None:
    sim = await site.sim(base_latency=0.15)
    system = await site.system(sim.url)
    batch = await begun(system)
    pid = system.stack.kill("nats")
    met = [await ask(system, "GET", f"/v1/batches/{batch['id']}")]
    await system.stack.restarted("nats", pid)
    met.append(await ask(system, "GET", f"/v1/files/{batch['input_file_id']}"))
    for answered in met:
        if answered.status != 200:
            check_unavailable(answered, BOUND)
    batch = await system.ended(batch["id"])
    await check_results(system, batch, LINES)
    assert asked(sim.state).total() == LINES


@pytest.mark.parametrize("how", ["stalled", "refusing"])
async def test_nats_gone_for_seconds(site: Site, how: str) -> None:
    sim = await site.sim(base_latency=0.15)
    system = await site.system(sim.url)
    batch = await begun(system)
    async with AsyncExitStack() as outage:
        if how == "stalled":
            outage.enter_context(paused(system.stack, "nats"))
        else:
            await outage.enter_async_context(nats_refusing(system.stack))

        async def look() -> None:
            for answered in await asyncio.gather(
                ask(system, "GET", f"/v1/batches/{batch['id']}"),
                ask(system, "GET", "/v1/files"),
                ask(system, "GET", "/spend/logs"),
                upload(system, content(1)),
            ):
                check_unavailable(answered, BOUND)

        await throughout_the_outage(look)
        assert (await ask(system, "GET", "/health/liveness")).status == 200
        assert (await ask(system, "GET", "/health/readiness")).status == 503
    batch = await system.ended(batch["id"])
    await check_results(system, batch, LINES)
    assert (await ask(system, "GET", f"/v1/files/{batch['input_file_id']}")).status == 200
    assert asked(sim.state).total() == LINES


async def check_store_outage(system: System, sim: RunningSim, batch: Any) -> None:
    """While the object store is away: uploads are refused, what is answered is kept, and the batch goes on."""

    async def look() -> None:
        check_unavailable(await upload(system, content(1000)), BOUND)
        now = await ask(system, "GET", f"/v1/batches/{batch['id']}")
        assert (now.status, now.body["status"]) == (200, "in_progress")

    await throughout_the_outage(look)
    await logged(system.stack, "batch-runner", "checkpoint.postponed")
    await sim.until(lambda state: state.log.total >= min(LINES, 16 * 4))


async def test_the_object_store_gone_for_seconds(site: Site) -> None:
    sim = await site.sim(base_latency=0.15)
    system = await site.system(sim.url, work_ack_wait=5)
    batch = await begun(system)
    with objects_gone(system.stack):
        await check_store_outage(system, sim, batch)
        check_unavailable(await ask(system, "GET", f"/v1/files/{batch['input_file_id']}/content"), BOUND)
        assert (await ask(system, "GET", f"/v1/files/{batch['input_file_id']}")).status == 200
    batch = await system.ended(batch["id"])
    await check_results(system, batch, LINES)
    assert asked(sim.state).total() == LINES
    assert (await upload(system, content(1))).status == 200


async def test_a_full_disk_under_the_object_store(site: Site) -> None:
    with small_disk(site.data / "objects", "8m"):
        await full_disk(site)


async def full_disk(site: Site) -> None:
    sim = await site.sim(base_latency=0.15)
    async with AsyncExitStack() as exits:
        inner = Site(exits, site.data.parent)
        system = await inner.system(sim.url)
        batch = await begun(system)
        objects = system.stack.layout.objects
        before = {one["id"] for one in (await ask(system, "GET", "/v1/files")).body["data"]}
        with filled(objects):
            await check_store_outage(system, sim, batch)
            # Nothing of the refused upload is left, neither as a file nor as bytes.
            assert {one["id"] for one in (await ask(system, "GET", "/v1/files")).body["data"]} == before
            input_file = await ask(system, "GET", f"/v1/files/{batch['input_file_id']}/content")
            assert input_file.status == 200, "what is there can be read"
        batch = await system.ended(batch["id"])
        await check_results(system, batch, LINES)
        assert asked(sim.state).total() == LINES
        assert (await upload(system, content(1))).status == 200
        assert not [path for path in (objects / ".tmp").iterdir() if path.is_file()]


async def test_billing_away_for_a_whole_batch(site: Site) -> None:
    sim = await site.sim()
    system = await site.system(sim.url)
    pid = system.stack.kill("billing")
    check_unavailable(await ask(system, "GET", "/spend/logs"), BOUND)
    await system.stack.restarted("billing", pid)
    await system.stack.ready()
    with paused(system.stack, "billing"):
        batch = await system.submit(content(LINES))
        batch = await system.ended(batch["id"])
        assert batch["status"] == "completed"
        for path in ("/spend/logs", "/spend/summary"):
            check_unavailable(await ask(system, "GET", path), BOUND)
    await check_results(system, batch, LINES)
    entries = await system.ledger(batch["id"])
    assert float(entries[0]["cost"]) == pytest.approx(
        batch["usage"]["input_tokens"] * 1e-6 + batch["usage"]["output_tokens"] * 2e-6
    )


async def test_the_model_server_stopped_and_started_again(site: Site) -> None:
    async with AsyncExitStack() as first:
        sim = await first.enter_async_context(sim_at(0, base_latency=0.1))
        port = int(sim.url.rpartition(":")[2])
        system = await site.system(sim.url, max_attempts=2)
        batch = await begun(system)
    await logged(system.stack, "batch-runner", "deployment.down")
    # A second batch has nothing in flight when it finds nobody: its lines wait.
    other = await system.submit(content(LINES))
    for one in (batch, other):
        await system.until(one["id"], lambda batch: batch["status"] == "in_progress")

    async def look() -> None:
        for one in (batch, other):
            now = (await ask(system, "GET", f"/v1/batches/{one['id']}")).body
            assert (now["status"], now["request_counts"]["failed"]) == ("in_progress", 0)

    await throughout_the_outage(look)
    async with sim_at(port) as again:
        for one in (batch, other):
            await check_results(system, await system.ended(one["id"]), LINES)
    assert max(asked(sim.state, again.state).values()) <= 2


async def test_a_proxy_that_accepts_and_closes(site: Site) -> None:
    sim = await site.sim(base_latency=0.1)
    async with proxy_to(int(sim.url.rpartition(":")[2])) as proxy:
        system = await site.system(f"http://127.0.0.1:{proxy.port}", max_attempts=2)
        batch = await begun(system)
        with proxy.cut():
            await logged(system.stack, "batch-runner", "deployment.down")
            other = await system.submit(content(LINES))
            await system.until(other["id"], lambda batch: batch["status"] == "in_progress")
            await proxy.until_refused(proxy.refused + 5)
            for one in (batch, other):
                now = (await ask(system, "GET", f"/v1/batches/{one['id']}")).body
                assert (now["status"], now["request_counts"]["failed"]) == ("in_progress", 0)
        for one in (batch, other):
            await check_results(system, await system.ended(one["id"]), LINES)
        assert max(asked(sim.state).values()) <= 2


BROKEN = (
    "bad-json",
    "truncate",
    "reset",
    "abort",
    "status=503,retry-after=60",
    "status=429,retry-after=60",
    "hang",
    "trickle",
    "tls",
)
FEW = 60


async def broken_deployment(kind: str, sound: str, site: Site, exits: AsyncExitStack) -> Mapping[str, object]:
    """A deployment that can be reached and does nothing useful."""
    match kind:
        case "trickle":
            return {"api_base": await exits.enter_async_context(trickling()), "timeout": 1}
        case "tls":
            return {"api_base": sound.replace("http://", "https://")}
        case "hang":
            return {"api_base": (await site.sim(faults=("hang:1",))).url, "timeout": 1}
        case _:
            return {"api_base": (await site.sim(faults=(f"{kind}:1",))).url}


async def test_a_broken_deployment_beside_a_sound_one(site: Site) -> None:
    """A pool for each way of being broken; the other deployment of each does the work."""
    async with AsyncExitStack() as exits:
        sound = [await site.sim() for _ in BROKEN]
        deployments: list[Mapping[str, object]] = []
        for index, (kind, sim) in enumerate(zip(BROKEN, sound, strict=True)):
            broken = await broken_deployment(kind, sim.url, site, exits)
            deployments += [{**broken, "model_name": f"m{index}"}, {"api_base": sim.url, "model_name": f"m{index}"}]
        system = await site.system(*deployments)
        batches = [await submit(system, content(FEW, f"m{index}"), f"m{index}") for index in range(len(BROKEN))]
        for kind, sim, batch in zip(BROKEN, sound, batches, strict=True):
            try:
                await check_results(system, await system.ended(batch["id"], within=40), FEW)
            except (AssertionError, TimeoutError) as error:
                raise AssertionError(kind) from error
            assert set(asked(sim.state).values()) == {1}, kind
            assert asked(sim.state).total() == FEW, kind


async def test_a_thousand_lines_through_mixed_faults(site: Site) -> None:
    sim = await site.sim(faults=("status=503:0.05", "reset:0.02", "bad-json:0.02", "abort:0.01"), seed=7)
    system = await site.system(sim.url, max_attempts=8, shard_lines=250)
    batch = await system.submit(content(1000))
    await check_results(system, await system.ended(batch["id"]), 1000)
    by_outcome = sim.state.log.by_outcome
    struck = {f"fault:{kind}": by_outcome[f"fault:{kind}"] for kind in ("status", "reset", "bad-json", "abort")}
    assert all(struck.values()), struck
    assert by_outcome["answered"] == 1000
    assert asked(sim.state).total() == 1000 + sum(struck.values())


async def test_file_store_away_when_a_batch_is_finalized(site: Site) -> None:
    sim = await site.sim(base_latency=0.1)
    system = await site.system(sim.url)
    batch = await begun(system)
    with paused(system.stack, "file-store"):
        await system.until(batch["id"], lambda batch: batch["status"] == "finalizing")
        await logged(system.stack, "batch-runner", "queue.job_postponed")

        async def look() -> None:
            now = await ask(system, "GET", f"/v1/batches/{batch['id']}")
            assert (now.status, now.body["status"]) == (200, "finalizing")
            check_unavailable(await ask(system, "GET", f"/v1/files/{batch['input_file_id']}"), BOUND)

        await throughout_the_outage(look)
    await check_results(system, await system.ended(batch["id"]), LINES)
    assert asked(sim.state).total() == LINES
