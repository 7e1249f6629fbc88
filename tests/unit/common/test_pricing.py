"""What a batch costs."""

from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.billing.ends import deployment

from batchyard.common.config import ANY_MODEL, Config, Price
from batchyard.common.contracts.usage import Usage, Work
from batchyard.common.money import UNIT
from batchyard.common.pricing import Priced, Rates, cost_of, price_batch, rates_of


def d(text: str) -> Decimal:
    return Decimal(text)


HALF = d("0.5")


def priced_as_one(used: Mapping[str, Usage], model: str | None, config: Config) -> Priced:
    """The price of a batch of one model."""
    (priced,) = price_batch((Work(deployment=name, usage=usage) for name, usage in used.items()), model, config)
    return priced


@pytest.mark.parametrize(
    ("price", "discount", "rates"),
    [
        pytest.param(Price(), HALF, Rates(), id="nothing is priced"),
        pytest.param(Price(input=d("2"), output=d("4")), d("0"), Rates(d("2"), d("2"), d("4")), id="no discount"),
        pytest.param(
            Price(input=d("2"), output=d("4")),
            HALF,
            Rates(d("1"), d("1"), d("2"), discount=HALF),
            id="the discount applies",
        ),
        pytest.param(
            Price(input=d("2"), output=d("4"), cached=d("0.2")),
            HALF,
            Rates(d("1"), d("0.1"), d("2"), discount=HALF),
            id="cached input has its own price, discounted",
        ),
        pytest.param(
            Price(input=d("2"), output=d("4"), batch_input=d("1.5"), batch_output=d("3")),
            HALF,
            Rates(d("1.5"), d("1.5"), d("3")),
            id="batch prices go before the others, without a discount",
        ),
        pytest.param(
            Price(input=d("2"), output=d("4"), batch_input=d("1.5")),
            HALF,
            Rates(d("1.5"), d("1.5"), d("2"), discount=HALF),
            id="one batch price, the other discounted",
        ),
        pytest.param(
            Price(cached=d("2"), batch_input=d("1.5"), batch_output=d("3")),
            HALF,
            Rates(d("1.5"), d("1"), d("3"), discount=HALF),
            id="a cached price that is not for batches is discounted",
        ),
        pytest.param(
            Price(cached=d("2"), batch_cached=d("1.8"), batch_input=d("3"), batch_output=d("3")),
            HALF,
            Rates(d("3"), d("1.8"), d("3")),
            id="a cached price for batches",
        ),
        pytest.param(
            Price(input=d("2"), second=d("0.25"), gpu_hour=d("1.2"), gpus=8),
            HALF,
            Rates(d("1"), d("1"), None, d("0.25"), d("9.6"), HALF),
            id="time is not discounted",
        ),
        pytest.param(Price(input=d("2")), d("1"), Rates(d("0"), d("0"), None, discount=d("1")), id="a discount of all"),
    ],
)
def test_rates(price: Price, discount: Decimal, rates: Rates) -> None:
    assert rates_of(price, discount) == rates


@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        pytest.param(Usage(), "0", id="nothing used"),
        pytest.param(Usage.of(10, 0, 0, 0), "20", id="input"),
        pytest.param(Usage.of(10, 4, 0, 0), "12.4", id="input, some of it cached"),
        pytest.param(Usage.of(10, 11, 0, 0), "1.0", id="more cached than sent is not charged for"),
        pytest.param(Usage.of(0, 0, 3, 2), "12", id="output, reasoning included"),
        pytest.param(Usage.of(10, 4, 3, 0), "24.4", id="all"),
    ],
)
def test_cost(usage: Usage, cost: str) -> None:
    assert cost_of(usage, Rates(d("2"), d("0.1"), d("4"))) == d(cost)


def test_what_has_no_price_costs_nothing() -> None:
    assert cost_of(Usage.of(10, 4, 3, 0), Rates(output=d("4"))) == d("12")


def test_each_deployment_has_its_own_price_and_the_row_then_shows_none() -> None:
    config = Config(deployments=(deployment("one", Price(d("1"), d("2"))), deployment("two", Price(d("3"), d("4")))))
    used = {"one": Usage.of(1, 0, 1, 0), "two": Usage.of(1, 0, 1, 0)}
    priced = priced_as_one(used, "llama", config)
    assert priced.cost == d("10")
    assert priced.rates is None
    assert [charge.rates.input for charge in priced.charges] == [d("1"), d("3")]


def test_equal_prices_are_shown() -> None:
    config = Config(
        deployments=(
            deployment("one", Price(d("1"), d("2"))),
            deployment("two", Price(batch_input=d("0.5"), batch_output=d("1.0"))),
        ),
        batch_discount=HALF,
    )
    priced = priced_as_one({"one": Usage.of(1, 0, 0, 0), "two": Usage.of(1, 0, 0, 0)}, "llama", config)
    assert priced.rates is not None
    assert (priced.rates.input, priced.rates.output, priced.discount) == (HALF, d("1"), HALF)


def test_a_deployment_that_left_is_priced_as_the_first_of_its_pool() -> None:
    config = Config(deployments=(deployment("x", pool="other"), deployment("one", Price(d("1"), d("2")))))
    charge = priced_as_one({"gone": Usage.of(5, 0, 0, 0)}, "llama", config).charges[0]
    assert (charge.priced_as, charge.cost) == ("one", Fraction(5))


