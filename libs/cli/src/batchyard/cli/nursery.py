"""`python -P nursery.py SOCKET MODULE...`: a process that has imported the services, and forks one when it is asked.

Importing is nearly all of what a service's start takes. Here it is done once: four services on one machine share it,
and one that has died is back at once. Linux alone: elsewhere libraries of the system do not survive a fork alone.

A request is its length in four bytes, with two descriptors, and then JSON: module, environment, directory. The answer
is the process' ID in four bytes. The first descriptor becomes the process' output; into the second one goes its exit
code, in four bytes, once it has ended. When SOCKET ends, so do this process and, by the kernel's hand, its children.
"""

import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import struct
import sys
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType

from setproctitle import setproctitle, setthreadtitle

from batchyard.cli.tether import die_with

NUMBER = struct.Struct("!i")


@dataclass(frozen=True, slots=True)
class Birth:
    """What a child is to become."""

    module: str
    environment: dict[str, str]
    directory: str
    output: int


class _Nursery:
    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests
        self._exits: dict[int, int] = {}  # where the exit code of each child goes

    def run(self) -> Birth:
        """Serve until the socket ends, which ends this process; returns in each child, with what it is to become."""
        woken, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _nothing)
        with selectors.DefaultSelector() as selector:
            selector.register(self._requests, selectors.EVENT_READ)
            selector.register(woken, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fd == woken:
                        with suppress(BlockingIOError):
                            os.read(woken, 4096)
                        self._bury()
                    elif (birth := self._answer()) is not None:
                        signal.set_wakeup_fd(-1)
                        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                        os.close(woken)
                        os.close(waker)
                        return birth

    def _answer(self) -> Birth | None:
        head, passed, _, _ = socket.recv_fds(self._requests, NUMBER.size, 2)
        if len(head) < NUMBER.size or len(passed) < 2:
            sys.exit(0)
        request = json.loads(_read(self._requests, NUMBER.unpack(head)[0]))
        output, exits = passed
        parent = os.getpid()
        child = os.fork()
        if child == 0:
            os.close(exits)
            for other in self._exits.values():
                os.close(other)
            self._requests.close()
            die_with(parent)
            return Birth(output=output, **request)
        os.close(output)
        self._exits[child] = exits
        self._requests.sendall(NUMBER.pack(child))
        return None

    def _bury(self) -> None:
        """Tell the exit codes of the children that have ended."""
        while self._exits:
            child, status = os.waitpid(-1, os.WNOHANG)
            if child == 0:
                return
            exits = self._exits.pop(child)
            with suppress(BrokenPipeError):  # nobody wants to know any more
                os.write(exits, NUMBER.pack(os.waitstatus_to_exitcode(status)))
            os.close(exits)


def _nothing(_number: int, _frame: FrameType | None) -> None:
    """That it is handled at all writes to the wake-up descriptor."""


def _read(requests: socket.socket, size: int) -> bytes:
    content = bytearray()
    while len(content) < size:
        read = requests.recv(size - len(content))
        if not read:
            sys.exit(0)
        content += read
    return bytes(content)


def become(birth: Birth) -> None:
    """Be what `python -m MODULE` would be in a session of its own."""
    os.setsid()
    setproctitle(f"{sys.executable} -P -m {birth.module}")
    setthreadtitle(birth.module.rpartition(".")[2])
    os.chdir(birth.directory)
    os.dup2(birth.output, 1)
    os.dup2(birth.output, 2)
    os.close(birth.output)
    os.environ.clear()
    os.environ.update(birth.environment)
    sys.argv = [birth.module]
    runpy.run_module(birth.module, run_name="__main__", alter_sys=True)


def main() -> None:
    requests, modules = socket.socket(fileno=int(sys.argv[1])), sys.argv[2:]
    setproctitle(f"{sys.executable} -P {__file__}")  # without the services' names: whoever kills by name means one
    for module in modules:
        with suppress(Exception):  # the child will fail as well, and say so in its own log
            importlib.import_module(f"{module}.app")
    gc.collect()
    gc.freeze()  # no collection of a child's writes to the pages that all share
    birth = _Nursery(requests).run()
    become(birth)


if __name__ == "__main__":
    main()
