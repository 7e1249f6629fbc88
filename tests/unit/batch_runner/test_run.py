"""Running a shard: checkpoints, recovery, stopping, and the parts it hands in."""

import asyncio
import json
from collections.abc import Callable
from itertools import groupby
from typing import Any
from uuid import uuid4

import pytest

from batchyard.batch_runner.attempt import LineJob
from batchyard.batch_runner.member import Member
from batchyard.batch_runner.outcome import ShardOutcome
from batchyard.batch_runner.pool import Pool
from batchyard.batch_runner.run import ShardRun
from batchyard.batch_runner.segments import Result
from batchyard.batch_runner.shard import ShardRange
from batchyard.batch_runner.shard_input import ShardInput
from batchyard.batch_runner.stop import Stop
from batchyard.batch_runner.tally import ShardProgress
from batchyard.common.objects import LocalObjectStore, read
from batchyard.vllm_sim.answers import chat_text
from batchyard.vllm_sim.settings import SimSettings
from batchyard.vllm_sim.testing import RunningSim

from .conftest import MODEL, Bench, chat_line

LINES = 40


def prompt(index: int) -> str:
    return f"question {index}"


@pytest.fixture
async def start(store: LocalObjectStore) -> Callable[..., Any]:
    """Makes a run of the same shard each time it is called, as another runner would."""
    made: list[ShardProgress] = []

    async def note(progress: ShardProgress) -> None:
        made.append(progress)

    async def start(
        bench: Bench, prompts: list[str] | None = None, memory_bytes: Callable[[], int] | None = None
    ) -> ShardRun:
        texts = prompts or [prompt(index) for index in range(LINES)]
        content = b"".join(chat_line(f"r{index}", text) + b"\n\n" for index, text in enumerate(texts))
        await store.put("input", content)
        shard = ShardInput(
            object_key="input",
            range=ShardRange(0, len(content), 1, len(texts)),
            shard=0,
            prefix="work/",
            attempt=uuid4().hex,
            batch_hex="ab",
            endpoint="/v1/chat/completions",
            model=MODEL,
            pool=MODEL,
        )
        run = ShardRun(shard, store, bench.settings, note, memory_bytes=memory_bytes)
        await run.recover()
        return run

    start.progress = made  # type: ignore[attr-defined]
    return start


async def parts(store: LocalObjectStore, outcome: ShardOutcome) -> tuple[list[Any], list[Any]]:
    async def lines(key: str | None) -> list[Any]:
        if key is None:
            return []
        return [json.loads(line) for line in (await read(store, key, max_bytes=10**7)).splitlines()]

    return await lines(outcome.output_key), await lines(outcome.error_key)


async def execute(run: ShardRun, bench: Bench) -> None:
    await asyncio.wait_for(run.execute(bench.attempts, bench.pool), 30)


async def test_every_line_is_answered_in_input_order_with_its_own_answer(
    open_bench: Any, start: Any, store: LocalObjectStore
) -> None:
    bench = await open_bench()
    run = await start(bench)
    await execute(run, bench)
    outcome = await run.settle()
    output, errors = await parts(store, outcome)
    assert [line["custom_id"] for line in output] == [f"r{index}" for index in range(LINES)]
    for index, line in enumerate(output):
        answer = line["response"]["body"]["choices"][0]["message"]["content"]
        assert answer == chat_text([{"role": "user", "content": prompt(index)}], MODEL)
    assert (outcome.completed, outcome.failed, outcome.not_run, errors) == (LINES, 0, 0, [])
    usages = [line["response"]["body"]["usage"]["total_tokens"] for line in output]
    assert outcome.usage_by_deployment["d"].total_tokens == sum(usages)


async def test_refused_lines_stand_in_the_error_part(open_bench: Any, start: Any, store: LocalObjectStore) -> None:
    bench = await open_bench(max_attempts=1)
    run = await start(bench, ["fine", "bad [[fault:status=500]]", "fine too", "gone [[fault:reset]]"])
    await execute(run, bench)
    output, errors = await parts(store, await run.settle())
    assert [line["custom_id"] for line in output] == ["r0", "r2"]
    assert [line["custom_id"] for line in errors] == ["r1", "r3"]
    assert errors[0]["response"]["status_code"] == 500
    assert errors[1]["error"]["code"] == "connection_lost"


