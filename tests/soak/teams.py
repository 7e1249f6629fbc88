"""The teams of a soak: what each may do, and how that changes in the middle. The numbers come from the batches' sizes.

`default` is the master key's, without a limit. `open` has a key that is rotated and one that is revoked. `queue` may
have so many lines waiting, `purse` may spend so much, and `warned` is told what it spends, may name one model, and has
a key with a budget for every half minute.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from soak.plan import MODELS, TEAM_NAMES, Model, PlannedBatch

DEFAULT, OPEN, QUEUE, PURSE, WARNED = TEAM_NAMES
LATER_PRICES = 2
"""What every price is multiplied with in the middle."""
GRACE = "8s"
"""How long a rotated secret works on."""
KEY_PERIOD = 30
"""Seconds of the budget of a key."""

_BYTES_PER_TOKEN = 4
_OUTPUT_TOKENS = 256
_NEXT_TO_NOTHING = Decimal("0.0000000001")

Body = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PlannedTeam:
    """A team: the bodies that make it and its key, and what `/team/update` is to say at which strikes."""

    name: str
    team: Body
    key: Body
    updates: tuple[tuple[int, Body], ...] = ()


def estimates(batch: PlannedBatch) -> frozenset[Decimal]:
    """What may be set aside for a batch: at either price, for its model or for the dearest while that is not known."""
    return frozenset(
        estimate(batch, model, factor)
        for factor in (1, LATER_PRICES)
        for model in ((batch.model,) if batch.names_model else MODELS)
    )


def estimate(batch: PlannedBatch, model: Model, factor: int) -> Decimal:
    """What a batch is taken to cost before it has run, by the rules of docs/limits.md."""
    return factor * model.cost(math.ceil(len(batch.content) / _BYTES_PER_TOKEN), 0, _OUTPUT_TOKENS * batch.lines)


def most(batch: PlannedBatch) -> Decimal:
    """The dearest that the batch may be taken for."""
    return max(estimates(batch))


def planned_teams(batches: Sequence[PlannedBatch], kills: int) -> tuple[PlannedTeam, ...]:
    """All but `default`, which needs no record."""
    of = {name: [batch for batch in batches if batch.team == name] for name in TEAM_NAMES}
    lines = max(batch.lines for batch in of[QUEUE])
    purse = max(map(most, of[PURSE]))
    enough = sum(map(most, of[PURSE]), Decimal(0))
    return (
        PlannedTeam(OPEN, {}, {}),
        PlannedTeam(
            QUEUE,
            {"max_enqueued_lines": lines + 1},
            {"max_batches": 3},
            ((kills // 2, {"max_enqueued_lines": 2 * lines}),),
        ),
        PlannedTeam(
            PURSE,
            {"max_budget": _number(purse), "pause_over_budget": True},
            {},
            (
                (kills * 2 // 5, {"max_budget": _number(min(map(most, of[PURSE])))}),
                (kills * 4 // 5, {"max_budget": _number(enough), "soft_budget": _number(_NEXT_TO_NOTHING)}),
            ),
        ),
        PlannedTeam(
            WARNED,
            {"soft_budget": _number(_NEXT_TO_NOTHING), "models": [MODELS[0].name]},
            {"max_budget": _number(max(map(most, of[WARNED]))), "budget_duration": f"{KEY_PERIOD}s"},
        ),
    )


def _number(amount: Decimal) -> float:
    return float(amount)
