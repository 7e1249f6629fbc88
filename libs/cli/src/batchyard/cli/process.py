"""One run of a program: in a session of its own, tied to the life of this process, its output in a file."""

import asyncio
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from batchyard.cli.forking import forks, is_forked
from batchyard.cli.tether import tethered

LOG_LIMIT = 10 * 1024 * 1024
_TAIL_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class Program:
    """What to run.

    Attributes:
        name: The name for people, and of the log file.
        command: The program's absolute path and its arguments.
        environment: All of its environment: nothing is inherited besides.
        log: The file that its output is appended to.
        stage: Programs of a higher stage are stopped first.
        module: The module that `command` runs, where that is all it does.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    log: Path
    stage: int = 0
    module: str | None = None


class _Running(Protocol):
    """What asyncio's processes and the forked ones have in common."""

    @property
    def pid(self) -> int: ...
    @property
    def returncode(self) -> int | None: ...
    async def wait(self) -> int: ...
    def send_signal(self, signal: int, /) -> None: ...


class Process:
    """A started program. Its session is its own, so that the terminal's Ctrl-C does not reach it."""

    def __init__(self, program: Program, process: _Running, log_start: int) -> None:
        self.program = program
        self._process = process
        self._log_start = log_start

    @classmethod
    async def start(cls, program: Program) -> "Process":
        """Run the program, after setting aside a log that has grown beyond LOG_LIMIT bytes."""
        _rotate(program.log)
        log = os.open(program.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        start = os.fstat(log).st_size  # before the program can have written anything
        try:
            return cls(program, await _run(program, log), start)
        finally:
            os.close(log)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def wait(self) -> int:
        """The exit code; of a process ended by a signal the negative number of that signal."""
        return await self._process.wait()

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless the process has ended."""
        if self._process.returncode is None:
            try:
                self._process.send_signal(number)
            except ProcessLookupError:
                return  # it has ended just now

    async def stop(self, grace: float) -> int:
        """SIGTERM, and after `grace` seconds SIGKILL; the exit code."""
        self.send(signal.SIGTERM)
        try:
            return await asyncio.wait_for(self.wait(), grace)
        except TimeoutError:
            self.send(signal.SIGKILL)
            return await self.wait()

    def last_lines(self, count: int = 20) -> list[str]:
        """The end of what this run has written."""
        return last_lines(self.program.log, count, self._log_start)


async def _run(program: Program, log: int) -> _Running:
    if program.module is not None and is_forked(program.module, program.environment):
        return await forks.start(program.module, program.environment, log)
    return await asyncio.create_subprocess_exec(
        *tethered(program.command),
        env=program.environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )


def last_lines(path: Path, count: int = 20, start: int = 0) -> list[str]:
    """The last `count` lines of a file at or after the byte `start`; none if there is no such file."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(start, end - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return []
    return text.splitlines()[-count:]


def _rotate(log: Path) -> None:
    if log.exists() and log.stat().st_size > LOG_LIMIT:
        log.replace(log.with_name(f"{log.name}.1"))
