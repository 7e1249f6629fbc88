"""Getting a batch to its server: the input once, and one batch of it, whoever dies meanwhile."""

from contextlib import suppress

from batchyard.batch_runner.native.api import NotAnswering, Refused
from batchyard.batch_runner.native.documents import UpstreamBatch, UpstreamFile
from batchyard.batch_runner.native.notes import Notes, until_ended
from batchyard.batch_runner.native.patience import Patience
from batchyard.batch_runner.native.tools import NativeTools
from batchyard.batch_runner.native.upload import upstream_input
from batchyard.batch_runner.native_note import NativeNote
from batchyard.batch_runner.pauses import Pause
from batchyard.batch_runner.shard_input import ShardInput
from batchyard.common.config import Deployment
from batchyard.common.crash import crash_point
from batchyard.common.logs import get_logger

_log = get_logger(__name__)


def upload_name(raw_id: str) -> str:
    """The name of the server's input file: its owner sees whose it is."""
    return f"{raw_id}.jsonl"


class Start:
    """Uploads the input of a batch and creates the server's batch. While `pause` is on neither is begun."""

    def __init__(
        self,
        tools: NativeTools,
        batch: str,
        shard: ShardInput,
        notes: Notes,
        patience: Patience,
        pause: Pause | None,
    ) -> None:
        self._tools = tools
        self._batch = batch
        self._shard = shard
        self._notes = notes
        self._patience = patience
        self._pause = pause

    async def upload(self, deployment: Deployment) -> None:
        """Have the server keep the input. Raises Refused."""
        if self._notes.known.file_id is None:
            await self._unpaused()
        await self._notes.amend(NativeNote.uploading)
        if self._notes.known.file_id is not None:
            return
        name, model = upload_name(self._batch), deployment.name_for(self._shard.model or "")

        async def upload() -> UpstreamFile:
            async with self._tools.uploads:
                content = upstream_input(self._tools.store.objects, self._shard, model)
                return await self._tools.api.upload(deployment, name, content)

        file = await self._patience.ask(upload)
        crash_point("native.uploaded")
        await self._notes.amend(lambda note: note.with_file(file.id, int(file.created_at or 0)))
        if self._notes.known.file_id != file.id:  # a run that was thought dead was faster
            with suppress(NotAnswering, Refused):
                await self._tools.api.delete_file(deployment, file.id)
        crash_point("native.input_noted")

    async def create(self, deployment: Deployment) -> None:
        """Have the server begin the batch. Raises Refused."""
        if self._notes.known.batch_id is not None:
            return
        await self._unpaused()

        async def create() -> UpstreamBatch:
            found = await self.find(deployment)
            if found is not None:
                return found
            if not await self._notes.is_wanted():
                await until_ended()
            known = self._notes.known
            assert known.file_id is not None
            return await self._tools.api.create(
                deployment, self._batch, known.file_id, self._shard.endpoint, known.turned_away
            )

        batch = await self._patience.ask(create)
        crash_point("native.created")
        await self._notes.amend(lambda note: note.with_batch(batch.id))
        if self._notes.known.batch_id != batch.id:
            with suppress(NotAnswering, Refused):
                await self._tools.api.cancel(deployment, batch.id)
        _log.info("native.created", batch=self._batch, deployment=deployment.id, upstream=self._notes.known.batch_id)
        crash_point("native.batch_noted")

    async def find(self, deployment: Deployment) -> UpstreamBatch | None:
        """The server's batch, where an earlier run may have created one that it did not live to note."""
        try:
            return await self._tools.api.find(deployment, self._batch, self._notes.known.file_created_at)
        except Refused as error:
            _log.warning("native.not_listed", batch=self._batch, reason=str(error))
            return None

    async def _unpaused(self) -> None:
        if self._pause is not None:
            await self._pause.over()
