"""Whose batches send nothing for now, and why."""

import asyncio

from batchyard.common.logs import get_logger

_log = get_logger(__name__)

Whose = tuple[str, str | None]
"""A tenant's batches, or with the ID of a key those of that key."""


class Pauses:
    """The tenants and keys whose batches pause, as this process knows it. All state belongs to one event loop."""

    def __init__(self) -> None:
        self._reasons: dict[Whose, str] = {}
        self._resumed: dict[Whose, asyncio.Event] = {}

    @property
    def all(self) -> frozenset[Whose]:
        return frozenset(self._reasons)

    def reason(self, tenant: str, key_id: str | None) -> str | None:
        """Why batches that a key of a tenant made pause; None if they do not."""
        if not self._reasons:  # asked for every line
            return None
        return self._reasons.get((tenant, None)) or self._reasons.get((tenant, key_id))

    def pause(self, whose: Whose, reason: str) -> None:
        """Let batches send nothing new."""
        if whose not in self._reasons:
            _log.warning("batches.paused", tenant=whose[0], key_id=whose[1], reason=reason)
            self._resumed[whose] = asyncio.Event()
        self._reasons[whose] = reason

    def resume(self, whose: Whose) -> None:
        """Let them go on."""
        if self._reasons.pop(whose, None) is not None:
            _log.info("batches.resumed", tenant=whose[0], key_id=whose[1])
            self._resumed.pop(whose).set()

    async def over(self, tenant: str, key_id: str | None) -> None:
        """Return once neither the tenant's batches pause nor the key's."""
        while resumed := self._resumed.get((tenant, None)) or self._resumed.get((tenant, key_id)):
            await resumed.wait()

    def of(self, tenant: str, key_id: str | None) -> "Pause":
        """The pauses of a batch that a key of a tenant made, for who works on it."""
        return Pause(self, tenant, key_id)


class Pause:
    """Whether a batch pauses."""

    def __init__(self, pauses: Pauses, tenant: str, key_id: str | None) -> None:
        self._pauses = pauses
        self._tenant = tenant
        self._key_id = key_id

    @property
    def is_on(self) -> bool:
        return self._pauses.reason(self._tenant, self._key_id) is not None

    async def over(self) -> None:
        """Return once it does not pause."""
        await self._pauses.over(self._tenant, self._key_id)
