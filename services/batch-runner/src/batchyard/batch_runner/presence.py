"""Which runners there are, and what they are at: each says so every few seconds, and one that has not said it for a
while is gone."""

import asyncio
import json
import os
import platform
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error

from batchyard.batch_runner.part import Part
from batchyard.common import subjects
from batchyard.common.clock import Clock
from batchyard.common.tasks import unless

_SAID_EVERY = 5.0
_GONE_AFTER = 16.0
_HERE, _GONE = b"here ", b"gone "
_POOLS = "batchyard-pools"
_MOST_SAID = 512 * 1024  # bytes; with more than that, nothing is said of pools


def runner_name() -> str:
    """What this process is called among runners."""
    return f"{platform.node()}-{os.getpid()}"


@dataclass(frozen=True, slots=True)
class _Heard:
    at: float
    pools: frozenset[str]


class Presence:
    """Says that this runner is here, and hears it of the others.

    Args:
        at_work: Says in which pools this runner has something to do.
        changed: Called when the others' pools may be other ones.
    """

    def __init__(
        self,
        connection: Client,
        name: str,
        clock: Clock,
        at_work: Callable[[], frozenset[str]] = frozenset,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._connection = connection
        self._clock = clock
        self._at_work = at_work
        self._changed = changed
        self._heard: dict[str, _Heard] = {}
        self.name = name

    @property
    def others(self) -> frozenset[str]:
        """The other runners that there are."""
        now = self._clock.monotonic()
        self._heard = {name: heard for name, heard in self._heard.items() if now - heard.at <= _GONE_AFTER}
        return frozenset(self._heard)

    @property
    def is_first(self) -> bool:
        """Whether this is the one, among all runners, that does what one of them has to do."""
        return all(self.name < other for other in self.others)

    def part_in(self, pool: str) -> Part:
        """Which part of a pool's limits is this runner's, were it at work there: those who are have the others."""
        others = sorted(name for name in self.others if pool in self._heard[name].pools)
        return Part(number=sum(name < self.name for name in others), of=1 + len(others))

    async def listen(self) -> None:
        """Hear of the others from now on, and let them know."""
        await self._connection.subscribe(subjects.RUNNERS_CONTROL, cb=self._hear)
        await self._say(_HERE)

    async def run(self, stop: asyncio.Event, news: asyncio.Event) -> None:
        """Say it again and again until `stop` is set, and then that it is no longer so; at once when there are news."""
        while not stop.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(_SAID_EVERY):
                    await unless(stop, news.wait())
            news.clear()
            self._changed()  # somebody may be gone without a word
            await self._say(_GONE if stop.is_set() else _HERE)

    async def _say(self, what: bytes) -> None:
        with suppress(Error, OSError):  # NATS is away: it is said again
            pools = json.dumps(sorted(self._at_work()))
            headers = {_POOLS: pools} if len(pools) <= _MOST_SAID else None
            await self._connection.publish(subjects.RUNNERS_CONTROL, what + self.name.encode(), headers=headers)

    async def _hear(self, message: Msg) -> None:
        name = message.data[len(_HERE) :].decode(errors="replace")
        if name == self.name:
            return
        if message.data.startswith(_GONE):
            self._heard.pop(name, None)
            self._changed()
            return
        before = self._heard.get(name)
        heard = self._heard[name] = _Heard(self._clock.monotonic(), _pools_of(message))
        if before is None or before.pools != heard.pools:
            self._changed()
        if before is None:
            await self._say(_HERE)  # who has just come has not heard of us


def _pools_of(message: Msg) -> frozenset[str]:
    """In which pools a runner has something to do; one of an older release does not say."""
    try:
        pools = json.loads((message.headers or {}).get(_POOLS, "[]"))
    except ValueError:
        return frozenset()
    return frozenset(pool for pool in pools if isinstance(pool, str)) if isinstance(pools, list) else frozenset()
