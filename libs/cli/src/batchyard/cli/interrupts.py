"""Ctrl-C and SIGTERM: the first one ends the work in order, the second one at once. SIGHUP may mean something else."""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_until_interrupted(
    work: Coroutine[Any, Any, None], kill: Callable[[], None], on_hangup: Callable[[], None] | None = None
) -> bool:
    """Run `work`; whether it came to its end.

    The first signal cancels it, so that its context managers clean up; every further one calls `kill`. A SIGHUP that
    does not come from the end of the terminal calls `on_hangup` instead, where there is one.
    """
    return asyncio.run(_interruptible(work, kill, on_hangup))


async def _interruptible(
    work: Coroutine[Any, Any, None], kill: Callable[[], None], on_hangup: Callable[[], None] | None
) -> bool:
    task = asyncio.create_task(work)
    interrupted = False
    had_terminal = _has_terminal()

    def on_sighup() -> None:
        if on_hangup is None or (had_terminal and not _has_terminal()):
            on_signal()
        elif not interrupted:
            on_hangup()

    def on_signal() -> None:
        nonlocal interrupted
        if interrupted:
            kill()
        else:
            interrupted = True
            task.cancel()

    loop = asyncio.get_running_loop()
    heeded = [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN or number != signal.SIGHUP]
    for number in heeded:  # an ignored SIGHUP is `nohup`: it stays ignored
        loop.add_signal_handler(number, on_sighup if number == signal.SIGHUP else on_signal)
    try:
        await task
    except asyncio.CancelledError:
        if not interrupted:
            raise
        return False
    finally:
        for number in heeded:
            loop.remove_signal_handler(number)
    return True


def _has_terminal() -> bool:
    """Whether there is a terminal whose end would end this process."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
