"""The failed lines of a batch sent again: what reaches batch-runner, and what never gets so far."""

import json
from typing import Any

import pytest
from unit.gateway.peers import BATCH, Recorder
from unit.gateway.rig import Served, error_of

from batchyard.common.contracts.batches import RetryBatch
from batchyard.common.errors import Conflict, InvalidRequest, NotFound, ServiceUnavailable


@pytest.mark.parametrize("prefix", ["", "/v1"])
@pytest.mark.parametrize("body", [b"", b"{}", b'{"completion_window": null, "metadata": null, "unknown": 1}'])
async def test_a_retry_needs_no_body(gateway: Served, recorder: Recorder, prefix: str, body: bytes) -> None:
    answer = BATCH.model_copy(update={"id": "batch_2", "retry_of": "batch_1"})
    recorder.answers[RetryBatch] = answer
    response = await gateway.http.post(f"{prefix}/batches/batch_1/retry", content=body)
    assert (response.status_code, response.json()) == (200, answer.model_dump(mode="json"))
    asked = recorder.only(RetryBatch)
    wish = RetryBatch(batch_id="batch_1", key_alias="master")
    assert asked.model_copy(update={"attempt": None}) == wish
    assert asked.attempt is not None


async def test_a_retry_may_change_window_and_metadata(gateway: Served, recorder: Recorder) -> None:
    wish = {"completion_window": "1h", "metadata": {"try": "2"}}
    assert (await gateway.http.post("/v1/batches/batch_1/retry", json=wish)).status_code == 200
    asked = recorder.only(RetryBatch).model_copy(update={"attempt": None})
    assert asked == RetryBatch(batch_id="batch_1", key_alias="master", **wish)


async def test_a_retry_that_was_not_answered_is_known_when_it_comes_again(gateway: Served, recorder: Recorder) -> None:
    recorder.answers[RetryBatch] = ServiceUnavailable("away")
    assert (await gateway.http.post("/v1/batches/batch_1/retry")).status_code == 503
    recorder.answers[RetryBatch] = BATCH
    assert (await gateway.http.post("/v1/batches/batch_1/retry")).status_code == 200
    assert (await gateway.http.post("/v1/batches/batch_1/retry")).status_code == 200
    first, again, anew = [command.attempt for _, command in recorder.asked if isinstance(command, RetryBatch)]
    assert first == again
    assert anew is not None
    assert first is not None
    assert anew.token != first.token


async def test_a_retry_may_have_a_key_of_its_own(gateway: Served, recorder: Recorder) -> None:
    recorder.answers[RetryBatch] = BATCH
    headers = {"idempotency-key": "once"}
    assert (await gateway.http.post("/v1/batches/batch_1/retry", headers=headers)).status_code == 200
    asked = recorder.only(RetryBatch)
    assert (asked.idempotency_key, asked.attempt) == ("once", None)


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ("{", None, "invalid_json"),
        ("[]", None, "invalid_type"),
        ({"completion_window": 24}, "completion_window", "invalid_type"),
        ({"completion_window": "1" * 17}, "completion_window", "invalid_value"),
        ({"metadata": {"tags": ["a"]}}, "metadata.tags", "invalid_type"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata", "object_above_max_properties"),
    ],
)
async def test_a_wrong_retry_is_a_400(
    gateway: Served, recorder: Recorder, body: Any, param: str | None, code: str
) -> None:
    content = body if isinstance(body, str) else json.dumps(body)
    response = await gateway.http.post("/v1/batches/batch_1/retry", content=content)
    assert response.status_code == 400
    assert (error_of(response)["param"], error_of(response)["code"]) == (param, code)
    assert recorder.asked == []


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Conflict("Nothing to retry: every request of the batch succeeded."), 409),
        (InvalidRequest("Invalid value: 'soon'.", param="completion_window", code="invalid_value"), 400),
        (NotFound("The input file 'file-1' of batch 'batch_1' was deleted.", param="input_file_id"), 404),
    ],
)
async def test_what_the_runner_refuses_to_retry_reaches_the_client(
    gateway: Served, recorder: Recorder, error: Any, status: int
) -> None:
    recorder.answers[RetryBatch] = error
    response = await gateway.http.post("/v1/batches/batch_1/retry")
    assert response.status_code == status
    assert error_of(response) == error.body().model_dump(include={"message", "type", "param", "code"})


async def test_a_retry_needs_a_key(gateway: Served, recorder: Recorder) -> None:
    response = await gateway.http.post("/v1/batches/batch_1/retry", headers={"authorization": "Bearer wrong"})
    assert (response.status_code, error_of(response)["code"]) == (401, "invalid_api_key")
    assert recorder.asked == []
