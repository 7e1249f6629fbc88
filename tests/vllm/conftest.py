"""Whole systems before a real vLLM. Without one every test here is skipped, and says what to set."""

import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from batchyard.cli.running import running_stack
from support.stack import MASTER_KEY, MODEL
from support.systems import System, Yard
from support.vllm import MISSING, URL, VllmServer, own_vllm, served_model


@dataclass(frozen=True)
class Vllm:
    """A server that answers. `own` is the server of this test run's own, if it is one that may be killed."""

    url: str
    model: str
    max_tokens: int
    own: VllmServer | None


@pytest.fixture(scope="session")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vllm]:
    with own_vllm(tmp_path_factory.mktemp("vllm")) as own:
        url = own.url if own else os.environ.get(URL, "").rstrip("/").removesuffix("/v1")
        if not url:
            pytest.skip(MISSING)
        model, max_tokens = served_model(url)
        yield Vllm(url, model, max_tokens, own)


class Office(System):
    """A Batchyard before a real vLLM, which serves its model as `my-vllm-model`."""

    async def run(self, lines: list[bytes], endpoint: str = "/v1/chat/completions") -> Any:
        """Start a batch over these lines."""
        file = await self.call(
            "POST", "/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", b"\n".join(lines))}
        )
        order = {"input_file_id": file["id"], "endpoint": endpoint, "completion_window": "24h"}
        return await self.call("POST", "/batches", json=order)


@pytest.fixture
async def office(vllm: Vllm, tmp_path: Path) -> AsyncIterator[Office]:
    config = tmp_path / "config.yaml"
    entry = {
        "model_name": MODEL,
        "litellm_params": {
            "model": f"hosted_vllm/{vllm.model}",
            "api_base": vllm.url,
            "max_parallel_requests": 32,
            "input_cost_per_token": 0.000001,
            "output_cost_per_token": 0.000002,
        },
    }
    config.write_text(json.dumps({"model_list": [entry], "general_settings": {"master_key": MASTER_KEY}}))
    environment = {"BATCHYARD_PROBE_INTERVAL": "0.5", "BATCHYARD_SHARD_LINES": "100"}
    async with AsyncExitStack() as exits:
        stack = await exits.enter_async_context(
            running_stack(tmp_path / "data", config=config, environment=environment)
        )
        yield Office(stack, await Yard(exits, tmp_path).client())
