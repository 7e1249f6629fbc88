"""Noting what there is of a batch at its server, for whoever goes on with it."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from batchyard.batch_runner.batch import BatchRecord
from batchyard.batch_runner.batch_store import BatchStore
from batchyard.batch_runner.native_note import NativeNote
from batchyard.batch_runner.transitions import IllegalTransition, noted
from batchyard.common.contracts.batches import BatchStatus


class Notes:
    """What is known of a server's batch, to one run of it.

    `on_over` is called when there is nothing to note any more: whoever ended the batch has handed it in.

    Attributes:
        record: The batch's record, as it was read or changed last.
    """

    def __init__(self, store: BatchStore, record: BatchRecord, on_over: Callable[[], None]) -> None:
        self._store = store
        self.record = record
        self._on_over = on_over

    @property
    def known(self) -> NativeNote:
        """What has been noted so far."""
        assert self.record.native is not None, "a batch that no server runs whole"
        return self.record.native

    async def amend(self, note: Callable[[NativeNote], NativeNote]) -> None:
        """Note something durably; what another run has noted before stays. Once the batch is over this waits to be
        ended."""
        record: BatchRecord | None = None
        with suppress(IllegalTransition):
            record = await self._store.change(self.record, lambda current: noted(current, note))
        if record is not None:
            self.record = record
        else:
            self._on_over()
            await until_ended()

    async def is_wanted(self) -> bool:
        """Whether the batch still runs: nothing is begun for one that ends."""
        record = await self._store.get(self.record.tenant, self.record.raw_id)
        return record is not None and record.status is BatchStatus.IN_PROGRESS

    async def has_begun(self) -> bool:
        """Whether the record, as it is by now, knows of anything at the server."""
        record = await self._store.get(self.record.tenant, self.record.raw_id)
        if record is not None:
            self.record = record
        return self.known.file_id is not None


async def until_ended() -> NoReturn:
    """Wait for whoever ends this task."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError("nobody sets it")
