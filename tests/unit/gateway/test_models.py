"""Models: what the fleet serves."""

from urllib.parse import quote

import pytest
from unit.gateway.peers import MODELS
from unit.gateway.rig import Served, error_of


@pytest.mark.parametrize("prefix", ["", "/v1"])
async def test_the_models_are_listed(gateway: Served, prefix: str) -> None:
    assert (await gateway.http.get(f"{prefix}/models")).json() == MODELS.model_dump(mode="json")


@pytest.mark.parametrize("model", MODELS.data)
async def test_a_model_is_found_by_whatever_name_it_has(gateway: Served, model: object) -> None:
    name = getattr(model, "id", "")
    assert (await gateway.http.get(f"/v1/models/{name}")).json()["id"] == name
    assert (await gateway.http.get(f"/v1/models/{quote(name, safe='')}")).json()["id"] == name


async def test_a_model_that_does_not_exist_is_a_404(gateway: Served) -> None:
    response = await gateway.http.get("/v1/models/gpt-9")
    assert response.status_code == 404
    assert error_of(response) == {
        "message": "The model 'gpt-9' does not exist",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }
