"""Keeping programs running: restarted when they die, stopped in order."""

import asyncio
import signal
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeVar

from batchyard.cli.failures import EXIT_MISCONFIGURED, Failure
from batchyard.cli.process import Process, Program

T = TypeVar("T")

GRACE = 10.0


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """How long to wait before the next start: longer after every quick death, in seconds."""

    first: float = 0.25
    factor: float = 2.0
    longest: float = 10.0
    stable_after: float = 30.0

    def after(self, quick_deaths: int, ran_for: float) -> tuple[int, float]:
        """The number of quick deaths in a row, this one included, and the wait before the next start.

        A program that ran for `stable_after` starts with a clean record.
        """
        deaths = 1 if ran_for >= self.stable_after else quick_deaths + 1
        growth = self.factor ** min(deaths - 1, 64)
        return deaths, min(self.first * growth, self.longest)


@dataclass(frozen=True, slots=True)
class Restart:
    """A program has ended by itself and is started again after `delay` seconds."""

    name: str
    exit_code: int
    delay: float

    def __str__(self) -> str:
        if self.exit_code < 0:
            reason = f"was killed by {signal.Signals(-self.exit_code).name}"
        else:
            reason = f"ended with exit code {self.exit_code}"
        return f"{self.name} {reason}; starting it again in {self.delay:g} s"


class Misconfigured(Failure):
    """A program ended with exit code 2: starting it again would not help."""

    def __init__(self, name: str, lines: list[str]) -> None:
        said = "".join(f"\n  {line}" for line in lines)
        super().__init__(f"{name} cannot work with this configuration:{said}", EXIT_MISCONFIGURED)
        self.name = name
        self.lines = lines


class Supervisor:
    """Runs programs until it is stopped.

    Args:
        policy: When to start a program again.
        grace: Seconds between SIGTERM and SIGKILL.
        notify: Told of every restart.
    """

    def __init__(
        self,
        policy: RestartPolicy | None = None,
        grace: float = GRACE,
        notify: Callable[[Restart], None] = lambda _: None,
    ) -> None:
        self._policy = policy or RestartPolicy()
        self._grace = grace
        self._notify = notify
        self._kept: dict[str, _Kept] = {}
        self._failed = asyncio.Event()
        self._failure: BaseException | None = None

    @property
    def pids(self) -> Mapping[str, int]:
        """The programs that run now, by name."""
        return {name: kept.process.pid for name, kept in self._kept.items() if kept.process is not None}

    def start(self, program: Program) -> None:
        """Run the program, and run it again whenever it ends."""
        assert program.name not in self._kept
        kept = self._kept[program.name] = _Kept(program, self._policy, self._grace, self._notify)
        kept.task.add_done_callback(self._on_done)

    def replace(self, program: Program) -> None:
        """Run this one instead from the next start on."""
        self._kept[program.name].program = program

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a program, as someone outside might."""
        process = self._kept[name].process
        if process is None:
            raise ProcessLookupError(f"{name} is not running")
        process.send(number)

    async def guard(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, which is cancelled when a program turns out to be misconfigured.

        Raises:
            Misconfigured: A program ended with exit code 2.
        """
        task = asyncio.create_task(work)
        failed = asyncio.create_task(self._failed.wait())
        try:
            await asyncio.wait({task, failed}, return_when="FIRST_COMPLETED")
            if self._failure is not None:
                raise self._failure
            return await task
        finally:
            for one in (task, failed):
                one.cancel()
            await asyncio.wait({task, failed})

    async def stop(self) -> None:
        """Stop every program, stage by stage; being cancelled meanwhile kills those that are left."""
        by_stage = sorted(self._kept.values(), key=lambda kept: -kept.program.stage)
        try:
            for _, stage in groupby(by_stage, key=lambda kept: kept.program.stage):
                await _end(list(stage))
        except asyncio.CancelledError:
            self.kill()
            await _end(by_stage)
            raise

    def kill(self) -> None:
        """Kill every program at once, and start none again."""
        for kept in self._kept.values():
            kept.kill()

    def _on_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (failure := task.exception()) is not None:
            self._failure = self._failure or failure
            self._failed.set()


async def _end(stage: "list[_Kept]") -> None:
    if not stage:
        return
    for kept in stage:
        kept.stopping.set()
    await asyncio.wait([kept.task for kept in stage])


class _Kept:
    """One program, and the task that keeps it running."""

    def __init__(
        self, program: Program, policy: RestartPolicy, grace: float, notify: Callable[[Restart], None]
    ) -> None:
        self.program = program
        self.process: Process | None = None
        self.stopping = asyncio.Event()
        self._policy = policy
        self._grace = grace
        self._notify = notify
        self.task = asyncio.create_task(self._run(), name=program.name)

    def kill(self) -> None:
        self._grace = 0.0
        self.stopping.set()
        if self.process is not None:
            self.process.send(signal.SIGKILL)

    async def _run(self) -> None:
        deaths = 0
        while not self.stopping.is_set():
            started = time.monotonic()
            exit_code = await self._run_once()
            if self.stopping.is_set():
                return
            deaths, delay = self._policy.after(deaths, time.monotonic() - started)
            self._notify(Restart(self.program.name, exit_code, delay))
            await self._stopping_within(delay)

    async def _run_once(self) -> int:
        """Start the program, wait until it ends or is to be stopped, and see to that; the exit code."""
        process = self.process = await Process.start(self.program)
        try:
            stopping = asyncio.create_task(self.stopping.wait())
            ended = asyncio.create_task(process.wait())
            try:
                await asyncio.wait({stopping, ended}, return_when="FIRST_COMPLETED")
            finally:
                stopping.cancel()
                ended.cancel()
            if self.stopping.is_set():
                return await process.stop(self._grace)
            exit_code = await process.wait()
            if exit_code == EXIT_MISCONFIGURED:
                raise Misconfigured(self.program.name, process.last_lines())
            return exit_code
        finally:
            process.send(signal.SIGKILL)
            self.process = None

    async def _stopping_within(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self.stopping.wait(), seconds)
        except TimeoutError:
            return
