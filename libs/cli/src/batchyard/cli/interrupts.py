"""Ctrl-C and SIGTERM: the first one ends the work in order, the second one at once."""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_until_interrupted(work: Coroutine[Any, Any, None], kill: Callable[[], None]) -> bool:
    """Run `work`; whether it came to its end.

    The first signal cancels it, so that its context managers clean up; every further one calls `kill`.
    """
    return asyncio.run(_interruptible(work, kill))


async def _interruptible(work: Coroutine[Any, Any, None], kill: Callable[[], None]) -> bool:
    task = asyncio.create_task(work)
    interrupted = False

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
        loop.add_signal_handler(number, on_signal)
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
