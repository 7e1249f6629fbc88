"""Whole systems: every service a process, a simulated vLLM beside them, and a client over HTTP."""

import asyncio
import json
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import httpx

from batchyard.cli.running import RunningStack, running_stack
from batchyard.vllm_sim.answers import chat_text
from batchyard.vllm_sim.settings import SimSettings
from batchyard.vllm_sim.testing import RunningSim, running_sim
from support.stack import MASTER_KEY, MODEL, TOKEN_PRICES, config_for

ENDED = {"completed", "failed", "expired", "cancelled"}


def request_line(custom_id: str, prompt: str) -> bytes:
    body = {"model": MODEL, "messages": [{"role": "user", "content": prompt}]}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}).encode()


def expected_answer(prompt: str) -> str:
    return chat_text([{"role": "user", "content": prompt}], MODEL)


class System:
    """A running Batchyard, spoken to over HTTP."""

    def __init__(self, stack: RunningStack, http: httpx.AsyncClient) -> None:
        self.stack = stack
        self.http = http

    async def call(self, method: str, path: str, **options: Any) -> Any:
        response = await self.http.request(method, f"{self.stack.url}/v1{path}", **options)
        assert response.status_code == 200, response.text
        return response.json()

    async def submit(self, content: bytes) -> Any:
        """Upload an input and start a batch over it."""
        file = await self.call(
            "POST",
            "/files",
            data={"purpose": "batch"},
            files={"file": ("in.jsonl", content)},
            headers={"x-litellm-model": MODEL},
        )
        return await self.call(
            "POST",
            "/batches",
            json={"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"},
        )

    async def until(self, batch_id: str, condition: Callable[[Any], bool], within: float = 60) -> Any:
        """The batch, once it is as wanted; while a service is away, its absence is waited out."""
        async with asyncio.timeout(within):
            while True:
                with suppress(httpx.TransportError):
                    response = await self.http.get(f"{self.stack.url}/v1/batches/{batch_id}")
                    if response.status_code == 200 and condition(response.json()):
                        return response.json()
                await asyncio.sleep(0.05)

    async def ended(self, batch_id: str, within: float = 60) -> Any:
        return await self.until(batch_id, lambda batch: batch["status"] in ENDED, within)

    async def lines(self, file_id: str | None) -> list[Any]:
        """The lines of a result file; none when there is no such file."""
        if file_id is None:
            return []
        response = await self.http.get(f"{self.stack.url}/v1/files/{file_id}/content")
        assert response.status_code == 200, response.text
        return [json.loads(line) for line in response.text.split("\n") if line]

    async def ledger(self, batch_id: str) -> list[Any]:
        """The ledger's entries for a batch, once there is one."""
        async with asyncio.timeout(30):
            while True:
                response = await self.http.get(f"{self.stack.url}/spend/logs", params={"batch_id": batch_id})
                if response.status_code == 200 and response.json()["data"]:
                    entries: list[Any] = response.json()["data"]
                    return entries
                await asyncio.sleep(0.05)


class Yard:
    """Starts systems and simulators that end with the test."""

    def __init__(self, exits: AsyncExitStack, directory: Path) -> None:
        self._exits = exits
        self._directory = directory

    async def sim(self, **settings: Any) -> RunningSim:
        return await self._exits.enter_async_context(running_sim(SimSettings(port=0, **settings)))

    async def system(self, api_base: str, *, prices: Mapping[str, str] = TOKEN_PRICES, **environment: object) -> System:
        stack = await self._exits.enter_async_context(self.stack(api_base, prices=prices, **environment))
        return System(stack, await self.client())

    def stack(self, api_base: str, *, prices: Mapping[str, str] = TOKEN_PRICES, **environment: object) -> Any:
        """The context of a system; entering it again finds the same data."""
        config = config_for(api_base, self._directory / "config.yaml", prices=prices)
        variables = {f"BATCHYARD_{name.upper()}": str(value) for name, value in environment.items()}
        return running_stack(self._directory / "data", config=config, environment=variables)

    async def client(self) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {MASTER_KEY}"}
        return await self._exits.enter_async_context(httpx.AsyncClient(headers=headers, timeout=60, trust_env=False))
