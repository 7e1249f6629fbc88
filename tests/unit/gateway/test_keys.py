"""Keys as the master key makes, changes and ends them, and what they then open."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs
from unit.gateway.peers import Recorder
from unit.gateway.rig import KEY, Served, Start, error_of

from batchyard.common.config import Config
from batchyard.common.contracts.access import Key, Limits, PausingKey
from batchyard.common.contracts.batches import ListBatches
from batchyard.common.contracts.budgets import GetSpent
from batchyard.common.errors import ConfigurationError, ServiceUnavailable
from batchyard.common.messaging.mirror import Mirror
from batchyard.common.messaging.records import Records
from batchyard.common.messaging.teams import PAUSING, open_pausing_keys
from batchyard.common.messaging.topology import KEYS_BUCKET, TEAMS_BUCKET
from batchyard.common.service import Messaging

Act = Callable[..., Awaitable[Any]]


@pytest.fixture
def act(gateway: Served) -> Act:
    """Ask for an administrative act, and expect that it is done."""

    async def ask(path: str, **body: Any) -> Any:
        response = await gateway.http.post(path, json=body)
        assert response.status_code == 200, response.text
        return response.json()

    return ask


@pytest.fixture
def refused(gateway: Served) -> Act:
    """Ask for an administrative act, and expect the status given; the error."""

    async def ask(status: int, path: str, **body: Any) -> Any:
        response = await gateway.http.post(path, json=body)
        assert response.status_code == status, response.text
        return error_of(response)

    return ask


@asynccontextmanager
async def client(gateway: Served, secret: str, **headers: str) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"authorization": f"Bearer {secret}"} | headers
    async with httpx.AsyncClient(base_url=gateway.url, headers=headers, timeout=30, trust_env=False) as http:
        yield http


async def opens(gateway: Served, secret: str) -> str | int:
    """200, or the code of the refusal."""
    async with client(gateway, secret) as http:
        response = await http.get("/v1/batches")
        return 200 if response.status_code == 200 else str(error_of(response)["code"])


async def test_a_key_opens_the_gateway_for_its_team(gateway: Served, act: Act, recorder: Recorder) -> None:
    await act("/team/new", team_id="search")
    made = await act("/key/generate", team_id="search", key_alias="nightly")
    assert re.fullmatch(r"sk-[A-Za-z0-9_-]{43}", made["key"])
    assert await opens(gateway, made["key"]) == 200
    assert [tenant for tenant, command in recorder.asked if isinstance(command, ListBatches)] == ["search"]


async def test_a_new_key_is_shown_as_litellm_shows_one(act: Act) -> None:
    made = await act(
        "/key/generate",
        models=["llama"],
        metadata={"app": {"name": "x"}},
        duration="30d",
        max_budget=12.5,
        budget_duration="1mo",
        rpm_limit=60,
        max_enqueued_lines=1000,
        user_id="somebody",
        guardrails=[],
    )
    assert made["key_name"] == f"sk-...{made['key'][-4:]}"
    assert made["token"] == made["token_id"]
    assert (made["models"], made["metadata"], made["team_id"]) == (["llama"], {"app": {"name": "x"}}, "default")
    assert (made["max_budget"], made["budget_duration"], made["rpm_limit"]) == (12.5, "1mo", 60)
    assert (made["max_enqueued_lines"], made["tpm_limit"], made["status"]) == (1000, None, "active")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", made["expires"])


async def test_a_secret_is_nowhere_but_in_the_answer(gateway: Served, act: Act, messaging: Messaging) -> None:
    made = await act("/key/generate", key_alias="a")
    rotated = await act("/key/regenerate", key=made["key"], grace_period="1h")
    stored = await messaging.js.get_last_msg(f"KV_{KEYS_BUCKET}", f"$KV.{KEYS_BUCKET}.{made['token']}")
    shown = [
        (await gateway.http.get(path)).text
        for path in ("/key/list?return_full_object=true", "/key/info?key=" + made["token"])
    ]
    assert stored.data is not None
    for secret in (made["key"], rotated["key"]):
        assert all(secret not in text for text in (*shown, stored.data.decode()))


WRONG: list[tuple[dict[str, Any], int, str, str]] = [
    ({"max_budgte": 1}, 400, "max_budgte", "unknown_parameter"),
    ({"guardrails": ["pii"]}, 400, "guardrails", "unknown_parameter"),
    ({"key": "sk-of-my-own-choosing"}, 400, "key", "unknown_parameter"),
    ({"rpm_limit": -1}, 400, "rpm_limit", "integer_below_min_value"),
    ({"rpm_limit": "many"}, 400, "rpm_limit", "invalid_type"),
    ({"max_budget": "a lot"}, 400, "max_budget", "invalid_type"),
    ({"duration": "30 days"}, 400, "duration", "invalid_value"),
    ({"team_id": "no such"}, 400, "team_id", "invalid_value"),
    ({"team_id": "nobody"}, 404, "team_id", "team_not_found"),
    ({"models": [""]}, 400, "models[0]", "string_below_min_length"),
    ({"metadata": {"a": "b" * 20_000}}, 400, "metadata", "object_too_large"),
]
NO_OBJECTS = [b"{", b"[]", b'{"max_budget": NaN}', b'{"key_alias": "\\ud800"}', b"1" * 5000, b'{"a":' * 5000]


async def test_what_cannot_be_is_refused_by_its_name(refused: Act, subtests: pytest.Subtests) -> None:
    for body, status, param, code in WRONG:
        with subtests.test(param=param):
            error = await refused(status, "/key/generate", **body)
            assert (error["param"], error["code"]) == (param, code)


async def test_what_is_no_json_object_is_refused(gateway: Served, subtests: pytest.Subtests) -> None:
    for body in NO_OBJECTS:
        with subtests.test(body=body[:30]):
            response = await gateway.http.post("/key/generate", content=body)
            assert response.status_code == 400
            error_of(response)


async def test_an_alias_names_one_key(act: Act, refused: Act) -> None:
    await act("/key/generate", key_alias="nightly")
    assert (await refused(409, "/key/generate", key_alias="nightly"))["param"] == "key_alias"
    other = await act("/key/generate", key_alias="daily")
    await refused(409, "/key/update", key=other["token"], key_alias="nightly")
    await act("/key/update", key=other["token"], key_alias="daily")


async def test_two_gateways_give_an_alias_to_one_key(gateway: Served, start: Start, act: Act) -> None:
    other = await start()
    wish = {"key_alias": "nightly"}
    answers = [gateway.http.post("/key/generate", json=wish), other.http.post("/key/generate", json=wish)]
    statuses = sorted(answer.status_code for answer in await asyncio.gather(*answers))
    assert statuses in ([200, 409], [409, 409])
    keys = (await gateway.http.get("/key/list", params=wish)).json()["keys"]
    assert len(keys) == statuses.count(200)


async def test_who_administrates_finds_at_once_what_another_gateway_has_made(
    gateway: Served, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other gateway hears of nothing here, as one does for a moment that has lost its watch."""
    monkeypatch.setattr(Mirror, "_note", lambda *_: None)
    other = await start()

    async def act(server: Served, path: str, **body: Any) -> Any:
        response = await server.http.post(path, json=body)
        assert response.status_code == 200, response.text
        return response.json()

    await act(gateway, "/team/new", team_id="search")
    made = await act(other, "/key/generate", team_id="search")
    await act(gateway, "/team/new", team_id="find")
    listed = await other.http.get("/spend/prices", headers={"x-batchyard-team": "find"})
    assert listed.status_code != 404
    await act(gateway, "/key/update", key=made["token"], max_batches=1)
    await act(gateway, "/key/delete", keys=[made["key"]])


