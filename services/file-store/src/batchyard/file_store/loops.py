"""Work that is done again and again beside the commands, until the process stops."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from batchyard.common.errors import ServiceUnavailable
from batchyard.common.logs import get_logger
from batchyard.common.objects import ObjectStoreUnavailable

_log = get_logger(__name__)

Work = Callable[[], Awaitable[None]]


async def every(interval: float, name: str, work: Work, stop: asyncio.Event) -> None:
    """Do `work` now and `interval` seconds after each end of it. A failure is logged and is no end."""
    while not stop.is_set():
        await _succeeds(name, work)
        await _pause(interval, stop)


async def until_done(interval: float, name: str, work: Work, stop: asyncio.Event) -> None:
    """Do `work` until it succeeds once, `interval` seconds after each failure."""
    while not stop.is_set() and not await _succeeds(name, work):
        await _pause(interval, stop)


async def _succeeds(name: str, work: Work) -> bool:
    try:
        await work()
    except (ObjectStoreUnavailable, ServiceUnavailable) as error:
        _log.warning("loop.failed", loop=name, error=str(error))  # an outage: where it was noticed says nothing
        return False
    except Exception:  # noqa: BLE001  whatever it was, the next round tries again and commands are still answered
        _log.exception("loop.failed", loop=name)
        return False
    return True


async def _pause(seconds: float, stop: asyncio.Event) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
