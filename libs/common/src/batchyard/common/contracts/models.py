"""Models: what the fleet serves, as batch-runner knows it."""

from typing import ClassVar, Literal

from batchyard.common.contracts.base import Command, Contract


class Model(Contract):
    """Source: https://platform.openai.com/docs/api-reference/models/object"""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(Contract):
    object: Literal["list"] = "list"
    data: list[Model]


class ListModels(Command[ModelList]):
    noun: ClassVar = "models"
    verb: ClassVar = "list"
    result: ClassVar = ModelList
