"""Faults by marker and by rate: how they are written, whom they strike, what the client sees."""

import asyncio
import json

import aiohttp
import pytest
from unit.vllm_sim.asking import Client, Start, user

from batchyard.vllm_sim.answers import chat_text
from batchyard.vllm_sim.faults import Fault, FaultKind, FaultPlan, FaultSyntaxError, parse_fault, parse_rates


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("reset", Fault(FaultKind.RESET)),
        ("bad-json", Fault(FaultKind.BAD_JSON)),
        ("delay=0.5", Fault(FaultKind.DELAY, delay=0.5)),
        ("truncate,delay=0.5", Fault(FaultKind.TRUNCATE, delay=0.5)),
        (
            "status=429, times=2, retry-after=1",
            Fault(FaultKind.STATUS, status=429, retry_after=1.0, times=2),
        ),
    ],
)
def test_a_fault_is_read(text: str, fault: Fault) -> None:
    assert parse_fault(text) == fault


@pytest.mark.parametrize(
    "text",
    [
        "",
        "explode",
        "status",
        "status=abc",
        "status=200",
        "status=503,reset",
        "reset,hang",
        "reset,reset",
        "times=2",
        "reset,times=-1",
        "reset,times=1,times=2",
        "reset,retry-after=1",
        "delay=nan",
        "reset=1",
    ],
)
def test_a_fault_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(FaultSyntaxError):
        parse_fault(text)


@pytest.mark.parametrize(
    "texts", [["reset"], ["reset:2"], ["reset:x"], ["reset,times=1:0.1"], ["reset:0.6", "hang:0.6"]]
)
def test_rates_that_cannot_be_read_are_refused(texts: list[str]) -> None:
    with pytest.raises(FaultSyntaxError):
        parse_rates(texts)


def test_a_rate_strikes_its_share() -> None:
    plan = FaultPlan(["status=503:0.2", "reset:0.1"], seed=1, remembered=10)
    struck = [plan.decide("", f"{number:x}") for number in range(10_000)]
    kinds = [fault.kind for fault in struck if fault is not None]
    assert 1800 < kinds.count(FaultKind.STATUS) < 2200
    assert 850 < kinds.count(FaultKind.RESET) < 1150


def test_rates_strike_the_same_attempts_in_any_order() -> None:
    digests = [f"{number:x}" for number in range(200)]
    forth, back = (FaultPlan(["reset:0.5"], seed=7, remembered=1000) for _ in range(2))
    one = {digest: forth.decide("", digest) for digest in digests}
    other = {digest: back.decide("", digest) for digest in reversed(digests)}
    assert one == other


def test_another_seed_strikes_others() -> None:
    digests = [f"{number:x}" for number in range(200)]
    one, other = (FaultPlan(["reset:0.5"], seed=seed, remembered=1000) for seed in (1, 2))
    assert [one.decide("", digest) for digest in digests] != [other.decide("", digest) for digest in digests]


def test_attempts_are_remembered_for_so_many_prompts() -> None:
    plan = FaultPlan([], seed=0, remembered=1)
    marker = "[[fault:reset,times=1]]"
    assert plan.decide(marker, "a") is not None
    assert plan.decide(marker, "a") is None
    assert plan.decide(marker, "b") is not None
    assert plan.decide(marker, "a") is not None


def test_a_rate_does_not_touch_a_prompt_with_a_marker() -> None:
    plan = FaultPlan(["reset:1"], seed=0, remembered=10)
    assert [plan.decide("[[fault:slow,times=1]]", "a"), plan.decide("[[fault:slow,times=1]]", "a")] == [
        Fault(FaultKind.SLOW, times=1),
        None,
    ]


async def test_the_first_requests_fail_and_later_ones_succeed(client: Client) -> None:
    prompt = "hello [[fault:status=429,times=2,retry-after=1]]"
    answers = [await client.chat(prompt) for _ in range(3)]
    assert [answer.status for answer in answers] == [429, 429, 200]
    assert answers[0].headers["Retry-After"] == "1"
    assert answers[0].json["error"]["code"] == 429
    assert answers[2].text == chat_text(user(prompt), "my-vllm-model")


