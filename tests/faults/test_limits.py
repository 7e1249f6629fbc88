"""Processes killed while room for a batch is taken and given back: nothing is counted twice, and nothing for ever."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from batchyard.cli.waiting import until_found
from batchyard.common.crash import POINTS
from support.programs import RUNNER

from .conftest import FaultYard, PatientSystem, armed
from .endings import Line, check_ended_well, encoded, ordinary
from .test_crash_points import SETTINGS, Site

pytestmark = pytest.mark.timeout(90)
in_one_loop = pytest.mark.asyncio(loop_scope="module")

CREATING = ("limits.counted", "limits.reserved")
BILLING = "billing"
LINES = 20


class Bounded(Site):
    """A site whose team has limits and a budget that hold one batch and a half."""

    async def used(self) -> tuple[int, int, str]:
        """Batches and lines that are enqueued, and what is reserved."""
        report = await self.system.call("GET", "/limits")
        team = report["enqueued"]["team"]["used"]
        return team["batches"], team["lines"], report["budgets"]["team"]["reserved"]

    async def stored(self) -> int | None:
        """Bytes that count for the storage quota."""
        used: int | None = (await self.system.call("GET", "/limits"))["storage"]["used_bytes"]
        return used

    async def until(self, condition: Callable[[tuple[int, int, str]], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition(await self.used()):
                await asyncio.sleep(0.1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bounded]:
    async with AsyncExitStack() as exits:
        yard = FaultYard(exits, tmp_path_factory.mktemp("limits"))
        sim = await yard.sim(base_latency=0.05)
        system: PatientSystem = await yard.system(
            sim.url.removesuffix("/v1"), **SETTINGS, audit_interval=0.5, reservation_audit_interval=0.5
        )
        limits = {
            "team_id": "default",
            "max_batches": 1,
            "max_enqueued_lines": 2 * LINES,
            "max_budget": 1,
            "max_storage_bytes": 10**6,
        }
        response = await system.http.post(f"{system.stack.url}/team/new", json=limits)
        assert response.status_code == 200, response.text
        bounded = Bounded(system, sim)
        async with asyncio.timeout(10):
            while (await bounded.stored()) is None:
                await asyncio.sleep(0.05)
        yield bounded


def lines() -> list[Line]:
    return ordinary(LINES)


async def ended_well(site: Bounded, batch_id: str) -> None:
    await check_ended_well(site.system, await site.system.ended(batch_id), lines())
    await site.until(lambda used: used[0] == 0 and float(used[2]) == 0)


def test_every_point_is_reached() -> None:
    points = {point for point in POINTS if point.startswith(("limits.", "storage."))}
    assert points == {*CREATING, "limits.released", "storage.claimed"}


@in_one_loop
@pytest.mark.parametrize("point", CREATING)
async def test_a_runner_killed_between_room_and_batch(site: Bounded, point: str, tmp_path: Path) -> None:
    """The client tries again, and there is room for one batch alone: what was taken is that batch's."""
    file_id = await site.upload(lines())
    async with armed(site.system.stack, RUNNER, point, tmp_path / "marker"):
        batch_id = await site.create(file_id)
        assert (tmp_path / "marker").exists(), "the point was not reached"
        assert (await site.used())[0] <= 1
        await ended_well(site, batch_id)
    assert await site.batches_over(file_id) == [batch_id]


@in_one_loop
async def test_a_runner_killed_between_release_and_end(site: Bounded, tmp_path: Path) -> None:
    async with armed(site.system.stack, RUNNER, "limits.released", tmp_path / "marker"):
        batch_id = await site.create(await site.upload(lines()))
        await until_found(lambda: (tmp_path / "marker").exists() or None)
        await ended_well(site, batch_id)
    await ended_well(site, await site.create(await site.upload(lines())))


@in_one_loop
async def test_billing_killed_between_entry_and_acknowledgement(site: Bounded, tmp_path: Path) -> None:
    async with armed(site.system.stack, BILLING, "entry.committed", tmp_path / "marker"):
        batch_id = await site.create(await site.upload(lines()))
        await ended_well(site, batch_id)
    entries: list[Any] = await site.system.ledger(batch_id)
    assert len(entries) == 1


@in_one_loop
async def test_a_file_store_killed_between_claim_and_record(site: Bounded, tmp_path: Path) -> None:
    """The gateway claims again, or the client sends it again: then the claim that was lost counts until it is old."""
    before = await site.stored()
    assert before is not None
    async with armed(site.system.stack, "file-store", "storage.claimed", tmp_path / "marker"):
        await site.upload(lines())
        assert (tmp_path / "marker").exists(), "the point was not reached"
        size = len(encoded(lines()))
        stored = await site.stored()
        assert stored in (before + size, before + 2 * size)
