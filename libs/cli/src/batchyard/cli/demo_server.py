"""The model server of the demo: a simulator, or the server that HOSTED_VLLM_API_BASE names."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from batchyard.cli.failures import Failure
from batchyard.vllm_sim.server import listening
from batchyard.vllm_sim.settings import SimSettings

_PRICES = {"input_cost_per_token": "0.00000015", "output_cost_per_token": "0.0000006"}

# The simulator takes its time, so that there is progress to watch: about so many seconds for all lines together.
_SIM_SECONDS = 5.0
_SIM_AT_ONCE = 32
_SIM_SLOWEST = 0.5


@dataclass(frozen=True, slots=True)
class ModelServer:
    """Who answers.

    Attributes:
        url: Its root or its /v1.
        model: The name under which it knows the model.
        is_simulator: Whether there is no model behind it.
    """

    url: str
    model: str
    is_simulator: bool

    def config(self, model_name: str, master_key: str) -> str:
        """A config.yaml that has this server answer for `model_name`. JSON is YAML."""
        params = {"model": f"hosted_vllm/{self.model}", "api_base": self.url}
        if self.is_simulator:
            params |= _PRICES
        document = {
            "model_list": [{"model_name": model_name, "litellm_params": params}],
            "general_settings": {"master_key": master_key},
        }
        return json.dumps(document, indent=2)

    def write_config(self, path: Path, model_name: str, master_key: str) -> Path:
        path.touch(mode=0o600)
        path.write_text(self.config(model_name, master_key), encoding="utf-8")
        return path


@asynccontextmanager
async def model_server(model: str, lines: int, environ: Mapping[str, str]) -> AsyncIterator[ModelServer]:
    """The server that the environment names, or else a simulator of `model` while the context is open.

    Raises:
        Failure: The server named does not answer.
    """
    base = environ.get("HOSTED_VLLM_API_BASE")
    if base:
        yield await _own(base, model, environ.get("HOSTED_VLLM_API_KEY"))
        return
    async with listening(sim_settings(model, lines)) as simulator:
        yield ModelServer(simulator.url, model, is_simulator=True)


def sim_settings(model: str, lines: int) -> SimSettings:
    """A simulator that takes a few seconds for a few hundred lines, and no longer than it must for many."""
    pause = min(_SIM_SLOWEST, _SIM_SECONDS * _SIM_AT_ONCE / lines)
    return SimSettings(
        port=0,
        models=(model,),
        base_latency=pause / 2,
        token_latency=pause / 40,
        max_num_seqs=_SIM_AT_ONCE if lines <= 1000 else 256,
    )


async def _own(base: str, wanted: str, key: str | None) -> ModelServer:
    root = base.rstrip("/").removesuffix("/v1")
    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        async with httpx.AsyncClient(headers=headers, timeout=10.0) as client:
            answer = (await client.get(f"{root}/v1/models")).raise_for_status()
        body: Any = answer.json()
        names = [str(model["id"]) for model in body["data"]]
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, LookupError, TypeError) as error:
        raise Failure(f"HOSTED_VLLM_API_BASE={base}: {root}/v1/models does not list models: {error}") from error
    if not names:
        raise Failure(f"HOSTED_VLLM_API_BASE={base}: the server serves no model.")
    return ModelServer(root, wanted if wanted in names else names[0], is_simulator=False)
