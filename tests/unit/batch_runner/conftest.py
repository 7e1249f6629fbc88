"""What the tests of batch-runner stand on: a simulated vLLM over HTTP, a local object store, the fleet in between."""

import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from batchyard.batch_runner.attempt import Attempts
from batchyard.batch_runner.fleet import Fleet
from batchyard.batch_runner.pool import Pool
from batchyard.batch_runner.retry import RetryPolicy
from batchyard.batch_runner.settings import RunnerSettings
from batchyard.batch_runner.upstream import AiohttpUpstream
from batchyard.common.clock import SystemClock
from batchyard.common.config import Config, Deployment
from batchyard.common.objects import LocalObjectStore
from batchyard.vllm_sim.settings import SimSettings
from batchyard.vllm_sim.testing import RunningSim, running_sim

MODEL = "my-vllm-model"


@dataclass
class Bench:
    """A fleet of one simulator, and the means to send lines to it."""

    sim: RunningSim
    pool: Pool
    attempts: Attempts
    settings: RunnerSettings


@pytest.fixture
def store(tmp_path: Path) -> LocalObjectStore:
    return LocalObjectStore(tmp_path / "objects")


@pytest.fixture
async def open_bench() -> AsyncIterator[Callable[..., object]]:
    """Opens a bench: `await open_bench(sim=SimSettings(...), request_timeout=…)`."""
    async with AsyncExitStack() as stack:

        async def opened(sim: SimSettings | None = None, **changes: object) -> Bench:
            defaults = {"retry_base": 0.01, "retry_cap": 0.05, "probe_interval": 0.05, "request_timeout": 5.0}
            settings = RunnerSettings(**{**defaults, **changes})  # type: ignore[arg-type]
            running = await stack.enter_async_context(running_sim(sim or SimSettings(port=0)))
            config = Config(
                deployments=(Deployment(id="d", pool=MODEL, model=MODEL, base_url=running.url.removesuffix("/v1")),)
            )
            upstream = await stack.enter_async_context(
                AiohttpUpstream(settings.request_timeout, settings.max_response_bytes)
            )
            clock = SystemClock()
            fleet = Fleet(config, settings, upstream, clock)
            stack.push_async_callback(fleet.close)
            policy = RetryPolicy(settings.max_attempts, settings.max_throttled, settings.retry_base, settings.retry_cap)
            return Bench(running, fleet.pools[MODEL], Attempts(upstream, policy, clock, random.Random(1)), settings)

        yield opened


def chat_line(custom_id: str, prompt: str, **body: object) -> bytes:
    """A request line for the chat endpoint."""
    members = {"model": MODEL, "messages": [{"role": "user", "content": prompt}], **body}
    line = {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": members}
    return json.dumps(line).encode()
