"""The body of `POST /spend/adjustments`."""

from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, WithJsonSchema

from batchyard.common.contracts.billing import LARGEST_ADJUSTMENT
from batchyard.common.money import UNIT
from batchyard.gateway.validation import refuse


def _exact(value: object) -> object:
    """A number as it is written: through a binary fraction 0.1 would not be 0.1."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return value
    try:
        return Decimal(str(value))
    except InvalidOperation:
        return value


def _keepable(value: Decimal) -> Decimal:
    if value.copy_abs() > LARGEST_ADJUSTMENT:  # `abs` would overflow
        refuse(f"Invalid 'amount': expected at most {LARGEST_ADJUSTMENT}, to either side.")
    return value.quantize(UNIT, rounding=ROUND_HALF_EVEN)


class AdjustmentRequest(BaseModel):
    """What is to be added to what a team was charged, and why."""

    team_id: str = Field(min_length=1, max_length=128)
    amount: Annotated[
        Decimal,
        BeforeValidator(_exact),
        AfterValidator(_keepable),
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": "number", "minimum": -LARGEST_ADJUSTMENT, "maximum": LARGEST_ADJUSTMENT},
                    {"type": "string", "pattern": "^-?[0-9]{1,6}(\\.[0-9]{1,10})?$"},
                ]
            }
        ),
    ] = Field(description="In the currency of the prices, kept to ten decimal places; negative to give money back")
    reason: str = Field(min_length=1, max_length=1000)
    author: str = Field(default="master", min_length=1, max_length=256, description="Who decided it")
    batch_id: str | None = Field(default=None, max_length=4096, description="The batch that it concerns")
