"""From what a request carries to the text a model would read."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from batchyard.vllm_sim.faults import without_markers
from batchyard.vllm_sim.tokens import tokenize

_TAIL_CHARACTERS = 80
_TAIL_WORDS = 6


class Prompt:
    """One prompt that the simulated engine reads.

    Attributes:
        text: all of it, chat template included.
        tokens: its tokens, see `batchyard.vllm_sim.tokens`.
        tail: its last words as a person wrote them, for the answer to repeat.
    """

    __slots__ = ("tail", "text", "tokens")

    def __init__(self, text: str, spoken: str | None = None) -> None:
        self.text = text
        self.tokens = tokenize(text)
        self.tail = _last_words(text if spoken is None else spoken)


def prompt_digest(text: str) -> str:
    """Return the 16 hexadecimal digits that name a prompt in answers and in /sim/log."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def joined(prompts: Sequence[Prompt]) -> str:
    """Return the text of all prompts of one request; its digest names the request."""
    return prompts[0].text if len(prompts) == 1 else "\x1e".join(prompt.text for prompt in prompts)


def chat_prompt(messages: Sequence[dict[str, Any]]) -> Prompt:
    """Render messages as a chat template would. Parts that are not text count as their JSON."""
    turns = []
    spoken = ""
    for message in messages:
        spoken = _content_text(message.get("content"))
        calls = message.get("tool_calls")
        called = json.dumps(calls) if calls else ""
        turns.append(f"<|im_start|>{message.get('role', 'user')}\n{spoken}{called}<|im_end|>\n")
    turns.append("<|im_start|>assistant\n")
    return Prompt("".join(turns), spoken)


def token_ids_prompt(ids: Sequence[int]) -> Prompt:
    """Return a prompt that was sent as token ids: the simulator reads the numbers."""
    return Prompt(" ".join(map(str, ids)))


def _content_text(content: object) -> str:
    if isinstance(content, str):
        return content
    if content is None:
        return ""
    parts = content if isinstance(content, list) else [content]
    return "\n".join(_part_text(part) for part in parts)


def _part_text(part: object) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and isinstance(part.get("text"), str):
        return str(part["text"])
    return json.dumps(part)


def _last_words(text: str) -> str:
    end = without_markers(text)[-4 * _TAIL_CHARACTERS :].split()[-_TAIL_WORDS:]
    return " ".join(end)[-_TAIL_CHARACTERS:]
