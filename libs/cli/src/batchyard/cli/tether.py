"""`python tether.py PARENT_PID PROGRAM ARGUMENT...`: become a program that dies when its parent does.

On Linux the kernel sends SIGKILL once the thread that forked this process is gone, so that a supervisor killed with
-9 leaves nothing behind. Elsewhere there is no such promise, and the program is simply run.

A process of its own does this, not a `preexec_fn`: Python code between fork and exec can deadlock where there are
threads. The request survives the exec (prctl(2), PR_SET_PDEATHSIG). The imports are few: they are the start-up time.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1


def tethered(command: Sequence[str]) -> tuple[str, ...]:
    """The command that runs another one, given by its absolute path, for as long as this process lives."""
    return (sys.executable, "-I", "-S", __file__, str(os.getpid()), *command)


def die_with(parent: int) -> None:
    """Let the kernel kill this process when its parent dies, and exit at once if it has (Linux)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        sys.exit(1)  # it died before the request was made: no signal will come


def main() -> None:
    parent, program = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        die_with(parent)
    os.execv(program[0], program)  # noqa: S606  the supervisor's own program, and no shell


if __name__ == "__main__":
    main()
