"""The connection to NATS of one process."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from nats.aio.client import Client

from batchyard.common.logs import get_logger

_log = get_logger(__name__)


class Connection(Client):
    """nats-py's client, which tells those who want to know that it has connected anew."""

    def __init__(self) -> None:
        super().__init__()
        self._listeners: set[Callable[[], None]] = set()

    @contextmanager
    def telling(self, listener: Callable[[], None]) -> Iterator[None]:
        """Call `listener`, which must not fail, whenever the connection has come back, while the context is open."""
        self._listeners.add(listener)
        try:
            yield
        finally:
            self._listeners.discard(listener)

    async def on_reconnected(self) -> None:
        """For nats-py to call."""
        _log.info("nats.reconnected")
        for listener in tuple(self._listeners):
            listener()


async def subscribed(connection: Client) -> None:
    """Return once the server knows all subscriptions that were made before.

    By two round trips: nats-py writes a ping at once, and what was to be written before it a moment later.

    Raises:
        nats.errors.Error: The server did not answer, or is away.
    """
    await connection.flush()
    await connection.flush()
