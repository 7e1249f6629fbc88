"""Chat completions, completions and responses: the routes that generate text."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from batchyard.vllm_sim.answers import COMPLETION_MAX_TOKENS, Generation, generate
from batchyard.vllm_sim.endpoints.streaming import chat_chunks, completion_chunks
from batchyard.vllm_sim.errors import BadValueError
from batchyard.vllm_sim.fields import (
    Body,
    check_length,
    integer,
    messages_prompt,
    optional_integer,
    priority,
    required,
    schema_error,
    served_model,
    text_prompts,
)
from batchyard.vllm_sim.prompts import Prompt, chat_prompt
from batchyard.vllm_sim.settings import SimSettings
from batchyard.vllm_sim.work import Chunks, JsonObject, Reply, Work

_MAX_TEXTS = 4096

_RESPONSE_STATUS = {"stop": "completed", "length": "incomplete", "abort": "cancelled"}


@dataclass(frozen=True, slots=True)
class _Sampling:
    max_tokens: int | None
    min_tokens: int
    choices: int


class _Chunker(Protocol):
    def __call__(self, reply: Reply, *, with_usage: bool) -> Iterator[list[JsonObject]]: ...


def chat(body: Body, settings: SimSettings) -> Work:
    """Read a chat completion request."""
    prompt = messages_prompt(body)
    limit = optional_integer(body, "max_completion_tokens", 1) or optional_integer(body, "max_tokens", 1)
    sampling = _sampling(body, settings, limit)
    model = served_model(body, settings)
    return Work(
        "chatcmpl-",
        model,
        [prompt],
        _compose_chat,
        _generate([prompt], model, sampling, settings),
        priority(body),
        _streamed(body, chat_chunks),
    )


def completion(body: Body, settings: SimSettings) -> Work:
    """Read a text completion request of one prompt or several."""
    prompts = text_prompts(body, "prompt")
    sampling = _sampling(body, settings, integer(body, "max_tokens", COMPLETION_MAX_TOKENS, 1))
    model = served_model(body, settings)
    return Work(
        "cmpl-",
        model,
        prompts,
        _compose_completion,
        _generate(prompts, model, sampling, settings),
        priority(body),
        _streamed(body, completion_chunks),
    )


def response(body: Body, settings: SimSettings) -> Work:
    """Read a request of the responses API; it is never streamed."""
    prompt = _response_prompt(body)
    limit = optional_integer(body, "max_output_tokens", 1)
    if body.get("stream"):
        raise BadValueError("The simulator does not stream /v1/responses", "stream")
    model = served_model(body, settings)
    sampling = _Sampling(limit, settings.answer_tokens, 1)
    generations = _generate([prompt], model, sampling, settings)
    return Work("resp_", model, [prompt], partial(_compose_response, body), generations, priority(body))


def _sampling(body: Body, settings: SimSettings, max_tokens: int | None) -> _Sampling:
    choices = integer(body, "n", 1, 1)
    min_tokens = max(integer(body, "min_tokens", 0, 0), settings.answer_tokens)
    if max_tokens is not None and body.get("ignore_eos"):
        min_tokens = max_tokens
    return _Sampling(max_tokens, min_tokens, choices)


def _generate(prompts: list[Prompt], model: str, sampling: _Sampling, settings: SimSettings) -> list[Generation]:
    if len(prompts) * sampling.choices > _MAX_TEXTS:
        raise BadValueError(f"The simulator generates {_MAX_TEXTS} texts per request at most.", "n")
    check_length(prompts, settings, reserved=1)
    generations = []
    for prompt in prompts:
        room = settings.max_model_len - len(prompt.tokens)
        limit = room if sampling.max_tokens is None else min(room, sampling.max_tokens)
        generations += [
            generate(prompt, model, choice=choice, max_tokens=limit, min_tokens=sampling.min_tokens)
            for choice in range(sampling.choices)
        ]
    return generations


def _streamed(body: Body, chunks: _Chunker) -> Chunks | None:
    if not body.get("stream"):
        return None
    options = body.get("stream_options") or {}
    if not isinstance(options, dict):
        raise schema_error("stream_options", "Input should be a valid object")
    return partial(chunks, with_usage=bool(options.get("include_usage")))


def _compose_chat(reply: Reply) -> JsonObject:
    choices: list[JsonObject] = [
        {
            "index": index,
            "message": {
                "role": "assistant",
                "content": generation.text,
                "refusal": None,
                "annotations": None,
                "audio": None,
                "function_call": None,
                "tool_calls": [],
                "reasoning": None,
            },
            "logprobs": None,
            "finish_reason": generation.finish_reason,
            "stop_reason": None,
            "token_ids": None,
        }
        for index, generation in enumerate(reply.generations)
    ]
    return {
        "id": reply.id,
        "object": "chat.completion",
        "created": reply.created,
        "model": reply.model,
        "choices": choices,
        "service_tier": None,
        "system_fingerprint": None,
        "usage": reply.usage.as_dict(),
        "prompt_logprobs": None,
        "prompt_token_ids": None,
        "kv_transfer_params": None,
    }


def _compose_completion(reply: Reply) -> JsonObject:
    choices: list[JsonObject] = [
        {
            "index": index,
            "text": generation.text,
            "logprobs": None,
            "finish_reason": generation.finish_reason,
            "stop_reason": None,
            "token_ids": None,
            "prompt_logprobs": None,
            "prompt_token_ids": None,
        }
        for index, generation in enumerate(reply.generations)
    ]
    return {
        "id": reply.id,
        "object": "text_completion",
        "created": reply.created,
        "model": reply.model,
        "choices": choices,
        "service_tier": None,
        "system_fingerprint": None,
        "usage": reply.usage.as_dict(),
        "kv_transfer_params": None,
    }


def _response_prompt(body: Body) -> Prompt:
    asked = required(body, "input")
    if isinstance(asked, str):
        messages: list[dict[str, Any]] = [{"role": "user", "content": asked}]
    elif isinstance(asked, list) and all(isinstance(item, dict) for item in asked):
        messages = asked
    else:
        raise schema_error("input", "Input should be a valid string or list of items")
    if body.get("instructions"):
        messages = [{"role": "system", "content": body["instructions"]}, *messages]
    return chat_prompt(messages)


def _compose_response(body: Body, reply: Reply) -> JsonObject:
    (generation,) = reply.generations
    status = _RESPONSE_STATUS[generation.finish_reason]
    text: JsonObject = {"type": "output_text", "text": generation.text, "annotations": [], "logprobs": None}
    message = {
        "id": f"msg_{reply.id.removeprefix('resp_')}",
        "type": "message",
        "role": "assistant",
        "status": "completed" if status == "completed" else "incomplete",
        "content": [text],
    }
    usage = reply.usage
    return {
        "id": reply.id,
        "object": "response",
        "created_at": reply.created,
        "status": status,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "error": None,
        "instructions": body.get("instructions"),
        "metadata": body.get("metadata"),
        "model": reply.model,
        "output": [message],
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "top_p": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "background": False,
        "max_output_tokens": body.get("max_output_tokens"),
        "usage": {
            "input_tokens": usage.prompt,
            "input_tokens_details": {"cached_tokens": usage.cached or 0},
            "output_tokens": usage.completion,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage.prompt + usage.completion,
        },
    }
