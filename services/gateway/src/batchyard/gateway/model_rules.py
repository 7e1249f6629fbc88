"""Which models a caller may name, by the names that the configuration gives them."""

from batchyard.common.config import Config
from batchyard.common.contracts.models import ModelList
from batchyard.common.errors import PermissionDenied
from batchyard.gateway.auth import Identity


class ModelRules:
    """Keeps callers to the models of their key and their team. batch-runner does so too, also for what lines name."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def use(self, config: Config) -> None:
        """Go over to another configuration."""
        self._config = config

    def may_use(self, identity: Identity, model: str) -> bool:
        """Whether the caller may use a model, however it is called."""
        lists = (
            () if identity.key is None else identity.key.models,
            () if identity.team is None else identity.team.models,
        )
        return all(self._config.grants(models, model) for models in lists if models)

    def check(self, identity: Identity, model: str | None) -> None:
        """Raise PermissionDenied for a model that the caller may not use; None is found out later."""
        if model is not None and not self.may_use(identity, model):
            raise PermissionDenied(
                f"This key or its team may not use the model '{model}'.", param="model", code="model_not_allowed"
            )

    def of(self, identity: Identity, models: ModelList) -> ModelList:
        """Those of the models that the caller may use."""
        return ModelList(data=[model for model in models.data if self.may_use(identity, model.id)])