async def test_an_alias_is_free_again_once_its_key_is_gone(act: Act) -> None:
    made = await act("/key/generate", key_alias="nightly")
    other = await act("/key/generate", key_alias="daily")
    await act("/key/update", key=made["token"], key_alias="weekly")
    await act("/key/update", key=other["token"], key_alias="nightly")
    await act("/key/delete", key_aliases=["weekly"])
    await act("/key/generate", key_alias="weekly")


async def test_a_deleted_key_opens_nothing(gateway: Served, act: Act, refused: Act) -> None:
    one, two, three = [await act("/key/generate", key_alias=alias) for alias in ("one", "two", "three")]
    await refused(404, "/key/delete", keys=[one["key"], "nothing"])
    assert await opens(gateway, one["key"]) == 200
    gone = await act("/key/delete", keys=[one["key"], two["token"]], key_aliases=["one"])
    assert gone == {"deleted_keys": [one["token"], two["token"]]}
    assert [await opens(gateway, key["key"]) for key in (one, two, three)] == [
        "invalid_api_key",
        "invalid_api_key",
        200,
    ]


async def test_a_blocked_key_opens_nothing_until_it_is_unblocked(gateway: Served, act: Act) -> None:
    made = await act("/key/generate")
    assert (await act("/key/block", key=made["key"]))["status"] == "blocked"
    assert await opens(gateway, made["key"]) == "blocked_api_key"
    await act("/key/unblock", key=made["token"])
    assert await opens(gateway, made["key"]) == 200


