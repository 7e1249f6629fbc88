"""Embeddings, score, rerank, pooling and classify: the routes that read and generate nothing."""

import base64
from array import array
from functools import partial
from typing import Any

from batchyard.vllm_sim.answers import class_probabilities, embedding, relevance
from batchyard.vllm_sim.errors import BadValueError
from batchyard.vllm_sim.fields import (
    Body,
    check_length,
    integer,
    messages_prompt,
    priority,
    required,
    schema_error,
    served_model,
    text_prompts,
)
from batchyard.vllm_sim.prompts import Prompt
from batchyard.vllm_sim.settings import SimSettings
from batchyard.vllm_sim.work import Compose, JsonObject, Reply, Work

_MAX_DIMENSIONS = 4096


def embeddings(body: Body, settings: SimSettings) -> Work:
    """Read an embeddings request: `input` or `messages`, `dimensions`, `encoding_format`."""
    return _vectors("embd-", "embedding", "embedding", body, settings)


def pooling(body: Body, settings: SimSettings) -> Work:
    """Read a pooling request; its vectors are those of embeddings."""
    return _vectors("pool-", "pooling", "data", body, settings)


def classify(body: Body, settings: SimSettings) -> Work:
    """Read a classification request; there are two classes."""
    prompts = _inputs(body)
    return _work("classify-", prompts, body, settings, partial(_compose_classes, prompts))


def score(body: Body, settings: SimSettings) -> Work:
    """Read a score request: `text_1` and `text_2`, or `queries` and `documents`; a single first text meets all."""
    first_name, second_name = ("queries", "documents") if "queries" in body else ("text_1", "text_2")
    first, second = _texts(body, first_name), _texts(body, second_name)
    if len(first) == 1:
        first *= len(second)
    if len(first) != len(second):
        raise BadValueError("Input lengths must be either 1:1, 1:N or N:N", first_name)
    pairs = list(zip(first, second, strict=True))
    return _work("score-", _pair_prompts(pairs), body, settings, partial(_compose_scores, pairs))


def rerank(body: Body, settings: SimSettings) -> Work:
    """Read a rerank request: `query`, `documents`, `top_n` (0 for all)."""
    query, documents = required(body, "query"), _texts(body, "documents")
    if not isinstance(query, str):
        raise schema_error("query", "Input should be a valid string")
    top = integer(body, "top_n", 0, 0) or len(documents)
    pairs = [(query, document) for document in documents]
    return _work("rerank-", _pair_prompts(pairs), body, settings, partial(_compose_ranking, pairs, top))


def _work(id_prefix: str, prompts: list[Prompt], body: Body, settings: SimSettings, compose: Compose) -> Work:
    model = served_model(body, settings)
    check_length(prompts, settings)
    return Work(id_prefix, model, prompts, compose, priority=priority(body))


def _vectors(id_prefix: str, object_: str, key: str, body: Body, settings: SimSettings) -> Work:
    prompts = _inputs(body)
    dimensions = integer(body, "dimensions", settings.embedding_dimensions, 1)
    if dimensions > _MAX_DIMENSIONS:
        raise BadValueError(f"dimensions must be at most {_MAX_DIMENSIONS}, got {dimensions}.", "dimensions")
    encoding = body.get("encoding_format") or "float"
    if encoding not in {"float", "base64"}:
        raise schema_error("encoding_format", "Input should be float or base64")

    def compose(reply: Reply) -> JsonObject:
        vectors = (embedding(prompt.text, dimensions) for prompt in prompts)
        encoded = vectors if encoding == "float" else map(_base64, vectors)
        return _listing(reply, [{"index": at, "object": object_, key: vector} for at, vector in enumerate(encoded)])

    return _work(id_prefix, prompts, body, settings, compose)


def _base64(vector: list[float]) -> str:
    return base64.b64encode(array("f", vector).tobytes()).decode()


def _inputs(body: Body) -> list[Prompt]:
    return [messages_prompt(body)] if "messages" in body else text_prompts(body, "input")


def _texts(body: Body, name: str) -> list[str]:
    value = required(body, name)
    texts = [_text(item) for item in (value if isinstance(value, list) else [value])]
    if None in texts:
        raise schema_error(name, "Input should be a valid string or list of texts")
    if not texts:
        raise BadValueError(f"Please provide at least one text in {name}", name)
    return [text for text in texts if text is not None]


def _text(item: object) -> str | None:
    text = item.get("text") if isinstance(item, dict) else item
    return text if isinstance(text, str) else None


def _pair_prompts(pairs: list[tuple[str, str]]) -> list[Prompt]:
    return [Prompt(f"{first}\n{second}") for first, second in pairs]


def _listing(reply: Reply, data: list[dict[str, Any]]) -> JsonObject:
    return {
        "id": reply.id,
        "object": "list",
        "created": reply.created,
        "model": reply.model,
        "data": data,
        "usage": reply.usage.as_dict(),
    }


def _compose_scores(pairs: list[tuple[str, str]], reply: Reply) -> JsonObject:
    return _listing(
        reply,
        [{"index": at, "object": "score", "score": relevance(*pair)} for at, pair in enumerate(pairs)],
    )


def _compose_classes(prompts: list[Prompt], reply: Reply) -> JsonObject:
    data = []
    for at, prompt in enumerate(prompts):
        probs = class_probabilities(prompt.text)
        label = f"LABEL_{probs.index(max(probs))}"
        data.append({"index": at, "label": label, "probs": probs, "num_classes": len(probs)})
    return _listing(reply, data)


def _compose_ranking(pairs: list[tuple[str, str]], top: int, reply: Reply) -> JsonObject:
    results = [
        {"index": at, "document": {"text": pair[1], "multi_modal": None}, "relevance_score": relevance(*pair)}
        for at, pair in enumerate(pairs)
    ]
    results.sort(key=lambda result: -float(str(result["relevance_score"])))
    usage = {"prompt_tokens": reply.usage.prompt, "total_tokens": reply.usage.prompt}
    return {"id": reply.id, "model": reply.model, "usage": usage, "results": results[:top]}
