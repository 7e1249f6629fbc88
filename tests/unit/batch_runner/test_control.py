"""Driving real servers: the limit follows what they tell, people go first, and what is known is shown."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog.testing
from aiohttp import web
from unit.batch_runner.conftest import MODEL, Look, lines

from batchyard.common.contracts.fleet import DeploymentState, GetFleet
from batchyard.vllm_sim.settings import SimSettings

QUICK = {"control_interval": 0.05, "shard_lines": 500}


async def the_deployment(yard: Any) -> DeploymentState:
    (state,) = (await yard.call(GetFleet())).data
    assert isinstance(state, DeploymentState)
    return state


async def until(yard: Any, condition: Any, timeout: float = 20) -> DeploymentState:
    async with asyncio.timeout(timeout):
        while not condition(state := await the_deployment(yard)):
            await asyncio.sleep(0.02)
    return state


async def test_the_limit_comes_down_to_what_the_server_takes(open_yard: Any) -> None:
    yard = await open_yard(SimSettings(port=0, base_latency=0.05, max_num_seqs=8), **QUICK)
    batch = await yard.batch(*lines(500))
    state = await until(yard, lambda state: state.cuts)
    assert (state.mode, state.status, state.model) == ("metrics", "up", MODEL)
    assert state.cuts[-1].reason == "queue"
    assert state.load is not None
    await until(yard, lambda state: state.limit <= 12)
    ended = await yard.call.ended(batch.id)
    assert ended.request_counts.completed == 500
    state = await the_deployment(yard)
    assert state.counters.answered == 500
    assert state.counters.requests == 500 + state.counters.taken_back


async def test_it_goes_up_to_what_the_server_takes(open_yard: Any) -> None:
    yard = await open_yard(
        SimSettings(port=0, base_latency=0.3, max_num_seqs=200), initial_parallel_requests=4, **QUICK
    )
    await yard.batch(*lines(2000))
    await until(yard, lambda state: state.limit >= 64)


async def test_people_get_places_and_no_line_pays_for_it(open_yard: Any) -> None:
    sim = SimSettings(port=0, base_latency=1.0, max_num_seqs=32)
    yard = await open_yard(sim, **{**QUICK, "max_attempts": 1})
    batch = await yard.batch(*lines(100))
    await yard.sim.until(lambda state: state.capacity.running == 32)
    await until(yard, lambda state: state.load is not None and state.load.running == 32)
    body = {"model": MODEL, "messages": [{"role": "user", "content": "I am in a hurry"}]}
    async with aiohttp.ClientSession() as http:

        async def ask() -> int:
            async with http.post(f"{yard.sim.url}/v1/chat/completions", json=body) as response:
                return response.status

        assert set(await asyncio.gather(*(ask() for _ in range(8)))) == {200}
    state = await the_deployment(yard)
    assert state.counters.taken_back >= 4
    assert state.cuts[0].reason in {"burst", "queue"}
    ended = await yard.call.ended(batch.id)
    assert (ended.request_counts.completed, ended.request_counts.failed) == (100, 0)
    assert (await the_deployment(yard)).counters.tokens_lost > 0
    outputs = await yard.call.content(ended.output_file_id)
    assert sorted(line["custom_id"] for line in outputs) == sorted(f"r{index}" for index in range(100))


async def test_a_fixed_limit_stays(open_yard: Any) -> None:
    yard = await open_yard(
        SimSettings(port=0, base_latency=0.05, max_num_seqs=8),
        adaptive_concurrency=False,
        max_parallel_requests=40,
        **QUICK,
    )
    batch = await yard.batch(*lines(200))
    await yard.sim.until(lambda state: state.capacity.max_in_flight == 40)
    await yard.call.ended(batch.id)
    state = await the_deployment(yard)
    assert (state.mode, state.limit, state.cuts, state.load) == ("fixed", 40, (), None)


@dataclass
class MuteServer:
    """A server of the API that tells of itself what `told` says: nothing."""

    url: str
    told: str = ""


@pytest.fixture
async def mute_server() -> AsyncIterator[MuteServer]:
    """To be there for longer than whoever asks it."""

    async def chat(request: web.Request) -> web.Response:
        await asyncio.sleep(0.02)
        usage = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
        return web.json_response({"id": "x", "choices": [], "usage": usage})

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(text=server.told)

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    app.router.add_get("/metrics", metrics)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        server = MuteServer(f"http://127.0.0.1:{runner.addresses[0][1]}")
        yield server
    finally:
        await runner.cleanup()


async def before(server: MuteServer, open_yard: Any, config: Path) -> Any:
    """A yard whose only server is this one."""
    yard = await open_yard(SimSettings(port=0), **QUICK, config_poll_interval=0.02)
    config.write_text(
        f"model_list:\n  - model_name: {MODEL}\n    litellm_params:\n"
        f"      model: hosted_vllm/{MODEL}\n      api_base: {server.url}\n"
    )
    await until(yard, lambda state: state.api_base == server.url)
    return yard


async def test_a_server_without_metrics_is_driven_by_its_latency_and_that_is_said(
    look: Look, mute_server: MuteServer, open_yard: Any, tmp_path: Path
) -> None:
    yard = await before(mute_server, open_yard, tmp_path / "config.yaml")
    with structlog.testing.capture_logs() as logs:
        batch = await yard.batch(*lines(1000))
        state = await until(yard, lambda state: state.mode is not None)
        assert (state.mode, state.load) == ("latency", None)
        ended = await yard.call.ended(batch.id)
    assert ended.request_counts.completed == 1000
    assert [log["event"] for log in logs].count("deployment.no_metrics") == 1
    found = await look()
    assert (found["deployment_mode latency"], found["deployment_mode metrics"]) == (1, 0)
    assert found["deployment_metrics_missing requests"] == 1


async def test_what_a_server_does_not_tell_is_said(
    look: Look, mute_server: MuteServer, open_yard: Any, tmp_path: Path
) -> None:
    mute_server.told = "vllm:num_requests_running 1\nvllm:num_requests_waiting 0\nvllm:num_preemptions_total 0\n"
    yard = await before(mute_server, open_yard, tmp_path / "config.yaml")
    with structlog.testing.capture_logs() as logs:
        await yard.batch(*lines(200))
        await until(yard, lambda state: state.mode == "metrics")
    assert [log["missing"] for log in logs if log["event"] == "deployment.metrics_missing"] == [("kv_cache_usage",)]
    found = await look()
    missing = [found[f"deployment_metrics_missing {what}"] for what in ("requests", "kv_cache_usage", "preemptions")]
    assert missing == [0, 1, 0]


@pytest.mark.parametrize("fault", ["status=503:1", "status=429:1"])
async def test_refusals_cut_hard(open_yard: Any, fault: str) -> None:
    yard = await open_yard(SimSettings(port=0, faults=(fault,)), **QUICK, max_attempts=2, max_throttled=2)
    batch = await yard.batch(*lines(60))
    state = await until(yard, lambda state: state.cuts)
    assert state.cuts[-1].reason == "throttled"
    assert state.cuts[-1].after <= state.cuts[-1].before // 2 + 1
    await yard.call.ended(batch.id)
    assert (await the_deployment(yard)).counters.throttled >= 60
