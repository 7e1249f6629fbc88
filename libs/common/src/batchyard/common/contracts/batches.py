"""Batches: the commands of batch-runner, and the object a client sees.

Source of the object: https://platform.openai.com/docs/api-reference/batch/object
"""

import hashlib
import json
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Field, PlainSerializer, WithJsonSchema

from batchyard.common.contracts.access import Limits
from batchyard.common.contracts.base import Command, Contract
from batchyard.common.contracts.files import ExpiresAfter
from batchyard.common.contracts.usage import Usage

BATCH_LIST_MAX = 100
METADATA_PAIRS = 16
IDEMPOTENCY_KEY_CHARACTERS = 255
RETRY_WINDOW = 120.0
"""Seconds for which a client that names no key may try to create the same batch again: longer than any SDK does."""

Cost = Annotated[
    Decimal,
    PlainSerializer(lambda cost: format(cost, "f"), when_used="json"),
    WithJsonSchema({"type": "string", "format": "decimal"}),
]
"""A decimal string without an exponent."""

MetadataKey = Annotated[str, Field(max_length=64)]
MetadataValue = Annotated[str, Field(max_length=512)]

ENDPOINTS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/score",
    "/v1/rerank",
    "/v1/pooling",
    "/v1/classify",
)


class BatchStatus(StrEnum):
    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        return self in _TERMINAL


_TERMINAL = frozenset({BatchStatus.FAILED, BatchStatus.COMPLETED, BatchStatus.EXPIRED, BatchStatus.CANCELLED})


class RequestCounts(Contract):
    """Lines: all of them, those with a 2xx answer, and those with an error for an answer."""

    total: int = 0
    completed: int = 0
    failed: int = 0

    def __add__(self, other: "RequestCounts") -> "RequestCounts":
        return RequestCounts(
            total=self.total + other.total,
            completed=self.completed + other.completed,
            failed=self.failed + other.failed,
        )


