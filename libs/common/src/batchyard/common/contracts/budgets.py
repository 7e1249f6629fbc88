"""Budgets: the commands of billing that keep what is queued within them. Amounts are decimal strings, never floats.

What a team may spend is in the directory of teams; what a key may spend comes with the commands made under it.
"""

from decimal import Decimal
from typing import ClassVar, Literal

from pydantic import Field

from batchyard.common.contracts.access import Limits
from batchyard.common.contracts.base import Command, Contract
from batchyard.common.contracts.usage import Work

SPENT_MAX = 100


class KeyLimits(Contract):
    """A key, and what it may do."""

    key_id: str = Field(max_length=64)
    limits: Limits


class Reservation(Contract):
    """What was set aside for a batch.

    Attributes:
        amount: The estimated cost; 0 where nothing has a price or no budget is kept.
        shortage: Why the batch has to wait, or could never be run; None when it fits.
        is_final: Whether it could never be run: it costs more than the whole budget.
    """

    amount: Decimal = Decimal(0)
    currency: str
    shortage: str | None = None
    is_final: bool = False


class ReserveBudget(Command[Reservation]):
    """Set the estimated cost of a batch aside, in the budgets of its team and of its key. Idempotent by `batch_id`.

    At its creation a batch that does not fit is refused (`insufficient_quota`). One that is `planned` has what is set
    aside for it replaced, and is told to wait for those before it if it no longer fits. A noun of its own, as what is
    set aside is no tenant's to change.

    Attributes:
        batch_id: The raw ID.
        model: The model as it is shown; None in a batch of several, priced as the dearest of all.
    """

    noun: ClassVar = "budgets"
    verb: ClassVar = "reserve"
    result: ClassVar = Reservation

    batch_id: str = Field(max_length=128)
    key: KeyLimits | None = None
    model: str | None = Field(default=None, max_length=512)
    input_tokens: int = Field(ge=0)
    output_tokens: int = Field(ge=0)
    planned: bool = False


class Budget(Contract):
    """Where a budget stands.

    Attributes:
        spent: In this period, by the ledger.
        reserved: For batches that have not ended.
        running: What those that run have used so far, of what the asker named.
        remaining: What new batches may cost; None without `max_budget`.
        resets_at: The Unix second at which spending counts from zero again; None for never.
    """

    max_budget: Decimal | None = None
    soft_budget: Decimal | None = None
    budget_duration: str | None = None
    spent: Decimal
    reserved: Decimal
    running: Decimal = Decimal(0)
    remaining: Decimal | None = None
    resets_at: int | None = None


class BudgetReport(Contract):
    """The budgets of a team and of one of its keys."""

    object: Literal["budgets"] = "budgets"
    currency: str
    team: Budget
    key: Budget | None = None


class GetBudgets(Command[BudgetReport]):
    """Where the team's budget stands, and that of a key; `running` is what its batches have used so far, each part with
    its model, priced as the ledger will price it."""

    noun: ClassVar = "budgets"
    verb: ClassVar = "get"
    result: ClassVar = BudgetReport

    key: KeyLimits | None = None
    running: tuple[Work, ...] = ()


class SpentScope(Contract):
    """A team, or a key of it, and the duration after which its spending counts from zero again."""

    team: str = Field(max_length=512)
    key_id: str | None = Field(default=None, max_length=64)
    budget_duration: str | None = Field(default=None, max_length=16)


class SpentReport(Contract):
    """What each was charged in its present period, corrections included, in the order of the question."""

    currency: str
    spent: tuple[Decimal, ...]


class GetSpent(Command[SpentReport]):
    """What teams and keys have spent, whether they have a budget or not. A tenant asks about itself and its keys alone;
    sent for `ALL_TENANTS`, about any."""

    noun: ClassVar = "budgets"
    verb: ClassVar = "spent"
    result: ClassVar = SpentReport

    scopes: tuple[SpentScope, ...] = Field(max_length=SPENT_MAX)
