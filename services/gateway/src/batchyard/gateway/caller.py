"""Who asks, and how to ask the services behind for them: the dependency of every route that needs a key."""

from dataclasses import dataclass
from typing import Annotated, TypeVar

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from batchyard.common.contracts.base import Command
from batchyard.common.errors import ServiceUnavailable
from batchyard.gateway.auth import Identity
from batchyard.gateway.gateway import Gateway

R = TypeVar("R", bound=BaseModel)

_ATTEMPTS = 3

_bearer = HTTPBearer(auto_error=False, scheme_name="Bearer", description="The key as `Authorization: Bearer <key>`")
_api_key = APIKeyHeader(name="x-api-key", auto_error=False, scheme_name="x-api-key", description="The key alone")


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated client of the gateway."""

    identity: Identity
    gateway: Gateway

    async def call(self, command: Command[R], timeout: float | None = None) -> R:
        """The result of a command, done for the caller's tenant, within `timeout` seconds. Raises ApiError."""
        return await self.gateway.commands.call(self.identity.tenant, command, timeout)

    async def insist(self, command: Command[R]) -> R:
        """The result of an idempotent command, asked for again when no answer comes: a first one may have been lost."""
        attempts = AsyncRetrying(
            retry=retry_if_exception_type(ServiceUnavailable),
            wait=wait_exponential_jitter(multiplier=0.1, max=1),
            stop=stop_after_attempt(_ATTEMPTS),
            reraise=True,
        )
        return await attempts(self.call, command)


async def gateway_of(request: Request) -> Gateway:
    """The gateway that the request came to."""
    gateway: Gateway = request.app.state.gateway
    return gateway


async def identify(
    gateway: Annotated[Gateway, Depends(gateway_of)],
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
    api_key: Annotated[str | None, Security(_api_key)],
) -> Caller:
    """The caller, known by their key before the body is read. Raises AuthenticationFailed."""
    presented = bearer.credentials if bearer is not None else api_key
    return Caller(gateway.keyring.identify(presented), gateway)


TheGateway = Annotated[Gateway, Depends(gateway_of)]
TheCaller = Annotated[Caller, Depends(identify)]
