"""The fleet as metrics, of a real runner over real HTTP."""

import asyncio
from typing import Any

from unit.batch_runner.conftest import Look, chat_line, lines

from batchyard.vllm_sim.settings import SimSettings


async def test_what_has_become_of_lines_and_requests_is_counted(look: Look, open_yard: Any) -> None:
    yard = await open_yard(SimSettings(port=0, base_latency=0.06), max_attempts=2)
    bad = [chat_line("bad", "x", messages="not a list"), chat_line("broken", "[[fault:status=500]]")]
    batch = await yard.batch(*lines(20), *bad, chat_line("again", "[[fault:reset,times=1]]"))
    await yard.call.ended(batch.id)
    found = await look()
    assert (found["pool_lines_total completed"], found["pool_lines_total failed"]) == (21, 2)
    assert found["deployment_requests_total answered"] == 21
    assert found["deployment_requests_total refused"] == 1
    assert found["deployment_requests_total failed"] == 3
    assert found["deployment_failures_total server_error"] == 2
    assert found["deployment_failures_total connection_lost"] == 1
    assert found["deployment_failures_total request_timeout"] == 0
    assert found["deployment_generated_tokens_total"] > 0
    assert found["deployment_answer_seconds_sum"] >= 21 * 0.06
    buckets = [found[f"deployment_answer_seconds_bucket {bound}"] for bound in (0.05, 600.0, "+Inf")]
    assert [*buckets, found["deployment_answer_seconds_count"]] == [0, 21, 21, 21]


async def test_how_a_server_is_and_is_driven(look: Look, open_yard: Any) -> None:
    yard = await open_yard(
        SimSettings(port=0, base_latency=1, max_num_seqs=4), control_interval=0.05, shards_per_batch=1
    )
    await yard.batch(*lines(60))
    async with asyncio.timeout(20):
        while not (found := await look()).get("deployment_limit_cuts_total queue"):
            await asyncio.sleep(0.02)
    assert found["deployment_limit"] >= 1
    assert found["deployment_ceiling"] == 512
    assert found["deployment_in_flight"] >= 1
    assert found["deployment_server_running"] == 4
    assert found["deployment_server_waiting"] > 0
    assert found["deployment_mode metrics"] == 1
    assert found["deployment_mode latency"] == 0
    assert found["deployment_up"] == 1
    assert (found["deployment_circuit closed"], found["deployment_circuit open"]) == (1, 0)
    assert found["pool_shards_open"] == 1


async def test_a_server_that_is_away_is_down_and_its_lines_wait(look: Look, open_yard: Any) -> None:
    yard = await open_yard(SimSettings(port=0, faults=("status=503:1",)), shards_per_pool=2)
    yard.sim.state.healthy = False
    await yard.batch(*lines(60))
    async with asyncio.timeout(20):
        while (found := await look())["deployment_up"] or not found["pool_shards_undispatched"]:
            await asyncio.sleep(0.02)
    assert found["deployment_circuit open"] == 1
    assert found["deployment_circuit_opened_total"] == 1
    assert found["pool_shards_undispatched"] == 5
    assert found["pool_shards_queued"] == 0
    assert found["pool_lines_waiting"] > 0