async def test_an_expired_key_opens_nothing(gateway: Served, act: Act) -> None:
    made = await act("/key/generate", duration="1s")
    await act("/key/update", key=made["token"], rpm_limit=1000)  # the end stays as it is
    await asyncio.sleep(1.1)  # a real second: the gateway's clock is the machine's
    assert await opens(gateway, made["key"]) == "expired_api_key"
    assert (await act("/key/update", key=made["token"], duration=None))["expires"] is None
    assert await opens(gateway, made["key"]) == 200


async def test_a_rotated_secret_works_for_its_grace_period(gateway: Served, act: Act) -> None:
    made = await act("/key/generate", key_alias="nightly", max_budget=5)
    second = await act("/key/regenerate", key=made["key"], grace_period="1h")
    assert second["token"] == made["token"]
    assert (second["max_budget"], second["key_alias"]) == (5, "nightly")
    assert second["old_secret_expires"] is not None
    assert [await opens(gateway, key["key"]) for key in (made, second)] == [200, 200]
    third = await act("/key/regenerate", key=second["key"])
    assert [await opens(gateway, key["key"]) for key in (made, second, third)] == ["invalid_api_key"] * 2 + [200]
    assert third["old_secret_expires"] is None


async def test_a_secret_after_its_grace_period_has_expired(gateway: Served, act: Act) -> None:
    made = await act("/key/generate")
    await act("/key/regenerate", key=made["token"], grace_period="1s")
    await asyncio.sleep(1.1)
    assert await opens(gateway, made["key"]) == "expired_api_key"


async def test_rotating_again_and_again_does_not_grow_without_end(act: Act, refused: Act) -> None:
    made = await act("/key/generate")
    for _ in range(7):
        await act("/key/regenerate", key=made["token"], grace_period="1h")
    assert (await refused(409, "/key/regenerate", key=made["token"], grace_period="1h"))["param"] == "grace_period"
    await act("/key/regenerate", key=made["token"])


async def test_an_update_changes_what_it_names(act: Act, gateway: Served) -> None:
    made = await act("/key/generate", max_budget=5, rpm_limit=10, models=["a", "b"])
    await act("/key/update", key=made["token"], rpm_limit=None, models=["c"])
    info = (await gateway.http.get("/key/info", params={"key": made["token"]})).json()
    assert info["key"] == made["token"]
    assert (info["info"]["max_budget"], info["info"]["rpm_limit"], info["info"]["models"]) == (5, None, ["c"])


async def test_what_a_key_has_spent_is_shown_while_billing_answers(
    gateway: Served, act: Act, recorder: Recorder
) -> None:
    made = await act("/key/generate", budget_duration="24h")
    assert made["spend"] is None
    listing = {"return_full_object": "true"}
    async with client(gateway, made["key"]) as http:
        info = (await http.get("/key/info")).json()["info"]
        [scope] = recorder.only(GetSpent).scopes
        assert (scope.team, scope.key_id, scope.budget_duration) == ("default", made["token"], "24h")
        assert (info["spend"], info["budget_reset_at"][10:]) == (0.5, "T00:00:00+00:00")
        assert (await gateway.http.get("/key/list", params=listing)).json()["keys"][0]["spend"] == 0.5
        recorder.scripts.pop(GetSpent)
        recorder.answers[GetSpent] = ServiceUnavailable("no database")
        for response in (await http.get("/key/info"), await gateway.http.get("/key/list", params=listing)):
            assert response.status_code == 200
            assert '"spend":null' in response.text


async def test_others_are_told_of_a_key_whose_batches_pause(act: Act, messaging: Messaging) -> None:
    async with open_pausing_keys(messaging.connection) as told:
        await act("/key/generate", max_budget=5)
        made = await act("/key/generate", max_budget=5, pause_over_budget=True)
        assert made["pause_over_budget"] is True

        async def until(*budgets: int) -> None:
            async with asyncio.timeout(20):
                while [key.limits.max_budget for key in told] != list(budgets):
                    await asyncio.sleep(0.01)

        await until(5)
        await act("/key/update", key=made["token"], max_budget=7)
        await until(7)
        await act("/key/update", key=made["token"], pause_over_budget=False)
        await until()


async def test_what_a_gateway_did_not_live_to_tell_is_told_by_the_next(start: Start, messaging: Messaging) -> None:
    limits = Limits(max_budget=Decimal(5))
    key = Key(key_id="a" * 64, key_name="sk-...", limits=limits, pause_over_budget=True, created_at=1, updated_at=1)
    gone = PausingKey(key_id="b" * 64, team_id="default", limits=limits)
    await Records(messaging.js, KEYS_BUCKET, Key).create(key.key_id, key)
    await Records(messaging.js, TEAMS_BUCKET, PausingKey).create(f"{PAUSING}.{gone.key_id}", gone)
    await start()
    async with open_pausing_keys(messaging.connection) as told, asyncio.timeout(20):
        while {one.key_id for one in told} != {key.key_id}:
            await asyncio.sleep(0.01)