class BatchProblem(Contract):
    """One thing wrong with the input; `line` counts from 1."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None


class BatchErrors(Contract):
    object: Literal["list"] = "list"
    data: list[BatchProblem]


class Batch(Contract):
    """The Batch object of the API. Times are Unix seconds; what has not happened is null.

    Four members are Batchyard's own. `status_reason`: why a batch in progress does not move, null while it does.
    `retry_of`: the ID of the batch whose lines without success this one sends again, null for any other batch. `cost`
    in `currency`: what has been used so far at today's prices while it runs, from its end on what it came to; both null
    where nothing has a price, before it runs, and if it failed.
    """

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    model: str | None = None
    errors: BatchErrors | None = None
    input_file_id: str
    completion_window: str
    status: BatchStatus
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: int
    in_progress_at: int | None = None
    expires_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: RequestCounts = RequestCounts()
    usage: Usage | None = None
    metadata: dict[str, str] | None = None
    status_reason: str | None = None
    retry_of: str | None = None
    cost: Cost | None = None
    currency: str | None = None


class BatchPage(Contract):
    object: Literal["list"] = "list"
    data: list[Batch]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool = False


class Attempt(Contract):
    """One try at creating a batch, by a client that names no idempotency key.

    Attributes:
        token: The same for all tries that the sender knows to be of one wish.
        asked_at: Unix seconds, when the try came in.
        again: Whether the client says that it has tried before, and the sender knows nothing of that try.
    """

    token: str = Field(min_length=1, max_length=64)
    asked_at: float
    again: bool = False


class UnderKey(BaseModel):
    """A command that names models. `key_models` are those that the key may, beside what the team may; none: all."""

    key_models: tuple[str, ...] = ()


class OnceOnly(UnderKey):
    """A command that makes a batch, one batch however often it is sent.

    `key_id` (the SHA-256 of the key in hex) and `key_alias` name the key that asked, for billing. With an
    `idempotency_key` the same wish makes one batch, and another wish under the same key is a conflict; an `attempt`
    does so for the retries of a client without a key. `key_limits` bound what the key may do: those of its team are
    known, and need not be said.
    """

    key_id: str | None = Field(default=None, max_length=64)
    key_alias: str | None = Field(default=None, max_length=512)
    key_limits: Limits | None = None
    idempotency_key: str | None = Field(default=None, min_length=1, max_length=IDEMPOTENCY_KEY_CHARACTERS)
    attempt: Attempt | None = None

    def fingerprint(self) -> str:
        """A digest of what is wished for: equal for two wishes that mean the same."""
        raise NotImplementedError


class BatchWish(BaseModel):
    """What a batch is to be. Exactly one of three says what its lines are.

    Attributes:
        input_file_id: A file of purpose `batch`.
        requests: The lines themselves, few enough for a message.
        upload_key: A place from `OpenPlace` that holds the lines, not claimed yet; `input_digest` is their SHA-256.
        model: The caller's wish (body, query or header); the model in the file's ID goes before it, the lines' own
            after it.
    """

    input_file_id: str | None = Field(default=None, max_length=4096)
    requests: tuple[dict[str, Any], ...] | None = Field(default=None, min_length=1)
    upload_key: str | None = Field(default=None, max_length=4096)
    input_digest: str | None = Field(default=None, max_length=64)
    endpoint: str = Field(max_length=256)
    completion_window: str = Field(default="24h", max_length=16)
    metadata: dict[MetadataKey, MetadataValue] | None = Field(default=None, max_length=METADATA_PAIRS)
    output_expires_after: ExpiresAfter | None = None
    model: str | None = Field(default=None, min_length=1, max_length=512)

    def fingerprint(self) -> str:
        """A digest of what is wished for: equal for two wishes that mean the same."""
        said = set(BatchWish.model_fields) - ({"upload_key"} if self.input_digest else set())
        return _digest(self.model_dump(mode="json", include=said))


def _digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


class CreateBatch(BatchWish, OnceOnly, Command[Batch]):
    """Start a batch. `input_bytes` and `input_lines` tell how much lies in the place `upload_key`, if that is known."""

    noun: ClassVar = "batches"
    verb: ClassVar = "create"
    result: ClassVar = Batch

    input_bytes: int | None = Field(default=None, ge=0)
    input_lines: int | None = Field(default=None, ge=0)


class BatchValidation(Contract):
    """What a batch would come to, without making one.

    Attributes:
        model: The model of all lines; None when they name several, or it is not known because of a problem.
        request_counts: `total` is the number of requests that were read.
        truncated: Whether reading stopped at as many problems as a batch reports.
    """

    object: Literal["batch.validation"] = "batch.validation"
    valid: bool
    endpoint: str
    model: str | None = None
    input_file_id: str | None = None
    request_counts: RequestCounts = RequestCounts()
    errors: BatchErrors | None = None
    truncated: bool = False


class ValidateBatch(BatchWish, UnderKey, Command[BatchValidation]):
    """Check everything that creating the batch would check, its lines too. Takes as long as reading them does."""

    noun: ClassVar = "batches"
    verb: ClassVar = "validate"
    result: ClassVar = BatchValidation


class GetBatch(Command[Batch]):
    noun: ClassVar = "batches"
    verb: ClassVar = "get"
    result: ClassVar = Batch

    batch_id: str


class ListBatches(Command[BatchPage]):
    """A page of the batches that fit everything given: any of `status`, every pair of `metadata`, and a creation not
    before the Unix second `created_after` but before `created_before`.
    """

    noun: ClassVar = "batches"
    verb: ClassVar = "list"
    result: ClassVar = BatchPage

    limit: int = Field(default=20, ge=0, le=BATCH_LIST_MAX)
    after: str | None = None
    status: tuple[BatchStatus, ...] = ()
    model: str | None = Field(default=None, max_length=512)
    metadata: dict[MetadataKey, MetadataValue] = Field(default_factory=dict, max_length=METADATA_PAIRS)
    created_after: int | None = None
    created_before: int | None = None


class RetryBatch(OnceOnly, Command[Batch]):
    """Start a batch over those lines of an ended one that have no success: the lines that its error file names.

    What is not given is as the ended batch had it.
    """

    noun: ClassVar = "batches"
    verb: ClassVar = "retry"
    result: ClassVar = Batch

    batch_id: str
    completion_window: str | None = Field(default=None, max_length=16)
    metadata: dict[MetadataKey, MetadataValue] | None = Field(default=None, max_length=METADATA_PAIRS)

    def fingerprint(self) -> str:
        return _digest(self.model_dump(mode="json", exclude=set(OnceOnly.model_fields)))


class CancelBatch(Command[Batch]):
    """Stop a batch. `again`: the client has asked before and got no answer, so it may be cancelled by now."""

    noun: ClassVar = "batches"
    verb: ClassVar = "cancel"
    result: ClassVar = Batch

    batch_id: str
    again: bool = False
