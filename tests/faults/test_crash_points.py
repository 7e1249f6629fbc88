"""At each fault point once: the process dies there as by `kill -9`, and everything ends as if it had not.

One system serves them all: before each test the service is started anew with the point in its environment. So each
test also begins with what the ones before have left behind, which is to be nothing.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from batchyard.cli.waiting import until_found
from batchyard.common.crash import POINTS
from batchyard.common.ids import decode_id
from batchyard.vllm_sim.testing import RunningSim
from support.programs import RUNNER
from support.stack import MODEL

from .conftest import FaultYard, PatientSystem, armed
from .endings import Line, check_ended_well, encoded, ordinary

pytestmark = pytest.mark.timeout(90)
in_one_loop = pytest.mark.asyncio(loop_scope="module")

FILE_STORE = "file-store"
BILLING = "billing"

LINES = 60
SHARD_LINES = 20
SETTINGS: dict[str, object] = {
    "shard_lines": SHARD_LINES,
    "max_parallel_requests": 32,
    "flush_interval": 0.1,
    "work_ack_wait": 1,
    "reconcile_interval": 0.5,
    "stale_after": 2,
    "command_timeout": 2,
}


@dataclass(frozen=True, slots=True)
class Way:
    """How a point is reached.

    Attributes:
        service: Whose process dies there.
        cancelled: Whether the batch is cancelled once all of its lines but the last ones of each shard are answered.
        in_parts: Whether the input comes in parts.
        environment: Settings of the service that lead there.
    """

    service: str = RUNNER
    cancelled: bool = False
    in_parts: bool = False
    environment: dict[str, object] = field(default_factory=dict)


WAYS = {
    "file.stored": Way(FILE_STORE),
    "file.recorded": Way(FILE_STORE),
    "part.counted": Way(FILE_STORE, in_parts=True),
    "part.recorded": Way(FILE_STORE, in_parts=True),
    "upload.joined": Way(FILE_STORE, in_parts=True),
    "upload.completed": Way(FILE_STORE, in_parts=True),
    "parts.removed": Way(FILE_STORE, in_parts=True, environment={"expiry_interval": 0.2}),
    "batch.claimed": Way(),
    "batch.recorded": Way(),
    "input.pinned": Way(),
    "table.written": Way(),
    "batch.planned": Way(),
    "shards.marked": Way(),
    "shard.queued": Way(),
    "segment.stored": Way(cancelled=True),  # lines that are not answered keep the shards running until then
    "parts.written": Way(),
    "outcome.handed_in": Way(),
    "outcome.told": Way(),
    "outcomes.counted": Way(),
    "batch.finalizing": Way(),
    "output.joined": Way(),
    "files.registered": Way(),
    "batch.ended": Way(),
    "event.published": Way(),
    "objects.removed": Way(),
    "batch.cancelling": Way(cancelled=True),
    # The step waits for no runner, and a runner gives what is in flight two seconds: it is always too late.
    "shard.abandoned": Way(cancelled=True, environment={"settle_patience": 0}),
    "entry.committed": Way(BILLING),
}


class Site:
    """The system under test, and the simulator behind it."""

    def __init__(self, system: PatientSystem, sim: RunningSim) -> None:
        self.system = system
        self.sim = sim

    async def upload(self, lines: list[Line]) -> str:
        file = await self.system.call(
            "POST",
            "/files",
            data={"purpose": "batch"},
            files={"file": ("in.jsonl", encoded(lines))},
            headers={"x-litellm-model": MODEL},
        )
        return str(file["id"])

    async def upload_in_parts(self, lines: list[Line]) -> str:
        content = encoded(lines)
        wanted = {"bytes": len(content), "filename": "in.jsonl", "mime_type": "application/jsonl", "purpose": "batch"}
        upload = await self.system.call("POST", "/uploads", json=wanted, headers={"x-litellm-model": MODEL})
        middle = len(content) // 2
        part_ids = [
            (await self.system.call("POST", f"/uploads/{upload['id']}/parts", files={"data": data}))["id"]
            for data in (content[:middle], content[middle:])
        ]
        answers = [
            await self.system.call("POST", f"/uploads/{upload['id']}/complete", json={"part_ids": part_ids})
            for _ in range(2)
        ]
        assert answers[0] == answers[1]
        files = await self.system.call("GET", "/files", params={"purpose": "batch"})
        assert [file["id"] for file in files["data"]].count(answers[0]["file"]["id"]) == 1
        assert await self.system.call("GET", f"/uploads/{upload['id']}") == answers[0]
        return str(answers[0]["file"]["id"])

    async def create(self, file_id: str) -> str:
        order = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        batch = await self.system.call("POST", "/batches", json=order)
        return str(batch["id"])

    async def cancel(self, batch_id: str) -> None:
        response = await self.system.ask("POST", f"/batches/{batch_id}/cancel")
        assert response.status_code == 200, response.text

    async def batches_over(self, file_id: str) -> list[str]:
        """Every batch over an input, such as would be there if a request sent again had made another one."""
        page = await self.system.call("GET", "/batches", params={"limit": 100})
        return [batch["id"] for batch in page["data"] if batch["input_file_id"] == file_id]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with AsyncExitStack() as exits:
        yard = FaultYard(exits, tmp_path_factory.mktemp("site"))
        sim = await yard.sim(base_latency=0.05)
        yield Site(await yard.system(sim.url.removesuffix("/v1"), **SETTINGS), sim)


def cut_short() -> list[Line]:
    """Lines of which the last six of each shard are never answered."""
    return [
        replace(line, fate="left") if index % SHARD_LINES >= SHARD_LINES - 6 else line
        for index, line in enumerate(ordinary(LINES))
    ]


def test_every_point_has_a_way() -> None:
    natively = {point for point in POINTS if point.startswith("native.")}  # see test_native_crashes
    of_gateway = {point for point in POINTS if point.startswith(("key.", "webhook."))}  # see test_gateway
    rebuilding = {point for point in POINTS if point.startswith("rebuild.")}  # see unit/billing/test_rebuild
    of_limits = {point for point in POINTS if point.startswith(("limits.", "storage."))}  # see test_limits
    assert set(WAYS) == set(POINTS) - {"file.removed"} - natively - of_gateway - rebuilding - of_limits


@in_one_loop
@pytest.mark.parametrize("point", WAYS)
async def test_a_process_killed_there_is_made_up_for(site: Site, point: str, tmp_path: Path) -> None:
    way = WAYS[point]
    lines = cut_short() if way.cancelled else ordinary(LINES)
    async with armed(site.system.stack, way.service, point, tmp_path / "marker", **way.environment):
        file_id = await (site.upload_in_parts(lines) if way.in_parts else site.upload(lines))
        batch_id = await site.create(file_id)
        if way.cancelled:
            durable = sum(line.fate != "left" for line in lines)
            await site.system.until(batch_id, lambda batch: _done(batch) == durable)
            await site.cancel(batch_id)
        await check_ended_well(site.system, await site.system.ended(batch_id), lines)
        assert await site.batches_over(file_id) == [batch_id]
        if way.in_parts:  # what comes after an upload's end comes by itself
            await until_found(lambda: (tmp_path / "marker").exists() or None)
    assert (tmp_path / "marker").exists(), "the point was not reached"


@in_one_loop
async def test_a_deletion_killed_in_its_middle_is_told_to_who_asks_again(site: Site, tmp_path: Path) -> None:
    file_id = await site.upload(ordinary(1))
    async with armed(site.system.stack, FILE_STORE, "file.removed", tmp_path / "marker"):
        stored = f"objects/files/*/{decode_id(file_id).raw.removeprefix('file-')}"
        assert len([*site.system.stack.layout.objects.glob(stored)]) == 1
        answer = await site.system.call("DELETE", f"/files/{file_id}")
        assert answer == {"id": file_id, "object": "file", "deleted": True}
        assert (tmp_path / "marker").exists(), "the point was not reached"
        assert (await site.system.ask("GET", f"/files/{file_id}")).status_code == 404
        assert [*site.system.stack.layout.objects.glob(stored)] == []


@in_one_loop
async def test_a_file_store_killed_while_it_takes_the_results(site: Site, tmp_path: Path) -> None:
    lines = ordinary(LINES)
    site.sim.state.healthy = False
    file_id = await site.upload(lines)
    batch_id = await site.create(file_id)
    marker = tmp_path / "marker"
    async with armed(site.system.stack, FILE_STORE, "file.recorded", marker):
        site.sim.state.healthy = True
        await until_found(lambda: marker.exists() or None)
        await check_ended_well(site.system, await site.system.ended(batch_id), lines)


@in_one_loop
async def test_a_runner_killed_while_it_picks_the_lines_of_a_retry(site: Site, tmp_path: Path) -> None:
    lines = ordinary(LINES)
    first = await site.system.ended(await site.create(await site.upload(lines)))
    marker = tmp_path / "marker"
    async with armed(site.system.stack, RUNNER, "input.pinned", marker):
        retry = await site.system.call("POST", f"/batches/{first['id']}/retry")
        refused = [line for line in lines if line.fate == "refused"]
        await check_ended_well(site.system, await site.system.ended(retry["id"]), refused)
    assert marker.exists(), "the point was not reached"


def _done(batch: Any) -> int:
    return int(batch["request_counts"]["completed"] + batch["request_counts"]["failed"])
