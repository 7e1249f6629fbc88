"""What is enqueued: the command of batch-runner that tells how much of its limits a team has used."""

from typing import ClassVar, Literal

from pydantic import Field

from batchyard.common.contracts.access import Limits
from batchyard.common.contracts.base import Command, Contract


class EnqueuedUsage(Contract):
    """Batches that have not ended, their lines and their estimated tokens; and the tokens of the last minute's."""

    batches: int = 0
    lines: int = 0
    tokens: int = 0
    tokens_of_last_minute: int = 0


class EnqueuedScope(Contract):
    """What is used of limits."""

    limits: Limits = Limits()
    used: EnqueuedUsage = EnqueuedUsage()


class EnqueuedReport(Contract):
    """Of a team, of its models that have limits, and of one key. Nothing is counted for who has no limit."""

    object: Literal["enqueued"] = "enqueued"
    team: EnqueuedScope
    models: dict[str, EnqueuedScope] = Field(default_factory=dict)
    key: EnqueuedScope | None = None


class GetEnqueued(Command[EnqueuedReport]):
    """How much of the team's limits is used, and of those of a key."""

    noun: ClassVar = "batches"
    verb: ClassVar = "enqueued"
    result: ClassVar = EnqueuedReport

    key_id: str | None = Field(default=None, max_length=64)
    key_limits: Limits | None = None
