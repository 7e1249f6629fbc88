"""Amounts of money: exact while computing, whole units of 1e-10 of the currency when kept.

A price per token may have any number of digits, and one per hour may divide into seconds without end, so an amount is
computed as a fraction and rounded once, half to even, when it is written down. Kept as an integer number of units it is
exact in SQLite, which has no decimal type, and in PostgreSQL alike, and a database can add it up. 64 bits hold
922 million of the currency in one entry.
"""

from decimal import ROUND_HALF_EVEN, Context, Decimal, Inexact, InvalidOperation
from fractions import Fraction

DIGITS = 10
UNIT = Decimal(1).scaleb(-DIGITS)
UNITS_PER_WHOLE = 10**DIGITS
MOST = Decimal(2**63 - 1).scaleb(-DIGITS)
"""The largest amount of one entry."""

EXACT = Context(prec=1000, rounding=ROUND_HALF_EVEN, traps=[Inexact, InvalidOperation])
"""For `localcontext`: an amount that would lose a digit is an error, not an approximation."""


def rounded(amount: Decimal | Fraction) -> Decimal:
    """`amount` to the nearest unit, ties to the even one."""
    return from_units(round(Fraction(amount) * UNITS_PER_WHOLE))


def to_units(amount: Decimal) -> int:
    """A rounded amount as units of 1e-10. Raises ValueError when it is not a whole number of them."""
    units = amount.scaleb(DIGITS, context=EXACT)
    if units != int(units):
        raise ValueError(f"not a multiple of {UNIT}: {amount}")
    return int(units)


def from_units(units: int) -> Decimal:
    """The amount of `units` of 1e-10, without trailing zeros."""
    text = format(Decimal(units).scaleb(-DIGITS, context=EXACT), "f")
    return Decimal(text.rstrip("0").rstrip("."))
