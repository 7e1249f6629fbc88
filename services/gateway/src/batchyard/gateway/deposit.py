"""Bytes on their way into the object store: there is a claim on them in the end, or nothing is left of them."""

from collections.abc import AsyncGenerator
from typing import TypeVar

from pydantic import BaseModel

from batchyard.common.contracts.base import Command
from batchyard.common.errors import ApiError, InternalError, ServiceUnavailable
from batchyard.common.logs import get_logger
from batchyard.common.objects import ObjectInfo, ObjectStoreError
from batchyard.gateway.caller import Caller

R = TypeVar("R", bound=BaseModel)
_log = get_logger(__name__)


class Deposit:
    """The bytes in one place that file-store has opened for a caller."""

    def __init__(self, caller: Caller, object_key: str) -> None:
        self._caller = caller
        self._objects = caller.gateway.objects
        self._is_stored = False
        self.object_key = object_key

    async def put(self, chunks: AsyncGenerator[bytes, None], max_bytes: int) -> ObjectInfo:
        """Store bytes as they come. Raises ObjectStoreError, and what `chunks` raises; nothing is stored then."""
        stored = await self._objects.put(self.object_key, chunks, max_bytes=max_bytes)
        self._is_stored = True
        return stored

    async def claim(self, command: Command[R]) -> R:
        """The answer to the command that claims the bytes; they are taken back when it is refused. Raises ApiError."""
        try:
            return await self._caller.insist(command)
        except (ServiceUnavailable, InternalError):
            raise  # the claim may have been made: only file-store can tell whether the bytes are in use
        except ApiError:
            await self.take_back()
            raise

    async def take_back(self) -> None:
        """Remove what was stored. If the store is away by now, file-store's sweep does it."""
        if not self._is_stored:
            return
        try:
            await self._objects.delete([self.object_key])
        except ObjectStoreError as error:
            _log.warning("deposit.not_taken_back", object_key=self.object_key, error=str(error))
