"""Looks for batches that should have moved and have not: a crash between two effects leaves such ones.

Every replica does it. A wish to move a batch that waits or is being worked on is seen in the queue, and none is added.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from batchyard.batch_runner.admission import Admission
from batchyard.batch_runner.batch import BatchRecord, record_key
from batchyard.batch_runner.batch_store import BatchStore
from batchyard.batch_runner.retention import Retention
from batchyard.batch_runner.settings import RunnerSettings
from batchyard.batch_runner.standings import Standings
from batchyard.common.clock import Clock
from batchyard.common.contracts.batches import BatchStatus
from batchyard.common.errors import ServiceUnavailable
from batchyard.common.logs import get_logger
from batchyard.common.messaging.records import Entry
from batchyard.common.objects import ObjectStoreError
from batchyard.common.tasks import end

_RESYNC_SECONDS = 300.0
_LONGEST_PATIENCE = 120.0
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Watched:
    """What is remembered of a batch with unfinished business."""

    tenant: str
    raw_id: str
    status: BatchStatus
    expires_at: int
    changed_at: float
    nudges: int = 0


def is_due(watched: Watched, now: float, stale_after: float) -> bool:
    """Whether a batch is to be looked at: its deadline has passed, or nothing has happened for long."""
    patience = min(stale_after * 2.0 ** min(watched.nudges, 10), _LONGEST_PATIENCE)
    if watched.status is BatchStatus.IN_PROGRESS and now >= watched.expires_at > watched.changed_at:
        return True
    return now - watched.changed_at >= patience


class Reconciler:
    """Watches the records and queues a step for each that is due."""

    def __init__(
        self,
        store: BatchStore,
        admission: Admission,
        standings: Standings,
        retention: Retention,
        settings: RunnerSettings,
        clock: Clock,
    ) -> None:
        self._store = store
        self._admission = admission
        self._retention = retention
        self._standings = standings
        self._settings = settings
        self._clock = clock
        self._watched: dict[str, Watched] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Watch and reconcile until `stop` is set."""
        loops = [
            asyncio.create_task(work())
            for work in (self._watch, self._reconcile_regularly, self._sweep_regularly, self._audit_regularly)
        ]
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({*loops, stopped}, return_when=asyncio.FIRST_COMPLETED)
            for loop in loops:
                if loop.done():
                    loop.result()  # it ends by an error alone
        finally:
            await end((*loops, stopped))

    def unfinished(self) -> Iterator[tuple[str, str]]:
        """Tenant and raw ID of every batch that has something left to do."""
        return ((watched.tenant, watched.raw_id) for watched in self._watched.values())

    async def reconcile(self) -> None:
        """Queue a step for every batch that is due and has none."""
        now = self._clock.now()
        due = [watched for watched in self._watched.values() if is_due(watched, now, self._settings.stale_after)]
        for watched in due:
            if not await self._store.has_step(watched.tenant, watched.raw_id):
                _log.info("batch.nudged", batch=watched.raw_id, status=watched.status)
                await self._store.queue_step(watched.tenant, watched.raw_id)
            key = record_key(watched.tenant, watched.raw_id)
            if self._watched.get(key) is watched:
                # Many batches may wait for long, as for a fleet that is down: they are looked at less and less often.
                self._watched[key] = replace(watched, changed_at=now, nudges=watched.nudges + 1)

    async def _reconcile_regularly(self) -> None:
        while True:
            await asyncio.sleep(self._settings.reconcile_interval)
            try:
                await self.reconcile()
            except ServiceUnavailable as error:
                _log.warning("reconciler.postponed", reason=str(error))

    async def _sweep_regularly(self) -> None:
        while True:
            await asyncio.sleep(self._settings.orphan_sweep_interval)
            older_than = datetime.fromtimestamp(self._clock.now() - self._settings.orphan_min_age, UTC)
            try:
                if stranded := await self._store.queue_stranded_steps():
                    _log.info("steps.queued_anew", steps=stranded)
                removed = await self._store.remove_orphans(older_than)
                await self._retention.sweep()
            except (ServiceUnavailable, ObjectStoreError) as error:
                _log.warning("sweep.postponed", reason=str(error))
            else:
                if removed:
                    _log.info("orphans.removed", objects=removed)

    async def _audit_regularly(self) -> None:
        while True:
            await asyncio.sleep(self._settings.audit_interval)
            try:
                await self._admission.audit(self.unfinished())
            except ServiceUnavailable as error:
                _log.warning("audit.postponed", reason=str(error))

    async def _watch(self) -> None:
        """Follow the records. The watch is opened anew now and then: a lost one would be silent."""
        while True:
            try:
                self._standings.renew()
                async with asyncio.timeout(_RESYNC_SECONDS):
                    async for change in self._store.records.watch():
                        self._note(change)
            except TimeoutError:
                continue
            except ServiceUnavailable as error:
                _log.warning("reconciler.watch_lost", reason=str(error))
                await asyncio.sleep(self._settings.reconcile_interval)

    def _note(self, change: Entry[BatchRecord] | str) -> None:
        self._standings.note(change)
        if isinstance(change, str):
            self._watched.pop(change, None)
            return
        record = change.value
        if not record.unfinished_business:
            self._watched.pop(change.key, None)
            return
        self._watched[change.key] = Watched(
            record.tenant, record.raw_id, record.status, record.expires_at, self._clock.now()
        )
