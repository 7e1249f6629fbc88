"""Systems whose programs are killed, paused, stopped and added to."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from batchyard.cli.running import RunningStack, running_stack
from batchyard.cli.supervisor import Restart, RestartPolicy, Supervisor
from batchyard.common.crash import VARIABLE
from support.programs import program_of, variables
from support.stack import config_for
from support.systems import System, Yard

_SERVER_ERROR = 500


class PatientSystem(System):
    """Spoken to as the SDKs do it: what got no answer, or was answered 5xx, is asked again, and says so."""

    async def call(self, method: str, path: str, **options: Any) -> Any:
        response = await self.ask(method, path, **options)
        assert response.status_code == 200, response.text
        return response.json()

    async def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers, retries = options.pop("headers", {}), 0
        async with asyncio.timeout(30):
            while True:
                said = {**headers, "x-stainless-retry-count": str(retries)}
                with suppress(httpx.TransportError):
                    response = await self.http.request(method, f"{self.stack.url}/v1{path}", headers=said, **options)
                    if response.status_code < _SERVER_ERROR:
                        return response
                retries += 1
                await asyncio.sleep(0.1)


class FaultYard(Yard):
    """A yard that knows what its systems' programs ended with, and starts them again at once."""

    def __init__(self, exits: AsyncExitStack, directory: Path) -> None:
        super().__init__(exits, directory)
        self.restarts: list[Restart] = []

    async def system(self, api_base: str, **environment: object) -> PatientSystem:
        stack = await self._exits.enter_async_context(self.stack(api_base, **environment))
        return PatientSystem(stack, await self.client())

    def stack(self, api_base: str, **environment: object) -> Any:
        return running_stack(
            self._directory / "data",
            config=config_for(api_base, self._directory / "config.yaml"),
            environment=variables(environment),
            supervisor=Supervisor(RestartPolicy(first=0.1, factor=1.0), notify=self.restarts.append),
        )


@pytest.fixture
async def yard(tmp_path: Path) -> AsyncIterator[FaultYard]:
    async with AsyncExitStack() as exits:
        yield FaultYard(exits, tmp_path)


@asynccontextmanager
async def armed(
    stack: RunningStack, service: str, point: str, marker: Path, **environment: object
) -> AsyncIterator[None]:
    """Start a service anew so that it dies at a point, the first time it gets there."""
    program = program_of(stack, service)
    armed = {**program.environment, **variables(environment), VARIABLE: f"{point}:{marker}"}
    stack.supervisor.replace(replace(program, environment=armed))
    try:
        await stack.restarted(service, stack.kill(service))
        await stack.ready()
        yield
    finally:
        stack.supervisor.replace(program)


def said(stack: RunningStack, name: str, event: str) -> list[Any]:
    """The lines of a program's log that tell of an event."""
    with suppress(FileNotFoundError):
        lines = stack.layout.log(name).read_bytes().split(b"\n")[:-1]
        return [entry for line in lines if line.startswith(b"{") and (entry := json.loads(line))["event"] == event]
    return []
