"""Forgetting batches that ended long ago, where it is wished (`batch_retention`).

One replica does it, as far as they know of each other. Several may do it at once: a record that nothing is left to do
for is not changed by anybody any more, and removing it twice is harmless.
"""

import zlib
from collections.abc import Callable
from contextlib import aclosing

from batchyard.batch_runner.batch import BatchRecord
from batchyard.batch_runner.batch_store import BatchStore
from batchyard.batch_runner.settings import RunnerSettings
from batchyard.common.clock import Clock
from batchyard.common.contracts.files import GetFile
from batchyard.common.errors import NotFound
from batchyard.common.logs import get_logger
from batchyard.common.messaging.commands import CommandClient

# Seconds for which a batch is known longer than the keys that stand for it: whoever sends one again would make it anew.
_LONGER_THAN_ITS_KEYS = 3600.0
_DAY = 86_400
_log = get_logger(__name__)


class Retention:
    """Passes over the records of all tenants.

    Whether a batch still has results file-store has to be asked. It is when its time is over, and then once a day, each
    batch at a time of its own; the first pass asks for all.

    Args:
        is_first: Whether this is the replica that does it.
    """

    def __init__(
        self,
        store: BatchStore,
        commands: CommandClient,
        settings: RunnerSettings,
        clock: Clock,
        is_first: Callable[[], bool] = lambda: True,
    ) -> None:
        self._store = store
        self._commands = commands
        self._clock = clock
        self._is_first = is_first
        self._last_pass: float | None = None
        wished, keys = settings.batch_retention, settings.idempotency_max_age
        self._keep = None if wished is None else max(wished, keys + _LONGER_THAN_ITS_KEYS)

    async def sweep(self) -> None:
        """Remove the record of each batch whose time is over and whose results have gone. Raises ServiceUnavailable."""
        if self._keep is None or not self._is_first():
            return
        now = self._clock.now()
        async with aclosing(self._store.records.list("")) as entries:
            async for entry in entries:
                record = entry.value
                if self._is_due(record, now - self._keep, now) and not await self._has_results(record):
                    await self._store.records.purge(entry.key)
                    _log.info("batch.forgotten", batch=record.raw_id, tenant=record.tenant)
        self._last_pass = now

    def _is_due(self, record: BatchRecord, oldest_kept: float, now: float) -> bool:
        if record.unfinished_business or record.ended_at is None or record.ended_at > oldest_kept:
            return False
        last = self._last_pass
        if last is None or record.ended_at > oldest_kept - (now - last):
            return True
        time_of_day = zlib.crc32(record.raw_id.encode()) % _DAY
        return (now - time_of_day) // _DAY > (last - time_of_day) // _DAY

    async def _has_results(self, record: BatchRecord) -> bool:
        for file_id in filter(None, (record.output_file_id, record.error_file_id)):
            try:
                await self._commands.call(record.tenant, GetFile(file_id=file_id))
            except NotFound:
                continue
            return True
        return False
