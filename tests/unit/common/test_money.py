"""Amounts are exact, and rounded once."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchyard.common.money import MOST, UNIT, from_units, rounded, to_units


@given(st.integers(0, 2**63 - 1))
def test_units_survive_the_way_there_and_back(units: int) -> None:
    assert to_units(from_units(units)) == units
    assert from_units(units) == units * UNIT


@pytest.mark.parametrize(
    ("amount", "kept"),
    [
        ("0.00000000005", "0"),
        ("0.00000000015", "0.0000000002"),
        ("0.00000000025", "0.0000000002"),
        ("0.000000000250000000000000000000000000001", "0.0000000003"),
        ("123456789.00000000005", "123456789"),
    ],
)
def test_ties_go_to_the_even_unit(amount: str, kept: str) -> None:
    assert rounded(Decimal(amount)) == Decimal(kept)


def test_an_amount_between_units_is_never_kept() -> None:
    with pytest.raises(ValueError, match="not a multiple"):
        to_units(UNIT / 2)


def test_the_largest_amount_fills_64_bits() -> None:
    assert to_units(MOST) == 2**63 - 1


@pytest.mark.parametrize(("units", "text"), [(0, "0"), (15_000_000_000, "1.5"), (1_000_000_000_000, "100")])
def test_amounts_have_no_needless_digits(units: int, text: str) -> None:
    assert str(from_units(units)) == text
