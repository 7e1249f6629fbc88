"""Batches: what reaches batch-runner, what comes back, and what never gets so far."""

import json
from decimal import Decimal

import pytest
from unit.gateway.peers import BATCH, Recorder
from unit.gateway.rig import Served, Start, error_of

from batchyard.common.config import Config
from batchyard.common.contracts.batches import BatchPage, CancelBatch, CreateBatch, GetBatch, ListBatches
from batchyard.common.contracts.files import ExpiresAfter
from batchyard.common.errors import ApiError, Conflict, NotFound, TooManyRequests

WISH = {"input_file_id": "file-1", "endpoint": "/v1/chat/completions", "completion_window": "24h"}


@pytest.mark.parametrize("prefix", ["", "/v1"])
async def test_a_batch_is_created_for_the_tenant_and_the_key(gateway: Served, recorder: Recorder, prefix: str) -> None:
    response = await gateway.http.post(f"{prefix}/batches", json=WISH)
    assert (response.status_code, response.json()) == (200, BATCH.model_dump(mode="json"))
    command = recorder.only(CreateBatch)
    assert command == CreateBatch(**WISH, key_alias="master", attempt=command.attempt)
    assert [tenant for tenant, _ in recorder.asked] == ["default"]


async def test_everything_that_is_said_reaches_the_runner(gateway: Served, recorder: Recorder) -> None:
    wish = WISH | {
        "completion_window": "7d",
        "metadata": {"team": "search"},
        "output_expires_after": {"anchor": "created_at", "seconds": 3600},
        "model": "llama",
        "custom_llm_provider": "hosted_vllm",
    }
    assert (await gateway.http.post("/v1/batches", json=wish)).status_code == 200
    command = recorder.only(CreateBatch)
    assert command.completion_window == "7d"
    assert command.metadata == {"team": "search"}
    assert command.output_expires_after == ExpiresAfter(seconds=3600)
    assert command.model == "llama"


async def test_nulls_are_as_good_as_nothing(gateway: Served, recorder: Recorder) -> None:
    wish = WISH | {"metadata": None, "output_expires_after": None, "model": None}
    assert (await gateway.http.post("/v1/batches", json=wish)).status_code == 200
    assert recorder.only(CreateBatch).metadata is None


async def test_an_endpoint_may_lack_its_v1(gateway: Served, recorder: Recorder) -> None:
    await gateway.http.post("/v1/batches", json=WISH | {"endpoint": "/embeddings"})
    assert recorder.only(CreateBatch).endpoint == "/v1/embeddings"


async def test_a_wrong_parameter_is_a_400(gateway: Served, recorder: Recorder) -> None:
    response = await gateway.http.post("/v1/batches", json=WISH | {"metadata": {"tags": ["a"]}})
    assert response.status_code == 400
    assert error_of(response) == {
        "message": "Invalid type for 'metadata.tags': expected a string, but got an array instead.",
        "type": "invalid_request_error",
        "param": "metadata.tags",
        "code": "invalid_type",
    }
    assert recorder.asked == []


@pytest.mark.parametrize("body", [b"", b"{"])
async def test_malformed_json_is_a_400(gateway: Served, body: bytes) -> None:
    response = await gateway.http.post("/v1/batches", content=body)
    assert (response.status_code, error_of(response)["code"]) == (400, "invalid_json")


async def test_a_body_too_large_is_a_413(gateway: Served) -> None:
    response = await gateway.http.post("/v1/batches", json=WISH | {"x": "x" * (1 << 20)})
    assert response.status_code == 413
    assert error_of(response)["type"] == "invalid_request_error"


async def test_the_content_type_of_a_body_does_not_matter(gateway: Served) -> None:
    headers = {"content-type": "text/plain"}
    response = await gateway.http.post("/v1/batches", content=json.dumps(WISH), headers=headers)
    assert response.status_code == 200


