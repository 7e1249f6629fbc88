"""When the system can work: the gateway's `/health/readiness`, asked until it says so."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import httpx
from pydantic import BaseModel, ValidationError

from batchyard.cli.waiting import until_found
from batchyard.common.contracts.health import Health

_POLL = 0.1
_PROBE_TIMEOUT = 5.0


class Readiness:
    """Waits for the gateway, and remembers what stood in the way last.

    Attributes:
        problems: What is not ready yet and why, by the name of the service.
    """

    def __init__(self) -> None:
        self.problems: Mapping[str, str] = {"gateway": "has not said yet where it listens"}

    async def port(self, file: Path) -> int:
        """Wait until the gateway has written the port that it listens on."""
        return await until_found(lambda: _number_in(file))

    async def ready(self, url: str) -> None:
        """Wait until the gateway at `url` and every service behind it are ready."""
        # Loopback is never behind the proxy that the environment may name.
        async with httpx.AsyncClient(base_url=url, timeout=_PROBE_TIMEOUT, trust_env=False) as client:
            while True:
                try:
                    answer = await client.get("/health/readiness")
                except httpx.HTTPError as error:
                    self.problems = {"gateway": f"does not answer ({type(error).__name__})"}
                else:
                    if answer.status_code == httpx.codes.OK:
                        self.problems = {}
                        return
                    self.problems = _problems(answer)
                await asyncio.sleep(_POLL)


def _number_in(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (FileNotFoundError, ValueError):
        return None


class _Answer(BaseModel):
    services: dict[str, Health]


def _problems(answer: httpx.Response) -> Mapping[str, str]:
    try:
        services = _Answer.model_validate_json(answer.content).services
    except ValidationError:
        services = {}
    found = {name: _reason(health) for name, health in services.items() if health.status != "ok"}
    return found or {"gateway": f"answers with status {answer.status_code}"}


def _reason(health: Health) -> str:
    failing = [f"{name}: {said}" for name, said in health.checks.items() if said != "ok"]
    return "; ".join(failing) or health.status
