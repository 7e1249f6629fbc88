"""Whose batches send nothing for now, and why."""

import asyncio

from batchyard.common.logs import get_logger

_log = get_logger(__name__)


class Pauses:
    """The tenants whose batches pause, as this process knows it. All state belongs to one event loop."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}
        self._resumed: dict[str, asyncio.Event] = {}

    @property
    def tenants(self) -> frozenset[str]:
        return frozenset(self._reasons)

    def reason(self, tenant: str) -> str | None:
        """Why a tenant's batches pause; None if they do not."""
        return self._reasons.get(tenant)

    def pause(self, tenant: str, reason: str) -> None:
        """Let a tenant's batches send nothing new."""
        if tenant not in self._reasons:
            _log.warning("tenant.paused", tenant=tenant, reason=reason)
            self._resumed[tenant] = asyncio.Event()
        self._reasons[tenant] = reason

    def resume(self, tenant: str) -> None:
        """Let them go on."""
        if self._reasons.pop(tenant, None) is not None:
            _log.info("tenant.resumed", tenant=tenant)
            self._resumed.pop(tenant).set()

    async def over(self, tenant: str) -> None:
        """Return once the tenant's batches do not pause."""
        while (resumed := self._resumed.get(tenant)) is not None:
            await resumed.wait()

    def of(self, tenant: str) -> "Pause":
        """A tenant's pauses, for who works for it."""
        return Pause(self, tenant)


class Pause:
    """Whether one tenant's batches pause."""

    def __init__(self, pauses: Pauses, tenant: str) -> None:
        self._pauses = pauses
        self._tenant = tenant

    @property
    def is_on(self) -> bool:
        return self._pauses.reason(self._tenant) is not None

    async def over(self) -> None:
        """Return once they do not pause."""
        await self._pauses.over(self._tenant)
