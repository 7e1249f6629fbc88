"""What a batch costs: what it used and the price book in, an amount for each model and the prices used out. No I/O.

    cost = Σ over deployments: (input − cached) × input price + cached × cached price + output × output price
                               + busy time × (price per second + GPUs × price per GPU hour / 3600)

A price for batches is used as it stands; any other price of a token is reduced by the configuration's `batch_discount`.
Time is priced as it stands. Cached input without a price of its own costs what other input costs.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction

from batchyard.common.config import Config, Deployment, Price
from batchyard.common.contracts.usage import Usage, Work
from batchyard.common.money import EXACT, rounded

_NOTHING = Decimal(0)
_MICROSECONDS = 10**6
_HOUR = 3600


@dataclass(frozen=True, slots=True)
class Rates:
    """What one token costs after the discount, in the configuration's currency. None: there is no price for it.

    `second` and `hour` are those of busy time, for all GPUs of the deployment. `discount` is the share that was taken
    off; 0 when every price of a token was one for batches.
    """

    input: Decimal | None = None
    cached: Decimal | None = None
    output: Decimal | None = None
    second: Decimal | None = None
    hour: Decimal | None = None
    discount: Decimal = _NOTHING

    @property
    def is_timed(self) -> bool:
        return self.second is not None or self.hour is not None

    @property
    def tokens(self) -> tuple[Decimal | None, Decimal | None, Decimal | None]:
        """What is shown of them on the ledger."""
        return (self.input, self.cached, self.output)


@dataclass(frozen=True, slots=True)
class Charge:
    """The share of one deployment in a batch's work for one model.

    Attributes:
        priced_as: The deployment whose prices were used: another one of the pool when `deployment` has left the
            configuration, None when there was none.
        unpriced: Something was used for which there is no price; it costs nothing.
        cost: The exact amount, not rounded.
    """

    deployment: str
    priced_as: str | None
    rates: Rates
    usage: Usage
    busy_microseconds: int
    unpriced: bool
    cost: Fraction


@dataclass(frozen=True, slots=True)
class Priced:
    """The price of a batch's work for one model.

    Attributes:
        completed: Lines of that model with a 2xx answer.
        failed: Lines of that model with an error for an answer.
        cost: Rounded to the unit of the ledger, once, after all charges were added.
        rates: Those of the charges, or None when their prices differ or nothing ran.
        discount: The largest share taken off on any deployment.
    """

    model: str | None
    completed: int
    failed: int
    charges: tuple[Charge, ...]
    cost: Decimal
    rates: Rates | None
    discount: Decimal

    @property
    def usage(self) -> Usage:
        return sum((charge.usage for charge in self.charges), Usage())

    @property
    def busy_microseconds(self) -> int:
        return sum(charge.busy_microseconds for charge in self.charges)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a batch cost, all of its models together; `amount` is the sum of what the ledger writes down for each."""

    amount: Decimal
    currency: str


def cost_of_batch(work: Iterable[Work], model: str | None, config: Config) -> Cost | None:
    """What a batch cost; None when no price is configured for anything that it used, or for what it may use.

    Args:
        model: The batch's own; what names no other was done for it.
    """
    priced = price_batch(work, model, config)
    rates = [charge.rates for one in priced for charge in one.charges]
    if not rates:
        pool = config.pool_for(model) if model else None
        deployments = config.pools[pool] if pool else config.deployments
        rates = [rates_of(deployment.price, config.batch_discount) for deployment in deployments]
    if all(rate == Rates() for rate in rates):
        return None
    return Cost(sum((one.cost for one in priced), _NOTHING), config.currency)


def told_work(work: Iterable[Work], usage_by_deployment: Mapping[str, Usage]) -> list[Work]:
    """All that a batch used: tokens that are credited to a deployment but to no model are the batch's own model's."""
    told = list(work)
    sums: dict[str | None, Usage] = {}
    for part in told:
        sums[part.deployment] = sums.get(part.deployment, Usage()) + part.usage
    for deployment, usage in usage_by_deployment.items():
        rest = usage if deployment not in sums else _without(usage, sums[deployment])
        if rest != Usage() or deployment not in sums:
            told.append(Work(deployment=deployment, usage=rest))
    return told


