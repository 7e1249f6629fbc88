"""The body of `POST /v1/batches/{id}/retry`: all of it may be left out."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from batchyard.gateway.batch_request import CompletionWindow, MetadataKey, MetadataValue
from batchyard.gateway.validation import invalid_request


class RetryRequest(BaseModel):
    """What is to be otherwise than it was in the batch that is retried. Members that are not known are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore")

    completion_window: CompletionWindow | None = None
    metadata: Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)] | None = None


def parse_retry_request(body: bytes) -> RetryRequest:
    """Raises InvalidRequest, in OpenAI's words."""
    try:
        return RetryRequest.model_validate_json(body or b"{}")
    except ValidationError as error:
        raise invalid_request(error.errors(include_url=False)) from error
