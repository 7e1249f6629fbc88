"""What a budget allows: pure functions over what was spent and what is set aside."""

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, localcontext

from batchyard.billing.server_time import ServerTime
from batchyard.common.config import BatchMode, Config, Deployment
from batchyard.common.contracts.access import Limits
from batchyard.common.contracts.budgets import Budget
from batchyard.common.contracts.usage import Usage
from batchyard.common.money import EXACT, MOST, rounded
from batchyard.common.periods import Period, period_or_ever
from batchyard.common.pricing import cost_of, rates_of

NOTHING = Decimal(0)


@dataclass(frozen=True, slots=True)
class Scope:
    """A budget that concerns a batch: its team's (without a `key_id`) or its key's, in its present period."""

    key_id: str | None
    limits: Limits
    period: Period

    @property
    def name(self) -> str:
        return "the team" if self.key_id is None else "the API key"


@dataclass(frozen=True, slots=True)
class Standing:
    """What was spent in a period by the ledger, and what is set aside for batches that have not ended."""

    spent: Decimal = NOTHING
    reserved: Decimal = NOTHING


@dataclass(frozen=True, slots=True)
class Shortfall:
    """A budget that does not hold one more batch. `is_final`: it never will, as the batch costs more than all of it."""

    scope: Scope
    standing: Standing
    wanted: Decimal
    currency: str

    @property
    def is_final(self) -> bool:
        limit = self.scope.limits.max_budget
        return limit is not None and self.wanted > limit

    def sentence(self) -> str:
        """In OpenAI's words first, then with the amounts."""
        limit, period = self.scope.limits.max_budget, self.scope.period
        assert limit is not None
        reset = "It is not reset." if period.end is None else f"It is reset at {_moment(period.end)}."
        return (
            "You exceeded your current quota, please check your plan and billing details. "
            f"The budget of {self.scope.name} is {_shown(limit)} {self.currency}: {_shown(self.standing.spent)} are "
            f"spent, {_shown(self.standing.reserved)} are reserved for batches that have not ended, and this batch is "
            f"estimated at {_shown(self.wanted)}. {reset}"
        )


def scopes_of(team: Limits, key_id: str | None, key: Limits | None, now: float) -> list[Scope]:
    """The budgets that are to be kept, the team's first. A duration that is none, by some error, is one without end."""
    scopes = [] if team.max_budget is None and team.soft_budget is None else [_scope(None, team, now)]
    if key_id is not None and key is not None and (key.max_budget is not None or key.soft_budget is not None):
        scopes.append(_scope(key_id, key, now))
    return scopes


def shortfall(scope: Scope, standing: Standing, wanted: Decimal, currency: str) -> Shortfall | None:
    """Why a batch that costs `wanted` does not fit beside what is spent and reserved; None if it does."""
    limit = scope.limits.max_budget
    if limit is None or standing.spent + standing.reserved + wanted <= limit:
        return None
    return Shortfall(scope, standing, wanted, currency)


def budget_of(limits: Limits, standing: Standing, period: Period) -> Budget:
    """What a caller sees of a budget."""
    limit = limits.max_budget
    left = None if limit is None else max(NOTHING, limit - standing.spent - standing.reserved)
    return Budget(
        max_budget=limit,
        soft_budget=limits.soft_budget,
        budget_duration=limits.budget_duration,
        spent=standing.spent,
        reserved=standing.reserved,
        remaining=left,
        resets_at=period.end,
    )


def period_of(limits: Limits, now: float) -> Period:
    return period_or_ever(limits.budget_duration, now)


def estimated_cost(model: str | None, usage: Usage, config: Config, time: ServerTime) -> Decimal:
    """What tokens cost at most, and the time that they take: by the dearest deployment that may run them, any of them
    without a model. What has no price costs nothing, and nothing costs more than a column of the database holds."""
    costs = (_cost(deployment, model, usage, config, time) for deployment in _deployments(model, config))
    return min(max(costs, default=NOTHING), MOST)


def timed_models(model: str | None, config: Config) -> set[str]:
    """The models of which has to be known how long they take, for the estimate of a batch of `model`."""
    deployments = _deployments(model, config)
    return {_model_on(deployment, model, config) for deployment in deployments if _is_timed(deployment)}


def _scope(key_id: str | None, limits: Limits, now: float) -> Scope:
    return Scope(key_id, limits, period_of(limits, now))


def _deployments(model: str | None, config: Config) -> tuple[Deployment, ...]:
    if model is None:
        return config.deployments
    pool = config.pool_for(model)
    return () if pool is None else config.pools[pool]


def _cost(deployment: Deployment, model: str | None, usage: Usage, config: Config, time: ServerTime) -> Decimal:
    is_timed = _is_timed(deployment)
    busy = time.microseconds(_model_on(deployment, model, config), usage) if is_timed else 0
    return rounded(cost_of(usage, rates_of(deployment.price, config.batch_discount), busy))


def _is_timed(deployment: Deployment) -> bool:
    """Whether the deployment's time is charged for: one that runs whole batches of its own does not tell it."""
    has_price = deployment.price.second is not None or deployment.price.gpu_hour is not None
    return has_price and deployment.batch_mode is not BatchMode.NATIVE


def _model_on(deployment: Deployment, model: str | None, config: Config) -> str:
    """The public name of a batch's model; of a batch of several, the one that the deployment is for."""
    return deployment.pool if model is None else config.public_name(model)


def _shown(amount: Decimal) -> str:
    with localcontext(EXACT):
        text = f"{amount.normalize():f}"
    return text if "." in text else f"{text}.00"


def _moment(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
