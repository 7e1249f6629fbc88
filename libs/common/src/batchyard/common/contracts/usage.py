"""What a batch used of model servers: tokens, lines and time, by model and deployment."""

from collections.abc import Iterable
from itertools import chain

from batchyard.common.contracts.base import Contract


class InputTokensDetails(Contract):
    cached_tokens: int = 0


class OutputTokensDetails(Contract):
    reasoning_tokens: int = 0


class Usage(Contract):
    """Tokens, as the model servers reported them."""

    input_tokens: int = 0
    input_tokens_details: InputTokensDetails = InputTokensDetails()
    output_tokens: int = 0
    output_tokens_details: OutputTokensDetails = OutputTokensDetails()
    total_tokens: int = 0

    @staticmethod
    def of(prompt: int, cached: int, output: int, reasoning: int) -> "Usage":
        return Usage(
            input_tokens=prompt,
            input_tokens_details=InputTokensDetails(cached_tokens=cached),
            output_tokens=output,
            output_tokens_details=OutputTokensDetails(reasoning_tokens=reasoning),
            total_tokens=prompt + output,
        )

    def __add__(self, other: "Usage") -> "Usage":
        return Usage.of(
            self.input_tokens + other.input_tokens,
            self.input_tokens_details.cached_tokens + other.input_tokens_details.cached_tokens,
            self.output_tokens + other.output_tokens,
            self.output_tokens_details.reasoning_tokens + other.output_tokens_details.reasoning_tokens,
        )


class Work(Contract):
    """What a batch used of one deployment for one model.

    Attributes:
        model: None: the batch's own, or several of those of a batch with very many.
        deployment: Its ID; None for lines that no deployment gave a result.
        completed: Lines with a 2xx answer.
        failed: Lines with an error for an answer.
        busy_microseconds: The batch's share of the time in which the deployment worked for anybody.
    """

    model: str | None = None
    deployment: str | None = None
    completed: int = 0
    failed: int = 0
    usage: Usage = Usage()
    busy_microseconds: int = 0

    def __add__(self, other: "Work") -> "Work":
        return self.model_copy(
            update={
                "completed": self.completed + other.completed,
                "failed": self.failed + other.failed,
                "usage": self.usage + other.usage,
                "busy_microseconds": self.busy_microseconds + other.busy_microseconds,
            }
        )


MOST_WORK = 100
"""How many combinations of a model and a deployment are told apart in a batch, so that its record stays small."""


def added_work(*parts: Iterable[Work]) -> tuple[Work, ...]:
    """All the work, by model and deployment. Beyond `MOST_WORK` of them, models are no longer told apart."""
    sums: dict[tuple[str | None, str | None], Work] = {}
    for work in chain.from_iterable(parts):
        model = work.model
        if (model, work.deployment) not in sums and len(sums) >= MOST_WORK:
            model = None
        known = sums.get((model, work.deployment), Work(model=model, deployment=work.deployment))
        sums[model, work.deployment] = known + work
    return tuple(
        sums[key] for key in sorted(sums, key=lambda key: tuple((name is not None, name or "") for name in key))
    )
