"""Pausing the batches of teams that have spent their budget, for those that want it so (`pause_over_budget`).

Nothing is written down: every runner finds out by itself, again and again, from billing and from what running batches
have used so far. A batch that is paused sends nothing new; what is in flight ends. It goes on when the budget is
raised, or when its period is over.
"""

import asyncio
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from batchyard.batch_runner.batch_store import BatchStore
from batchyard.batch_runner.batches import Batches
from batchyard.batch_runner.pauses import Pauses
from batchyard.common.contracts.batches import BatchStatus
from batchyard.common.contracts.budgets import Budget, GetBudgets, RunningUsage
from batchyard.common.errors import ApiError
from batchyard.common.logs import get_logger
from batchyard.common.messaging.commands import CommandClient
from batchyard.common.messaging.teams import Teams
from batchyard.common.tasks import unless

_log = get_logger(__name__)

Unfinished = Callable[[], Iterable[tuple[str, str]]]


class BudgetWatch:
    """Asks billing for the teams that want to be paused, every `interval` seconds.

    Args:
        unfinished: Tenant and raw ID of every batch that has something left to do.
        pauses: Told whose batches pause.
    """

    def __init__(
        self,
        store: BatchStore,
        batches: Batches,
        teams: Teams,
        commands: CommandClient,
        pauses: Pauses,
        unfinished: Unfinished,
        interval: float,
    ) -> None:
        self._store = store
        self._batches = batches
        self._teams = teams
        self._commands = commands
        self._pauses = pauses
        self._unfinished = unfinished
        self._interval = interval

    async def run(self, stop: asyncio.Event) -> None:
        """Watch until `stop` is set."""
        while not stop.is_set():
            try:
                await self.look()
            except ApiError as error:
                # Who is paused stays so, and who is not goes on: neither is decided by an outage.
                _log.warning("budgets.not_watched", reason=str(error))
            await unless(stop, asyncio.sleep(self._interval))

    async def look(self) -> None:
        """Pause and resume as the budgets are now. Raises ApiError."""
        by_tenant: dict[str, list[str]] = {}
        for tenant, raw_id in list(self._unfinished()):
            if self._wants_pause(tenant):
                by_tenant.setdefault(tenant, []).append(raw_id)
        for tenant in self._pauses.tenants - by_tenant.keys():
            self._pauses.resume(tenant)
        for tenant, raw_ids in by_tenant.items():
            reason = _reason(await self._budget(tenant, raw_ids))
            if reason is None:
                self._pauses.resume(tenant)
            else:
                self._pauses.pause(tenant, reason)

    def _wants_pause(self, tenant: str) -> bool:
        team = self._teams.get(tenant)
        return team is not None and team.pause_over_budget and team.limits.max_budget is not None

    async def _budget(self, tenant: str, raw_ids: Iterable[str]) -> Budget:
        running = []
        for raw_id in raw_ids:
            record = await self._store.get(tenant, raw_id)
            if record is not None and record.status is BatchStatus.IN_PROGRESS:
                usage = (await self._batches.live(record)).usage
                if usage is not None:
                    running.append(RunningUsage(model=record.model, usage=usage))
        return (await self._commands.call(tenant, GetBudgets(running=tuple(running)))).team


def _reason(budget: Budget) -> str | None:
    if budget.max_budget is None or budget.spent + budget.running < budget.max_budget:
        return None
    until = "until it is raised"
    if budget.resets_at is not None:
        moment = datetime.fromtimestamp(budget.resets_at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        until = f"{until} or reset at {moment}"
    return f"The budget of the team is spent. The requests wait {until}; none is lost."
