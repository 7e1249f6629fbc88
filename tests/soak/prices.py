"""The versions of the price book that a soak has had."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from soak.plan import MODELS, Model
from soak.teams import LATER_PRICES

_HEARD_WITHIN = 5
"""Seconds within which a service that runs reads of new prices."""


@dataclass(frozen=True)
class Prices:
    """The versions of the price book, oldest first: their names, and from when on prices are how many times as high."""

    versions: tuple[tuple[str, int, int], ...]

    @classmethod
    def of(cls, page: Any) -> "Prices":
        """From the answer of `/spend/prices`, newest first."""
        return cls(tuple((one["version"], one["valid_from"], _factor(one["prices"])) for one in reversed(page["data"])))

    def at(self, moment: int) -> tuple[str, int]:
        """The version that was valid, and its factor."""
        version, _, factor = max((one for one in self.versions if one[1] <= moment), key=lambda one: one[1])
        return version, factor

    def cost(self, model: Model, tokens: tuple[int, int, int], moment: int) -> Decimal:
        """What prompt, cached and output tokens of a batch cost that ended then."""
        return self.at(moment)[1] * model.cost(*tokens)

    def may_differ(self, moment: int, changed: float | None) -> bool:
        """Whether services may have had different prices then: those that were written at `changed` are valid from when
        billing has read them, which it does once it is back."""
        return changed is not None and any(
            changed - 1 <= moment <= begin + _HEARD_WITHIN for _, begin, _ in self.versions[1:]
        )


def _factor(prices: Any) -> int:
    by_name = {one["model_name"]: Decimal(one["input"]) for one in prices["deployments"]}
    return LATER_PRICES if by_name[MODELS[0].name] == LATER_PRICES * MODELS[0].input else 1
