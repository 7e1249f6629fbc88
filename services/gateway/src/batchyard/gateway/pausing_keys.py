"""What batch-runner must know of keys: the budgets at which their batches pause (`pause_over_budget`).

It is written after the key's own record, which the gateway alone reads. What a gateway did not live to write, every one
of them finds by comparing the two, again and again.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from nats.js import JetStreamContext

from batchyard.common.contracts.access import Key, PausingKey
from batchyard.common.errors import ApiError
from batchyard.common.logs import get_logger
from batchyard.common.messaging.connection import Connection
from batchyard.common.messaging.records import Records, RevisionConflict
from batchyard.common.messaging.teams import PAUSING, PausingKeys, open_pausing_keys
from batchyard.common.messaging.topology import KEYS_BUCKET, TEAMS_BUCKET
from batchyard.common.subjects import encode_token
from batchyard.common.tasks import end
from batchyard.gateway.directory import Directory

_SECONDS = 30.0
_ATTEMPTS = 16
_log = get_logger(__name__)


class PausingKeyWriter:
    """Writes what is told of keys."""

    def __init__(self, js: JetStreamContext) -> None:
        self._keys = Records(js, KEYS_BUCKET, Key)
        self._told = Records(js, TEAMS_BUCKET, PausingKey)

    async def tell(self, key_id: str) -> None:
        """Bring what is told of a key in line with its record. An outage is left to `keeping_told`."""
        try:
            for _ in range(_ATTEMPTS):
                try:
                    return await self._tell(key_id)
                except RevisionConflict:
                    continue
        except ApiError as error:
            _log.warning("pausing_key.untold", key_id=key_id, reason=str(error))

    async def _tell(self, key_id: str) -> None:
        name = f"{PAUSING}.{encode_token(key_id)}"
        # The key after what is told: whoever writes last has seen the key as it was after the last write before.
        told = await self._told.get(name)
        key = await self._keys.get(encode_token(key_id))
        wanted = None if key is None else told_of(key.value)
        if wanted is None:
            if told is not None:
                await self._told.delete(name, told.revision)
        elif told is None:
            await self._told.create(name, wanted)
        elif told.value != wanted:
            await self._told.update(name, wanted, told.revision)


@asynccontextmanager
async def keeping_told(
    connection: Connection, directory: Directory, writer: PausingKeyWriter, seconds: float = _SECONDS
) -> AsyncIterator[None]:
    """Bring what is told in line with all keys, now and every so many seconds while the context is open.

    Raises:
        ServiceUnavailable: It could not be read.
    """
    async with open_pausing_keys(connection) as told:
        task = asyncio.create_task(_keep(told, directory, writer, seconds))
        try:
            yield
        finally:
            await end((task,))


async def _keep(told: PausingKeys, directory: Directory, writer: PausingKeyWriter, seconds: float) -> None:
    while True:
        wanted = {key.key_id: one for key in directory.keys if (one := told_of(key)) is not None}
        known = {key.key_id: key for key in told}
        for key_id in wanted.keys() | known.keys():
            if wanted.get(key_id) != known.get(key_id):
                await writer.tell(key_id)
        await asyncio.sleep(seconds)


def told_of(key: Key) -> PausingKey | None:
    """What others are to know of a key; nothing of one whose batches do not pause."""
    if not key.pause_over_budget or key.limits.max_budget is None:
        return None
    return PausingKey(key_id=key.key_id, team_id=key.team_id, limits=key.limits)
