"""The one that strikes: kills, stops and terminates processes of a running stack, as the plan says."""

import asyncio
import signal
import time
from collections import Counter
from dataclasses import dataclass, field

from batchyard.cli.failures import Failure
from batchyard.cli.readiness import Readiness
from batchyard.cli.running import RunningStack
from soak.plan import Strike

BACK_WITHIN = 40.0


@dataclass(frozen=True, slots=True)
class Struck:
    """A strike that took place, in seconds since the epoch."""

    strike: Strike
    began: float
    over: float


@dataclass
class Chaos:
    """Strikes one after the other.

    Attributes:
        second: The URL of the second gateway.
        struck: What has been done.
        not_back: Processes that did not come back in time.
        over: Set when nothing more is to come.
    """

    stack: RunningStack
    second: str
    strikes: tuple[Strike, ...]
    struck: list[Struck] = field(default_factory=list)
    not_back: list[str] = field(default_factory=list)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    doing: str = "nothing yet"

    async def run(self) -> None:
        """Strike until the plan is done; being cancelled leaves nobody stopped."""
        try:
            for strike in self.strikes:
                await asyncio.sleep(strike.pause)
                self.doing = str(strike)
                began = time.time()
                await self._strike(strike)
                self.struck.append(Struck(strike, began, time.time()))
                if strike.settles:
                    self.doing = f"waiting until all is ready after {strike}"
                    await self._ready(strike)
        finally:
            self.over.set()

    async def until(self, count: int) -> None:
        """Return once so many strikes are over, or no more are to come."""
        while len(self.struck) < count and not self.over.is_set():
            await asyncio.sleep(0.1)

    def counts(self) -> Counter[str]:
        """How often each kind of strike took place."""
        return Counter(str(struck.strike) for struck in self.struck)

    async def _strike(self, strike: Strike) -> None:
        hit: dict[str, int] = {}
        for name in strike.targets:
            if await self._is_there(name):
                hit[name] = self.stack.kill(name, strike.number)
        if strike.number is signal.SIGSTOP:
            try:
                await asyncio.sleep(strike.stopped)
            finally:
                for name, pid in hit.items():
                    if self.stack.pids.get(name) == pid:
                        self.stack.kill(name, signal.SIGCONT)
            return
        for name, pid in hit.items():
            try:
                await self.stack.restarted(name, pid, BACK_WITHIN)
            except TimeoutError:
                self.not_back.append(f"{name} after {strike.number.name}")

    async def _ready(self, strike: Strike) -> None:
        try:
            await self.stack.ready(BACK_WITHIN)
            async with asyncio.timeout(BACK_WITHIN):
                await Readiness().ready(self.second)
        except Failure as failure:
            self.not_back.append(f"not ready after {strike}: {str(failure).splitlines()[1:3]}")
        except TimeoutError:
            self.not_back.append(f"the second gateway is not ready after {strike}")

    async def _is_there(self, name: str) -> bool:
        deadline = time.monotonic() + BACK_WITHIN
        while name not in self.stack.pids:
            if time.monotonic() > deadline:
                self.not_back.append(f"{name} was away")
                return False
            await asyncio.sleep(0.05)
        return True
