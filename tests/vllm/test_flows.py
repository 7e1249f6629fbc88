"""Batches over a real vLLM: what it answers, what it refuses, what it counts."""

import asyncio
import json
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest

from support.stack import MODEL
from support.vllm import metrics

from .conftest import Office, Vllm

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def line(custom_id: str, endpoint: str = CHAT, **body: object) -> bytes:
    members = {"model": MODEL, "max_tokens": 6, "temperature": 0, **body}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": endpoint, "body": members}).encode()


def said(words: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": words}]


async def test_every_line_of_a_chat_batch_has_its_own_answer(office: Office, vllm: Vllm) -> None:
    lines = [line(f"r{count}", messages=said("word " * count)) for count in range(1, 151)]
    before = metrics(vllm.url)
    batch = await office.ended((await office.run(lines))["id"], 300)
    assert (batch["status"], batch["error_file_id"]) == ("completed", None)
    assert batch["request_counts"] == {"total": 150, "completed": 150, "failed": 0}
    output = await office.lines(batch["output_file_id"])
    assert [result["custom_id"] for result in output] == [f"r{count}" for count in range(1, 151)]
    bodies = [result["response"]["body"] for result in output]
    assert all(body["choices"][0]["finish_reason"] in {"stop", "length"} for body in bodies)
    prompts = [body["usage"]["prompt_tokens"] for body in bodies]
    assert all(shorter < longer for shorter, longer in pairwise(prompts)), "each has its own"
    answers = sum(body["usage"]["completion_tokens"] for body in bodies)
    assert batch["usage"]["input_tokens"] == sum(prompts)
    assert batch["usage"]["output_tokens"] == answers
    (entry,) = await office.ledger(batch["id"])
    assert Decimal(entry["cost"]) == sum(prompts) * Decimal("0.000001") + answers * Decimal("0.000002")
    after = metrics(vllm.url)
    assert after["vllm:prompt_tokens_total"] - before["vllm:prompt_tokens_total"] >= sum(prompts)


async def test_completions_of_texts_and_of_tokens(office: Office) -> None:
    prompts: list[Any] = ["once upon", [1, 2, 3, 4], ["two", "texts"]]
    lines = [line(f"r{index}", COMPLETIONS, prompt=prompt) for index, prompt in enumerate(prompts)]
    batch = await office.ended((await office.run(lines, COMPLETIONS))["id"], 120)
    assert (batch["status"], batch["request_counts"]["completed"]) == ("completed", 3)
    bodies = [result["response"]["body"] for result in await office.lines(batch["output_file_id"])]
    assert [len(body["choices"]) for body in bodies] == [1, 1, 2]
    assert bodies[1]["usage"]["prompt_tokens"] == 4


async def test_what_the_server_refuses_stands_in_the_error_file_in_its_own_words(office: Office, vllm: Vllm) -> None:
    refused: dict[str, dict[str, Any]] = {
        "too long": {"messages": said("word " * 2 * vllm.max_tokens)},
        "negative temperature": {"messages": said("hi"), "temperature": -1},
        "text for a number": {"messages": said("hi"), "max_tokens": "many"},
        "half a schema": {"messages": said("hi"), "response_format": {"type": "json_schema"}},
        "no list": {"messages": "hi"},
        "impossible top_p": {"messages": said("hi"), "top_p": 7},
    }
    words = {
        "too long": "maximum context length",
        "negative temperature": "temperature",
        "text for a number": "max_tokens",
        "half a schema": "json_schema",
        "no list": "messages",
        "impossible top_p": "top_p",
    }
    lines = [line(name, **body) for name, body in refused.items()]
    lines.insert(3, line("fine", messages=said("hello")))
    batch = await office.ended((await office.run(lines))["id"], 120)
    assert (batch["status"], batch["request_counts"]) == (
        "completed",
        {"total": len(refused) + 1, "completed": 1, "failed": len(refused)},
    )
    errors = await office.lines(batch["error_file_id"])
    assert [result["custom_id"] for result in errors] == list(refused)
    for result in errors:
        assert result["error"] is None
        assert result["response"]["status_code"] == 400
        error = result["response"]["body"]["error"]
        assert words[result["custom_id"]] in error["message"]
        assert error["code"] == 400
    assert [result["custom_id"] for result in await office.lines(batch["output_file_id"])] == ["fine"]


async def test_a_cancelled_batch_leaves_nothing_running_on_the_server(office: Office, vllm: Vllm) -> None:
    lines = [line(f"r{index}", messages=said(f"tell me {index}"), max_tokens=400) for index in range(300)]
    batch = await office.run(lines)
    await office.until(batch["id"], lambda batch: batch["request_counts"]["completed"] > 0, 120)
    await office.call("POST", f"/batches/{batch['id']}/cancel")
    batch = await office.ended(batch["id"], 60)
    assert batch["status"] == "cancelled"
    results = await office.lines(batch["output_file_id"]) + await office.lines(batch["error_file_id"])
    assert sorted(result["custom_id"] for result in results) == sorted(f"r{index}" for index in range(300))
    assert batch["request_counts"]["completed"] < 300
    async with asyncio.timeout(10):
        while metrics(vllm.url)["vllm:num_requests_running"]:
            await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    "series",
    [
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "vllm:kv_cache_usage_perc",
        "vllm:num_preemptions_total",
        "vllm:prefix_cache_queries_total",
        "vllm:prefix_cache_hits_total",
        "vllm:prompt_tokens_total",
        "vllm:generation_tokens_total",
    ],
)
def test_the_series_that_are_read_are_there(vllm: Vllm, series: str) -> None:
    assert series in metrics(vllm.url)


async def test_lines_that_begin_alike_hit_the_servers_cache(office: Office, vllm: Vllm) -> None:
    topics = ["".join(f"{topic} is {number}. " for number in range(60)) for topic in ("red", "green", "blue", "grey")]
    lines = [line(f"r{index}", messages=said(topics[index % 4] + f"What of {index}?")) for index in range(100)]
    before = metrics(vllm.url)
    batch = await office.ended((await office.run(lines))["id"], 120)
    assert batch["request_counts"]["completed"] == 100
    after = metrics(vllm.url)
    asked, hit = (
        after[f"vllm:prefix_cache_{what}_total"] - before[f"vllm:prefix_cache_{what}_total"]
        for what in ("queries", "hits")
    )
    assert hit > 0.5 * asked
    assert [result["custom_id"] for result in await office.lines(batch["output_file_id"])] == [
        f"r{index}" for index in range(100)
    ]
