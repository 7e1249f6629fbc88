"""Pausing the batches of teams and keys that have spent their budget, for those that want it so (`pause_over_budget`).

Nothing is written down: every runner finds out by itself, again and again, from billing and from what running batches
have used so far. A batch that is paused sends nothing new; what is in flight ends. It goes on when the budget is
raised, or when its period is over.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal

from batchyard.batch_runner.batch_store import BatchStore
from batchyard.batch_runner.batches import Batches
from batchyard.batch_runner.pauses import Pauses, Whose
from batchyard.common.contracts.budgets import Budget, GetBudgets, KeyLimits
from batchyard.common.contracts.usage import Work, added_work
from batchyard.common.errors import ApiError
from batchyard.common.logs import get_logger
from batchyard.common.messaging.commands import CommandClient
from batchyard.common.messaging.teams import PausingKeys, Teams
from batchyard.common.tasks import unless

_log = get_logger(__name__)

Unfinished = Callable[[], Iterable[tuple[str, str]]]


class BudgetWatch:
    """Asks billing for the teams and keys that want to be paused, every `interval` seconds.

    Args:
        unfinished: Tenant and raw ID of every batch that has something left to do.
        pauses: Told whose batches pause.
    """

    def __init__(
        self,
        store: BatchStore,
        batches: Batches,
        teams: Teams,
        keys: PausingKeys,
        commands: CommandClient,
        pauses: Pauses,
        unfinished: Unfinished,
        interval: float,
    ) -> None:
        self._store = store
        self._batches = batches
        self._teams = teams
        self._keys = keys
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
        running: dict[Whose, tuple[Work, ...]] = {}
        keys = {key.key_id: key.team_id for key in self._keys if key.limits.max_budget is not None}
        teams = set(keys.values())
        for tenant, raw_id in list(self._unfinished()):
            if self._wants_pause(tenant) or tenant in teams:
                await self._gather(tenant, raw_id, keys, running)
        for whose in self._pauses.all - running.keys():
            self._pauses.resume(whose)
        for whose, used in running.items():
            reason = await self._reason(whose, used)
            if reason is None:
                self._pauses.resume(whose)
            else:
                self._pauses.pause(whose, reason)

    def _wants_pause(self, tenant: str) -> bool:
        team = self._teams.get(tenant)
        return team is not None and team.pause_over_budget and team.limits.max_budget is not None

    async def _gather(
        self, tenant: str, raw_id: str, keys: Mapping[str, str], running: dict[Whose, tuple[Work, ...]]
    ) -> None:
        """Add what a batch has used to those whose budgets pause it; `keys` are such keys, with their teams."""
        record = await self._store.get(tenant, raw_id)
        if record is None:
            return
        whose: list[Whose] = [(tenant, None)] if self._wants_pause(tenant) else []
        if record.key_id is not None and keys.get(record.key_id) == tenant:
            whose.append((tenant, record.key_id))
        used = await self._batches.used(record) if whose and not record.status.is_terminal else ()
        for each in whose:
            running[each] = added_work(running.get(each, ()), used)

    async def _reason(self, whose: Whose, running: tuple[Work, ...]) -> str | None:
        """Why those batches are to pause; None if their budget is not spent."""
        tenant, key_id = whose
        key = None if key_id is None else self._keys.get(key_id)
        limits = None if key is None else KeyLimits(key_id=key.key_id, limits=key.limits)
        report = await self._commands.call(tenant, GetBudgets(key=limits, running=running))
        if key_id is None:
            return _reason(report.team, report.team.running, "the team")
        return None if report.key is None else _reason(report.key, report.team.running, "the API key")


def _reason(budget: Budget, running: Decimal, whose: str) -> str | None:
    """`running` is what the batches in question have used so far."""
    if budget.max_budget is None or budget.spent + running < budget.max_budget:
        return None
    until = "until it is raised"
    if budget.resets_at is not None:
        moment = datetime.fromtimestamp(budget.resets_at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        until = f"{until} or reset at {moment}"
    return f"The budget of {whose} is spent. The requests wait {until}; none is lost."
