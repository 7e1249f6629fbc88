"""The fleet: what a runner says of the servers, for who has the key."""

import pytest
from unit.gateway.peers import FLEET
from unit.gateway.rig import Served


@pytest.mark.parametrize("prefix", ["", "/v1"])
async def test_the_fleet_is_shown(gateway: Served, prefix: str) -> None:
    response = await gateway.http.get(f"{prefix}/fleet")
    assert response.status_code == 200
    assert response.json() == FLEET.model_dump(mode="json")


async def test_nobody_else_sees_it(gateway: Served) -> None:
    response = await gateway.http.get("/v1/fleet", headers={"authorization": "Bearer wrong-key"})
    assert response.status_code == 401