async def test_a_second_run_sends_only_what_has_no_durable_result(
    open_bench: Any, start: Any, store: LocalObjectStore
) -> None:
    bench = await open_bench(flush_interval=0.02)
    stuck = [prompt(index) if index < 30 else f"{prompt(index)} [[fault:hang]]" for index in range(LINES)]
    first = await start(bench, stuck)
    running = asyncio.create_task(first.execute(bench.attempts, bench.pool))
    async with asyncio.timeout(10):
        while not (start.progress and start.progress[-1].completed == 30):
            await asyncio.sleep(0.005)
    running.cancel()  # the runner dies: nothing is settled
    await asyncio.gather(running, return_exceptions=True)
    before = len(bench.sim.state.log.records())
    second = await start(bench)
    await execute(second, bench)
    output, _ = await parts(store, await second.settle())
    assert len(bench.sim.state.log.records()) - before == LINES - 30
    assert [line["custom_id"] for line in output] == [f"r{index}" for index in range(LINES)]


async def test_results_beyond_the_memory_bound_come_back_from_their_segments(
    open_bench: Any, start: Any, store: LocalObjectStore
) -> None:
    sim = SimSettings(port=0, answer_tokens=400, base_latency=0.02)
    bench = await open_bench(sim, flush_bytes=1024, flush_interval=0.01, max_parallel_requests=2)
    run = await start(bench, memory_bytes=lambda: 10_000)
    await execute(run, bench)
    assert len(run._journal._stored) > 1, "the bound was never reached"
    output, _ = await parts(store, await run.settle())
    assert [line["custom_id"] for line in output] == [f"r{index}" for index in range(LINES)]


async def test_a_limit_that_grows_while_a_shard_runs_is_used_at_once(open_bench: Any, start: Any) -> None:
    bench = await open_bench(SimSettings(port=0, max_num_seqs=300), max_parallel_requests=2, adaptive_concurrency=False)
    run = await start(bench, [f"{prompt(index)} [[fault:hang]]" for index in range(200)])
    running = asyncio.create_task(run.execute(bench.attempts, bench.pool))
    await bench.sim.until(lambda state: state.capacity.running == 2)
    bench.pool.drive(bench.pool.members[0], 150)
    await bench.sim.until(lambda state: state.capacity.running == 150)
    assert bench.pool.waiting < 20, "who could not be given a place soon does not wait for one"
    run.stop(Stop.SUPERSEDED)
    await asyncio.wait_for(running, 5)
    assert bench.pool.members[0].in_flight == 0


@pytest.mark.parametrize(("why", "code"), [(Stop.CANCELLED, "batch_cancelled"), (Stop.EXPIRED, "batch_expired")])
async def test_a_stopped_run_keeps_what_finished_and_names_the_rest(
    open_bench: Any, start: Any, store: LocalObjectStore, why: Stop, code: str
) -> None:
    bench = await open_bench(SimSettings(port=0, max_num_seqs=4), cancel_grace=0.05, max_parallel_requests=4)
    run = await start(bench, [prompt(i) if i < 4 else f"{prompt(i)} [[fault:hang]]" for i in range(LINES)])
    running = asyncio.create_task(run.execute(bench.attempts, bench.pool))
    await bench.sim.until(lambda state: state.capacity.running == 4 and len(state.log.records()) == 8)
    run.stop(why)
    await asyncio.wait_for(running, 5)
    outcome = await run.settle()
    output, errors = await parts(store, outcome)
    assert [line["custom_id"] for line in output] == ["r0", "r1", "r2", "r3"]
    assert [line["custom_id"] for line in errors] == [f"r{index}" for index in range(4, LINES)]
    assert {line["error"]["code"] for line in errors} == {code}
    assert (outcome.completed, outcome.failed, outcome.not_run) == (4, 0, LINES - 4)
    assert len(bench.sim.state.log.records()) == 8, "nothing more is sent once stopped"


