"""A nats-server that can be stopped and started again on its port, and the connections to it."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Self

from nats.js import JetStreamContext

from batchyard.common.messaging.broker import connection_of, create_broker
from batchyard.common.settings import Settings
from support.nats import running_nats

WAIT_SECONDS = 20.0


class Server:
    """One server, on one port and with one directory, started and stopped as the test wants."""

    def __init__(self, directory: Path, options: Sequence[str] = ()) -> None:
        self._directory = directory
        self.options = options
        self._running = ExitStack()
        self._port = free_port()
        self.url = f"nats://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def start(self) -> None:
        self._running.enter_context(running_nats(self._directory, port=self._port, options=self.options))

    def stop(self) -> None:
        self._running.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def until(condition: Callable[[], object]) -> None:
    """Wait until `condition` holds."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def impatient(settings: Settings) -> AsyncIterator[JetStreamContext]:
    """JetStream through a connection that waits half a second for an answer."""
    broker = create_broker("test", settings)
    connection = await connection_of(broker)
    try:
        yield connection.jetstream(timeout=0.5)
    finally:
        await broker.stop()


Logs = list[Any]


def events(logs: Logs) -> list[str]:
    return [str(record["event"]) for record in logs]
