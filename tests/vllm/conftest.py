"""Whole systems before a real vLLM. Without one every test here is skipped, and says what to set."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from batchyard.cli.running import running_stack
from support.stack import MASTER_KEY, MODEL
from support.systems import System, Yard
from support.vllm import CHAT, EMBEDDING, VllmServer, chosen_vllm, served_model


@dataclass(frozen=True)
class Vllm:
    """A server that answers. `own` is the server of this test run's own, if it is one that may be killed."""

    url: str
    model: str
    max_tokens: int
    own: VllmServer | None


@pytest.fixture(scope="session")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vllm]:
    with chosen_vllm(CHAT, tmp_path_factory.mktemp("vllm")) as (url, own):
        yield Vllm(url, *served_model(url), own)


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vllm]:
    """A server of an embedding model. For one module alone: two servers at once are slow where cores are few."""
    with chosen_vllm(EMBEDDING, tmp_path_factory.mktemp("vllm-embedding")) as (url, own):
        yield Vllm(url, *served_model(url), own)


class Office(System):
    """A Batchyard before a real vLLM, which serves its model as `my-vllm-model`."""

    async def run(self, lines: list[bytes], endpoint: str = "/v1/chat/completions") -> Any:
        """Start a batch over these lines."""
        file = await self.call(
            "POST", "/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", b"\n".join(lines))}
        )
        order = {"input_file_id": file["id"], "endpoint": endpoint, "completion_window": "24h"}
        return await self.call("POST", "/batches", json=order)


@asynccontextmanager
async def office_before(server: Vllm, directory: Path) -> AsyncIterator[Office]:
    """A Batchyard whose one deployment is this server, with small shards, and prices."""
    config = directory / "config.yaml"
    entry = {
        "model_name": MODEL,
        "litellm_params": {
            "model": f"hosted_vllm/{server.model}",
            "api_base": server.url,
            "input_cost_per_token": 0.000001,
            "output_cost_per_token": 0.000002,
        },
    }
    config.write_text(json.dumps({"model_list": [entry], "general_settings": {"master_key": MASTER_KEY}}))
    environment = {"BATCHYARD_PROBE_INTERVAL": "0.5", "BATCHYARD_SHARD_LINES": "100"}
    async with AsyncExitStack() as exits:
        stack = await exits.enter_async_context(
            running_stack(directory / "data", config=config, environment=environment)
        )
        yield Office(stack, await Yard(exits, directory).client())


@pytest.fixture
async def office(vllm: Vllm, tmp_path: Path) -> AsyncIterator[Office]:
    async with office_before(vllm, tmp_path) as office:
        yield office


@pytest.fixture
async def embedding_office(embedder: Vllm, tmp_path: Path) -> AsyncIterator[Office]:
    async with office_before(embedder, tmp_path) as office:
        yield office
