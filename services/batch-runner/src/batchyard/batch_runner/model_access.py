"""Which models a batch may be for: what its key may name, within what its team may."""

from batchyard.batch_runner.fleet import Fleet
from batchyard.batch_runner.routing import MayUse
from batchyard.batch_runner.validate import shortened
from batchyard.common.contracts.models import ModelList
from batchyard.common.errors import PermissionDenied
from batchyard.common.messaging.teams import Teams


class ModelAccess:
    """What `teams` say their keys may use, and keys their bearers, by names as `fleet` understands them.

    A caller over NATS has no key, and may use what the team may.
    """

    def __init__(self, fleet: Fleet, teams: Teams) -> None:
        self._fleet = fleet
        self._teams = teams

    def of(self, tenant: str, key_models: tuple[str, ...] = ()) -> MayUse:
        """Tells whether a model, however it is called, may be used; as the team's record is now."""
        team = self._teams.get(tenant)
        granted = [models for models in (key_models, () if team is None else team.models) if models]
        return lambda model: all(self._fleet.grants(models, model) for models in granted)

    def check(self, tenant: str, key_models: tuple[str, ...], model: str | None) -> None:
        """Raise PermissionDenied for a model that may not be used; None is checked when the lines are read."""
        if model is not None and not self.of(tenant, key_models)(model):
            raise PermissionDenied(
                f"This key or its team may not use the model '{shortened(model)}'.",
                param="model",
                code="model_not_allowed",
            )

    async def list_models(self, tenant: str) -> ModelList:
        """The models that the team may use."""
        may_use = self.of(tenant)
        return ModelList(data=[model for model in (await self._fleet.list_models()).data if may_use(model.id)])
