"""`priority` goes to servers that take it."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from batchyard.batch_runner.exchange import Answer
from batchyard.batch_runner.priority import PriorityProbe, Takes, may_be_refused
from batchyard.batch_runner.segments import Kind
from batchyard.vllm_sim.settings import SimSettings

from .test_attempt import job, sent

REFUSAL = Answer(400, b'{"error": {"message": "Got priority 10 but Priority scheduling is not enabled."}}')


async def bench_with(open_bench: Any, **sim: Any) -> Any:
    bench = await open_bench(SimSettings(port=0, **sim))
    member = bench.pool.members[0]
    member.deployment = replace(member.deployment, priority=10)
    return bench


def test_one_request_asks_and_the_others_go_without_until_it_is_answered() -> None:
    probe = PriorityProbe()
    with probe.sending(10) as first, probe.sending(10) as second:
        assert (first, second) == (10, None)
        probe.taken(Answer(200, b"{}"))
    with probe.sending(10) as third, probe.sending(10) as fourth:
        assert (third, fourth) == (10, 10)


@pytest.mark.parametrize("status", [400, 404, 429, 500])
def test_an_answer_that_tells_nothing_leaves_the_question_open(status: int) -> None:
    probe = PriorityProbe()
    with probe.sending(10):
        probe.taken(Answer(status, b"{}"))
    assert probe.takes is Takes.UNKNOWN


def test_without_a_setting_none_is_sent() -> None:
    with PriorityProbe().sending(None) as priority:
        assert priority is None


def test_a_refusal_names_it() -> None:
    assert may_be_refused(REFUSAL)
    assert not may_be_refused(replace(REFUSAL, status=500))
    assert not may_be_refused(Answer(400, b'{"error": {"message": "too long"}}'))


async def test_batch_requests_wait_behind_those_of_people(open_bench: Any) -> None:
    bench = await bench_with(open_bench, scheduling_policy="priority", max_num_seqs=1, base_latency=0.2)
    await bench.attempts.run(job("the first one tells"), bench.pool)
    assert bench.pool.members[0].priority.takes is Takes.YES
    batch = [asyncio.create_task(bench.attempts.run(job(f"batch {index}"), bench.pool)) for index in range(4)]
    await bench.sim.until(lambda state: state.capacity.waiting == 3)
    person = asyncio.create_task(bench.attempts.run(job("a person", priority=0), bench.pool))
    await bench.sim.until(lambda state: state.capacity.waiting == 4)
    await person
    assert sum(task.done() for task in batch) <= 1
    await asyncio.gather(*batch)


async def test_a_server_that_refuses_it_gets_none_and_no_line_pays_for_it(open_bench: Any) -> None:
    bench = await bench_with(open_bench, refuse_priority=True)
    for index in range(3):
        assert (await bench.attempts.run(job(f"hello {index}"), bench.pool)).kind is Kind.COMPLETED
    assert bench.pool.members[0].priority.takes is Takes.NO
    assert sent(bench) == 4, "one refusal"


async def test_a_refusal_for_another_reason_is_the_lines_own(open_bench: Any) -> None:
    bench = await bench_with(open_bench)
    result = await bench.attempts.run(job("hello", priority="high"), bench.pool)
    assert result.kind is Kind.FAILED
    assert json.loads(result.text)["response"]["status_code"] == 400
    assert bench.pool.members[0].priority.takes is Takes.UNKNOWN


async def test_a_lines_own_priority_is_left_as_it_is(open_bench: Any) -> None:
    bench = await bench_with(open_bench, refuse_priority=True)
    assert (await bench.attempts.run(job("hello", priority=0), bench.pool)).kind is Kind.COMPLETED
