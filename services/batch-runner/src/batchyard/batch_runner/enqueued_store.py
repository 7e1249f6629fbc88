"""The record of what each tenant has enqueued, changed by compare-and-set."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeVar

from nats.js import JetStreamContext

from batchyard.batch_runner.enqueued import EnqueuedRecord
from batchyard.common.errors import ServiceUnavailable
from batchyard.common.messaging.records import Entry, Records, RevisionConflict
from batchyard.common.messaging.topology import ENQUEUED_BUCKET
from batchyard.common.subjects import decode_token, encode_token

T = TypeVar("T")
Change = Callable[[EnqueuedRecord], tuple[EnqueuedRecord, T]]

_ATTEMPTS = 64


class EnqueuedStore:
    """One record per tenant that has had a limit. Every method raises ServiceUnavailable when NATS does not answer.

    Within a process the changes of one tenant queue up: they would only disturb one another.
    """

    def __init__(self, js: JetStreamContext) -> None:
        self._records = Records(js, ENQUEUED_BUCKET, EnqueuedRecord)
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def get(self, tenant: str) -> EnqueuedRecord | None:
        entry = await self._records.get(encode_token(tenant))
        return None if entry is None else entry.value

    async def change(
        self, tenant: str, change: Change[T], first: Callable[[], Awaitable[EnqueuedRecord]] | None = None
    ) -> T | None:
        """What `change` says, once what it made of the record is written. What it raises is raised.

        Args:
            first: Makes the record where there is none; without it nothing is done then, and None is said.
        """
        key = encode_token(tenant)
        async with self._turns[tenant]:
            for _ in range(_ATTEMPTS):
                entry = await self._records.get(key)
                if entry is None and first is None:
                    return None
                record = entry.value if entry is not None else await _made(first)
                changed, said = change(record)
                if entry is not None and changed == record:
                    return said
                try:
                    await self._write(key, entry, changed)
                except RevisionConflict:
                    continue
                return said
        raise ServiceUnavailable("Too many batches of this team are being made at once. Please retry shortly.")

    async def tenants(self) -> AsyncGenerator[tuple[str, EnqueuedRecord], None]:
        """Every tenant that has a record."""
        async for entry in self._records.list(""):
            yield decode_token(entry.key), entry.value

    async def _write(self, key: str, entry: Entry[EnqueuedRecord] | None, record: EnqueuedRecord) -> None:
        if entry is None:
            await self._records.create(key, record)
        else:
            await self._records.update(key, record, entry.revision)


async def _made(first: Callable[[], Awaitable[EnqueuedRecord]] | None) -> EnqueuedRecord:
    assert first is not None
    return await first()