def price_batch(work: Iterable[Work], model: str | None, config: Config) -> list[Priced]:
    """Price what a batch used, by model, those in order; one without use if it used nothing.

    Args:
        model: The batch's own; what names no other was done for it.
    """
    by_model: dict[str | None, list[Work]] = {}
    for part in work:
        by_model.setdefault(part.model if part.model is not None else model, []).append(part)
    names = sorted(by_model, key=lambda name: (name is None, name or "")) or [model]
    return [_priced(name, by_model.get(name, []), config) for name in names]


def rates_of(price: Price, discount: Decimal) -> Rates:
    """The prices of a batch's work, given the prices configured and the discount on those that are not for batches."""
    with localcontext(EXACT):
        share = 1 - discount
        plain_input = None if price.input is None else price.input * share
        plain_output = None if price.output is None else price.output * share
        plain_cached = None if price.cached is None else price.cached * share
        hour = None if price.gpu_hour is None else price.gpu_hour * price.gpus
    for_input = plain_input if price.batch_input is None else price.batch_input
    for_cached = plain_cached if price.batch_cached is None else price.batch_cached
    discounted = (
        (plain_input is not None and price.batch_input is None)
        or (plain_output is not None and price.batch_output is None)
        or (plain_cached is not None and price.batch_cached is None)
    )
    return Rates(
        input=for_input,
        cached=for_input if for_cached is None else for_cached,
        output=plain_output if price.batch_output is None else price.batch_output,
        second=price.second,
        hour=hour,
        discount=discount if discounted else _NOTHING,
    )


def cost_of(usage: Usage, rates: Rates, busy_microseconds: int = 0) -> Fraction:
    """The exact cost of `usage` and the time it took; what has no price costs nothing."""
    tokens = sum((tokens * Fraction(price) for tokens, price in _items(usage, rates) if price is not None), Fraction(0))
    second = Fraction(rates.second or 0) + Fraction(rates.hour or 0) / _HOUR
    return tokens + busy_microseconds * second / _MICROSECONDS


def _priced(model: str | None, parts: list[Work], config: Config) -> Priced:
    used: dict[str, Work] = {}
    for part in parts:
        if part.deployment is not None:
            used[part.deployment] = used.get(part.deployment, Work()) + part
    charges = tuple(_charge(name, work, model, config) for name, work in sorted(used.items()))
    different = {(*charge.rates.tokens, charge.rates.second, charge.rates.hour) for charge in charges}
    return Priced(
        model=model,
        completed=sum(part.completed for part in parts),
        failed=sum(part.failed for part in parts),
        charges=charges,
        cost=rounded(sum((charge.cost for charge in charges), Fraction(0))),
        rates=charges[0].rates if len(different) == 1 else None,
        discount=max((charge.rates.discount for charge in charges), default=_NOTHING),
    )


def _charge(deployment: str, work: Work, model: str | None, config: Config) -> Charge:
    priced_as = _priced_as(deployment, model, config)
    rates = rates_of(priced_as.price, config.batch_discount) if priced_as else Rates()
    has_no_price = any(tokens and price is None for tokens, price in _items(work.usage, rates))
    return Charge(
        deployment=deployment,
        priced_as=priced_as.id if priced_as else None,
        rates=rates,
        usage=work.usage,
        busy_microseconds=work.busy_microseconds,
        unpriced=has_no_price and not (rates.is_timed and work.busy_microseconds),
        cost=cost_of(work.usage, rates, work.busy_microseconds),
    )


def _without(usage: Usage, told: Usage) -> Usage:
    """What of `usage` is not told otherwise."""
    return Usage.of(
        max(0, usage.input_tokens - told.input_tokens),
        max(0, usage.input_tokens_details.cached_tokens - told.input_tokens_details.cached_tokens),
        max(0, usage.output_tokens - told.output_tokens),
        max(0, usage.output_tokens_details.reasoning_tokens - told.output_tokens_details.reasoning_tokens),
    )


def _items(usage: Usage, rates: Rates) -> tuple[tuple[int, Decimal | None], ...]:
    # A server that reports more cached tokens than input has counted wrongly: nobody pays for tokens never sent.
    cached = min(usage.input_tokens_details.cached_tokens, usage.input_tokens)
    return (
        (usage.input_tokens - cached, rates.input),
        (cached, rates.cached),
        (usage.output_tokens, rates.output),
    )


def _priced_as(deployment: str, model: str | None, config: Config) -> Deployment | None:
    for candidate in config.deployments:
        if candidate.id == deployment:
            return candidate
    pool = config.pool_for(model) if model else None
    return config.pools[pool][0] if pool else None
