"""Names of models: LiteLLM's provider prefix, which is immaterial here, and its wildcards.

Source: https://docs.litellm.ai/docs/wildcard_routing. A `*` stands for any run of characters; what it matched in the
`model_name` is put in the place of the `*` in the deployment's `model`, one after the other.
"""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

PROVIDER = "hosted_vllm/"
WILDCARD = "*"


def bare(name: str) -> str:
    """`name` without LiteLLM's prefix for vLLM servers."""
    return name.removeprefix(PROVIDER)


def is_pattern(name: str) -> bool:
    """Whether `name` stands for many models."""
    return WILDCARD in name


def wildcard_parts(pattern: str, name: str) -> tuple[str, ...] | None:
    """What each `*` of `pattern` stands for in `name`; None when it does not match."""
    match = _compiled(pattern).fullmatch(name)
    return None if match is None else match.groups()


def filled(template: str, parts: Sequence[str]) -> str:
    """`template` with its wildcards replaced by as many parts."""
    texts = template.split(WILDCARD)
    assert len(texts) == len(parts) + 1
    return texts[0] + "".join(part + text for part, text in zip(parts, texts[1:], strict=True))


def most_specific_first(patterns: Iterable[str]) -> list[str]:
    """`patterns` in LiteLLM's order: the longest first, and of those as long the one with more wildcards."""
    return sorted(patterns, key=lambda pattern: (len(pattern), pattern.count(WILDCARD)), reverse=True)


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile("(.*)".join(map(re.escape, pattern.split(WILDCARD))), re.DOTALL)
