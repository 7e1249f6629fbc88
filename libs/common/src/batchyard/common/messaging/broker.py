"""The one FastStream broker factory. It corrects the defaults that lose or repeat messages."""

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

from faststream._internal.endpoint.subscriber import SubscriberUsecase
from faststream.middlewares import AckPolicy
from faststream.nats import NatsBroker
from faststream.nats.security import NatsToken
from faststream.nats.subscriber.usecases.core_subscriber import ConcurrentCoreSubscriber
from faststream.security import BaseSecurity, SASLPlaintext
from nats.errors import ConnectionClosedError, Error, StaleConnectionError, UnexpectedEOF

from batchyard.common.errors import ConfigurationError
from batchyard.common.logs import get_logger
from batchyard.common.messaging.connection import Connection
from batchyard.common.messaging.permissions import inbox_prefix
from batchyard.common.settings import Settings

_PASSING = (ConnectionClosedError, StaleConnectionError, UnexpectedEOF, OSError)
_FINISH_SECONDS = 10.0
_log = get_logger(__name__)


def create_broker(service: str, settings: Settings, on_lost: Callable[[], None] = lambda: None) -> "Broker":
    """A broker for one process.

    - It reconnects for ever: with a bounded number of attempts FastStream's pull loop spins once they are spent.
    - Acknowledgement is manual unless a subscriber says otherwise: the default throws a message away on an error.
    - It does not log two lines a message; services log what they did instead.

    Args:
        service: The connection's name.
        settings: Where NATS is.
        on_lost: Called when the connection has ended for good, as for a message beyond the server's limit.
    """

    async def on_disconnected() -> None:
        if not broker.stopping:
            _log.warning("nats.disconnected")

    async def on_closed() -> None:
        if not broker.stopping:  # the server refused us for good: nats-py does not try again
            _log.critical("nats.closed")
            broker.lost = True
            on_lost()

    broker = Broker(
        settings.nats_servers,
        name=service,
        security=_security(settings),
        inbox_prefix=inbox_prefix(settings.nats_user),
        max_reconnect_attempts=-1,
        reconnect_time_wait=1,
        connect_timeout=5,
        ping_interval=20,
        disconnected_cb=on_disconnected,
        closed_cb=on_closed,
        ack_policy=AckPolicy.MANUAL,
        graceful_timeout=10.0,
        logger=None,
    )
    return broker


class Broker(NatsBroker):
    """A broker that outlives a refusal, and stops also while the server is away."""

    stopping = False
    lost = False

    async def _connect(self) -> Connection:
        # FastStream raises a refusal out of nats-py's error callback, also in the task that reconnects: one moment
        # without the right credentials would end it. Here only the first connection fails by a refusal.
        connection = Connection()
        callbacks = {"error_cb": self._on_error, "reconnected_cb": connection.on_reconnected}
        try:
            await connection.connect(**{**self._connection_kwargs, **callbacks})
        except BaseException as error:
            self.stopping = True
            with suppress(Error, OSError):
                await connection.close()  # its socket would stay open
            if _is_refusal(error):
                raise ConfigurationError(
                    "NATS refuses the credentials in BATCHYARD_NATS_TOKEN, or BATCHYARD_NATS_USER and _PASSWORD"
                ) from error
            raise
        self.config.connect(connection)
        return connection

    async def _on_error(self, error: Exception) -> None:
        if self._connection is None and _is_refusal(error):
            raise error
        await _log_error(error)

    async def stop(
        self,
        exc_type: type[BaseException] | None = None,
        exc_val: BaseException | None = None,
        exc_tb: TracebackType | None = None,
    ) -> None:
        self.stopping = True
        connection = self._connection
        try:
            try:
                if connection is not None and connection.is_connected:
                    await asyncio.gather(*(_finish(subscriber) for subscriber in self.subscribers))
                await super().stop(exc_type, exc_val, exc_tb)
            finally:
                if connection is not None:
                    await connection.close()
        except* (Error, OSError) as errors:
            _log.warning("nats.not_drained", error=repr(errors.exceptions[0]))


async def _finish(subscriber: SubscriberUsecase[Any]) -> None:
    """Answer the commands that have arrived: FastStream itself forgets those that still wait for a worker."""
    if not isinstance(subscriber, ConcurrentCoreSubscriber) or subscriber.subscription is None:
        return
    subscription: Any = subscriber.subscription
    subscriber.subscription = None
    await subscription.drain()
    idle_rounds = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(_FINISH_SECONDS):
            # A command passes from the buffer to a worker between two rounds of the loop, and is then seen in neither.
            while idle_rounds < 5:
                waiting = subscriber.send_stream.statistics().current_buffer_used
                busy = subscriber.max_workers - subscriber.limiter.value
                idle_rounds = 0 if waiting or busy else idle_rounds + 1
                await asyncio.sleep(0 if idle_rounds else 0.005)


async def connection_of(broker: NatsBroker) -> Connection:
    """The connected nats-py client below `broker`: for KV, pull loops and plain publishing.

    Raises:
        ConfigurationError: The server refuses the credentials.
    """
    await broker.connect()
    client: Any = broker.config.broker_config.connection_state.connection
    assert isinstance(client, Connection)
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


def _is_refusal(error: BaseException) -> bool:
    return isinstance(error, Error) and "authorization violation" in str(error).lower()


async def _log_error(error: Exception) -> None:
    # A denied publish is reported here and nowhere else: the publisher itself only sees a timeout.
    if isinstance(error, Error) and "permissions violation" in str(error).lower():
        _log.critical("nats.permission_denied", error=str(error))
    elif isinstance(error, _PASSING):
        _log.warning("nats.connection_trouble", error=repr(error))
    else:
        _log.error("nats.error", error=repr(error))
