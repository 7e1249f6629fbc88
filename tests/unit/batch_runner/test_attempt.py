"""One line against a server that may fail in any way."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
import structlog

from batchyard.batch_runner.attempt import LineJob
from batchyard.batch_runner.lines import read_request
from batchyard.batch_runner.segments import Kind, Result
from batchyard.vllm_sim.answers import chat_text
from batchyard.vllm_sim.settings import SimSettings

from .conftest import MODEL, Bench, chat_line


def job(prompt: str, **body: object) -> LineJob:
    request = read_request(chat_line("a", prompt, **body))
    return LineJob(line=1, identity="batch_req_1", request=request, path="/v1/chat/completions", model=MODEL)


async def run(bench: Bench, prompt: str, **body: object) -> tuple[Result, dict[str, Any]]:
    result = await asyncio.wait_for(bench.attempts.run(job(prompt, **body), bench.pool), 20)
    assert result is not None
    assert bench.pool.members[0].in_flight == 0
    return result, json.loads(result.text)


def sent(bench: Bench) -> int:
    return len(bench.sim.state.log.records())


async def test_an_answer_is_kept_as_the_server_gave_it(open_bench: Any) -> None:
    bench = await open_bench()
    result, line = await run(bench, "what is a whale")
    assert result.kind is Kind.COMPLETED
    assert result.tokens.prompt > 0
    assert result.tokens.output > 0
    content = line["response"]["body"]["choices"][0]["message"]["content"]
    assert content == chat_text([{"role": "user", "content": "what is a whale"}], MODEL)
    assert line["response"]["status_code"] == 200
    assert line["error"] is None


async def test_a_client_error_is_the_lines_own_result_at_once(open_bench: Any) -> None:
    bench = await open_bench()
    result, line = await run(bench, "x", messages="not a list")
    assert result.kind is Kind.FAILED
    assert line["response"]["status_code"] == 400
    assert line["response"]["body"]["error"]["message"]
    assert line["error"] is None
    assert sent(bench) == 1


@pytest.mark.parametrize(
    ("location", "where"),
    [
        ("https://me:pass@other.example:8443/v1/x?token=secret", "to https://other.example:8443: set api_base"),
        ("/v1/chat/completions/", "redirects to another path of its own"),
        ("https://[", "redirects to where nobody can go"),
        (None, "is no answer to a request"),
    ],
)
async def test_a_redirect_is_the_lines_own_result_and_says_where_to(
    open_bench: Any, location: str | None, where: str
) -> None:
    bench = await open_bench()
    asked = 0

    async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await reader.readuntil(b"\r\n\r\n")
        header = "" if location is None else f"location: {location}\r\n"
        writer.write(f"HTTP/1.1 307 X\r\n{header}connection: close\r\ncontent-length: 0\r\n\r\n".encode())
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(redirect, "127.0.0.1", 0) as server:
        member = bench.pool.members[0]
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        member.deployment = replace(member.deployment, base_url=url)
        with structlog.testing.capture_logs() as logs:
            result, line = await run(bench, "hello")
            assert await bench.upstream.models(member.deployment) is None
            assert await bench.upstream.metrics(member.deployment) is None
    assert result.kind is Kind.FAILED
    assert line["response"]["status_code"] == 307
    assert line["error"]["code"] == "server_redirects"
    assert asked == 3, "nothing was tried again"
    [log] = [log for log in logs if log["event"] == "deployment.redirects"]
    for told in (line["error"]["message"], log["detail"]):
        assert where in told
        assert "pass" not in told
        assert "secret" not in told


@pytest.mark.parametrize("fault", ["status=500", "status=503", "status=408", "reset", "truncate", "abort", "bad-json"])
async def test_a_failure_that_passes_is_tried_again(open_bench: Any, fault: str) -> None:
    bench = await open_bench()
    result, _ = await run(bench, f"hello [[fault:{fault},times=2]]")
    assert result.kind is Kind.COMPLETED
    assert sent(bench) == 3


async def test_a_failure_that_stays_is_the_result_after_all_attempts(open_bench: Any) -> None:
    bench = await open_bench(max_attempts=3)
    result, line = await run(bench, "hello [[fault:status=500]]")
    assert result.kind is Kind.FAILED
    assert line["response"]["status_code"] == 500
    assert line["response"]["body"]["error"]
    error = line["error"]
    assert (error["code"], error["attempts"], error["failures"]) == ("server_error", 3, {"server_error": 3})
    assert error["message"].startswith("Gave up after 3 attempts in 0.")
    assert error["message"].endswith("s; the last one failed because the server answered 500.")
    assert sent(bench) == 3


async def test_the_error_of_a_line_counts_its_failures_by_kind(open_bench: Any) -> None:
    bench = await open_bench(max_attempts=3)
    faults = ["status=429,times=1", "reset,times=1", "abort,times=1", "bad-json"]
    _, line = await run(bench, "hello " + "".join(f"[[fault:{fault}]]" for fault in faults))
    assert line["error"]["attempts"] == 4
    assert line["error"]["failures"] == {
        "rate_limit_exceeded": 1,
        "connection_lost": 1,
        "request_aborted": 1,
        "malformed_response": 1,
    }


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("status=500", "server_error"),
        ("status=429", "rate_limit_exceeded"),
        ("reset", "connection_lost"),
        ("hang", "request_timeout"),
        ("bad-json", "malformed_response"),
        ("abort", "request_aborted"),
    ],
)
async def test_each_kind_of_failure_has_a_budget(open_bench: Any, fault: str, code: str) -> None:
    bench = await open_bench(retry_budgets={code: 2}, request_timeout=0.2)
    _, line = await run(bench, f"hello [[fault:{fault}]]")
    assert line["error"]["failures"] == {code: 2}
    assert sent(bench) == 2


async def test_a_server_that_is_never_reached_may_have_a_budget_too(open_bench: Any) -> None:
    bench = await open_bench(retry_budgets={"server_unreachable": 1})
    bench.pool.members[0].deployment = replace(bench.pool.members[0].deployment, base_url="http://127.0.0.1:9")
    result = await asyncio.wait_for(bench.attempts.run(job("hello"), bench.pool), 20)
    assert json.loads(result.text)["error"]["code"] == "server_unreachable"
    assert json.loads(result.text)["error"]["attempts"] == 0


async def test_a_line_is_given_up_once_it_has_been_tried_for_long_enough(open_bench: Any) -> None:
    bench = await open_bench(line_timeout=0.3, max_attempts=1000)
    _, line = await run(bench, "hello [[fault:status=500]]")
    assert 1 < line["error"]["attempts"] < 1000


async def test_one_bad_server_fails_no_line(open_bench: Any) -> None:
    bench = await open_bench(SimSettings(port=0, base_latency=0.01), servers=2, max_attempts=3)
    bench.sims[0].state.faults.set_rates(("status=500:1",), 1)
    results = await asyncio.gather(*(bench.attempts.run(job(f"hello {index}"), bench.pool) for index in range(300)))
    assert {result.kind for result in results} == {Kind.COMPLETED}
    bad, good = bench.pool.members
    assert bad.breaker.times_opened >= 1
    assert good.breaker.is_closed


@pytest.mark.parametrize(
    ("fault", "code"),
    [("reset", "connection_lost"), ("bad-json", "malformed_response"), ("abort", "request_aborted")],
)
async def test_a_line_without_an_answer_says_why_and_how_often_it_was_tried(
    open_bench: Any, fault: str, code: str
) -> None:
    bench = await open_bench(max_attempts=2)
    result, line = await run(bench, f"hello [[fault:{fault}]]")
    assert result.kind is Kind.FAILED
    assert line["response"] is None
    assert line["error"]["code"] == code
    assert "after 2 attempts" in line["error"]["message"]


async def test_a_server_that_hangs_is_left_after_the_timeout(open_bench: Any) -> None:
    bench = await open_bench(max_attempts=1, request_timeout=0.2)
    _, line = await run(bench, "hello [[fault:hang]]")
    assert line["error"]["code"] == "request_timeout"
    assert bench.pool.members[0].flights.traffic.timed_out == 1, "what cuts the limit"


@pytest.mark.parametrize("status", [429, 503])
async def test_the_rest_that_a_server_asks_for_is_waited_out(open_bench: Any, status: int) -> None:
    bench = await open_bench()
    began = asyncio.get_running_loop().time()
    result, _ = await run(bench, f"hello [[fault:status={status},retry-after=1,times=1]]")
    assert result.kind is Kind.COMPLETED
    assert asyncio.get_running_loop().time() - began >= 1.0


async def test_a_server_that_is_down_burns_no_attempt(open_bench: Any) -> None:
    bench = await open_bench(max_attempts=1)
    bench.sim.state.healthy = False
    waiting = asyncio.create_task(bench.attempts.run(job("hello"), bench.pool))
    await bench.sim.until(lambda state: len(state.log.records()) >= 1)
    async with asyncio.timeout(5):
        while not bench.pool.is_down:
            await asyncio.sleep(0.001)
    bench.sim.state.healthy = True
    assert (await asyncio.wait_for(waiting, 5)).kind is Kind.COMPLETED


async def test_a_line_that_waits_for_its_turn_is_not_sent_after_a_stop(open_bench: Any) -> None:
    bench = await open_bench(adaptive_concurrency=False)
    places = [await bench.pool.acquire() for _ in range(bench.pool.members[0].limit)]
    stop = asyncio.Event()
    waiting = asyncio.create_task(bench.attempts.run(job("hello"), bench.pool, stop.is_set))
    await asyncio.sleep(0)
    stop.set()
    for place in places:
        bench.pool.release(place)
    assert await asyncio.wait_for(waiting, 5) is None
    assert sent(bench) == 0
    assert bench.pool.members[0].in_flight == 0


async def test_an_answer_beyond_the_limit_is_refused(open_bench: Any) -> None:
    bench = await open_bench(SimSettings(port=0, answer_tokens=2000), max_response_bytes=1024)
    result, line = await run(bench, "hello", max_tokens=2000)
    assert result.kind is Kind.FAILED
    assert line["error"]["code"] == "response_too_large"


async def test_a_cancelled_line_gives_its_place_back(open_bench: Any) -> None:
    bench = await open_bench()
    task = asyncio.create_task(bench.attempts.run(job("hello [[fault:hang]]"), bench.pool))
    await bench.sim.until(lambda state: len(state.log.records()) == 1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert bench.pool.members[0].in_flight == 0
