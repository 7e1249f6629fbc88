"""The record of a batch: everything that is known of one, and the keys under which it is kept.

What may happen to it are the transitions.
"""

from collections.abc import Iterator
from decimal import Decimal
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from batchyard.batch_runner import ranges
from batchyard.batch_runner.estimate import Size
from batchyard.batch_runner.native_note import NativeNote
from batchyard.common.contracts.access import Limits
from batchyard.common.contracts.batches import BatchProblem, BatchStatus, RequestCounts
from batchyard.common.contracts.files import ExpiresAfter
from batchyard.common.contracts.usage import Usage, Work
from batchyard.common.ids import encode_id
from batchyard.common.pricing import told_work
from batchyard.common.subjects import encode_token

Ending = Literal[BatchStatus.COMPLETED, BatchStatus.EXPIRED, BatchStatus.CANCELLED]


class BatchRecord(BaseModel):
    """Everything that is known of a batch. Times are Unix seconds.

    Attributes:
        input_key: The object with the lines: the client's file, from planning on the batch's own copy of it, so that
            the file may be deleted or expire while the batch runs.
        retry_of: The public ID of the batch whose lines without success these are.
        retried_key: The object that names them: that batch's error file.
        id_model: The model that the public ID carries: what was known at creation.
        model: The name clients use; found in the lines when it was not known before, None when they name several.
        pool: The pool that serves it, once planned; None in a batch of several models, whose shards have one each.
        native: What is known of the server's own batch, when a server runs it whole.
        plan_key: The object that holds the shard table.
        key_models: The models that the key may name, as it was when the batch was made; none: all.
        shards: How many there are; those below `dispatched` have been queued, save for those in `passed_over`.
        passed_over: Shards of a pool that has enough of them in its queue, while other pools' that come later in the
            table have been queued. None in a batch of one model.
        settled: Shards whose outcome is counted below.
        ending: What the batch is about to end as, once it is finalizing or cancelling.
        key_limits: What the key that asked may do, as it was then.
        size: The estimated work: by the size of the input at first, by its lines once they have been read.
        models: All that the lines name, once they have been read.
        held: Why the batch, though it has been read, is not begun yet: it is larger than was thought, and has to wait.
        output_uuid: The file IDs' UUIDs are chosen when finalizing begins, so that a second try makes the same files.
        cost: What it came to in `currency`, at the prices of its end: kept, so that a price changed later does not
            rewrite it. None before its end, and where nothing has a price.
        outbox: Statuses reached whose events have not been published yet.
        swept: Whether the working objects have been removed.
    """

    model_config = ConfigDict(frozen=True)

    raw_id: str
    tenant: str
    endpoint: str
    input_file_id: str
    input_key: str
    retry_of: str | None = None
    retried_key: str | None = None
    id_model: str | None = None
    model: str | None = None
    pool: str | None = None
    completion_window: str = "24h"
    metadata: dict[str, str] | None = None
    output_expires_after: ExpiresAfter | None = None
    key_id: str | None = None
    key_alias: str | None = None
    key_models: tuple[str, ...] = ()
    key_limits: Limits | None = None

    status: BatchStatus = BatchStatus.VALIDATING
    created_at: int
    expires_at: int
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None

    problems: tuple[BatchProblem, ...] = ()
    native: NativeNote | None = None
    plan_key: str | None = None
    size: Size | None = None
    models: tuple[str, ...] = ()
    held: str | None = None
    lines: int = 0
    shards: int = 0
    dispatched: int = 0
    passed_over: ranges.Ranges = ()
    settled: ranges.Ranges = ()
    completed: int = 0
    failed: int = 0
    usage_by_deployment: dict[str, Usage] = Field(default_factory=dict)
    work: tuple[Work, ...] = ()

    ending: Ending | None = None
    output_uuid: str | None = None
    error_uuid: str | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    cost: Decimal | None = None
    currency: str | None = None
    outbox: tuple[BatchStatus, ...] = (BatchStatus.VALIDATING,)
    swept: bool = False

    @property
    def key(self) -> str:
        return record_key(self.tenant, self.raw_id)

    @property
    def public_id(self) -> str:
        return encode_id("batch", self.raw_id, self.id_model)

    @property
    def usage(self) -> Usage:
        return sum(self.usage_by_deployment.values(), Usage())

    @property
    def all_work(self) -> list[Work]:
        """What is counted by now, for its price."""
        return told_work(self.work, self.usage_by_deployment)

    @property
    def counts(self) -> RequestCounts:
        return RequestCounts(total=self.lines, completed=self.completed, failed=self.failed)

    @property
    def unfinished_business(self) -> bool:
        """Whether a step still has something to do for this batch."""
        return not (self.status.is_terminal and self.swept and not self.outbox)

    @property
    def ended_at(self) -> int | None:
        return self.completed_at or self.failed_at or self.expired_at or self.cancelled_at

    @property
    def is_answered(self) -> bool:
        """Whether every line has a result of its own."""
        return self.completed + self.failed == self.lines

    def is_settled(self, shard: int) -> bool:
        return ranges.holds(self.settled, shard)

    def is_queued(self, shard: int) -> bool:
        """Whether a shard is in the queue, or has been."""
        return shard < self.dispatched and not ranges.holds(self.passed_over, shard)

    def outstanding(self) -> Iterator[int]:
        """The shards that have been queued and are not settled."""
        return ranges.gaps(ranges.joined((*self.settled, *self.passed_over)), self.dispatched)

    def unqueued(self) -> Iterator[int]:
        """The shards that have not been queued yet."""
        return ranges.numbers((*self.passed_over, (self.dispatched, self.shards)))

    @property
    def settled_count(self) -> int:
        return sum(end - start for start, end in self.settled)


def record_key(tenant: str, raw_id: str) -> str:
    """The key of a batch's record."""
    return f"{encode_token(tenant)}.{raw_id}"


def shard_key(tenant: str, raw_id: str, shard: int) -> str:
    """The key of one shard's outcome, and of its progress."""
    return f"{record_key(tenant, raw_id)}.{shard}"
