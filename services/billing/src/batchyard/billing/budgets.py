"""Budgets: what queued batches may cost is set aside before they run, and given back when they have been billed.

What a crash leaves set aside for a batch that was never made, or whose end brought no entry, is found by asking for the
batch (`Budgets.audit`).
"""

import math
from decimal import Decimal

from nats.js import JetStreamContext
from prometheus_client import Counter

from batchyard.billing.budget import (
    Scope,
    Standing,
    budget_of,
    estimated_cost,
    period_of,
    scopes_of,
    timed_models,
)
from batchyard.billing.budget_store import BudgetStore, Wish
from batchyard.billing.server_time import ServerTime
from batchyard.billing.server_time_store import ServerTimeStore
from batchyard.common.clock import Clock
from batchyard.common.config import Config
from batchyard.common.contracts.access import ALL_TENANTS, Limits
from batchyard.common.contracts.batches import BatchStatus, GetBatch
from batchyard.common.contracts.budgets import (
    Budget,
    BudgetReport,
    GetBudgets,
    GetSpent,
    Reservation,
    ReserveBudget,
    SpentReport,
)
from batchyard.common.contracts.events import BudgetEvent
from batchyard.common.contracts.usage import Usage
from batchyard.common.errors import NotFound, PermissionDenied, QuotaExceeded
from batchyard.common.logs import get_logger
from batchyard.common.messaging.commands import CommandClient
from batchyard.common.messaging.publishing import publish
from batchyard.common.messaging.teams import Teams
from batchyard.common.messaging.topology import EVENTS
from batchyard.common.pricing import price_batch

_GRACE_SECONDS = 120
_UNBILLED_SECONDS = 3600
REFUSALS = Counter("batchyard_budget_refusals", "Batches refused because a budget is used up", ["scope"])
_NO_LIMITS = Limits()
_log = get_logger(__name__)


