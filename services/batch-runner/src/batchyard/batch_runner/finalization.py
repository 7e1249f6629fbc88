"""The step of a batch that is about to end: settle what is outstanding, make its files, and end it."""

from batchyard.batch_runner import transitions
from batchyard.batch_runner.admission import Admission
from batchyard.batch_runner.batch import BatchRecord
from batchyard.batch_runner.batch_store import BatchStore
from batchyard.batch_runner.fleet import Fleet
from batchyard.batch_runner.results import Results
from batchyard.batch_runner.settings import RunnerSettings
from batchyard.batch_runner.step import Again, Verdict, change, count, new_uuid
from batchyard.common.clock import Clock
from batchyard.common.crash import crash_point
from batchyard.common.errors import Conflict, InvalidRequest, NotFound
from batchyard.common.logs import get_logger
from batchyard.common.messaging.work_loop import Done, Later

_SETTLE_POLL = 0.5
_REFILE_DELAY = 1.0
_log = get_logger(__name__)


class Finalization:
    """Ends batches that are finalizing or cancelling."""

    def __init__(
        self,
        store: BatchStore,
        fleet: Fleet,
        results: Results,
        admission: Admission,
        settings: RunnerSettings,
        clock: Clock,
    ) -> None:
        self._store = store
        self._fleet = fleet
        self._results = results
        self._admission = admission
        self._settings = settings
        self._clock = clock

    async def take(self, record: BatchRecord) -> Verdict:
        """End a batch, once every shard that was queued has an outcome."""
        counted = await count(self._store, record, self._now())
        if counted is None:
            return Done()
        missing = list(counted.outstanding())
        if missing:
            began = counted.cancelling_at or counted.finalizing_at or 0
            if self._clock.now() < began + self._patience(counted):
                # Said again each time: a runner that did not hear it would go on for an end that has come.
                await self._store.broadcast(counted)
                return Later(_SETTLE_POLL)
            for shard in missing:
                await self._results.settle_abandoned(counted, shard)
                crash_point("shard.abandoned")
            return Again()
        try:
            files = await self._results.publish(counted)
        except (InvalidRequest, NotFound, Conflict) as error:
            # The place of a file that was chosen too long ago, as before a long outage, can no longer be claimed.
            _log.warning("batch.refiled", batch=record.raw_id, reason=error.message)
            await change(self._store, counted, lambda current: transitions.refiled(current, new_uuid(), new_uuid()))
            return Later(_REFILE_DELAY)
        crash_point("files.registered")
        # Before the client can know that the batch has ended: it may want to send the next one.
        await self._admission.release(counted)
        crash_point("limits.released")
        verdict = await change(
            self._store,
            counted,
            lambda current: transitions.finished(
                current,
                self._now(),
                files.output_id,
                files.error_id,
                self._fleet.cost_of(current.all_work, current.model),
            ),
        )
        crash_point("batch.ended")
        _log.info("batch.ended", batch=record.raw_id, status=counted.ending, **counted.counts.model_dump())
        return verdict

    def _patience(self, record: BatchRecord) -> float:
        """Seconds that the runners of an ending batch have to hand in what they have."""
        patience = self._settings.settle_patience
        return patience if record.native is None else patience + self._settings.native_cancel_grace

    def _now(self) -> int:
        return int(self._clock.now())
