"""Services as forks of one process that has imported them all: the nursery's other side."""

import asyncio
import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from batchyard.cli import nursery
from batchyard.cli.nursery import NUMBER
from batchyard.cli.services import MODULES
from batchyard.cli.tether import tethered


def is_forked(module: str, environment: Mapping[str, str]) -> bool:
    """Whether a module may be forked: where that is safe, and unless the environment wants another Python than this."""
    return sys.platform == "linux" and module in MODULES.values() and _python(environment) == _python(os.environ)


def _python(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith("PYTHON")}


class Forked:
    """A process that the nursery has forked, with the methods of asyncio's."""

    def __init__(self, pid: int, exits: int) -> None:
        self.pid = pid
        self._exits = exits
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = self._loop.create_future()
        self._loop.add_reader(exits, self._read)

    def _read(self) -> None:
        told = os.read(self._exits, NUMBER.size)
        self._loop.remove_reader(self._exits)
        os.close(self._exits)
        # Without a word the nursery has gone, and the kernel kills all that it has forked.
        self._ended.set_result(NUMBER.unpack(told)[0] if told else -signal.SIGKILL)

    @property
    def returncode(self) -> int | None:
        return self._ended.result() if self._ended.done() else None

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)

    def send_signal(self, number: int, /) -> None:
        os.kill(self.pid, number)


class Forks:
    """One nursery for all that this process runs, begun when it is needed, and anew should it have died."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._nursery: tuple[subprocess.Popen[bytes], socket.socket] | None = None

    async def start(self, module: str, environment: Mapping[str, str], output: int) -> Forked:
        """Run a module, with its output going to a descriptor.

        Raises:
            OSError: There is no nursery, nor can one be begun.
        """
        request = json.dumps({"module": module, "environment": dict(environment), "directory": str(Path.cwd())})
        told, exits = os.pipe2(os.O_CLOEXEC)
        try:
            try:
                pid = await self._asked(request.encode(), (output, exits))
            except OSError:
                pid = await self._asked(request.encode(), (output, exits))
        except BaseException:
            os.close(told)
            raise
        finally:
            os.close(exits)
        return Forked(pid, told)

    def stop(self) -> None:
        """End the nursery, and with it all that it has forked."""
        if self._nursery is not None:
            process, requests = self._nursery
            requests.close()
            process.kill()
            process.wait()
            self._nursery = None

    async def _asked(self, request: bytes, passed: tuple[int, int]) -> int:
        if self._nursery is None:
            # Not in another thread: what is tethered dies with the thread that has begun it.
            self._nursery = _begin()
        asked = self._nursery
        try:
            return await asyncio.to_thread(self._ask, asked[1], request, passed)
        except OSError:
            if self._nursery is asked:  # and not another one's successor to it
                self.stop()
            raise

    def _ask(self, requests: socket.socket, request: bytes, passed: tuple[int, int]) -> int:
        with self._lock:
            socket.send_fds(requests, [NUMBER.pack(len(request))], passed)
            requests.sendall(request)
            answer = requests.recv(NUMBER.size, socket.MSG_WAITALL)
        if len(answer) < NUMBER.size:
            raise ConnectionResetError("the process that forks the services has died")
        return int(NUMBER.unpack(answer)[0])


def _begin() -> tuple["subprocess.Popen[bytes]", socket.socket]:
    mine, its = socket.socketpair()
    with its:
        process = subprocess.Popen(
            tethered((sys.executable, "-P", nursery.__file__, str(its.fileno()), *MODULES.values())),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(its.fileno(),),
            start_new_session=True,
        )
    return process, mine


forks = Forks()
atexit.register(forks.stop)
