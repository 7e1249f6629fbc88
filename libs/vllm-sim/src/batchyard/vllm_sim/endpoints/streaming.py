"""Chat completions and completions as streams: one chunk per choice and token, in vLLM's shape."""

from collections.abc import Callable, Iterator
from itertools import zip_longest

from batchyard.vllm_sim.answers import Generation
from batchyard.vllm_sim.tokens import token_pieces
from batchyard.vllm_sim.work import JsonObject, Reply

DONE = b"data: [DONE]\n\n"

_Choice = Callable[[int, str, str | None], JsonObject]


def chat_chunks(reply: Reply, *, with_usage: bool) -> Iterator[list[JsonObject]]:
    """Yield the chunks of a chat completion, step by step."""
    head = _head(reply, "chat.completion.chunk")
    first = {"role": "assistant", "content": ""}
    yield [
        {**head, "choices": [{"index": index, "delta": first, "logprobs": None, "finish_reason": None}]}
        for index in range(len(reply.generations))
    ]
    yield from _steps(reply, head, _chat_choice)
    if with_usage:
        yield [{**head, "choices": [], "usage": reply.usage.as_dict()}]


def completion_chunks(reply: Reply, *, with_usage: bool) -> Iterator[list[JsonObject]]:
    """Yield the chunks of a text completion, step by step."""
    head = _head(reply, "text_completion")
    yield from _steps(reply, head, _completion_choice)
    if with_usage:
        yield [{**head, "choices": [], "usage": reply.usage.as_dict()}]


def _head(reply: Reply, object_: str) -> JsonObject:
    return {"id": reply.id, "object": object_, "created": reply.created, "model": reply.model}


def _steps(reply: Reply, head: JsonObject, choice: _Choice) -> Iterator[list[JsonObject]]:
    for step in zip_longest(*(_pieces(generation) for generation in reply.generations)):
        yield [{**head, "choices": [choice(index, *piece)]} for index, piece in enumerate(step) if piece is not None]


def _pieces(generation: Generation) -> list[tuple[str, str | None]]:
    pieces = token_pieces(generation.text) or [""]
    reasons = [None] * (len(pieces) - 1) + [generation.finish_reason]
    return list(zip(pieces, reasons, strict=True))


def _chat_choice(index: int, text: str, finish_reason: str | None) -> JsonObject:
    return {
        "index": index,
        "delta": {"content": text},
        "logprobs": None,
        "finish_reason": finish_reason,
        "stop_reason": None,
        "token_ids": None,
    }


def _completion_choice(index: int, text: str, finish_reason: str | None) -> JsonObject:
    return {
        "index": index,
        "text": text,
        "logprobs": None,
        "finish_reason": finish_reason,
        "stop_reason": None,
    }