@pytest.mark.parametrize("model", [None, "unheard-of"])
def test_a_deployment_without_a_pool_costs_nothing(model: str | None) -> None:
    config = Config(deployments=(deployment("one"),))
    charge = priced_as_one({"gone": Usage.of(5, 0, 0, 0)}, model, config).charges[0]
    assert (charge.priced_as, charge.cost, charge.unpriced) == (None, Fraction(0), True)


def test_a_fleet_that_takes_any_model_prices_any_model() -> None:
    config = Config(deployments=(deployment("one", Price(d("1")), pool=ANY_MODEL),))
    assert priced_as_one({"gone": Usage.of(5, 0, 0, 0)}, "unheard-of", config).cost == d("5")


@pytest.mark.parametrize(
    ("price", "usage", "unpriced"),
    [
        (Price(), Usage.of(1, 0, 0, 0), True),
        (Price(), Usage(), False),
        (Price(input=d("1")), Usage.of(1, 0, 0, 0), False),
        (Price(input=d("1")), Usage.of(1, 0, 1, 0), True),
        (Price(input=d("0"), output=d("0")), Usage.of(1, 0, 1, 0), False),
    ],
)
def test_tokens_without_a_price_are_told(price: Price, usage: Usage, unpriced: bool) -> None:
    config = Config(deployments=(deployment("one", price),))
    assert priced_as_one({"one": usage}, "llama", config).charges[0].unpriced is unpriced


def test_nothing_used_costs_nothing() -> None:
    priced = priced_as_one({}, "llama", Config())
    assert priced.rates is None
    assert priced.cost == priced.discount == 0


def test_time_is_paid_for_by_the_microsecond() -> None:
    rates = Rates(second=d("0.5"), hour=d("7"))
    assert cost_of(Usage.of(10, 0, 10, 0), rates, 3_600_000_001) == Fraction(3_600_000_001, 10**6) * (
        Fraction(1, 2) + Fraction(7, 3600)
    )


@pytest.mark.parametrize(("busy", "unpriced"), [(5, False), (0, True)])
def test_a_price_by_time_is_none_for_work_whose_time_is_not_known(busy: int, unpriced: bool) -> None:
    config = Config(deployments=(deployment("one", Price(gpu_hour=d("2"))),))
    work = Work(deployment="one", usage=Usage.of(1, 0, 1, 0), busy_microseconds=busy)
    assert price_batch([work], "llama", config)[0].charges[0].unpriced is unpriced


def test_each_model_of_a_batch_has_its_price() -> None:
    config = Config(
        deployments=(deployment("one", Price(d("1")), pool="a"), deployment("two", Price(d("3")), pool="b"))
    )
    used = Usage.of(2, 0, 0, 0)
    work = [
        Work(model="b", deployment="two", completed=1, usage=used),
        Work(model="a", deployment="one", completed=2, usage=used),
        Work(model="b", failed=4),
    ]
    priced = price_batch(work, None, config)
    assert [(one.model, one.completed, one.failed, one.cost) for one in priced] == [
        ("a", 2, 0, d("2")),
        ("b", 1, 4, d("6")),
    ]


amounts = st.one_of(st.none(), st.decimals(0, 1, allow_nan=False, places=14))
prices = st.builds(Price, amounts, amounts, amounts, amounts, amounts)
discounts = st.decimals(0, 1, places=4)
tokens = st.integers(0, 10**12)


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    prompt = draw(tokens)
    return Usage.of(prompt, draw(st.integers(0, prompt)), draw(tokens), 0)


@given(prices, discounts, usages(), usages())
def test_cost_is_additive(price: Price, discount: Decimal, one: Usage, two: Usage) -> None:
    rates = rates_of(price, discount)
    assert Fraction(cost_of(one + two, rates)) == Fraction(cost_of(one, rates)) + Fraction(cost_of(two, rates))


@given(prices, discounts, st.builds(Usage.of, tokens, tokens, tokens, tokens))
def test_cost_is_never_negative_and_never_above_the_undiscounted(price: Price, discount: Decimal, used: Usage) -> None:
    cost = cost_of(used, rates_of(price, discount))
    assert 0 <= cost <= cost_of(used, rates_of(price, Decimal(0)))


@given(prices, prices, discounts, usages(), usages())
def test_a_batch_costs_the_exact_sum_to_the_nearest_unit(
    first: Price, second: Price, discount: Decimal, one: Usage, two: Usage
) -> None:
    config = Config(deployments=(deployment("one", first), deployment("two", second)), batch_discount=discount)
    priced = priced_as_one({"one": one, "two": two}, "llama", config)
    exact = sum(_exact_cost(price, discount, usage) for price, usage in ((first, one), (second, two)))
    assert abs(Fraction(priced.cost) - exact) <= Fraction(UNIT) / 2


def _exact_cost(price: Price, discount: Decimal, usage: Usage) -> Fraction:
    """The rule, written down a second time in fractions."""
    share = 1 - Fraction(discount)
    cached = usage.input_tokens_details.cached_tokens

    def per_token(batch: Decimal | None, normal: Decimal | None) -> Fraction:
        return Fraction(batch) if batch is not None else Fraction(normal or 0) * share

    for_input = per_token(price.batch_input, price.input)
    for_cached = for_input if price.cached is None else Fraction(price.cached) * share
    for_output = per_token(price.batch_output, price.output)
    return (usage.input_tokens - cached) * for_input + cached * for_cached + usage.output_tokens * for_output
