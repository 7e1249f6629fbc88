"""Teams as the master key makes, changes and ends them, and whom it acts for."""

from typing import Any

import pytest
from unit.gateway.peers import Recorder
from unit.gateway.rig import Served, error_of
from unit.gateway.test_keys import Act, act, client, opens, refused

from batchyard.common.contracts.batches import ListBatches
from batchyard.common.messaging.teams import open_teams
from batchyard.common.service import Messaging

__all__ = ["act", "refused"]


async def test_a_team_is_shown_as_it_was_made(gateway: Served, act: Act) -> None:
    made = await act(
        "/team/new",
        team_id="search",
        team_alias="Search",
        models=["llama"],
        max_budget=100,
        max_batches=3,
        model_limits={"llama": {"max_enqueued_tokens": 5}},
        pause_over_budget=True,
        organization_id=None,
    )
    assert (made["team_id"], made["team_alias"], made["models"]) == ("search", "Search", ["llama"])
    assert (made["max_budget"], made["max_batches"], made["pause_over_budget"]) == (100, 3, True)
    assert made["model_limits"]["llama"]["max_enqueued_tokens"] == 5
    key = await act("/key/generate", team_id="search")
    info = (await gateway.http.get("/team/info", params={"team_id": "search"})).json()
    assert info["team_info"] == made | {"spend": 0.5}
    assert [(shown["token"], shown["spend"]) for shown in info["keys"]] == [(key["token"], 1)]
    assert (await gateway.http.get("/team/list")).json() == [made | {"spend": 0.5}]


async def test_limits_of_a_model_need_its_name(refused: Act) -> None:
    wrong: list[dict[str, Any]] = [{"": {}}, {"": ""}, {"m": ""}, {"m": {"max_batches": -1}}]
    for limits in wrong:
        assert (await refused(400, "/team/new", model_limits=limits))["param"].startswith("model_limits")


async def test_a_team_without_an_id_is_given_one(act: Act) -> None:
    one, two = await act("/team/new"), await act("/team/new")
    assert one["team_id"] != two["team_id"]


async def test_there_is_one_team_of_an_id(act: Act, refused: Act) -> None:
    await act("/team/new", team_id="search")
    assert (await refused(409, "/team/new", team_id="search"))["param"] == "team_id"


@pytest.mark.parametrize("path", ["update", "block", "unblock"])
async def test_an_unknown_team_is_not_found(refused: Act, path: str) -> None:
    assert (await refused(404, f"/team/{path}", team_id="nobody"))["code"] == "team_not_found"


async def test_an_update_changes_what_it_names(act: Act) -> None:
    await act("/team/new", team_id="t", max_budget=5, max_batches=3, model_limits={"m": {"max_batches": 1}})
    changed = await act("/team/update", team_id="t", max_batches=None, team_alias="T")
    assert (changed["max_budget"], changed["max_batches"], changed["team_alias"]) == (5, None, "T")
    assert changed["model_limits"]["m"]["max_batches"] == 1


async def test_other_services_read_what_the_gateway_wrote(act: Act, messaging: Messaging) -> None:
    await act("/team/new", team_id="t", max_budget=0.1)
    async with open_teams(messaging.connection) as teams:
        found = teams.get("t")
        assert found is not None
        assert str(found.limits.max_budget) == "0.1"


async def test_the_keys_of_a_blocked_team_open_nothing(gateway: Served, act: Act) -> None:
    await act("/team/new", team_id="t")
    made = await act("/key/generate", team_id="t")
    await act("/team/block", team_id="t")
    assert await opens(gateway, made["key"]) == "blocked_team"
    await act("/team/unblock", team_id="t")
    assert await opens(gateway, made["key"]) == 200


async def test_a_team_with_keys_is_not_deleted(gateway: Served, act: Act, refused: Act) -> None:
    await act("/team/new", team_id="full")
    await act("/team/new", team_id="empty")
    made = await act("/key/generate", team_id="full")
    assert "1 key" in (await refused(409, "/team/delete", team_ids=["empty", "full"]))["message"]
    assert await opens(gateway, made["key"]) == 200
    await act("/key/delete", keys=[made["token"]])
    assert await act("/team/delete", team_ids=["empty", "full"]) == {"deleted_teams": ["empty", "full"]}
    assert (await gateway.http.get("/team/list")).json() == []


async def test_the_master_key_acts_for_the_team_it_names(gateway: Served, act: Act, recorder: Recorder) -> None:
    await act("/team/new", team_id="t")

    async def ask(team: str | bytes | None) -> Any:
        headers = {} if team is None else {b"x-batchyard-team": team.encode() if isinstance(team, str) else team}
        return await gateway.http.get("/v1/batches", headers=headers)

    for team in (None, "default", "t"):
        assert (await ask(team)).status_code == 200
    assert [tenant for tenant, command in recorder.asked if isinstance(command, ListBatches)] == [
        "default",
        "default",
        "t",
    ]
    for unknown in ("nobody", "x" * 5000, "ü".encode()):
        assert error_of(await ask(unknown))["code"] == "team_not_found"


async def test_another_key_acts_for_its_own_team_alone(gateway: Served, act: Act) -> None:
    await act("/team/new", team_id="t")
    made = await act("/key/generate", team_id="t")
    async with client(gateway, made["key"]) as http:
        assert (await http.get("/v1/batches", headers={"x-batchyard-team": "t"})).status_code == 200
        for other in ("default", "nobody"):
            response = await http.get("/v1/batches", headers={"x-batchyard-team": other})
            assert (response.status_code, error_of(response)["param"]) == (403, "x-batchyard-team")
