"""What a batch costs: usage by deployment and the price book in, an amount and the prices used out. No I/O.

    cost = Σ over deployments: (input − cached) × input price + cached × cached price + output × output price

A price for batches is used as it stands; any other is reduced by the configuration's `batch_discount`. Cached input
without a price of its own costs what other input costs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, localcontext

from batchyard.billing.money import EXACT, rounded
from batchyard.common.config import Config, Deployment, Price
from batchyard.common.contracts.batches import Usage

_NOTHING = Decimal(0)


@dataclass(frozen=True, slots=True)
class Rates:
    """What one token costs after the discount, in the configuration's currency. None: there is no price for it.

    `discount` is the share that was taken off; 0 when every price was one for batches.
    """

    input: Decimal | None = None
    cached: Decimal | None = None
    output: Decimal | None = None
    discount: Decimal = _NOTHING


@dataclass(frozen=True, slots=True)
class Charge:
    """The share of one deployment in a batch.

    Attributes:
        priced_as: The deployment whose prices were used: another one of the pool when `deployment` has left the
            configuration, None when there was none.
        unpriced: Tokens were used for which there is no price; they cost nothing.
        cost: The exact amount, not rounded.
    """

    deployment: str
    priced_as: str | None
    rates: Rates
    usage: Usage
    unpriced: bool
    cost: Decimal


@dataclass(frozen=True, slots=True)
class Priced:
    """The price of a whole batch.

    Attributes:
        cost: Rounded to the unit of the ledger, once, after all charges were added.
        rates: Those of the charges, or None when their prices differ or nothing ran.
        discount: The largest share taken off on any deployment.
    """

    charges: tuple[Charge, ...]
    cost: Decimal
    rates: Rates | None
    discount: Decimal


def price_batch(usage_by_deployment: Mapping[str, Usage], model: str | None, config: Config) -> Priced:
    """Price what `model`'s batch used on each deployment (by ID)."""
    charges = tuple(
        _charge(deployment, usage, model, config) for deployment, usage in sorted(usage_by_deployment.items())
    )
    with localcontext(EXACT):
        cost = sum((charge.cost for charge in charges), _NOTHING)
    different = {(charge.rates.input, charge.rates.cached, charge.rates.output) for charge in charges}
    return Priced(
        charges=charges,
        cost=rounded(cost),
        rates=charges[0].rates if len(different) == 1 else None,
        discount=max((charge.rates.discount for charge in charges), default=_NOTHING),
    )


def rates_of(price: Price, discount: Decimal) -> Rates:
    """The prices of batch tokens, given the prices configured and the discount on those that are not for batches."""
    with localcontext(EXACT):
        share = 1 - discount
        plain_input = None if price.input is None else price.input * share
        plain_output = None if price.output is None else price.output * share
        plain_cached = None if price.cached is None else price.cached * share
    for_input = plain_input if price.batch_input is None else price.batch_input
    discounted = (
        (plain_input is not None and price.batch_input is None)
        or (plain_output is not None and price.batch_output is None)
        or plain_cached is not None
    )
    return Rates(
        input=for_input,
        cached=for_input if plain_cached is None else plain_cached,
        output=plain_output if price.batch_output is None else price.batch_output,
        discount=discount if discounted else _NOTHING,
    )


def cost_of(usage: Usage, rates: Rates) -> Decimal:
    """The exact cost of `usage`; what has no price costs nothing."""
    with localcontext(EXACT):
        return sum((tokens * price for tokens, price in _items(usage, rates) if price is not None), _NOTHING)


def _charge(deployment: str, usage: Usage, model: str | None, config: Config) -> Charge:
    priced_as = _priced_as(deployment, model, config)
    rates = rates_of(priced_as.price, config.batch_discount) if priced_as else Rates()
    return Charge(
        deployment=deployment,
        priced_as=priced_as.id if priced_as else None,
        rates=rates,
        usage=usage,
        unpriced=any(tokens and price is None for tokens, price in _items(usage, rates)),
        cost=cost_of(usage, rates),
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
