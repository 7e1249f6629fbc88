"""Readiness: each service says whether it and what it stands on can work now."""

from typing import ClassVar, Literal

from batchyard.common.contracts.base import Command, Contract


class Health(Contract):
    """`ok` when every entry of `checks` is `ok`; otherwise the entry says what is wrong."""

    service: str
    status: Literal["ok", "unhealthy"]
    checks: dict[str, str]


class CheckHealth(Command[Health]):
    """The base of one command per service, so that a caller can tell which one is missing."""

    noun: ClassVar = "health"
    result: ClassVar = Health


class CheckFileStore(CheckHealth):
    verb: ClassVar = "file-store"


class CheckBatchRunner(CheckHealth):
    verb: ClassVar = "batch-runner"


class CheckBilling(CheckHealth):
    verb: ClassVar = "billing"
