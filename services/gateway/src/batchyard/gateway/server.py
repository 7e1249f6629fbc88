"""uvicorn inside our own loop: it serves until our event is set, and leaves the signals to us."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from batchyard.common.listening import BACKLOG
from batchyard.common.logs import get_logger
from batchyard.gateway.connection import connection_class
from batchyard.gateway.settings import GatewaySettings

_log = get_logger(__name__)


async def serve_until(stop: asyncio.Event, app: ASGIApp, listener: socket.socket, settings: GatewaySettings) -> None:
    """Serve `app` until `stop` is set; running requests have `shutdown_timeout` seconds to end."""
    server = _Server(
        uvicorn.Config(
            app,
            http=connection_class(settings.max_head_bytes, settings.read_timeout),
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=settings.keep_alive_timeout,
            timeout_graceful_shutdown=settings.shutdown_timeout,
        )
    )
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(server.serve(sockets=[listener]))
        stopping = tasks.create_task(_pass_on(stop, server))
        await serving
        stopping.cancel()
    if aborted := server.server_state.tasks:
        await asyncio.wait(aborted)  # they were cancelled, and are still cleaning up after themselves


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to `run_service`."""
        yield


async def _pass_on(stop: asyncio.Event, server: uvicorn.Server) -> None:
    await stop.wait()
    server.should_exit = True


def announce(listener: socket.socket, port_file: Path | None) -> None:
    """Say in the log, and in `port_file` if there is to be one, where the gateway listens."""
    host, port = listener.getsockname()[:2]
    _log.info("gateway.listening", host=host, port=port)
    if port_file is not None:
        unfinished = port_file.with_name(f"{port_file.name}.tmp")
        unfinished.write_text(str(port))
        unfinished.replace(port_file)
