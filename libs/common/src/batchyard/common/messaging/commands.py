"""Commands over NATS: the caller's client and the service's router, with one typed reply between them."""

from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any, TypeVar, cast

from faststream import ExceptionMiddleware, Path
from faststream.nats import NatsRouter
from nats.aio.client import Client
from nats.errors import Error, NoRespondersError
from pydantic import BaseModel, ValidationError

from batchyard.common import subjects
from batchyard.common.contracts.base import Command, Reply
from batchyard.common.errors import ApiError, InternalError, InvalidRequest, ServiceUnavailable
from batchyard.common.logs import get_logger
from batchyard.common.messaging.permissions import COMMAND_OWNERS

R = TypeVar("R", bound=BaseModel)

DEFAULT_TIMEOUT = 10.0
_CONCURRENT_COMMANDS = 64
_HEADERS = {"content-type": "application/json"}
_log = get_logger(__name__)


class CommandClient:
    """Sends commands and waits for their replies.

    Args:
        connection: A connected nats-py client.
        timeout: Seconds to wait for a reply, unless a call says otherwise.
    """

    def __init__(self, connection: Client, timeout: float = DEFAULT_TIMEOUT) -> None:
        self._connection = connection
        self._timeout = timeout

    async def call(self, tenant: str, command: Command[R], timeout: float | None = None) -> R:
        """The result of `command`, done for `tenant`.

        Raises:
            ApiError: What the service answered.
            ServiceUnavailable: Nobody listens, nobody answered in time, or NATS is away.
        """
        owner = owner_of(type(command))
        try:
            message = await self._connection.request(
                command.subject(tenant),
                command.model_dump_json(exclude_none=True).encode(),
                timeout=self._timeout if timeout is None else timeout,
                headers=_HEADERS,
            )
        except NoRespondersError as error:
            raise ServiceUnavailable(f"The {owner} service is not running. Please retry shortly.") from error
        except (Error, OSError) as error:
            raise ServiceUnavailable(f"The {owner} service did not answer. Please retry shortly.") from error
        try:
            reply = _reply_type(command.result).model_validate_json(message.data)
        except ValidationError as error:
            raise InternalError(f"The {owner} service gave an answer that cannot be read.") from error
        if reply.error is not None:
            raise ApiError.from_body(reply.error)
        return cast("R", reply.result)


def owner_of(command: type[Command[Any]]) -> str:
    """The service that answers a command."""
    return COMMAND_OWNERS.get(command.noun, command.verb)


@cache
def _reply_type(result: type[BaseModel]) -> type[Reply[Any]]:
    return Reply[result]  # type: ignore[valid-type]


def _api_error(error: ApiError) -> Reply[Any]:
    return Reply(error=error.body())


def _validation_error(error: ValidationError) -> Reply[Any]:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    param = ".".join(str(part) for part in first["loc"] if part != "command") or None
    return Reply(error=InvalidRequest(f"{param or 'The command'}: {first['msg']}", param=param).body())


def _unexpected_error(error: Exception) -> Reply[Any]:
    _log.error("command.failed", exc_info=error)
    return Reply(error=InternalError("The server had an error while processing your request.").body())


async def _decoded(message: Any, decode: Callable[[Any], Awaitable[Any]]) -> Any:
    """A command as Python's values. Raises InvalidRequest for what no JSON parser reads.

    One that asks for its answer anywhere but in an inbox gets none: a service may publish where its callers may not.
    """
    if message.reply_to and not message.reply_to.startswith(f"{subjects.INBOX}."):
        _log.warning("command.reply_refused", reply=message.reply_to[:200], subject=message.raw_message.subject[:200])
        message.reply_to = ""
        raise InvalidRequest("A command is answered in an inbox alone.")
    try:
        return await decode(message)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("The command is not valid JSON.", code="invalid_json") from error


class CommandRouter(NatsRouter):
    """The commands of one service, answered by all its replicas in turn.

    Every failure is answered with an error in the reply: without that a caller would only see a timeout.
    """

    def __init__(self, service: str) -> None:
        answers: dict[type[Exception], Callable[..., Reply[Any]]] = {
            ApiError: _api_error,
            ValidationError: _validation_error,
            Exception: _unexpected_error,
        }
        super().__init__(middlewares=[ExceptionMiddleware(publish_handlers=answers)], decoder=_decoded)
        self._service = service

    def on(self, command: type[Command[R]], handler: Callable[[str, Any], Awaitable[R]]) -> None:
        """Let `handler(tenant, command)` answer `command`."""

        async def endpoint(command: Any, tenant: str = Path()) -> Reply[Any]:
            try:
                return Reply(result=await handler(_tenant(tenant), command))
            except ValidationError as error:  # of a value of our own: the caller's was read before
                return _unexpected_error(error)

        endpoint.__annotations__ = {"command": command, "tenant": str, "return": Reply[command.result]}  # type: ignore[name-defined]
        endpoint.__name__ = f"{command.noun}_{command.verb}".replace("-", "_")
        endpoint.__doc__ = command.__doc__
        self.subscriber(
            command.pattern(),
            queue=self._service,
            max_workers=_CONCURRENT_COMMANDS,
            title=f"{command.noun}.{command.verb}",
        )(endpoint)


def _tenant(token: str) -> str:
    try:
        return subjects.decode_token(token)
    except ValueError as error:
        raise InvalidRequest("The subject's tenant is not an encoded token.", param="tenant") from error
