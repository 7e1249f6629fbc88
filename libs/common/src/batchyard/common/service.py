"""How every service process starts and stops."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import uvloop
from faststream.nats import NatsBroker
from nats.errors import ConnectionReconnectingError, Error
from nats.js import JetStreamContext
from pydantic import ValidationError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_delay, wait_exponential_jitter

from batchyard.common.errors import BatchyardError, ConfigurationError
from batchyard.common.logs import configure_logging, get_logger
from batchyard.common.messaging.broker import connection_of, create_broker
from batchyard.common.messaging.connection import Connection
from batchyard.common.messaging.presence import TopologyMissing, check_topology
from batchyard.common.messaging.topology import TooFewServers, declare_streams
from batchyard.common.operations import Operations, open_operations
from batchyard.common.reloading import reload_asked
from batchyard.common.secret_files import adopt_secret_files
from batchyard.common.settings import Settings
from batchyard.common.tasks import end

_JETSTREAM_PATIENCE = 60.0
_JOINING_PATIENCE = 10.0
_log = get_logger(__name__)
_stop_asked: ContextVar[asyncio.Event | None] = ContextVar("_stop_asked", default=None)

S = TypeVar("S", bound=Settings)
T = TypeVar("T")
Serve = Callable[[asyncio.Event], Awaitable[None]]


class _StoppedBeforeStart(BatchyardError):
    """The process was told to stop while it still waited for what it needs."""


class MessagingLost(BatchyardError):
    """The connection to NATS has ended and will not come back by itself."""


@dataclass(frozen=True, slots=True)
class Messaging:
    """One process' connection to NATS, with the whole topology declared."""

    broker: NatsBroker
    connection: Connection
    js: JetStreamContext

    async def check(self) -> None:
        """Raise when the connection is away.

        Not by a flush: when nats-py gives up on one, the late answer to it ends the connection's reader.
        """
        if not self.connection.is_connected:
            raise ConnectionReconnectingError


@asynccontextmanager
async def open_messaging(service: str, settings: Settings) -> AsyncIterator[Messaging]:
    """Connect, wait until JetStream answers, declare the topology, or wait for it; drain and close at the end.

    The broker is connected but not started: include routers, then `await broker.start()`.
    """
    stop = _stop_asked.get()
    broker = create_broker(service, settings, on_lost=stop.set if stop is not None else lambda: None)
    try:
        yield await _unless_stopped(_connect(service, broker, settings))
    finally:
        await broker.stop()
    if broker.lost:
        # Better to be started anew than to live on without a connection.
        raise MessagingLost("the connection to NATS was closed by the server")


async def _connect(service: str, broker: NatsBroker, settings: Settings) -> Messaging:
    connection = await connection_of(broker)
    js = connection.jetstream(timeout=10)
    async for attempt in AsyncRetrying(
        retry=retry_if_exception_type((Error, OSError, TopologyMissing)),
        wait=wait_exponential_jitter(multiplier=0.1, max=2),
        stop=stop_after_delay(_JETSTREAM_PATIENCE),
        reraise=True,
    ):
        with attempt:
            if settings.declare_topology:
                await _declare(js, settings)
            else:
                await check_topology(js, settings, service)
    return Messaging(broker, connection, js)


async def _declare(js: JetStreamContext, settings: Settings) -> None:
    """A cluster that all find by one address answers while it grows as one that will stay too small."""
    async for attempt in AsyncRetrying(
        retry=retry_if_exception_type(TooFewServers),
        wait=wait_exponential_jitter(multiplier=0.1, max=2),
        stop=stop_after_delay(_JOINING_PATIENCE),
        before_sleep=_tell_too_few,
        reraise=True,
    ):
        with attempt:
            await declare_streams(js, settings)


def _tell_too_few(state: RetryCallState) -> None:
    if state.attempt_number == 1 and state.outcome is not None:
        _log.warning("nats.too_few_servers", error=str(state.outcome.exception()))


async def _unless_stopped(work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, given up when the process is told to stop: the wait for a server has no end."""
    stop = _stop_asked.get()
    if stop is None:
        return await work
    working, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise _StoppedBeforeStart
        return working.result()
    finally:
        await end((working, stopping))


def run_service(service: str, settings_type: type[S], serve: Callable[[S], Serve]) -> NoReturn:
    """Run one service until SIGTERM or SIGINT, then exit: 0 stopped, 1 failed, 2 misconfigured.

    SIGHUP asks for the configuration to be read again (`reloading`), and does nothing where there is none.

    Args:
        service: The process' name in logs and on its NATS connection.
        settings_type: The settings to read from the environment, and from the files that stand for variables of it.
        serve: Given the settings, a coroutine function that works until the event it is given is set.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until somebody listens, whose reading is newer than the signal
    try:
        adopt_secret_files(os.environ)
        settings = settings_type()
    except ConfigurationError as error:
        print(f"{service}: {error}", file=sys.stderr)  # noqa: T201  logging is not configured yet
        sys.exit(2)
    except ValidationError as error:
        for problem in error.errors(include_url=False, include_input=False, include_context=False):
            name = "_".join(("BATCHYARD", *map(str, problem["loc"]))).upper()
            print(f"{service}: {name}: {problem['msg']}", file=sys.stderr)  # noqa: T201  logging is not configured yet
        sys.exit(2)
    configure_logging(service, settings.log_level, settings.log_format)
    try:
        uvloop.run(_until_stopped(service, settings, serve(settings)))
    except ConfigurationError as error:
        _log.critical("service.misconfigured", error=str(error))
        sys.exit(2)
    except Exception:  # noqa: BLE001  the outermost frame: whatever it was ends in the log and an exit code
        _log.exception("service.failed")
        sys.exit(1)
    sys.exit(0)


async def _until_stopped(service: str, settings: Settings, serve: Serve) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    reload = asyncio.Event()
    loop.add_signal_handler(signal.SIGHUP, reload.set)
    reload_asked.set(reload)
    _stop_asked.set(stop)
    async with _operations(service, settings, stop):
        with suppress(_StoppedBeforeStart):
            await serve(stop)
    _log.info("service.stopped")


@asynccontextmanager
async def _operations(service: str, settings: Settings, stop: asyncio.Event) -> AsyncIterator[None]:
    """The port for those who run the service, if there is to be one: before anything is waited for."""
    if settings.operations_port is None:
        yield
        return
    from batchyard.common.operations_port import listening  # noqa: PLC0415  it costs those who have none a tenth of a second

    operations = Operations(service, stop)
    open_operations.set(operations)
    async with listening(operations, settings.operations_host, settings.operations_port):
        yield
