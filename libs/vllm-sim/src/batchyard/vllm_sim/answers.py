"""The answers, as pure functions of the prompt: a test can compute which answer belongs to which request line.

An answer begins with the prompt's digest, so that distinct prompts have distinct answers, however short they are
cut, and ends with the prompt's last words.
"""

import hashlib
import math
import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from batchyard.vllm_sim.prompts import Prompt, chat_prompt, prompt_digest
from batchyard.vllm_sim.tokens import count_tokens, token_pieces, tokenize

COMPLETION_MAX_TOKENS = 16
"""How long a text completion gets unless `max_tokens` says otherwise, as in vLLM and OpenAI."""

FinishReason = Literal["stop", "length", "abort"]

_FILLER = ("yard", "track", "switch", "signal", "wagon", "freight", "brake", "bridge", "crane", "cargo", "ledger")


@dataclass(frozen=True, slots=True)
class Generation:
    """One generated text, its length in tokens and why it ended."""

    text: str
    tokens: int
    finish_reason: FinishReason

    def aborted(self) -> "Generation":
        """Return what is left when the engine gives up half-way."""
        pieces = token_pieces(self.text)
        kept = pieces[: len(pieces) // 2]
        return Generation("".join(kept), len(kept), "abort")


def generate(
    prompt: Prompt, model: str, *, choice: int = 0, max_tokens: int | None = None, min_tokens: int = 0
) -> Generation:
    """Return what the simulated model says to a prompt.

    Args:
        choice: which of `n` choices; each one differs.
        max_tokens: where to cut, with finish_reason "length"; None never cuts.
        min_tokens: how long to go on at least, with filler words.
    """
    digest = prompt_digest(prompt.text)
    about = f" choice {choice}" if choice else ""
    text = f"{digest} {model}{about} answers: {prompt.tail}"
    tokens = count_tokens(text)
    wanted = min_tokens if max_tokens is None else min(min_tokens, max_tokens)
    if tokens < wanted:
        start = int(digest[:4], 16)
        words = (_FILLER[(start + step) % len(_FILLER)] for step in range(wanted - tokens))
        text = f"{text} {' '.join(words)}"
        tokens = wanted
    if max_tokens is not None and tokens > max_tokens:
        return Generation("".join(token_pieces(text)[:max_tokens]), max_tokens, "length")
    ended_at_limit = tokens == max_tokens and min_tokens >= tokens
    return Generation(text, tokens, "length" if ended_at_limit else "stop")


def chat_text(
    messages: Sequence[dict[str, Any]],
    model: str,
    *,
    choice: int = 0,
    max_tokens: int | None = None,
    min_tokens: int = 0,
) -> str:
    """Return the content of the answer to chat messages; see `generate`."""
    prompt = chat_prompt(messages)
    return generate(prompt, model, choice=choice, max_tokens=max_tokens, min_tokens=min_tokens).text


def completion_text(
    prompt: str,
    model: str,
    *,
    choice: int = 0,
    max_tokens: int | None = COMPLETION_MAX_TOKENS,
    min_tokens: int = 0,
) -> str:
    """Return the text of the answer to a completion's prompt; see `generate`."""
    return generate(Prompt(prompt), model, choice=choice, max_tokens=max_tokens, min_tokens=min_tokens).text


def embedding(text: str, dimensions: int) -> list[float]:
    """Return a text's unit vector, shape (dimensions,). Its numbers are exact in float32, so base64 loses nothing."""
    drawn = hashlib.shake_256(text.encode("utf-8", "surrogatepass")).digest(2 * dimensions)
    raw = [number + 0.5 for number in struct.unpack(f"<{dimensions}h", drawn)]
    length = math.sqrt(math.fsum(number * number for number in raw))
    return array("f", [number / length for number in raw]).tolist()


def relevance(query: str, document: str) -> float:
    """Return how well a document fits a query, 0…1: mostly the words they share, and a little of the digest."""
    asked, found = set(tokenize(query.lower())), set(tokenize(document.lower()))
    shared = len(asked & found) / (len(asked | found) or 1)
    return round(0.9 * shared + 0.1 * _fraction(f"{query}\x1e{document}"), 6)


def class_probabilities(text: str, classes: int = 2) -> list[float]:
    """Return a text's class probabilities, shape (classes,), that sum up to 1."""
    weights = [0.01 + _fraction(f"{index}:{text}") for index in range(classes)]
    return [weight / sum(weights) for weight in weights]


def _fraction(text: str) -> float:
    return int(prompt_digest(text), 16) / 2**64
