"""What is killed comes back, and nothing is lost or done twice."""

import collections
import re

import pytest

from support.systems import System, Yard, expected_answer, request_line

LINES = 1200


def prompt(index: int) -> str:
    return f"question number {index}"


def content(count: int) -> bytes:
    return b"\n".join(request_line(f"r{index}", prompt(index)) for index in range(count))


async def check_results(system: System, batch: object, count: int) -> None:
    """Every line once, in input order, with its own answer."""
    assert isinstance(batch, dict)
    assert batch["status"] == "completed"
    assert batch["request_counts"] == {"total": count, "completed": count, "failed": 0}
    assert batch["error_file_id"] is None
    lines = await system.lines(batch["output_file_id"])
    assert [line["custom_id"] for line in lines] == [f"r{index}" for index in range(count)]
    for index, line in enumerate(lines):
        assert line["response"]["body"]["choices"][0]["message"]["content"] == expected_answer(prompt(index))
    used = sum(line["response"]["body"]["usage"]["total_tokens"] for line in lines)
    assert batch["usage"]["total_tokens"] == used


@pytest.mark.timeout(180)
async def test_a_runner_killed_in_the_middle_loses_nothing(yard: Yard) -> None:
    sim = await yard.sim(base_latency=0.1)
    system = await yard.system(
        sim.url.removesuffix("/v1"), work_ack_wait=2, max_parallel_requests=32, shard_lines=200, flush_interval=0.2
    )
    batch = await system.submit(content(LINES))
    await system.until(batch["id"], lambda batch: batch["request_counts"]["completed"] > LINES / 3)
    pid = system.stack.kill("batch-runner")
    await system.stack.restarted("batch-runner", pid)
    batch = await system.ended(batch["id"], within=120)
    await check_results(system, batch, LINES)

    entries = await system.ledger(batch["id"])
    assert len(entries) == 1
    assert entries[0]["usage"] == batch["usage"]
    assert float(entries[0]["cost"]) == pytest.approx(
        batch["usage"]["input_tokens"] * 1e-6 + batch["usage"]["output_tokens"] * 2e-6
    )

    sent = collections.Counter(
        re.sub(r"-[0-9a-f]+$", "", record.request_id or "") for record in sim.state.log.records()
    )
    assert len(sent) == LINES
    again = sum(count - 1 for count in sent.values())
    in_flight, one_flush = 32, 32 * 3
    assert again <= in_flight + one_flush, "only what had no durable result is sent again"


@pytest.mark.timeout(180)
async def test_every_service_killed_at_once_loses_nothing(yard: Yard) -> None:
    sim = await yard.sim(base_latency=0.1)
    system = await yard.system(
        sim.url.removesuffix("/v1"), work_ack_wait=2, max_parallel_requests=32, shard_lines=200, flush_interval=0.2
    )
    batch = await system.submit(content(LINES))
    await system.until(batch["id"], lambda batch: batch["request_counts"]["completed"] > LINES / 3)
    pids = {name: system.stack.kill(name) for name in tuple(system.stack.pids)}
    for name, pid in pids.items():
        await system.stack.restarted(name, pid)
    batch = await system.ended(batch["id"], within=120)
    await check_results(system, batch, LINES)
    assert len(await system.ledger(batch["id"])) == 1


@pytest.mark.timeout(180)
async def test_a_stopped_system_goes_on_where_it_was(yard: Yard) -> None:
    sim = await yard.sim(base_latency=0.1)
    stack = yard.stack(
        sim.url.removesuffix("/v1"), work_ack_wait=2, max_parallel_requests=32, shard_lines=200, flush_interval=0.2
    )
    client = await yard.client()
    async with stack as running:
        system = System(running, client)
        batch = await system.submit(content(LINES))
        await system.until(batch["id"], lambda batch: batch["request_counts"]["completed"] > LINES / 3)
    async with yard.stack(sim.url.removesuffix("/v1"), work_ack_wait=2) as running:
        system = System(running, client)
        batch = await system.ended(batch["id"], within=120)
        await check_results(system, batch, LINES)
        assert len(await system.ledger(batch["id"])) == 1


@pytest.mark.timeout(180)
async def test_a_model_server_that_restarts_fails_no_line(yard: Yard) -> None:
    sim = await yard.sim(base_latency=0.1)
    system = await yard.system(
        sim.url.removesuffix("/v1"), max_parallel_requests=32, probe_interval=0.2, max_attempts=2, retry_cap=0.1
    )
    batch = await system.submit(content(LINES))
    await system.until(batch["id"], lambda batch: batch["request_counts"]["completed"] > LINES / 3)
    sim.state.healthy = False
    seen = sim.state.log.total
    await sim.until(lambda state: state.log.total > seen)
    sim.state.healthy = True
    await check_results(system, await system.ended(batch["id"], within=120), LINES)
