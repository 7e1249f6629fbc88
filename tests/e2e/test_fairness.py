"""In which order lines go to the servers: a small batch does not wait for the large one before it, tenants share the
servers, and lines that begin alike go together."""

import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from itertools import pairwise
from typing import Any

import httpx
import pytest
import pytest_asyncio

from batchyard.common.ids import decode_id
from batchyard.common.result_lines import line_number
from batchyard.vllm_sim.testing import RunningSim
from support.systems import System, Yard, expected_answer, request_line

IN_FLIGHT = 16
LATENCY = 0.1
HEAD_START = 200
LARGE = 4_000
SMALL = 100
OVERHEAD = 3.0
SINGLE = 500
SHARD_LINES = 50
in_one_loop = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[RunningSim, System]]:
    """One server and its system; each test leaves nothing that runs."""
    async with AsyncExitStack() as exits:
        yard = Yard(exits, tmp_path_factory.mktemp("fairness"))
        sim = await yard.sim(base_latency=LATENCY)
        system = await yard.system(
            sim.url.removesuffix("/v1"),
            max_parallel_requests=IN_FLIGHT,
            head_start=HEAD_START,
            shard_lines=SHARD_LINES,
            cancel_grace=0,
            shutdown_grace=0,
        )
        yield sim, system


async def tenant(system: System, exits: AsyncExitStack) -> System:
    """The same system, with the key of a team of its own."""

    async def made(path: str, **body: Any) -> Any:
        response = await system.http.post(f"{system.stack.url}{path}", json=body)
        assert response.status_code == 200, response.text
        return response.json()

    key = (await made("/key/generate", team_id=(await made("/team/new"))["team_id"]))["key"]
    headers = {"authorization": f"Bearer {key}"}
    http = await exits.enter_async_context(httpx.AsyncClient(headers=headers, timeout=60, trust_env=False))
    return System(system.stack, http)


def sent_of(sim: RunningSim, after: int) -> list[tuple[str, int]]:
    """The batch and the line of each request that came after another one, in order."""
    names = [str(record.request_id).rpartition("-")[0] for record in sim.state.log.records(after)]
    return [(name[len("batch_req_") :][:32], line_number(b'{"id":"%b"' % name.encode()) or 0) for name in names]


def lines(name: str, count: int) -> bytes:
    return b"\n".join(request_line(f"{name}{index}", f"{name} {index}") for index in range(count))


async def seconds_of_a_small_batch(system: System, name: str) -> float:
    began = time.monotonic()
    batch = await system.ended((await system.submit(lines(name, SMALL)))["id"])
    assert batch["request_counts"] == {"total": SMALL, "completed": SMALL, "failed": 0}
    return time.monotonic() - began


@in_one_loop
async def test_a_tenant_with_many_batches_gets_no_more_than_one_with_a_single_batch(
    place: tuple[RunningSim, System],
) -> None:
    sim, system = place
    async with AsyncExitStack() as exits:
        greedy, modest = [await tenant(system, exits) for _ in range(2)]
        many = [await greedy.submit(lines(f"many{number}", 1_000)) for number in range(4)]
        await greedy.until(many[-1]["id"], lambda batch: batch["status"] == "in_progress")
        mark = sim.state.log.total
        single = await modest.ended((await modest.submit(lines("single", SINGLE)))["id"])
        assert single["request_counts"]["completed"] == SINGLE
        sent = [batch for batch, _ in sent_of(sim, mark)]
        own = decode_id(single["id"]).raw.removeprefix("batch_")
        turns = [turn for turn, batch in enumerate(sent) if batch == own]
        assert len(turns) == SINGLE
        # Before that it has what it left to the other tenant, until it came.
        first, last = turns[HEAD_START + IN_FLIGHT], turns[-1]
        share = Counter(sent[first : last + 1])[own] / (last + 1 - first)
        assert 0.43 <= share <= 0.57, Counter(sent)
        for batch in many:
            assert (await greedy.call("POST", f"/batches/{batch['id']}/cancel"))["status"] == "cancelling"
        for batch in many:
            await greedy.ended(batch["id"])


@in_one_loop
async def test_lines_that_begin_alike_go_together_from_larger_shards_and_come_back_in_order(
    place: tuple[RunningSim, System],
) -> None:
    """No two lines of a usual shard begin alike here, while each has another one in a shard twice as large."""
    sim, system = place
    count = 8 * SHARD_LINES
    prompts = [f"{index % SHARD_LINES:03d} " * 300 + f"item {index}" for index in range(count)]
    mark = sim.state.log.total
    batch = await system.submit(b"\n".join(request_line(f"r{index}", text) for index, text in enumerate(prompts)))
    batch = await system.ended(batch["id"])
    output = await system.lines(batch["output_file_id"])
    assert [line["custom_id"] for line in output] == [f"r{index}" for index in range(count)]
    assert [line["response"]["body"]["choices"][0]["message"]["content"] for line in output] == [
        expected_answer(prompt) for prompt in prompts
    ]
    sent = [line for _, line in sent_of(sim, mark)]
    assert sorted(sent) == list(range(1, count + 1))
    together = sum(one % SHARD_LINES == other % SHARD_LINES for one, other in pairwise(sent))
    assert together > count / 4, "half of them would, if none overtook another one on its way"


@in_one_loop
async def test_a_small_batch_behind_a_large_one_takes_about_twice_its_time_alone(
    place: tuple[RunningSim, System],
) -> None:
    """One after another it would take `LARGE * LATENCY / IN_FLIGHT`, 25 seconds, for the large one alone."""
    _, system = place
    alone = await seconds_of_a_small_batch(system, "alone")
    large = await system.submit(lines("large", LARGE))
    await system.until(large["id"], lambda batch: batch["request_counts"]["completed"] >= HEAD_START * 1.5)
    beside = await seconds_of_a_small_batch(system, "beside")
    assert beside <= 2 * alone + OVERHEAD
    large = await system.call("GET", f"/batches/{large['id']}")
    assert large["status"] == "in_progress"
    assert large["request_counts"]["completed"] < LARGE / 2
    await system.call("POST", f"/batches/{large['id']}/cancel")
    await system.ended(large["id"])


@pytest.mark.scale
@pytest.mark.timeout(240)
async def test_a_hundred_lines_behind_fifty_thousand_take_less_than_twice_their_time_alone(yard: Yard) -> None:
    """Both times are taken in one run, the second time anew if the machine had something else to do."""
    sim = await yard.sim(base_latency=0.3)
    system = await yard.system(
        sim.url.removesuffix("/v1"), max_parallel_requests=IN_FLIGHT, head_start=HEAD_START, shutdown_grace=0
    )
    alone = await seconds_of_a_small_batch(system, "alone")
    large = await system.submit(lines("large", 50_000))
    await system.until(large["id"], lambda batch: batch["request_counts"]["completed"] >= HEAD_START * 1.5)
    beside = await seconds_of_a_small_batch(system, "beside")
    if beside > 2 * alone:
        await system.call("POST", f"/batches/{large['id']}/cancel")
        await system.ended(large["id"])
        alone = await seconds_of_a_small_batch(system, "alone again")
        large = await system.submit(lines("larger", 50_000))
        await system.until(large["id"], lambda batch: batch["request_counts"]["completed"] >= HEAD_START * 1.5)
        beside = await seconds_of_a_small_batch(system, "beside again")
    assert beside <= 2 * alone
    assert (await system.call("GET", f"/batches/{large['id']}"))["status"] == "in_progress"
