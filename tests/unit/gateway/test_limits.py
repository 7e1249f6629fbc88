"""Limits as the gateway shows them, and sends them along."""

import asyncio
from typing import Any

from unit.gateway.peers import Recorder
from unit.gateway.rig import Served, error_of

from batchyard.common.contracts.batches import CreateBatch
from batchyard.common.contracts.budgets import GetBudgets
from batchyard.common.contracts.enqueued import GetEnqueued
from batchyard.common.errors import QuotaExceeded, TooManyRequests

BODY = {"input_file_id": "file-1", "endpoint": "/v1/chat/completions", "completion_window": "24h"}


async def new_key(gateway: Served, **limits: Any) -> tuple[str, dict[str, str]]:
    """A key's ID, and the header that presents it."""
    made = (await gateway.http.post("/key/generate", json=limits)).json()
    return made["token"], {"authorization": f"Bearer {made['key']}"}


async def test_what_is_used_is_shown(gateway: Served, recorder: Recorder) -> None:
    key_id, header = await new_key(gateway, max_budget=3, max_batches=7)
    shown = (await gateway.http.get("/v1/limits", headers=header)).json()
    assert shown["team_id"] == "default"
    assert shown["enqueued"]["team"]["used"]["batches"] == 2
    assert (shown["budgets"]["team"]["spent"], shown["budgets"]["team"]["reserved"]) == ("1.5", "2")
    assert shown["storage"] == {"object": "storage", "max_storage_bytes": None, "used_bytes": None}
    key = recorder.only(GetBudgets).key
    assert key is not None
    assert key.key_id == key_id
    assert key.limits.max_budget == 3
    asked = recorder.only(GetEnqueued)
    assert (asked.key_id, asked.key_limits and asked.key_limits.max_batches) == (key_id, 7)


async def test_a_keys_limits_go_along_with_its_batches(gateway: Served, recorder: Recorder) -> None:
    _, header = await new_key(gateway, max_batches=7)
    assert (await gateway.http.post("/v1/batches", json=BODY, headers=header)).status_code == 200
    limits = recorder.only(CreateBatch).key_limits
    assert limits is not None
    assert limits.max_batches == 7


async def test_a_quota_that_is_used_up_is_not_to_be_tried_again(gateway: Served, recorder: Recorder) -> None:
    recorder.answers[CreateBatch] = QuotaExceeded("Spent.", retry_after=99)
    response = await gateway.http.post("/v1/batches", json=BODY)
    assert response.status_code == 429
    assert error_of(response)["type"] == error_of(response)["code"] == "insufficient_quota"
    assert (response.headers["x-should-retry"], response.headers["retry-after"]) == ("false", "99")


async def test_of_limits_those_that_name_a_time_are_worth_another_try(gateway: Served, recorder: Recorder) -> None:
    recorder.answers[CreateBatch] = TooManyRequests("Later.", retry_after=30)
    response = await gateway.http.post("/v1/batches", json=BODY)
    assert (response.headers.get("x-should-retry"), response.headers["retry-after"]) == (None, "30")
    recorder.answers[CreateBatch] = TooManyRequests("Never.", code="token_limit_exceeded")
    response = await gateway.http.post("/v1/batches", json=BODY)
    assert (response.headers.get("x-should-retry"), response.headers.get("retry-after")) == ("false", None)


async def test_an_upload_is_refused_while_it_streams_when_the_room_is_used(gateway: Served) -> None:
    await gateway.http.post("/team/new", json={"team_id": "default", "max_storage_bytes": 100})
    async with asyncio.timeout(10):
        while (await gateway.upload(b"x" * 200, "a.txt", purpose="user_data")).status_code == 200:
            await asyncio.sleep(0.01)  # until file-store knows the team
    files = (await gateway.http.get("/v1/files")).json()["data"]
    for file in files:
        await gateway.http.delete(f"/v1/files/{file['id']}")
    assert (await gateway.upload(b"x" * 60, "a.txt", purpose="user_data")).status_code == 200
    response = await gateway.upload(b"x" * 41, "a.txt", purpose="user_data")
    assert response.status_code == 429
    assert error_of(response)["code"] == "storage_quota_exceeded"
    assert response.headers["x-should-retry"] == "false"
    assert "room for 40 more bytes" in error_of(response)["message"]
    assert len(await gateway.keys()) == 1
    assert gateway.unpublished() == []
