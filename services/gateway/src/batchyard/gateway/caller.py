"""Who asks, and how to ask the services behind for them: the dependency of every route that needs a key."""

from dataclasses import dataclass
from typing import Annotated, TypeVar

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from batchyard.common.contracts.access import Limits
from batchyard.common.contracts.base import Command
from batchyard.common.errors import NotFound, PermissionDenied, ServiceUnavailable
from batchyard.gateway.auth import TEAM_HEADER, Identity
from batchyard.gateway.gateway import Gateway
from batchyard.gateway.request_context import exchange_of
from batchyard.gateway.request_limits import Refused

R = TypeVar("R", bound=BaseModel)

_ATTEMPTS = 3

_bearer = HTTPBearer(auto_error=False, scheme_name="Bearer", description="The key as `Authorization: Bearer <key>`")
_api_key = APIKeyHeader(name="x-api-key", auto_error=False, scheme_name="x-api-key", description="The key alone")


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated client of the gateway."""

    identity: Identity
    gateway: Gateway

    @property
    def key_models(self) -> tuple[str, ...]:
        """The models that the key itself may name; none: all that the team may."""
        return () if self.identity.key is None else self.identity.key.models

    @property
    def key_limits(self) -> Limits | None:
        """What the key itself may do; None for one without a record."""
        return None if self.identity.key is None else self.identity.key.limits

    def check_model(self, model: str | None) -> None:
        """Raise PermissionDenied for a model that the caller may not use."""
        self.gateway.model_rules.check(self.identity, model)

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
    request: Request,
    gateway: Annotated[Gateway, Depends(gateway_of)],
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
    api_key: Annotated[str | None, Security(_api_key)],
) -> Caller:
    """The caller, known by their key before the body is read.

    Raises what `Keyring.identify` does, and Refused when the key or its team makes too many requests.
    """
    presented = bearer.credentials if bearer is not None else api_key
    team_id = request.headers.get(TEAM_HEADER)
    try:
        identity = gateway.keyring.identify(presented, team_id)
    except NotFound:
        # Who has the master key may name a team that another gateway has made just now.
        if team_id is None or not await gateway.directory.look_up_team(team_id):
            raise
        identity = gateway.keyring.identify(presented, team_id)
    exchange = exchange_of(request.scope)
    try:
        admitted = gateway.request_limits.admit(identity)
    except Refused as error:
        exchange.headers.update(error.headers)
        raise
    exchange.headers.update(admitted.headers)
    exchange.at_end.callback(admitted.leave)
    return Caller(identity, gateway)


async def operate(caller: Annotated[Caller, Depends(identify)]) -> Caller:
    """The caller, who runs this: who has the master key, or anybody where there is none. Raises PermissionDenied."""
    if not caller.identity.is_admin:
        raise PermissionDenied("Only the master key may do this.", code="master_key_required")
    return caller


async def administrate(caller: Annotated[Caller, Depends(operate)]) -> Caller:
    """The caller, who has the master key. Raises PermissionDenied."""
    if caller.gateway.keyring.is_open:
        raise PermissionDenied(
            "There is no master key, so no key is asked for and none can be made: set general_settings.master_key or "
            "BATCHYARD_MASTER_KEY.",
            code="no_master_key",
        )
    return caller


TheGateway = Annotated[Gateway, Depends(gateway_of)]
TheCaller = Annotated[Caller, Depends(identify)]
TheOperator = Annotated[Caller, Depends(operate)]
TheAdmin = Annotated[Caller, Depends(administrate)]
