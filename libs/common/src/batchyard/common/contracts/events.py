"""Events: facts in the past tense, with everything a consumer needs, so that it need not call back."""

from typing import Literal

from pydantic import Field

from batchyard.common import subjects
from batchyard.common.contracts.base import Contract
from batchyard.common.contracts.batches import Batch, BatchStatus, RequestCounts, Usage, Work


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
