"""Chat completions, completions and responses, whole and streamed."""

import pytest
from unit.vllm_sim.asking import Client, Start, user

from batchyard.vllm_sim.answers import chat_text, completion_text

MODEL = "my-vllm-model"


async def test_chat_answers_what_the_pure_function_says(client: Client) -> None:
    answer = await client.chat("What is a batch?", model=MODEL)
    assert answer.status == 200
    assert answer.text == chat_text(user("What is a batch?"), MODEL)
    assert answer.json["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("model", [{}, {"model": None}, {"model": ""}])
async def test_a_missing_model_is_the_served_one(client: Client, model: dict[str, None]) -> None:
    answer = await client.chat("hello", **model)
    assert answer.json["model"] == MODEL


async def test_missing_content_and_unknown_fields_are_accepted(client: Client) -> None:
    answer = await client.post("/v1/chat/completions", {"messages": [{"role": "user"}], "whatever": 1})
    assert answer.status == 200


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
async def test_chat_stops_at_its_token_limit(client: Client, field: str) -> None:
    answer = await client.chat("hello", **{field: 3})
    assert answer.json["choices"][0]["finish_reason"] == "length"
    assert answer.text == chat_text(user("hello"), MODEL, max_tokens=3)
    assert answer.json["usage"]["completion_tokens"] == 3


async def test_ignore_eos_goes_on_to_the_limit(client: Client) -> None:
    answer = await client.chat("hello", max_tokens=100, ignore_eos=True)
    assert answer.json["usage"]["completion_tokens"] == 100
    assert answer.json["choices"][0]["finish_reason"] == "length"


async def test_answer_tokens_pads_every_answer(start: Start) -> None:
    client = await start(answer_tokens=128)
    answer = await client.chat("hello")
    assert answer.json["usage"]["completion_tokens"] == 128


async def test_max_tokens_over_the_room_left_is_clamped(start: Start) -> None:
    client = await start(max_model_len=20)
    answer = await client.chat("hello", max_tokens=1000, min_tokens=1000)
    assert answer.json["usage"]["total_tokens"] == 20


async def test_n_gives_so_many_choices(client: Client) -> None:
    answer = await client.chat("hello", n=3)
    texts = [choice["message"]["content"] for choice in answer.json["choices"]]
    assert texts == [chat_text(user("hello"), MODEL, choice=index) for index in range(3)]


async def test_the_request_id_becomes_the_answers_id(client: Client) -> None:
    answer = await client.post("/v1/chat/completions", {"messages": user("hello")}, {"X-Request-Id": "abc"})
    assert answer.json["id"] == "chatcmpl-abc"
    assert "X-Request-Id" not in answer.headers


async def test_the_request_id_is_echoed_only_if_enabled(start: Start) -> None:
    client = await start(enable_request_id_headers=True)
    answer = await client.post("/v1/chat/completions", {"messages": user("hello")}, {"X-Request-Id": "abc"})
    assert answer.headers["X-Request-Id"] == "abc"


async def test_ids_differ_without_request_ids(client: Client) -> None:
    one, other = await client.chat("hello"), await client.chat("hello")
    assert one.json["id"] != other.json["id"]


async def test_a_completion_answers_each_prompt(client: Client) -> None:
    answer = await client.post("/v1/completions", {"prompt": ["one", "two"], "max_tokens": 50})
    texts = [choice["text"] for choice in answer.json["choices"]]
    assert texts == [completion_text(prompt, MODEL, max_tokens=50) for prompt in ("one", "two")]


async def test_a_completion_stops_after_16_tokens_by_default(client: Client) -> None:
    answer = await client.post("/v1/completions", {"prompt": "a b c d e f", "min_tokens": 30})
    assert answer.json["usage"]["completion_tokens"] == 16


@pytest.mark.parametrize(("prompt", "choices"), [([1, 2, 3], 1), ([[1, 2], [3]], 2)])
async def test_a_completion_takes_token_ids(client: Client, prompt: list[object], choices: int) -> None:
    answer = await client.post("/v1/completions", {"prompt": prompt})
    assert len(answer.json["choices"]) == choices
    assert answer.json["usage"]["prompt_tokens"] == 3


async def test_a_response_has_its_text_in_the_output(client: Client) -> None:
    answer = await client.post("/v1/responses", {"input": "hello"})
    assert answer.json["status"] == "completed"
    assert answer.json["output"][0]["content"][0]["text"] == chat_text(user("hello"), MODEL)


async def test_a_response_reads_instructions_and_items(client: Client) -> None:
    body = {"input": user("hello"), "instructions": "Be brief."}
    answer = await client.post("/v1/responses", body)
    expected = chat_text([{"role": "system", "content": "Be brief."}, *user("hello")], MODEL)
    assert answer.json["output"][0]["content"][0]["text"] == expected


async def test_a_response_cut_short_is_incomplete(client: Client) -> None:
    answer = await client.post("/v1/responses", {"input": "hello", "max_output_tokens": 2})
    assert answer.json["status"] == "incomplete"
    assert answer.json["incomplete_details"] == {"reason": "max_output_tokens"}


async def test_a_streamed_chat_adds_up_to_the_answer(client: Client) -> None:
    answer = await client.chat("hello", stream=True)
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    deltas = [event["choices"][0]["delta"] for event in answer.events]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta["content"] for delta in deltas) == chat_text(user("hello"), MODEL)
    assert answer.events[-1]["choices"][0]["finish_reason"] == "stop"


async def test_a_stream_ends_with_usage_if_asked(client: Client) -> None:
    answer = await client.chat("hello", stream=True, stream_options={"include_usage": True})
    whole = await client.chat("hello")
    assert answer.events[-1]["choices"] == []
    assert answer.events[-1]["usage"] == whole.json["usage"]


async def test_streamed_choices_are_told_apart_by_index(client: Client) -> None:
    answer = await client.post("/v1/completions", {"prompt": ["one", "two"], "stream": True, "max_tokens": 40})
    texts = ["", ""]
    for event in answer.events:
        choice = event["choices"][0]
        texts[choice["index"]] += choice["text"]
    assert texts == [completion_text(prompt, MODEL, max_tokens=40) for prompt in ("one", "two")]


async def test_a_stream_takes_its_time_per_token(start: Start) -> None:
    client = await start(token_latency=0.001)
    answer = await client.chat("hello", stream=True)
    assert len(answer.events) == 1 + (await client.chat("hello")).json["usage"]["completion_tokens"]
