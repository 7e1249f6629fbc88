"""The step of a batch that has ended: remove what it worked with."""

from batchyard.batch_runner import transitions
from batchyard.batch_runner.admission import Admission
from batchyard.batch_runner.batch import BatchRecord
from batchyard.batch_runner.batch_store import BatchStore
from batchyard.batch_runner.native.servers import NativeServers
from batchyard.batch_runner.step import Verdict
from batchyard.common.crash import crash_point
from batchyard.common.messaging.work_loop import Done


class Sweep:
    """Clears away after batches, here and at servers that ran them whole."""

    def __init__(self, store: BatchStore, natives: NativeServers, admission: Admission) -> None:
        self._store = store
        self._natives = natives
        self._admission = admission

    async def take(self, record: BatchRecord) -> Verdict:
        """Remove all but the record, once."""
        if record.swept:
            return Done()
        await self._admission.release(record)
        if record.native is not None:
            await self._natives.clean(record)
            crash_point("native.cleaned")
        await self._store.remove_objects(record)
        crash_point("objects.removed")
        await self._store.forget_shards(record)
        await self._store.change(record, transitions.swept)
        return Done()