async def test_only_the_master_key_administrates(gateway: Served, act: Act, subtests: pytest.Subtests) -> None:
    made = await act("/key/generate")
    async with client(gateway, made["key"]) as http:
        for path in ("generate", "update", "regenerate", "block", "unblock", "delete"):
            with subtests.test(path=path):
                response = await http.post(f"/key/{path}", json={"key": made["token"]})
                assert (response.status_code, error_of(response)["code"]) == (403, "master_key_required")
        assert (await http.get("/key/list")).status_code == 403
        assert (await http.get("/team/list")).status_code == 403
        assert (await http.post("/team/new", json={})).status_code == 403


async def test_a_key_may_ask_about_itself_alone(gateway: Served, act: Act) -> None:
    made, other = await act("/key/generate"), await act("/key/generate")
    async with client(gateway, made["key"]) as http:
        for params in ({}, {"key": made["token"]}, {"key": made["key"]}):
            response = await http.get("/key/info", params=params)
            assert response.json()["key"] == made["token"]
            assert made["key"] not in response.text
        for name in (other["token"], other["key"], "nothing"):
            response = await http.get("/key/info", params={"key": name})
            assert (response.status_code, error_of(response)["code"]) == (404, "key_not_found")


async def test_keys_are_listed_newest_first_in_pages(gateway: Served, act: Act) -> None:
    await act("/team/new", team_id="t")
    made = [await act("/key/generate", key_alias=f"k{number}", team_id="t") for number in range(3)]
    await act("/key/generate")
    await act("/key/block", key=made[0]["token"])

    async def listed(**params: Any) -> Any:
        return (await gateway.http.get("/key/list", params=params)).json()

    first = await listed(team_id="t", size=2)
    assert first == {
        "keys": [made[2]["token"], made[1]["token"]],
        "total_count": 3,
        "current_page": 1,
        "total_pages": 2,
    }
    assert (await listed(team_id="t", size=2, page=2))["keys"] == [made[0]["token"]]
    assert (await listed())["total_count"] == 4
    (blocked,) = (await listed(status="blocked", return_full_object=True))["keys"]
    assert blocked["key_alias"] == "k0"
    assert (await listed(key_alias="k1"))["keys"] == [made[1]["token"]]


async def test_every_replica_knows_within_a_second(gateway: Served, start: Start, act: Act) -> None:
    other = await start()
    made = await act("/key/generate")

    async def within_a_second(code: str | int) -> None:
        async with asyncio.timeout(1):
            while await opens(other, made["key"]) != code:
                await asyncio.sleep(0.01)

    await within_a_second(200)
    await act("/key/block", key=made["token"])
    await within_a_second("blocked_api_key")
    await act("/key/unblock", key=made["token"])
    await within_a_second(200)
    await act("/key/delete", keys=[made["token"]])
    await within_a_second("invalid_api_key")


async def test_every_act_is_logged_and_no_secret_is(act: Act) -> None:
    with capture_logs() as logs:
        made = await act("/key/generate", key_alias="a")
        rotated = await act("/key/regenerate", key=made["key"], grace_period="1h")
        await act("/key/update", key=made["key"], rpm_limit=1000)
        await act("/key/block", key=rotated["key"])
        await act("/key/unblock", key=rotated["key"])
        await act("/key/delete", keys=[rotated["key"]])
    acts = [record for record in logs if record.get("audit")]
    assert [record["event"] for record in acts] == [
        f"key.{done}" for done in ("generated", "regenerated", "updated", "blocked", "unblocked", "deleted")
    ]
    assert {record["key_id"] for record in acts} == {made["token"]}
    text = json.dumps(logs, default=repr)
    assert all(secret not in text for secret in (KEY, made["key"], rotated["key"]))


async def test_a_wrong_secret_is_not_repeated_in_full(gateway: Served, refused: Act) -> None:
    secret = "sk-" + "a" * 20 + "b" * 20
    with capture_logs() as logs:
        error = await refused(404, "/key/update", key=secret)
        async with client(gateway, secret) as http:
            answer = (await http.get("/v1/files")).text
    assert all(secret not in text for text in (json.dumps(logs, default=repr), error["message"], answer))


async def test_keys_without_a_master_key_open_no_gateway(act: Act, start: Start) -> None:
    """An editor's slip must not give everybody the files of all teams."""
    await act("/key/generate")
    with pytest.raises(ConfigurationError, match="no master key"):
        await start(Config())


async def test_an_open_gateway_makes_no_keys(services: object, start: Start) -> None:
    gateway = await start(Config())
    response = await gateway.http.post("/key/generate", json={})
    assert (response.status_code, error_of(response)["code"]) == (403, "no_master_key")
