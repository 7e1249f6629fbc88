"""The results of a batch, line by line."""

from typing import Any

from pydantic import BaseModel, ConfigDict

_FIRST_REFUSAL = 300


class Answer(BaseModel):
    """What a model server answered to one line."""

    model_config = ConfigDict(frozen=True)

    status_code: int
    request_id: str | None = None
    body: Any = None


class LineError(BaseModel):
    """Why a line has no answer, such as `batch_expired`."""

    model_config = ConfigDict(frozen=True)

    code: str | None = None
    message: str | None = None


class Result(BaseModel):
    """One line of an output or error file; what a newer release adds is ignored."""

    model_config = ConfigDict(frozen=True)

    id: str
    custom_id: str | None = None
    response: Answer | None = None
    error: LineError | None = None

    @property
    def is_success(self) -> bool:
        """Whether the model server answered with a result."""
        return self.error is None and self.response is not None and self.response.status_code < _FIRST_REFUSAL

    @property
    def body(self) -> Any:
        """The server's answer as JSON; None for a line that has none."""
        return None if self.response is None else self.response.body
