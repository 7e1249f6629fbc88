"""The one FastStream broker factory. It corrects the defaults that lose or repeat messages."""

import ssl
from typing import Any

from batchyard.common.logs import get_logger
from batchyard.common.settings import Settings
from faststream.middlewares import AckPolicy
from faststream.nats import NatsBroker
from faststream.nats.security import NatsToken
from faststream.security import BaseSecurity, SASLPlaintext
from nats.aio.client import Client
from nats.errors import ConnectionClosedError, Error, StaleConnectionError, UnexpectedEOF

_PASSING = (ConnectionClosedError, StaleConnectionError, UnexpectedEOF, OSError)
_log = get_logger(__name__)


def create_broker(service: str, settings: Settings) -> NatsBroker:
    """A broker for one process.

    - It reconnects for ever: with a bounded number of attempts FastStream's pull loop spins once they are spent.
    - Acknowledgement is manual unless a subscriber says otherwise: the default throws a message away on an error.
    - It does not log two lines a message; services log what they did instead.
    """
    return NatsBroker(
        settings.nats_servers,
        name=service,
        security=_security(settings),
        max_reconnect_attempts=-1,
        reconnect_time_wait=1,
        connect_timeout=5,
        ping_interval=20,
        error_cb=_on_error,
        disconnected_cb=_on_disconnected,
        reconnected_cb=_on_reconnected,
        ack_policy=AckPolicy.MANUAL,
        graceful_timeout=10.0,
        logger=None,
    )


async def connection_of(broker: NatsBroker) -> Client:
    """The connected nats-py client below `broker`: for KV, pull loops and plain publishing."""
    await broker.connect()
    client: Any = broker.config.broker_config.connection_state.connection
    assert isinstance(client, Client)
    return client


def _security(settings: Settings) -> BaseSecurity | None:
    use_tls = any(url.startswith("tls://") for url in settings.nats_servers)
    context = ssl.create_default_context() if use_tls else None
    if settings.nats_token is not None:
        return NatsToken(settings.nats_token.get_secret_value(), ssl_context=context, use_ssl=use_tls)
    if settings.nats_user is not None:
        password = settings.nats_password.get_secret_value() if settings.nats_password else ""
        return SASLPlaintext(settings.nats_user, password, ssl_context=context, use_ssl=use_tls)
    return BaseSecurity(ssl_context=context, use_ssl=True) if use_tls else None


async def _on_error(error: Exception) -> None:
    # A denied publish is reported here and nowhere else: the publisher itself only sees a timeout.
    if isinstance(error, Error) and "permissions violation" in str(error).lower():
        _log.critical("nats.permission_denied", error=str(error))
    elif isinstance(error, _PASSING):
        _log.warning("nats.connection_trouble", error=repr(error))
    else:
        _log.error("nats.error", error=repr(error))


async def _on_disconnected() -> None:
    _log.warning("nats.disconnected")


async def _on_reconnected() -> None:
    _log.info("nats.reconnected")
