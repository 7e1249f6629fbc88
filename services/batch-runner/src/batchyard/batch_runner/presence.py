"""Which runners there are: each says so every few seconds, and one that has not said it for a while is gone."""

import asyncio
import os
import platform
from contextlib import suppress

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error

from batchyard.common import subjects
from batchyard.common.clock import Clock

_SAID_EVERY = 5.0
_GONE_AFTER = 16.0
_HERE, _GONE = b"here ", b"gone "


def runner_name() -> str:
    """What this process is called among runners."""
    return f"{platform.node()}-{os.getpid()}"


class Presence:
    """Says that this runner is here, and hears it of the others."""

    def __init__(self, connection: Client, name: str, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock
        self._heard: dict[str, float] = {}
        self.name = name

    @property
    def others(self) -> frozenset[str]:
        """The other runners that there are."""
        now = self._clock.monotonic()
        self._heard = {name: at for name, at in self._heard.items() if now - at <= _GONE_AFTER}
        return frozenset(self._heard)

    @property
    def is_first(self) -> bool:
        """Whether this is the one, among all runners, that does what one of them has to do."""
        return all(self.name < other for other in self.others)

    async def listen(self) -> None:
        """Hear of the others from now on, and let them know."""
        await self._connection.subscribe(subjects.RUNNERS_CONTROL, cb=self._hear)
        await self._say(_HERE)

    async def run(self, stop: asyncio.Event) -> None:
        """Say it again and again until `stop` is set, and then that it is no longer so."""
        while not stop.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _SAID_EVERY)
            await self._say(_GONE if stop.is_set() else _HERE)

    async def _say(self, what: bytes) -> None:
        with suppress(Error, OSError):  # NATS is away: it is said again
            await self._connection.publish(subjects.RUNNERS_CONTROL, what + self.name.encode())

    async def _hear(self, message: Msg) -> None:
        name = message.data[len(_HERE) :].decode(errors="replace")
        if name == self.name:
            return
        if message.data.startswith(_GONE):
            self._heard.pop(name, None)
            return
        is_new = name not in self._heard
        self._heard[name] = self._clock.monotonic()
        if is_new:
            await self._say(_HERE)  # who has just come has not heard of us
