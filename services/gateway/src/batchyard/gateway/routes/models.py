"""Models: https://platform.openai.com/docs/api-reference/models"""

from fastapi import APIRouter

from batchyard.common.contracts.models import ListModels, Model, ModelList
from batchyard.common.errors import NotFound
from batchyard.gateway.caller import TheCaller

router = APIRouter(tags=["Models"])


@router.get("/models")
async def list_models(caller: TheCaller) -> ModelList:
    """The models that batches of the key may name."""
    return caller.gateway.model_rules.of(caller.identity, await caller.call(ListModels()))


@router.get("/models/{model:path}")
async def get_model(model: str, caller: TheCaller) -> Model:
    """One model; its name may hold slashes."""
    for known in (await list_models(caller)).data:
        if known.id == model:
            return known
    raise NotFound(f"The model '{model}' does not exist", param="model", code="model_not_found")
