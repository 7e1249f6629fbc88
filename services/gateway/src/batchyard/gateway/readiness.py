"""Whether the gateway, and everything behind it, can work now."""

import asyncio
from typing import Literal

from pydantic import BaseModel

from batchyard.common.contracts.access import DEFAULT_TENANT
from batchyard.common.contracts.health import CheckBatchRunner, CheckBilling, CheckFileStore, CheckHealth, Health
from batchyard.common.errors import ApiError
from batchyard.gateway.gateway import Gateway

_CHECKS: tuple[CheckHealth, ...] = (CheckFileStore(), CheckBatchRunner(), CheckBilling())


class Readiness(BaseModel):
    """`ok` when every service is; by name, what each of them said."""

    status: Literal["ok", "unhealthy"]
    services: dict[str, Health]


async def readiness(gateway: Gateway) -> Readiness:
    """Ask everybody at once; nobody is waited for longer than `health_timeout` seconds."""
    answers = await asyncio.gather(
        gateway.health.check(DEFAULT_TENANT, CheckHealth()),
        *(_health(gateway, check) for check in _CHECKS),
    )
    is_ok = all(answer.status == "ok" for answer in answers)
    return Readiness(status="ok" if is_ok else "unhealthy", services={answer.service: answer for answer in answers})


async def _health(gateway: Gateway, check: CheckHealth) -> Health:
    try:
        return await gateway.commands.call(DEFAULT_TENANT, check, timeout=gateway.settings.health_timeout)
    except ApiError as error:
        return Health(service=check.verb, status="unhealthy", checks={"reply": error.message})
