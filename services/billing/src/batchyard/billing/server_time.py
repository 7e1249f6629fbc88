"""How much of a server's time a batch takes, before it is taken: from what others of its model have taken. No I/O.

    time = tokens × (measured time + a minute) / (measured tokens + those assumed for a minute)

The time is that which is charged, the batch's share of the server's. Tokens are those of the answers, and a quarter of
those of the input: so much less it costs a server, roughly, to read one than to generate one. What is assumed counts
alone while nothing is measured, and later as much as a minute does, so that a batch of one line, which had a server to
itself, does not decide about one of thousands.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from batchyard.common.contracts.usage import Usage

_INPUT_SHARE = Fraction(1, 4)
_ASSUMED_SECONDS = 60
_MICROSECONDS = 10**6


@dataclass(frozen=True, slots=True)
class Measured:
    """What batches of one model have used lately of servers that are charged for by time."""

    input_tokens: int = 0
    output_tokens: int = 0
    busy_microseconds: int = 0


@dataclass(frozen=True, slots=True)
class ServerTime:
    """Says how long tokens take.

    Attributes:
        assumed: Tokens in a second, of a model of which nothing is known.
        measured: By the model's public name.
    """

    assumed: float
    measured: Mapping[str, Measured] = field(default_factory=dict)

    def microseconds(self, model: str, usage: Usage) -> int:
        """The share of a server's time that `usage` takes."""
        known = self.measured.get(model, Measured())
        time = known.busy_microseconds + _ASSUMED_SECONDS * _MICROSECONDS
        tokens = _tokens(known.input_tokens, known.output_tokens) + _ASSUMED_SECONDS * Fraction(self.assumed)
        return math.ceil(_tokens(usage.input_tokens, usage.output_tokens) * time / tokens)


def _tokens(sent: int, answered: int) -> Fraction:
    return answered + sent * _INPUT_SHARE
