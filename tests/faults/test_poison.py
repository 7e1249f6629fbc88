"""A request that kills its runner is found, and fails alone."""

import asyncio

import pytest

from support.systems import Yard, request_line

LINES = 24
KILLER = 7


@pytest.mark.timeout(120)
async def test_a_line_that_kills_every_runner_is_given_up_and_the_rest_completes(
    yard: Yard,
) -> None:
    sim = await yard.sim(base_latency=0.02)
    system = await yard.system(
        sim.url.removesuffix("/v1"), work_ack_wait=1, shard_lines=12, flush_interval=0.1, max_parallel_requests=4
    )
    prompts = [f"question {index}" for index in range(LINES)]
    prompts[KILLER] += " [[fault:hang]]"
    content = b"\n".join(request_line(f"r{index}", prompt) for index, prompt in enumerate(prompts))
    batch = await system.submit(content)
    killer_id = f"{KILLER + 1:08x}-"
    kills = 0

    async def die_of_it() -> None:
        """Whoever sends the request is killed while the server works on it."""
        nonlocal kills
        seen = 0
        while True:
            sent = [record for record in sim.state.log.records() if killer_id in (record.request_id or "")]
            if len(sent) > seen:
                seen = len(sent)
                pid = system.stack.kill("batch-runner")
                kills += 1
                await system.stack.restarted("batch-runner", pid)
            await asyncio.sleep(0.02)

    dying = asyncio.create_task(die_of_it())
    try:
        batch = await system.ended(batch["id"], within=100)
    finally:
        dying.cancel()
        await asyncio.gather(dying, return_exceptions=True)
    assert batch["status"] == "completed"
    assert batch["request_counts"] == {"total": LINES, "completed": LINES - 1, "failed": 1}
    (error,) = await system.lines(batch["error_file_id"])
    assert error["custom_id"] == f"r{KILLER}"
    assert error["error"]["code"] == "runner_lost"
    assert "3 runners in a row were lost" in error["error"]["message"]
    assert 3 < kills < 12, "found out before the runners are worn out"
    assert len(await system.ledger(batch["id"])) == 1
