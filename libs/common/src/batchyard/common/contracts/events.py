"""Events: facts in the past tense, with everything a consumer needs, so that it need not call back."""

import json
from decimal import Decimal
from typing import ClassVar, Literal

from pydantic import Field

from batchyard.common import subjects
from batchyard.common.contracts.base import Command, Contract
from batchyard.common.contracts.batches import Batch, BatchStatus, RequestCounts
from batchyard.common.contracts.usage import Usage, Work

EVENT_LIST_MAX = 256
_VERSION = 1


class BatchEvent(Contract):
    """A batch has reached a status. Each status is reached at most once, so `id` names the fact for ever.

    `id` is also the `Nats-Msg-Id`: the server drops a second publication within its window, consumers drop later ones.
    `key_id` is the SHA-256 in hex of the key that asked. `usage_by_deployment` is keyed by deployment ID (see
    `config.Deployment.id`); `work` tells the same by model as well, with the time it took. Events from before that, and
    shards that were counted before, are in the former alone.
    """

    version: Literal[1] = 1
    id: str
    occurred_at: float
    tenant: str
    raw_batch_id: str
    status: BatchStatus
    batch: Batch
    key_id: str | None = None
    key_alias: str | None = None
    usage_by_deployment: dict[str, Usage] = Field(default_factory=dict)
    work: tuple[Work, ...] = ()

    @property
    def subject(self) -> str:
        return subjects.event(self.tenant, "batches", self.raw_batch_id, self.status)


class BatchProgress(Contract):
    """A tick while a batch runs: published on a core subject, never stored."""

    batch_id: str
    status: BatchStatus
    request_counts: RequestCounts
    usage: Usage


class StoredEvent(Contract):
    """An event and its place in the stream: `sequence` grows from one to the next, with gaps."""

    sequence: int
    event: BatchEvent


class EventPage(Contract):
    """Events in the order they happened. `next` is what to give as `after` for those that follow; keep it, and nothing
    is missed or repeated over a restart.
    """

    object: Literal["list"] = "list"
    data: list[StoredEvent]
    next: int
    has_more: bool = False


class ListEvents(Command[EventPage]):
    """The events of the last 30 days that came after a place in the stream, 0 being its beginning.

    Without `after` none: the answer says only where the stream ends now. With `batch_id`, those of one batch.
    """

    noun: ClassVar = "events"
    verb: ClassVar = "list"
    result: ClassVar = EventPage

    after: int | None = Field(default=None, ge=0, lt=2**63)
    batch_id: str | None = Field(default=None, max_length=4096)
    limit: int = Field(default=100, ge=1, le=EVENT_LIST_MAX)


class BudgetEvent(Contract):
    """A team, or one of its keys, has spent more than its soft budget: told once in a period. Times are Unix seconds.

    `key_id` is None where it is the team's budget. `id` is also the `Nats-Msg-Id`, as with a batch's event.
    """

    version: Literal[1] = 1
    id: str
    occurred_at: float
    tenant: str
    key_id: str | None = None
    currency: str
    spent: Decimal
    soft_budget: Decimal
    max_budget: Decimal | None = None
    period_start: int
    resets_at: int | None = None

    @property
    def subject(self) -> str:
        return subjects.event(self.tenant, "budgets", self.key_id or "team", "soft_exceeded")


def newer_version(data: bytes) -> int | None:
    """The version of an event that cannot be read since it is of a newer release; None of what is no such event."""
    try:
        document = json.loads(data)
    except ValueError:
        return None
    version = document.get("version") if isinstance(document, dict) else None
    return version if isinstance(version, int) and version > _VERSION else None
