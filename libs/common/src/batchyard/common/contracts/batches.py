"""Batches: the commands of batch-runner, and the object a client sees.

Source of the object: https://platform.openai.com/docs/api-reference/batch/object
"""

from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from batchyard.common.contracts.base import Command, Contract
from batchyard.common.contracts.files import ExpiresAfter

BATCH_LIST_MAX = 100
METADATA_PAIRS = 16

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

    Two members are Batchyard's own. `status_reason`: why a batch in progress does not move, null while it does.
    `retry_of`: the ID of the batch whose lines without success this one sends again, null for any other batch.
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


class BatchPage(Contract):
    object: Literal["list"] = "list"
    data: list[Batch]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool = False


class CreateBatch(Command[Batch]):
    """Start a batch over a file of purpose `batch`.

    `model` is the caller's wish (body, query or header); the model in the file's ID goes before it, the lines' own
    after it. `key_alias` names the key that asked, for billing.
    """

    noun: ClassVar = "batches"
    verb: ClassVar = "create"
    result: ClassVar = Batch

    input_file_id: str = Field(max_length=4096)
    endpoint: str = Field(max_length=256)
    completion_window: str = Field(default="24h", max_length=16)
    metadata: dict[MetadataKey, MetadataValue] | None = Field(default=None, max_length=METADATA_PAIRS)
    output_expires_after: ExpiresAfter | None = None
    model: str | None = Field(default=None, min_length=1, max_length=512)
    key_alias: str | None = Field(default=None, max_length=512)


class GetBatch(Command[Batch]):
    noun: ClassVar = "batches"
    verb: ClassVar = "get"
    result: ClassVar = Batch

    batch_id: str


class ListBatches(Command[BatchPage]):
    noun: ClassVar = "batches"
    verb: ClassVar = "list"
    result: ClassVar = BatchPage

    limit: int = Field(default=20, ge=0, le=BATCH_LIST_MAX)
    after: str | None = None


class RetryBatch(Command[Batch]):
    """Start a batch over those lines of an ended one that have no success: the lines that its error file names.

    What is not given is as the ended batch had it.
    """

    noun: ClassVar = "batches"
    verb: ClassVar = "retry"
    result: ClassVar = Batch

    batch_id: str
    completion_window: str | None = Field(default=None, max_length=16)
    metadata: dict[MetadataKey, MetadataValue] | None = Field(default=None, max_length=METADATA_PAIRS)
    key_alias: str | None = Field(default=None, max_length=512)


class CancelBatch(Command[Batch]):
    noun: ClassVar = "batches"
    verb: ClassVar = "cancel"
    result: ClassVar = Batch

    batch_id: str