@pytest.mark.parametrize("prefix", ["", "/v1"])
async def test_a_batch_is_retrieved(gateway: Served, recorder: Recorder, prefix: str) -> None:
    response = await gateway.http.get(f"{prefix}/batches/batch_1")
    assert response.json()["id"] == "batch_1"
    assert recorder.only(GetBatch) == GetBatch(batch_id="batch_1")


async def test_the_cost_of_a_batch_is_in_litellms_header_too(gateway: Served, recorder: Recorder) -> None:
    priced = BATCH.model_copy(update={"cost": Decimal("1E-10"), "currency": "USD"})
    recorder.answers[GetBatch] = recorder.answers[CancelBatch] = priced
    for method, path in (("GET", "/v1/batches/batch_1"), ("POST", "/v1/batches/batch_1/cancel")):
        response = await gateway.http.request(method, path)
        assert response.json() == BATCH.model_dump(mode="json") | {"cost": "0.0000000001", "currency": "USD"}
        assert response.headers["x-litellm-response-cost"] == "0.0000000001"


async def test_a_batch_without_a_price_has_no_header_for_it(gateway: Served) -> None:
    assert "x-litellm-response-cost" not in (await gateway.http.get("/v1/batches/batch_1")).headers


@pytest.mark.parametrize("headers", [{}, {"content-type": "application/json"}])
async def test_a_cancel_needs_no_body(gateway: Served, recorder: Recorder, headers: dict[str, str]) -> None:
    response = await gateway.http.post("/v1/batches/batch_1/cancel", headers=headers)
    assert response.status_code == 200
    assert recorder.only(CancelBatch) == CancelBatch(batch_id="batch_1")


async def test_batches_are_listed(gateway: Served, recorder: Recorder) -> None:
    response = await gateway.http.get("/v1/batches", params={"limit": 5, "after": "batch_0"})
    assert response.json()["data"] == [BATCH.model_dump(mode="json")]
    assert recorder.only(ListBatches) == ListBatches(limit=5, after="batch_0")


async def test_a_limit_of_0_is_an_empty_page(gateway: Served, recorder: Recorder) -> None:
    recorder.answers[ListBatches] = BatchPage(data=[])
    response = await gateway.http.get("/v1/batches?limit=0")
    assert response.json() == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


@pytest.mark.parametrize(
    ("limit", "message", "code"),
    [
        (
            "101",
            "Invalid 'limit': integer above maximum value. Expected a value <= 100, but got 101 instead.",
            "integer_above_max_value",
        ),
        (
            "-1",
            "Invalid 'limit': integer below minimum value. Expected a value >= 0, but got -1 instead.",
            "integer_below_min_value",
        ),
        ("x", "Invalid type for 'limit': expected an integer, but got a string instead.", "invalid_type"),
    ],
)
async def test_a_wrong_limit_is_a_400(gateway: Served, limit: str, message: str, code: str) -> None:
    response = await gateway.http.get("/v1/batches", params={"limit": limit})
    assert response.status_code == 400
    assert error_of(response) == {
        "message": message,
        "type": "invalid_request_error",
        "param": "limit",
        "code": code,
    }


@pytest.mark.parametrize(
    ("error", "status", "headers"),
    [
        (NotFound("No batch found with id 'batch_1'."), 404, {}),
        (Conflict("Cannot cancel a batch with status 'completed'."), 409, {"x-should-retry": "false"}),
        (TooManyRequests("Slow down.", retry_after=7), 429, {"retry-after": "7"}),
    ],
)
async def test_what_the_runner_refuses_reaches_the_client(
    gateway: Served, recorder: Recorder, error: ApiError, status: int, headers: dict[str, str]
) -> None:
    recorder.answers[CancelBatch] = error
    response = await gateway.http.post("/v1/batches/batch_1/cancel")
    assert response.status_code == status
    assert error_of(response) == error.body().model_dump(include={"message", "type", "param", "code"})
    assert headers.items() <= response.headers.items()


async def test_where_no_key_is_needed_no_alias_is_sent(services: object, start: Start, recorder: Recorder) -> None:
    gateway = await start(Config())
    await gateway.http.post("/v1/batches", json=WISH)
    assert recorder.only(CreateBatch).key_alias is None
