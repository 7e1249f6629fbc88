"""Batches over a real vLLM with an embedding model."""

import asyncio
import base64
import math
import struct
from decimal import Decimal
from operator import mul
from typing import Any

import httpx
import pytest

from .conftest import Office, Vllm
from .test_flows import line

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]
EMBEDDINGS = "/v1/embeddings"
TEXTS = [f"{animal} number {number}" for animal in ("a fish", "a bird", "a car") for number in range(50)]


def embedding_line(custom_id: str, **body: object) -> bytes:
    return line(custom_id, EMBEDDINGS, **body)


async def by_the_server(embedder: Vllm, text: str) -> list[float]:
    """The embedding that the server gives without Batchyard."""
    async with httpx.AsyncClient(trust_env=False, timeout=60) as http:
        response = await http.post(f"{embedder.url}{EMBEDDINGS}", json={"model": embedder.model, "input": text})
    return [float(value) for value in response.json()["data"][0]["embedding"]]


def likeness(one: list[float], other: list[float]) -> float:
    """The cosine of the angle between two vectors."""
    return float(sum(map(mul, one, other))) / (math.hypot(*one) * math.hypot(*other))


async def test_every_line_has_the_embedding_of_its_own_text(embedding_office: Office, embedder: Vllm) -> None:
    lines = [embedding_line(f"r{index}", input=text) for index, text in enumerate(TEXTS)]
    batch = await embedding_office.ended((await embedding_office.run(lines, EMBEDDINGS))["id"], 300)
    assert (batch["status"], batch["error_file_id"]) == ("completed", None)
    output = await embedding_office.lines(batch["output_file_id"])
    assert [result["custom_id"] for result in output] == [f"r{index}" for index in range(len(TEXTS))]
    found = [result["response"]["body"]["data"][0]["embedding"] for result in output]
    for index in (0, 60, len(TEXTS) - 1):
        own = await by_the_server(embedder, TEXTS[index])
        assert likeness(found[index], own) > 0.999
        assert max(range(len(TEXTS)), key=lambda other: likeness(found[other], own)) == index
    tokens = sum(result["response"]["body"]["usage"]["prompt_tokens"] for result in output)
    assert (batch["usage"]["input_tokens"], batch["usage"]["output_tokens"]) == (tokens, 0)
    (entry,) = await embedding_office.ledger(batch["id"])
    assert Decimal(entry["cost"]) == tokens * Decimal("0.000001")


async def test_lists_tokens_and_base64_come_back_as_they_were_asked_for(embedding_office: Office) -> None:
    asked: dict[str, dict[str, Any]] = {
        "list": {"input": ["one", "two", "three"]},
        "tokens": {"input": [101, 2028, 102]},
        "base64": {"input": "one", "encoding_format": "base64"},
        "plain": {"input": "one"},
    }
    lines = [embedding_line(name, **body) for name, body in asked.items()]
    batch = await embedding_office.ended((await embedding_office.run(lines, EMBEDDINGS))["id"], 120)
    assert batch["request_counts"] == {"total": 4, "completed": 4, "failed": 0}
    output = await embedding_office.lines(batch["output_file_id"])
    data = {result["custom_id"]: result["response"]["body"]["data"] for result in output}
    assert [entry["index"] for entry in data["list"]] == [0, 1, 2]
    assert len(data["tokens"]) == 1
    packed = base64.b64decode(data["base64"][0]["embedding"])
    plain = data["plain"][0]["embedding"]
    assert likeness(list(struct.unpack(f"<{len(packed) // 4}f", packed)), plain) > 0.999


async def test_a_text_that_is_too_long_is_refused_in_the_servers_words(
    embedding_office: Office, embedder: Vllm
) -> None:
    lines = [
        embedding_line("fine", input="short"),
        embedding_line("too long", input="word " * 2 * embedder.max_tokens),
        embedding_line("no text", input={"a": 1}),
    ]
    batch = await embedding_office.ended((await embedding_office.run(lines, EMBEDDINGS))["id"], 120)
    assert batch["request_counts"] == {"total": 3, "completed": 1, "failed": 2}
    errors = {
        result["custom_id"]: result["response"] for result in await embedding_office.lines(batch["error_file_id"])
    }
    assert {name: response["status_code"] for name, response in errors.items()} == {"too long": 400, "no text": 400}
    assert "maximum context length" in errors["too long"]["body"]["error"]["message"]


async def test_a_chat_line_before_an_embedding_model_fails_alone(embedding_office: Office) -> None:
    """The server has no such route for this model: its refusal is the line's answer, and nothing is tried for ever."""
    lines = [line("chat", messages=[{"role": "user", "content": "hi"}])]
    async with asyncio.timeout(120):
        batch = await embedding_office.ended((await embedding_office.run(lines))["id"], 120)
    assert (batch["status"], batch["request_counts"]["failed"]) == ("completed", 1)
    (error,) = await embedding_office.lines(batch["error_file_id"])
    assert 400 <= error["response"]["status_code"] < 500