async def test_times_counts_each_prompt_for_itself(client: Client) -> None:
    answers = [await client.chat(f"{number} [[fault:status=500,times=1]]") for number in range(3)]
    assert [answer.status for answer in answers] == [500, 500, 500]


async def test_several_markers_are_used_up_in_order(client: Client) -> None:
    prompt = "[[fault:status=429,times=1]][[fault:status=503,times=2]]"
    assert [(await client.chat(prompt)).status for _ in range(4)] == [429, 503, 503, 200]


@pytest.mark.parametrize("marker", ["[[fault:explode]]", "[[fault:reset", "[[fault:]]"])
async def test_a_marker_that_cannot_be_read_is_a_400(client: Client, marker: str) -> None:
    answer = await client.chat(marker)
    assert answer.status == 400
    assert "fault" in answer.json["error"]["message"]


async def test_a_status_unknown_to_http_is_answered_too(client: Client) -> None:
    answer = await client.chat("[[fault:status=599]]")
    assert (answer.status, answer.json["error"]["type"]) == (599, "SimulatedError")


@pytest.mark.parametrize("stream", [False, True])
async def test_reset_tears_the_connection(client: Client, stream: bool, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises((aiohttp.ClientOSError, ConnectionResetError)):
        await client.chat("[[fault:reset]]", stream=stream)
    assert client.outcomes() == ["fault:reset"]
    assert not caplog.records


async def test_hang_answers_never(client: Client) -> None:
    hanging = asyncio.create_task(client.chat("[[fault:hang]]"))
    await client.sim.until(lambda state: state.capacity.running == 1)
    assert client.outcomes() == ["pending"]
    hanging.cancel()
    await client.sim.until(lambda state: state.capacity.running == 0)
    assert client.outcomes() == ["fault:hang"]


@pytest.mark.parametrize("stream", [False, True])
async def test_truncate_stops_in_the_middle(client: Client, stream: bool, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(aiohttp.ClientPayloadError):
        await client.chat("[[fault:truncate]]", stream=stream)
    assert client.outcomes() == ["fault:truncate"]
    assert not caplog.records


async def test_abort_is_a_200_with_half_the_text(client: Client) -> None:
    answer = await client.chat("[[fault:abort]] hello")
    choice = answer.json["choices"][0]
    assert (answer.status, choice["finish_reason"]) == (200, "abort")
    assert chat_text(user("[[fault:abort]] hello"), "my-vllm-model").startswith(answer.text)


async def test_abort_ends_a_stream_as_well(client: Client) -> None:
    answer = await client.chat("[[fault:abort]] hello", stream=True)
    assert answer.events[-1]["choices"][0]["finish_reason"] == "abort"


async def test_abort_cancels_a_response(client: Client) -> None:
    answer = await client.post("/v1/responses", {"input": "[[fault:abort]] hello"})
    assert (answer.status, answer.json["status"]) == (200, "cancelled")


async def test_abort_is_a_500_where_nothing_is_generated(client: Client) -> None:
    answer = await client.post("/v1/embeddings", {"input": "[[fault:abort]]"})
    assert (answer.status, answer.json["error"]["type"]) == (500, "InternalServerError")


async def test_bad_json_cannot_be_read(client: Client) -> None:
    answer = await client.chat("[[fault:bad-json]]")
    assert answer.status == 200
    with pytest.raises(json.JSONDecodeError):
        json.loads(answer.body)


async def test_bad_json_spoils_a_stream(client: Client) -> None:
    answer = await client.chat("[[fault:bad-json]]", stream=True)
    assert answer.body.endswith(b'data: {"id":\n\n')


@pytest.mark.parametrize("marker", ["delay=0.05", "slow"])
async def test_late_answers_are_whole(start: Start, marker: str) -> None:
    client = await start(slow_seconds=0.05)
    loop = asyncio.get_running_loop()
    began = loop.time()
    answer = await client.chat(f"[[fault:{marker}]]")
    assert answer.status == 200
    assert loop.time() - began >= 0.05


async def test_rates_given_at_start_strike(start: Start) -> None:
    client = await start(faults=("status=503,retry-after=2:1",))
    answer = await client.post("/v1/score", {"text_1": "a", "text_2": "b"})
    assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
