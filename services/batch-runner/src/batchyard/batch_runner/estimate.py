"""How much work a batch is, as far as can be known before it is done.

    input tokens   bytes of the input / bytes_per_token
    output tokens  for each line what it allows (`max_tokens` and its like, times `n`), else the default; none for
                   endpoints that generate nothing

Until the lines have been read they are as many as were counted while the file came in, and each has the default.
"""

import math
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

GENERATING = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses"})
"""The endpoints whose answers cost output tokens."""

MOST_OUTPUT_TOKENS = 10_000_000
"""Of one line: whoever allows more means no limit."""

_BYTES_PER_UNCOUNTED_LINE = 1024


class Size(BaseModel):
    """Lines and estimated tokens of a batch."""

    model_config = ConfigDict(frozen=True)

    lines: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    def share(self, part: int, whole: int) -> "Size":
        """As much of it as `part` of `whole` lines are."""
        return Size(
            lines=part,
            input_tokens=math.ceil(self.input_tokens * part / max(1, whole)),
            output_tokens=math.ceil(self.output_tokens * part / max(1, whole)),
        )


@dataclass(frozen=True, slots=True)
class Rule:
    """How tokens are estimated.

    Attributes:
        bytes_per_token: Of input; JSON around the text counts too.
        output_tokens: Of a line that does not say how many it allows.
    """

    bytes_per_token: float
    output_tokens: int

    def at_first(self, endpoint: str, size: int, lines: int | None) -> Size:
        """The size of an input of `size` bytes before anybody has read it; `lines` is None if nobody has counted."""
        counted = max(1, size // _BYTES_PER_UNCOUNTED_LINE) if lines is None else lines
        return Size(
            lines=counted,
            input_tokens=self.input_tokens(size),
            output_tokens=counted * self.output_of(endpoint, None),
        )

    def input_tokens(self, size: int) -> int:
        return math.ceil(size / self.bytes_per_token)

    def output_of(self, endpoint: str, allowed: int | None) -> int:
        """The output tokens of a line that allows so many, or does not say."""
        if endpoint not in GENERATING:
            return 0
        return self.output_tokens if allowed is None else min(allowed, MOST_OUTPUT_TOKENS)


def allowed_output(*limits: object, choices: object = None) -> int | None:
    """How many output tokens a line allows: its first limit that is a number, times the answers that it asks for."""
    for limit in limits:
        if type(limit) is int and limit >= 0:
            times = choices if type(choices) is int and choices > 0 else 1
            return min(limit * times, MOST_OUTPUT_TOKENS)
    return None
