"""What a route makes of a request body: the prompts to read, the texts to generate, and how to word the answer."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from batchyard.vllm_sim.answers import Generation
from batchyard.vllm_sim.fields import Body
from batchyard.vllm_sim.prompts import Prompt
from batchyard.vllm_sim.settings import SimSettings

JsonObject = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens read and written; `cached` is None where the prefix cache is off."""

    prompt: int
    completion: int
    cached: int | None

    def as_dict(self) -> JsonObject:
        """Return the `usage` object of vLLM's answers."""
        return {
            "prompt_tokens": self.prompt,
            "total_tokens": self.prompt + self.completion,
            "completion_tokens": self.completion,
            "prompt_tokens_details": None if self.cached is None else {"cached_tokens": self.cached},
        }


@dataclass(frozen=True, slots=True)
class Reply:
    """What is known once the engine is done. `created` is in seconds since the epoch."""

    id: str
    created: int
    model: str
    usage: Usage
    generations: Sequence[Generation]


Compose = Callable[[Reply], JsonObject]
Chunks = Callable[[Reply], Iterator[list[JsonObject]]]


@dataclass(frozen=True, slots=True)
class Work:
    """One request as the engine sees it.

    Attributes:
        id_prefix: what the answer's id begins with, such as "chatcmpl-".
        generations: all texts to generate, choices in order; empty on routes that generate none.
        compose: words the whole answer.
        chunks: words a stream, one list of chunks per generated token; None unless the client asked for one.
    """

    id_prefix: str
    model: str
    prompts: list[Prompt]
    compose: Compose
    generations: Sequence[Generation] = ()
    priority: int = 0
    chunks: Chunks | None = None


Endpoint = Callable[[Body, SimSettings], Work]
"""Reads a body; raises `SimError` for what vLLM would refuse."""
