"""One simulator per test, on a real port of loopback."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest
from unit.vllm_sim.asking import Client, Start

from batchyard.vllm_sim.settings import SimSettings
from batchyard.vllm_sim.testing import running_sim


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start a simulator with the settings given."""
    async with AsyncExitStack() as stack:

        async def start_one(**settings: Any) -> Client:
            sim = await stack.enter_async_context(running_sim(SimSettings(**settings)))
            session = await stack.enter_async_context(aiohttp.ClientSession())
            return Client(sim, session)

        yield start_one


@pytest.fixture
async def client(start: Start) -> Client:
    """A simulator as it is by default."""
    return await start()
