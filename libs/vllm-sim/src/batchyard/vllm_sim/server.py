"""Running the simulator: one process, one port."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import uvloop
from aiohttp import web

from batchyard.vllm_sim.app import STATE, create_app
from batchyard.vllm_sim.identity import DESCRIPTION
from batchyard.vllm_sim.settings import SimSettings
from batchyard.vllm_sim.state import SimState

_BACKLOG = 4096
_SHUTDOWN_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Listening:
    """A simulator that answers: its root URL, without /v1, and its state."""

    url: str
    state: SimState

    @property
    def line(self) -> str:
        """The start-up line for people."""
        return f"{DESCRIPTION} on {self.url}/v1 - model {', '.join(self.state.settings.models)}"


@asynccontextmanager
async def listening(settings: SimSettings) -> AsyncIterator[Listening]:
    """Serve in the running loop while the context is open.

    Raises:
        OSError: if the address cannot be listened on.
    """
    app = create_app(settings)
    runner = web.AppRunner(
        app,
        access_log=None,
        handler_cancellation=True,
        shutdown_timeout=_SHUTDOWN_SECONDS,
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, settings.host, settings.port, backlog=_BACKLOG).start()
        host, port = runner.addresses[0][:2]
        yield Listening(f"http://{f'[{host}]' if ':' in host else host}:{port}", app[STATE])
    finally:
        await runner.cleanup()


async def serve(settings: SimSettings, ready: Callable[[Listening], None]) -> None:
    """Serve until SIGINT or SIGTERM; `ready` is called once the simulator answers.

    Raises:
        OSError: if the address cannot be listened on.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        async with listening(settings) as simulator:
            ready(simulator)
            await stop.wait()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def run(settings: SimSettings, ready: Callable[[Listening], None]) -> None:
    """Serve in a new uvloop; see `serve`."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings, ready))
