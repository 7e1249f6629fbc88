"""Embeddings, score, rerank, pooling and classify."""

import base64
import struct

import pytest
from unit.vllm_sim.asking import Client, user

from batchyard.vllm_sim.answers import class_probabilities, embedding, relevance


async def test_embeddings_answer_each_input_in_order(client: Client) -> None:
    answer = await client.post("/v1/embeddings", {"input": ["one", "two"], "dimensions": 8})
    assert [item["embedding"] for item in answer.json["data"]] == [embedding("one", 8), embedding("two", 8)]
    assert [item["index"] for item in answer.json["data"]] == [0, 1]


async def test_base64_embeddings_are_the_same_numbers(client: Client) -> None:
    answer = await client.post("/v1/embeddings", {"input": "one", "encoding_format": "base64", "dimensions": 8})
    decoded = struct.unpack("<8f", base64.b64decode(answer.json["data"][0]["embedding"]))
    assert list(decoded) == embedding("one", 8)


async def test_embeddings_take_messages(client: Client) -> None:
    answer = await client.post("/v1/embeddings", {"messages": user("one")})
    assert len(answer.json["data"][0]["embedding"]) == 64


@pytest.mark.parametrize("fields", [{"dimensions": 0}, {"dimensions": 5000}, {"encoding_format": "hex"}, {"input": []}])
async def test_embeddings_refuse_bad_values(client: Client, fields: dict[str, object]) -> None:
    answer = await client.post("/v1/embeddings", {"input": "one", **fields})
    assert answer.status == 400


@pytest.mark.parametrize("path", ["/v1/score", "/score"])
async def test_score_compares_one_text_with_many(client: Client, path: str) -> None:
    answer = await client.post(path, {"text_1": "one", "text_2": ["one", "two"]})
    scores = [item["score"] for item in answer.json["data"]]
    assert scores == [relevance("one", "one"), relevance("one", "two")]


async def test_score_compares_pairs_of_queries_and_documents(client: Client) -> None:
    answer = await client.post("/v1/score", {"queries": ["a", "b"], "documents": ["a", {"text": "c"}]})
    assert [item["score"] for item in answer.json["data"]] == [relevance("a", "a"), relevance("b", "c")]


@pytest.mark.parametrize(("first", "second"), [(["a", "b"], ["a", "b", "c"]), ("a", []), ("a", [1])])
async def test_score_refuses_what_does_not_pair(client: Client, first: object, second: object) -> None:
    answer = await client.post("/v1/score", {"text_1": first, "text_2": second})
    assert answer.status == 400


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank"])
async def test_rerank_gives_the_best_first(client: Client, path: str) -> None:
    documents = ["horses and cows", "the capital of France is Paris", "the capital of Brazil"]
    answer = await client.post(path, {"query": "the capital of France", "documents": documents, "top_n": 2})
    assert [result["index"] for result in answer.json["results"]] == [1, 2]
    assert answer.json["results"][0]["document"]["text"] == documents[1]


@pytest.mark.parametrize("path", ["/v1/pooling", "/pooling"])
async def test_pooling_gives_vectors(client: Client, path: str) -> None:
    answer = await client.post(path, {"input": "one"})
    assert answer.json["data"] == [{"index": 0, "object": "pooling", "data": embedding("one", 64)}]


@pytest.mark.parametrize("path", ["/v1/classify", "/classify"])
async def test_classify_gives_a_label_and_probabilities(client: Client, path: str) -> None:
    item = (await client.post(path, {"input": "one"})).json["data"][0]
    assert item["probs"] == class_probabilities("one")
    assert item["label"] == f"LABEL_{item['probs'].index(max(item['probs']))}"
