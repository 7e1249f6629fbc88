"""What a shard came to."""

from pydantic import BaseModel, ConfigDict, Field

from batchyard.common.contracts.batches import BatchProblem
from batchyard.common.contracts.usage import Usage, Work


class ShardOutcome(BaseModel):
    """What one shard came to: written once, by whoever settles the shard first.

    `output_key` and `error_key` name objects with the shard's lines in input order, or are None when it has none.
    `not_run` lines stand in the error object, but count neither as completed nor as failed. `problems` say why the
    server that was to run the whole batch did not take it; there are none otherwise.
    """

    model_config = ConfigDict(frozen=True)

    shard: int
    completed: int = 0
    failed: int = 0
    not_run: int = 0
    usage_by_deployment: dict[str, Usage] = Field(default_factory=dict)
    work: tuple[Work, ...] = ()
    output_key: str | None = None
    error_key: str | None = None
    problems: tuple[BatchProblem, ...] = ()
