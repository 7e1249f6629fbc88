"""Moving a batch on: whoever handles a step looks at the record's status and does what comes next.

Every effect may happen twice, and a process may die between any two: each is idempotent, and a step goes on from what
the record says, never from what this process remembers.
"""

from batchyard.batch_runner.batch import BatchRecord
from batchyard.batch_runner.batch_store import BatchStore
from batchyard.batch_runner.dispatch import Dispatch
from batchyard.batch_runner.finalization import Finalization
from batchyard.batch_runner.planning import Planning
from batchyard.batch_runner.step import Again, Verdict
from batchyard.batch_runner.sweep import Sweep
from batchyard.common.contracts.batches import BatchStatus
from batchyard.common.messaging.work_loop import Done, Later

_BUSY_POLL = 0.25


class Stepper:
    """Moves batches on, one step of a batch at a time in this process."""

    def __init__(
        self, store: BatchStore, planning: Planning, dispatch: Dispatch, finalization: Finalization, sweep: Sweep
    ) -> None:
        self._store = store
        self._planning = planning
        self._dispatch = dispatch
        self._finalization = finalization
        self._sweep = sweep
        self._moving: set[str] = set()

    async def move(self, tenant: str, raw_id: str) -> Done | Later:
        """Do all that can be done for a batch now."""
        if raw_id in self._moving:
            # Not waited for: it would take a place from a batch that could be moved.
            return Later(_BUSY_POLL)
        self._moving.add(raw_id)
        try:
            while True:
                record = await self._store.get(tenant, raw_id)
                if record is None:
                    return Done()
                verdict = await self._step(record)
                if not isinstance(verdict, Again):
                    return verdict
        finally:
            self._moving.discard(raw_id)

    async def _step(self, record: BatchRecord) -> Verdict:
        if record.outbox:
            await self._store.announce(record, record.outbox[0])
            return Again()
        match record.status:
            case BatchStatus.VALIDATING:
                return await self._planning.take(record)
            case BatchStatus.IN_PROGRESS:
                return await self._dispatch.take(record)
            case BatchStatus.FINALIZING | BatchStatus.CANCELLING:
                return await self._finalization.take(record)
            case _:
                return await self._sweep.take(record)