class Budgets:
    """Keeps the budgets of teams and keys.

    Args:
        store: Where it is written what is set aside.
        times: What batches have taken of the servers' time.
        teams: What teams may spend.
        config: The prices, and the currency.
        clock: Says which period it is.
        assumed_speed: Tokens a second of a model of which nothing is known.
    """

    def __init__(
        self,
        store: BudgetStore,
        times: ServerTimeStore,
        teams: Teams,
        config: Config,
        clock: Clock,
        assumed_speed: float,
    ) -> None:
        self._store = store
        self._times = times
        self._teams = teams
        self._config = config
        self._clock = clock
        self._assumed_speed = assumed_speed

    def use(self, config: Config) -> None:
        """Estimate by other prices from now on."""
        self._config = config

    async def reserve(self, tenant: str, command: ReserveBudget) -> Reservation:
        """Set the estimated cost of a batch aside.

        Raises:
            QuotaExceeded: A budget does not hold a new batch.
            ServiceUnavailable: The database does not answer.
        """
        currency, now = self._config.currency, self._clock.now()
        key_id, key = (None, None) if command.key is None else (command.key.key_id, command.key.limits)
        scopes = scopes_of(self._limits(tenant), key_id, key, now)
        amount = await self._estimate(command) if scopes else Decimal(0)
        if not amount:
            return Reservation(currency=currency)
        wish = Wish(tenant, command.batch_id, key_id, amount, currency, command.planned, int(now))
        lack = await self._store.reserve(wish, scopes)
        if lack is None:
            return Reservation(amount=amount, currency=currency)
        if not command.planned:
            REFUSALS.labels("team" if lack.scope.key_id is None else "key").inc()
            _log.info("budget.refused", tenant=tenant, batch=command.batch_id, scope=lack.scope.name)
            end = lack.scope.period.end
            raise QuotaExceeded(lack.sentence(), retry_after=None if end is None else max(1, math.ceil(end - now)))
        return Reservation(amount=amount, currency=currency, shortage=lack.sentence(), is_final=lack.is_final)

    async def report(self, tenant: str, command: GetBudgets) -> BudgetReport:
        """Where the budgets stand."""
        key = None
        if command.key is not None:
            key = await self._budget(tenant, command.key.key_id, command.key.limits)
        running = sum((priced.cost for priced in price_batch(command.running, None, self._config)), Decimal(0))
        team = await self._budget(tenant, None, self._limits(tenant))
        team = team.model_copy(update={"running": running})
        return BudgetReport(currency=self._config.currency, team=team, key=key)

    async def spent(self, tenant: str, command: GetSpent) -> SpentReport:
        """What was spent in the present periods. Raises PermissionDenied for what is another tenant's."""
        if tenant != ALL_TENANTS and any(scope.team != tenant for scope in command.scopes):
            raise PermissionDenied("Only whoever runs Batchyard may see what another team has spent.")
        now = self._clock.now()
        asked = []
        for each in command.scopes:
            limits = Limits(budget_duration=each.budget_duration)
            asked.append((each.team, Scope(each.key_id, limits, period_of(limits, now))))
        currency = self._config.currency
        return SpentReport(currency=currency, spent=tuple(await self._store.spent(asked, currency)))

    async def note(self, tenant: str, key_id: str | None) -> None:
        """See whether what was spent has passed a soft budget. Raises ServiceUnavailable."""
        key = None if key_id is None else await self._store.limits_of_key(tenant, key_id)
        for scope in scopes_of(self._limits(tenant), key_id, key, self._clock.now()):
            if scope.limits.soft_budget is not None:
                await self._note(tenant, scope, scope.limits.soft_budget)

    async def tell(self, js: JetStreamContext) -> None:
        """Publish what is to be told. Raises ServiceUnavailable."""
        for event in await self._store.untold():
            await publish(js, event.subject, event.model_dump_json().encode(), EVENTS, {"Nats-Msg-Id": event.id})
            await self._store.told(event, int(self._clock.now()))

    async def audit(self, commands: CommandClient) -> None:
        """Give back what is set aside for batches that are not there, or have ended. Raises ServiceUnavailable."""
        now = self._clock.now()
        for tenant, batch_id in await self._store.reserved_before(int(now) - _GRACE_SECONDS):
            if await self._is_over(commands, tenant, batch_id, now) and await self._store.release(tenant, batch_id):
                _log.warning("budget.released", tenant=tenant, batch=batch_id)

    async def _is_over(self, commands: CommandClient, tenant: str, batch_id: str, now: float) -> bool:
        try:
            batch = await commands.call(tenant, GetBatch(batch_id=batch_id))
        except NotFound:
            return True
        if batch.status is BatchStatus.FAILED or not batch.status.is_terminal:
            return batch.status is BatchStatus.FAILED
        # Its event brings the entry, which takes the place of what is set aside, unless it cannot be billed.
        ended_at = batch.completed_at or batch.expired_at or batch.cancelled_at or 0
        return now - ended_at > _UNBILLED_SECONDS or await self._store.is_billed(tenant, batch_id)

    async def _estimate(self, command: ReserveBudget) -> Decimal:
        usage = Usage.of(command.input_tokens, 0, command.output_tokens, 0)
        config = self._config
        measured = await self._times.measured(timed_models(command.model, config), self._clock.now())
        return estimated_cost(command.model, usage, config, ServerTime(self._assumed_speed, measured))

    async def _note(self, tenant: str, scope: Scope, threshold: Decimal) -> None:
        standing = await self._store.standing(tenant, scope, self._config.currency)
        if standing.spent < threshold:
            return
        event = BudgetEvent(
            id=f"budget.{tenant}.{scope.key_id or 'team'}.{scope.period.start}.soft_exceeded",
            occurred_at=self._clock.now(),
            tenant=tenant,
            key_id=scope.key_id,
            currency=self._config.currency,
            spent=standing.spent,
            soft_budget=threshold,
            max_budget=scope.limits.max_budget,
            period_start=scope.period.start,
            resets_at=scope.period.end,
        )
        if await self._store.alert(event):
            _log.warning("budget.soft_exceeded", tenant=tenant, scope=scope.name, spent=str(standing.spent))

    async def _budget(self, tenant: str, key_id: str | None, limits: Limits) -> Budget:
        period = period_of(limits, self._clock.now())
        standing: Standing = await self._store.standing(tenant, Scope(key_id, limits, period), self._config.currency)
        return budget_of(limits, standing, period)

    def _limits(self, tenant: str) -> Limits:
        team = self._teams.get(tenant)
        return _NO_LIMITS if team is None else team.limits
