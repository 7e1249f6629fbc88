"""The client: one connection to NATS, and what can be done over it."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from nats.aio.client import Client as Connection
from nats.errors import Error

from batchyard.common.client.batches import Batches
from batchyard.common.client.files import Files
from batchyard.common.client.session import Denials, Session
from batchyard.common.client.settings import ClientSettings
from batchyard.common.client.transfer import open_transfer
from batchyard.common.errors import AuthenticationFailed, ServiceUnavailable
from batchyard.common.logs import get_logger
from batchyard.common.messaging.permissions import inbox_prefix

_log = get_logger(__name__)


class Client:
    """Batchyard for one tenant; made by `connect`.

    Attributes:
        files: Upload, read, list and delete files.
        batches: Make batches, follow them, read their results.
    """

    def __init__(self, files: Files, batches: Batches) -> None:
        self.files = files
        self.batches = batches


@asynccontextmanager
async def connect(settings: ClientSettings | None = None, **given: Any) -> AsyncIterator[Client]:
    """A client, connected while the context is open. It comes back by itself after NATS was away.

    Args:
        settings: Where and who; by default from the environment.
        given: Single settings instead of those: `tenant="reports"`.

    Raises:
        AuthenticationFailed: NATS refuses user, password or token.
        ServiceUnavailable: NATS did not answer within `connect_timeout`.
        ConfigurationError: The object store cannot be used.
    """
    settings = (settings or ClientSettings(**given)).model_copy(update=given if settings else {})
    denials = Denials()
    async with AsyncExitStack() as exits:
        transfer = await exits.enter_async_context(open_transfer(settings))
        connection = Connection()
        session = Session(connection, settings.tenant, settings.command_timeout, denials)
        await _open(connection, session, denials, settings)
        exits.push_async_callback(connection.close)
        files = Files(session, transfer)
        yield Client(files, Batches(session, files))


async def _open(connection: Connection, session: Session, denials: Denials, settings: ClientSettings) -> None:
    is_open = False

    async def on_error(error: Exception) -> None:
        if not is_open and _is_refusal(error):
            raise error  # nats-py would try again and again
        denials.note(error)
        _log.warning("nats.error", error=str(error) or repr(error))

    async def on_reconnected() -> None:
        session.wake()

    servers = [url.strip() for url in settings.nats_url.split(",") if url.strip()]
    options: dict[str, Any] = {
        "servers": servers,
        "name": f"batchyard client of {settings.tenant}"[:100],
        "inbox_prefix": inbox_prefix(settings.nats_user),
        "max_reconnect_attempts": -1,
        "reconnect_time_wait": 1,
        "connect_timeout": 5,
        "error_cb": on_error,
        "reconnected_cb": on_reconnected,
    }
    if settings.nats_token is not None:
        options["token"] = settings.nats_token.get_secret_value()
    elif settings.nats_user is not None:
        options["user"] = settings.nats_user
        options["password"] = settings.nats_password.get_secret_value() if settings.nats_password else ""
    if any(server.startswith("tls://") for server in servers):
        options["tls"] = ssl.create_default_context()
    try:
        async with asyncio.timeout(settings.connect_timeout):
            await connection.connect(**options)
        is_open = True
    except (Error, OSError) as error:  # asyncio's TimeoutError is an OSError
        await connection.close()
        if _is_refusal(error):
            raise AuthenticationFailed("NATS refuses this user and password, or this token.") from error
        raise ServiceUnavailable(f"NATS did not answer within {settings.connect_timeout:g} s.") from error


def _is_refusal(error: Exception) -> bool:
    return "authorization violation" in str(error).lower()
