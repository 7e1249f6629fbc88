"""Waiting for what no event tells of: another process' file, another process' start."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_POLL = 0.02


async def until_found(look: Callable[[], T | None]) -> T:
    """What `look` finds, as soon as it is not None. Looks at once, and then fifty times a second."""
    while True:
        found = look()
        if found is not None:
            return found
        await asyncio.sleep(_POLL)