async def test_a_line_that_breaks_the_runner_fails_alone(
    open_bench: Any, start: Any, store: LocalObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = await open_bench()
    run = await start(bench)
    send = bench.attempts.run

    async def break_once(job: LineJob, pool: Pool, stopped: Callable[[], bool], place: Member) -> Result:
        if bytes(job.request.custom_id) == b'"r7"':
            pool.release(place, job.claim)
            raise ZeroDivisionError
        result: Result = await send(job, pool, stopped, place)
        return result

    monkeypatch.setattr(bench.attempts, "run", break_once)
    await execute(run, bench)
    output, errors = await parts(store, await run.settle())
    assert len(output) == LINES - 1
    assert [(line["custom_id"], line["error"]["code"]) for line in errors] == [("r7", "internal_error")]


async def test_a_request_in_flight_may_finish_within_the_grace(
    open_bench: Any, start: Any, store: LocalObjectStore
) -> None:
    bench = await open_bench(cancel_grace=10.0)
    run = await start(bench, ["slow [[fault:delay=0.2]]"])
    running = asyncio.create_task(run.execute(bench.attempts, bench.pool))
    await bench.sim.until(lambda state: state.capacity.running == 1)
    run.stop(Stop.CANCELLED)
    await asyncio.wait_for(running, 5)
    assert (await run.settle()).completed == 1


async def test_a_stop_before_the_start_sends_nothing(open_bench: Any, start: Any) -> None:
    bench = await open_bench()
    run = await start(bench)
    run.stop(Stop.CANCELLED)
    await execute(run, bench)
    assert (await run.settle()).not_run == LINES
    assert not bench.sim.state.log.records()


async def test_two_runs_of_one_shard_never_write_the_same_object(
    open_bench: Any, start: Any, store: LocalObjectStore
) -> None:
    bench = await open_bench()
    one, two = await start(bench), await start(bench)
    await asyncio.gather(execute(one, bench), execute(two, bench))
    first, second = await one.settle(), await two.settle()
    assert first.output_key != second.output_key
    anyway = {"output_key": None, "work": ()}  # each has taken the servers' time
    assert first.model_copy(update=anyway) == second.model_copy(update=anyway)


TOPICS = 8


def about(index: int) -> str:
    """A prompt that begins like every eighth other one."""
    return f"topic {index % TOPICS}: " + "long background " * 60 + f"question {index}"


def arrived(sim: RunningSim) -> list[int]:
    """The lines in the order in which a server got them."""
    ids = [record.request_id or "" for record in sim.state.log.records()]
    return [int(request.partition("-")[0][-8:], 16) for request in ids]


async def test_lines_that_begin_alike_are_sent_together_and_answered_in_input_order(
    open_bench: Any, start: Any, store: LocalObjectStore
) -> None:
    small = SimSettings(port=0, cache_blocks=60)
    hits = {}
    for arrange in (True, False):
        bench = await open_bench(small, max_parallel_requests=1, arrange_prefixes=arrange)
        run = await start(bench, [about(index) for index in range(64)])
        await execute(run, bench)
        output, _ = await parts(store, await run.settle())
        assert [line["custom_id"] for line in output] == [f"r{index}" for index in range(64)]
        answers = [line["response"]["body"]["choices"][0]["message"]["content"] for line in output]
        assert answers == [chat_text([{"role": "user", "content": about(index)}], MODEL) for index in range(64)]
        topics = [line // 2 % TOPICS for line in arrived(bench.sim)]
        hits[arrange] = bench.sim.state.counters.prefix_hits
        assert [len(list(lines)) for _, lines in groupby(topics)] == ([8] * TOPICS if arrange else [1] * 64)
        await store.delete([info.key async for info in store.list("work/")])
    assert hits[False] == 0, "the cache holds fewer beginnings than there are"
    assert hits[True] >= 56 * 100


async def test_each_beginning_is_computed_on_one_server(open_bench: Any, start: Any, store: LocalObjectStore) -> None:
    bench = await open_bench(SimSettings(port=0, base_latency=0.002), servers=2, max_parallel_requests=4)
    run = await start(bench, [about(index) for index in range(64)])
    await execute(run, bench)
    assert (await run.settle()).completed == 64
    lines = [arrived(sim) for sim in bench.sims]
    assert all(len(got) >= 16 for got in lines), "both work"
    topics = [{line // 2 % TOPICS for line in got} for got in lines]
    assert len(topics[0] & topics[1]) <= 2, "what one has run out of it takes from the end of the other's"


async def test_the_lines_of_a_server_that_dies_go_to_the_other(
    open_bench: Any, start: Any, store: LocalObjectStore
) -> None:
    bench = await open_bench(SimSettings(port=0, base_latency=0.005), servers=2, max_parallel_requests=2)
    run = await start(bench, [about(index) for index in range(64)])
    running = asyncio.create_task(execute(run, bench))
    await bench.sims[1].until(lambda state: state.log.total >= 4)
    bench.sims[1].state.healthy = False
    bench.pool.health.set_aside(bench.pool.members[1])
    await running
    assert (await run.settle()).completed == 64
