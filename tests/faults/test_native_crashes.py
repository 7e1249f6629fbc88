"""A runner that dies on its way to or from a server that runs whole batches: the server sees one batch all the same."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from batchyard.common.crash import POINTS
from support.native import Street, check_ended_well, content, running_street
from support.programs import RUNNER

from .conftest import armed
from .endings import nothing_left

pytestmark = pytest.mark.timeout(90)
in_one_loop = pytest.mark.asyncio(loop_scope="module")

NATIVELY = [point for point in POINTS if point.startswith("native.")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def street(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Street]:
    async with running_street(tmp_path_factory.mktemp("street")) as street:
        yield street


@in_one_loop
@pytest.mark.parametrize("point", [*NATIVELY, "table.written", "parts.written", "outcome.handed_in"])
async def test_one_batch_is_made_of_one(street: Street, point: str, tmp_path: Path) -> None:
    async with armed(street.ours.stack, RUNNER, point, tmp_path / "marker"):
        batch = await street.ours.submit(content())
        await check_ended_well(street, await street.ours.ended(batch["id"]))
        await nothing_left(street.ours.stack)
    assert (tmp_path / "marker").exists(), "the point was not reached"
