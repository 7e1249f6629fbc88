"""A configuration that changes while the process runs: on SIGHUP at once, else when its file has changed.

Each process reads its own copy, and goes over to it whole or not at all: a file that cannot be used is told in the log,
and the configuration that was in force stays so. Variables of the environment are those that the process started with.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path

from batchyard.common.config import Config, changes, load_config
from batchyard.common.errors import ConfigurationError
from batchyard.common.logs import get_logger
from batchyard.common.settings import Settings
from batchyard.common.tasks import end

_log = get_logger(__name__)

reload_asked: ContextVar[asyncio.Event | None] = ContextVar("reload_asked", default=None)
"""Set by SIGHUP, where the process heeds it."""

Use = Callable[[Config], None]

_Fingerprint = tuple[int, int, int, int] | None
_NEVER = (-1, -1, -1, -1)


@asynccontextmanager
async def following_config(settings: Settings, config: Config, stop: asyncio.Event, use: Use) -> AsyncIterator[None]:
    """Hand every new configuration to `use` while the context is open.

    Args:
        settings: Name the file, and how often to look at it.
        config: The configuration in force.
        stop: Ends the looking.
        use: Goes over to a configuration; what it raises is logged, and the process goes on.
    """
    follower = asyncio.create_task(_Follower(settings, config, use).run(stop))
    try:
        yield
    finally:
        await end((follower,))


def read_config(settings: Settings) -> Config:
    """The fleet and its prices, with a warning in the log for each key that is not understood.

    Raises:
        ConfigurationError: It cannot be used; the message says where it is wrong.
    """
    config = load_config(settings.config, os.environ)
    _warn(config)
    return config


class _Follower:
    def __init__(self, settings: Settings, config: Config, use: Use) -> None:
        self._path = settings.config
        self._interval = settings.config_poll_interval
        self._config = config
        self._use = use
        # The file may have changed since the process read it.
        self._read: _Fingerprint = _NEVER
        self._seen: _Fingerprint = _NEVER

    async def run(self, stop: asyncio.Event) -> None:
        asked = reload_asked.get() or asyncio.Event()
        while not stop.is_set():
            if await _set_within(asked, self._interval):
                asked.clear()
                await self._reload(_fingerprint(self._path), was_asked=True)
            elif self._path is not None and self._is_new(found := _fingerprint(self._path)):
                await self._reload(found, was_asked=False)

    def _is_new(self, found: _Fingerprint) -> bool:
        """Whether the file is another one than was read last, and is no longer being written."""
        is_settled = found == self._seen
        self._seen = found
        return is_settled and found != self._read

    async def _reload(self, found: _Fingerprint, *, was_asked: bool) -> None:
        self._read = found
        try:
            config = await asyncio.to_thread(load_config, self._path, os.environ)
            difference = changes(self._config, config)
            if difference:
                _warn(config)
                self._use(config)
                self._config = config
                _log.info("config.changed", **difference)
            elif was_asked:
                _log.info("config.unchanged")
        except ConfigurationError as error:
            _log.error(
                "config.rejected", errors=str(error).splitlines(), detail="the configuration before stays in force"
            )
        except Exception:  # noqa: BLE001  a bug met by one file must not end the service
            _log.exception("config.not_used")


def _warn(config: Config) -> None:
    for warning in config.warnings:
        _log.warning("config.unknown_key", detail=warning)


def _fingerprint(path: Path | None) -> _Fingerprint:
    """What changes when a file is written, replaced, or linked to another one; None for one that is not there."""
    if path is None:
        return None
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    waiter = asyncio.create_task(event.wait())
    await asyncio.wait({waiter}, timeout=seconds)
    await end((waiter,))
    return event.is_set()
