"""What commands, replies and events have in common."""

from typing import ClassVar, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, model_validator

from batchyard.common import subjects
from batchyard.common.errors import ErrorBody

R = TypeVar("R", bound=BaseModel)


class Contract(BaseModel):
    """A value that crosses a process boundary. Immutable; a newer peer's extra members are ignored."""

    model_config = ConfigDict(frozen=True)


class Command(BaseModel, Generic[R]):
    """A request to the service that owns `noun`; the tenant is in the subject, not in the body.

    Unknown members are refused, so that a misspelt option is an error and not a default.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    noun: ClassVar[str]
    verb: ClassVar[str]
    result: ClassVar[type[BaseModel]]

    @classmethod
    def subject(cls, tenant: str) -> str:
        return subjects.command(tenant, cls.noun, cls.verb)

    @classmethod
    def pattern(cls) -> str:
        return subjects.command_pattern(cls.noun, cls.verb)


class Reply(Contract, Generic[R]):
    """Exactly one of a result and an error."""

    result: R | None = None
    error: ErrorBody | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.result is None) is (self.error is None):
            raise ValueError("a reply is a result or an error")
        return self
