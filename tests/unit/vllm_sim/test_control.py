"""The controls under /sim."""

import pytest
from unit.vllm_sim.asking import Client, Start, user

from batchyard.vllm_sim.changes import Changes
from batchyard.vllm_sim.prompts import chat_prompt, prompt_digest
from batchyard.vllm_sim.request_log import RequestLog


async def test_totals_count_status_route_and_outcome(client: Client) -> None:
    await client.chat("hello")
    await client.chat("hello", model="other")
    await client.post("/v1/embeddings", {"input": "[[fault:status=503]]"})
    totals = (await client.get("/sim/requests")).json
    assert totals["requests"] == 3
    assert totals["by_status"] == {"200": 1, "404": 1, "503": 1}
    assert totals["by_route"] == {"/v1/chat/completions": 2, "/v1/embeddings": 1}
    assert totals["by_outcome"] == {"answered": 1, "rejected": 1, "fault:status": 1}


async def test_the_log_tells_how_often_each_prompt_was_sent(client: Client) -> None:
    for text in ("one", "two", "one"):
        await client.post("/v1/chat/completions", {"messages": user(text)}, {"X-Request-Id": text})
    records = (await client.get("/sim/log")).json["data"]
    digests = [prompt_digest(chat_prompt(user(text)).text) for text in ("one", "two", "one")]
    assert [record["digest"] for record in records] == digests
    assert [record["request_id"] for record in records] == ["one", "two", "one"]
    assert [record["sequence"] for record in records] == [1, 2, 3]
    assert {record["model"] for record in records} == {"my-vllm-model"}


async def test_the_log_is_read_in_pages(client: Client) -> None:
    for number in range(5):
        await client.chat(f"question {number}")
    first = (await client.get("/sim/log?limit=3")).json
    rest = (await client.get(f"/sim/log?after={first['last']}")).json
    assert [record["sequence"] for record in first["data"] + rest["data"]] == [1, 2, 3, 4, 5]
    assert (first["has_more"], rest["has_more"]) == (True, False)


@pytest.mark.parametrize("query", ["after=x", "limit=-1", "after=9999999999999999999999"])
async def test_the_log_refuses_what_is_no_number(client: Client, query: str) -> None:
    assert (await client.get(f"/sim/log?{query}")).status == 400


async def test_the_log_keeps_the_last_requests_only(start: Start) -> None:
    client = await start(log_size=2)
    for number in range(5):
        await client.chat(f"question {number}")
    assert [record.sequence for record in client.state.log.records()] == [4, 5]
    assert [record.sequence for record in client.state.log.records(after=4)] == [5]


async def test_a_long_request_id_is_cut_in_the_log(client: Client) -> None:
    await client.post("/v1/chat/completions", {"messages": user("hello")}, {"X-Request-Id": "x" * 1000})
    assert client.state.log.records()[0].request_id == "x" * 256


async def test_reset_starts_anew(client: Client) -> None:
    await client.post("/sim/faults", {"faults": ["status=503:1"]})
    await client.post("/sim/health", {"healthy": False})
    await client.chat("word " * 100)
    assert (await client.post("/sim/reset", None)).status == 200
    answer = await client.chat("word " * 100)
    assert answer.status == 200
    assert answer.json["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}
    assert (await client.get("/sim/requests")).json["requests"] == 1


async def test_reset_forgets_how_often_a_prompt_came(client: Client) -> None:
    prompt = "[[fault:status=500,times=1]]"
    statuses = [(await client.chat(prompt)).status for _ in range(2)]
    await client.post("/sim/reset", None)
    statuses.append((await client.chat(prompt)).status)
    assert statuses == [500, 200, 500]


def test_a_request_from_before_a_reset_does_not_count_after_it() -> None:
    log = RequestLog(10, Changes())
    record = log.begin("/v1/score", None)
    log.clear()
    log.finish(record, "answered", 200)
    assert (log.total, dict(log.by_outcome), log.records()) == (0, {}, [])


async def test_fault_rates_change_at_runtime(client: Client) -> None:
    await client.post("/sim/faults", {"faults": ["status=503:1"], "seed": 3})
    assert (await client.chat("hello")).status == 503
    await client.post("/sim/faults", {"faults": []})
    assert (await client.chat("hello")).status == 200


@pytest.mark.parametrize(
    "body",
    [{}, [], {"faults": "reset:1"}, {"faults": [1]}, {"faults": ["explode:1"]}, {"faults": [], "seed": "x"}],
)
async def test_fault_rates_that_cannot_be_read_are_refused(client: Client, body: object) -> None:
    assert (await client.post("/sim/faults", body)).status == 400


async def test_unhealthy_answers_503_everywhere_until_told_otherwise(client: Client) -> None:
    await client.post("/sim/health", {"healthy": False})
    health, chat = await client.get("/health"), await client.chat("hello")
    assert (health.status, health.body, chat.status) == (503, b"", 503)
    assert client.outcomes() == ["unhealthy"]
    await client.post("/sim/health", {"healthy": True})
    assert (await client.chat("hello")).status == 200


async def test_health_takes_a_truth_value(client: Client) -> None:
    assert (await client.post("/sim/health", {"healthy": "no"})).status == 400
    assert (await client.post_bytes("/sim/health", b"{")).status == 400
