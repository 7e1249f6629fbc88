"""A simulator inside a test: the real server on a free port of loopback, in the test's own loop."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from batchyard.vllm_sim.server import listening
from batchyard.vllm_sim.settings import SimSettings
from batchyard.vllm_sim.state import SimState


class RunningSim:
    """A simulator that answers.

    Attributes:
        url: its root, such as http://127.0.0.1:40001, without /v1.
        state: its parts: `log`, `capacity`, `counters`, `faults`, `healthy`.
    """

    def __init__(self, url: str, state: SimState) -> None:
        self.url = url
        self.state = state

    async def until(self, condition: Callable[[SimState], bool], timeout: float = 10.0) -> None:
        """Return once the condition holds for the state, such as `lambda state: state.capacity.running == 2`.

        Raises:
            TimeoutError: if it does not within `timeout` seconds.
        """
        await self.state.changes.wait_for(lambda: condition(self.state), timeout)


@asynccontextmanager
async def running_sim(settings: SimSettings | None = None) -> AsyncIterator[RunningSim]:
    """Serve the simulator while the context is open, whatever host and port the settings name."""
    chosen = (settings or SimSettings()).model_copy(update={"host": "127.0.0.1", "port": 0})
    async with listening(chosen) as simulator:
        yield RunningSim(simulator.url, simulator.state)
