"""Waiting for the simulator to reach a state, without polling."""

import asyncio
from collections.abc import Callable


class Changes:
    """Wakes whoever waits for a condition each time something has changed; costs next to nothing otherwise."""

    def __init__(self) -> None:
        self._waiters: list[asyncio.Future[None]] = []

    def notify(self) -> None:
        """Let every waiter look again."""
        if self._waiters:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    async def wait_for(self, condition: Callable[[], bool], timeout: float = 10.0) -> None:
        """Return once the condition holds.

        Raises:
            TimeoutError: if it does not within `timeout` seconds.
        """
        async with asyncio.timeout(timeout):
            while not condition():
                waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._waiters.append(waiter)
                await waiter
