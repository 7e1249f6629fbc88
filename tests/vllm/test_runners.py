"""Two runners before one real vLLM, which tells each of them what the other one's requests and its own come to."""

import asyncio
from itertools import groupby
from statistics import median

import pytest

from support.programs import add_runner

from .conftest import Office
from .test_flows import line, said

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]
LINES = 5000
LOOK = 0.25  # seconds
QUEUE = 8  # a little more than the 5 % of 128 slots, vLLM's default on a CPU, at which a runner gives something back
FEW_LOOKS = 8  # four of the runners' own


async def test_two_runners_share_one_server_evenly(office: Office) -> None:
    """And neither takes the other one's requests for somebody who is to be made room for, nor lets a queue stand."""
    add_runner(office.stack, "batch-runner-2")
    async with asyncio.timeout(60):
        while len((await office.call("GET", "/fleet"))["runners"]) < 2:
            await asyncio.sleep(LOOK)
    lines = [
        line(f"r{index}", messages=said(f"tell me of {index}"), max_tokens=8 + index % 33, ignore_eos=True)
        for index in range(LINES)
    ]
    batch = await office.run(lines)
    shares, queued = [], []
    while batch["status"] in {"validating", "in_progress", "finalizing"}:
        fleet = await office.call("GET", "/fleet")
        in_flight = [state["in_flight"] for runner in fleet["runners"] for state in runner["data"]]
        if 0.3 * LINES < batch["request_counts"]["completed"] < 0.9 * LINES and len(in_flight) == 2:
            shares.append(min(in_flight) / max(in_flight))
            queued.append(fleet["data"][0]["load"]["waiting"] > QUEUE)
        await asyncio.sleep(LOOK)
        batch = await office.call("GET", f"/batches/{batch['id']}")
    assert batch["request_counts"] == {"total": LINES, "completed": LINES, "failed": 0}
    output = await office.lines(batch["output_file_id"])
    assert [result["custom_id"] for result in output] == [f"r{index}" for index in range(LINES)]
    assert median(shares) > 0.8
    assert max((len(list(looks)) for is_long, looks in groupby(queued) if is_long), default=0) <= FEW_LOOKS
