"""A Batchyard whose model server is another Batchyard: whole batches go next door, over its Files and Batch API."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from support.native import Street, check_ended_well, content, nothing_left, running_street, upstream_batches
from support.systems import request_line

RUNNER = "batch-runner"

pytestmark = pytest.mark.timeout(120)
in_one_loop = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def street(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Street]:
    async with running_street(tmp_path_factory.mktemp("street")) as street:
        yield street


async def begun_next_door(street: Street, batch: Any) -> None:
    async with asyncio.timeout(30):
        while not await upstream_batches(street.upstream, batch["id"]):
            await asyncio.sleep(0.05)


@in_one_loop
async def test_a_batch_goes_next_door_and_comes_back(street: Street) -> None:
    """`auto` finds the API of the Batchyard next door, and that the simulator behind that one has none."""
    batch = await street.ours.ended((await street.ours.submit(content()))["id"])
    await check_ended_well(street, batch)


@in_one_loop
async def test_a_cancel_passes_through(street: Street) -> None:
    lines = [request_line(f"r{index}", f"q {index}" + (" [[fault:hang]]" if index >= 3 else "")) for index in range(8)]
    batch = await street.ours.submit(b"\n".join(lines))
    await street.ours.until(batch["id"], lambda batch: batch["request_counts"]["completed"] == 3)
    assert (await street.ours.call("POST", f"/batches/{batch['id']}/cancel"))["status"] == "cancelling"
    batch = await street.ours.ended(batch["id"], within=15)
    assert batch["status"] == "cancelled"
    assert batch["request_counts"] == {"total": 8, "completed": 3, "failed": 0}
    (theirs,) = await upstream_batches(street.upstream, batch["id"])
    assert theirs["status"] == "cancelled"
    output, errors = [await street.ours.lines(batch[name]) for name in ("output_file_id", "error_file_id")]
    assert [line["custom_id"] for line in output] == ["r0", "r1", "r2"]
    assert [line["error"]["code"] for line in errors] == ["batch_cancelled"] * 5
    await nothing_left(street.upstream)


@in_one_loop
async def test_a_server_that_restarts_loses_nothing(street: Street) -> None:
    street.sim.state.healthy = False
    batch = await street.ours.submit(content())
    await begun_next_door(street, batch)
    stack = street.upstream.stack
    pid = stack.kill("gateway")
    stack.kill(RUNNER)
    told = await street.ours.until(batch["id"], lambda batch: batch["status_reason"] is not None)
    assert told["status"] == "in_progress"
    await stack.restarted("gateway", pid)
    await stack.ready()
    street.sim.state.healthy = True
    await check_ended_well(street, await street.ours.ended(batch["id"]))


@in_one_loop
async def test_a_runner_killed_while_the_server_works_goes_on_with_the_same_batch(street: Street) -> None:
    street.sim.state.healthy = False
    batch = await street.ours.submit(content())
    await begun_next_door(street, batch)
    for _ in range(2):
        await street.ours.stack.restarted(RUNNER, street.ours.stack.kill(RUNNER))
    street.sim.state.healthy = True
    await check_ended_well(street, await street.ours.ended(batch["id"]))
