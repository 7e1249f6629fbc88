"""New batches: sent once, sent again, with their lines, or only to be checked."""

import json
from typing import Any

import pytest
from openai import AsyncOpenAI
from unit.gateway.peers import BATCH, VALIDATION, Recorder
from unit.gateway.rig import KEY, Served, Start, error_of

from batchyard.common.contracts.batches import BatchErrors, BatchProblem, CancelBatch, CreateBatch, ValidateBatch
from batchyard.common.errors import Conflict, InternalError, InvalidRequest, ServiceUnavailable

WISH = {"input_file_id": "file-1", "endpoint": "/v1/chat/completions", "completion_window": "24h"}
REQUESTS = [{"body": {"model": "m", "messages": []}}, {"custom_id": "b", "body": {"n": 12345678901234567890}}]
INLINE = {"endpoint": "/v1/chat/completions", "completion_window": "24h", "requests": REQUESTS}


def commands(recorder: Recorder) -> list[CreateBatch]:
    return [command for _, command in recorder.asked if isinstance(command, CreateBatch)]


def retry(number: int) -> dict[str, str]:
    return {"x-stainless-retry-count": str(number)}


async def test_a_key_reaches_the_runner(gateway: Served, recorder: Recorder) -> None:
    await gateway.http.post("/v1/batches", json=WISH, headers={"Idempotency-Key": "k" * 255} | retry(1))
    command = recorder.only(CreateBatch)
    assert (command.idempotency_key, command.attempt) == ("k" * 255, None)


@pytest.mark.parametrize(
    ("keys", "code"),
    [([""], "string_below_min_length"), (["k" * 256], "string_above_max_length"), (["a", "b"], None)],
)
async def test_a_key_that_cannot_be_kept_is_refused(
    gateway: Served, recorder: Recorder, keys: list[str], code: str | None
) -> None:
    response = await gateway.http.post("/v1/batches", json=WISH, headers=[("Idempotency-Key", key) for key in keys])
    assert response.status_code == 400
    assert (error_of(response)["param"], error_of(response)["code"]) == ("Idempotency-Key", code)
    assert recorder.asked == []


async def test_a_key_used_for_another_batch_is_a_final_409(gateway: Served, recorder: Recorder) -> None:
    recorder.answers[CreateBatch] = Conflict("Used before.", param="idempotency_key", code="idempotency_key_reused")
    response = await gateway.http.post("/v1/batches", json=WISH, headers={"Idempotency-Key": "k"})
    assert (response.status_code, response.headers["x-should-retry"]) == (409, "false")


@pytest.mark.parametrize("error", [ServiceUnavailable("Away."), InternalError("A bug.")])
@pytest.mark.parametrize("headers", [{}, retry(1)], ids=["untold", "told"])
async def test_what_could_not_be_answered_is_the_same_try_when_it_comes_again(
    gateway: Served, recorder: Recorder, error: Exception, headers: dict[str, str]
) -> None:
    recorder.answers[CreateBatch] = error  # type: ignore[assignment]
    assert (await gateway.http.post("/v1/batches", json=WISH)).status_code >= 500
    recorder.answers[CreateBatch] = BATCH
    assert (await gateway.http.post("/v1/batches", json=WISH, headers=headers)).status_code == 200
    first, second = commands(recorder)
    assert first.attempt == second.attempt is not None


@pytest.mark.parametrize(
    ("change", "headers"),
    [({"metadata": {"a": "b"}}, {}), ({}, {"x-litellm-model": "m"}), ({}, retry(0))],
    ids=["another wish", "another model", "a first try"],
)
async def test_what_is_no_retry_is_a_new_try(
    gateway: Served, recorder: Recorder, change: dict[str, Any], headers: dict[str, str]
) -> None:
    recorder.answers[CreateBatch] = ServiceUnavailable("Away.")
    await gateway.http.post("/v1/batches", json=WISH)
    await gateway.http.post("/v1/batches", json=WISH | change, headers=headers)
    first, second = (command.attempt for command in commands(recorder))
    assert first is not None
    assert second is not None
    assert (first.token != second.token, second.again) == (True, False)


@pytest.mark.parametrize("answer", [BATCH, InvalidRequest("No.")])
async def test_what_was_answered_is_a_new_try_when_it_comes_again(
    gateway: Served, recorder: Recorder, answer: Any
) -> None:
    recorder.answers[CreateBatch] = answer
    for headers in ({}, {}, retry(0), retry(1), retry(2)):
        await gateway.http.post("/v1/batches", json=WISH, headers=headers)
    attempts = [command.attempt for command in commands(recorder)]
    assert len({attempt.token for attempt in attempts if attempt}) == 5
    assert [attempt.again for attempt in attempts if attempt] == [False, False, False, True, True]


async def test_a_retry_count_that_is_none_is_ignored(
    gateway: Served, recorder: Recorder, subtests: pytest.Subtests
) -> None:
    for value in ("-1", "x", "", "1.5", "9" * 5000, "٣"):
        with subtests.test(value[:9]):
            recorder.asked.clear()
            headers = {"x-stainless-retry-count": value.encode()}
            assert (await gateway.http.post("/v1/batches", json=WISH, headers=headers)).status_code == 200  # type: ignore[arg-type]
            attempt = recorder.only(CreateBatch).attempt
            assert attempt is not None
            assert not attempt.again


async def test_the_sdk_retries_one_and_the_same_try(services: object, start: Start, recorder: Recorder) -> None:
    """The runner takes longer than the gateway waits: the answers are lost, the commands are not."""
    gateway = await start(command_timeout=0.2)
    recorder.hold(CreateBatch, times=1)
    async with AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=KEY, max_retries=1) as client:
        batch = await client.batches.create(
            input_file_id="file-1", endpoint="/v1/chat/completions", completion_window="24h"
        )
    assert batch.id == BATCH.id
    attempts = {command.attempt.model_dump_json() for command in commands(recorder) if command.attempt}
    assert (len(commands(recorder)), len(attempts)) == (2, 1)


async def test_a_cancel_says_whether_it_is_asked_again(gateway: Served, recorder: Recorder) -> None:
    for headers in ({}, retry(0), retry(1)):
        await gateway.http.post("/v1/batches/batch_1/cancel", headers=headers)
    assert [command.again for _, command in recorder.asked if isinstance(command, CancelBatch)] == [False, False, True]


async def test_lines_that_come_along_lie_where_a_file_can_be_made_of_them(gateway: Served, recorder: Recorder) -> None:
    response = await gateway.http.post("/v1/batches", json=INLINE | {"model": "m"})
    assert response.status_code == 200
    command = recorder.only(CreateBatch)
    assert (command.input_file_id, command.requests, command.model) == (None, None, "m")
    assert command.upload_key is not None
    assert command.input_digest is not None


async def test_lines_are_written_as_they_were_said_with_what_they_left_out(gateway: Served, recorder: Recorder) -> None:
    recorder.answers[CreateBatch] = ServiceUnavailable("The answer is lost: the lines have to stay.")
    requests: list[dict[str, Any]] = [
        {"body": {"n": 12345678901234567890, "t": 0.1, "s": "ü\u2028\n"}},
        {"custom_id": None, "method": None, "url": "/chat/completions", "body": None},
        {"custom_id": "c", "method": "GET", "url": "/v1/embeddings", "more": [1]},
    ]
    await gateway.http.post("/v1/batches", json=INLINE | {"requests": requests})
    key = recorder.only(CreateBatch).upload_key
    assert key is not None
    content = b"".join([chunk async for chunk in gateway.objects.get(key)])
    url = INLINE["endpoint"]
    assert [json.loads(line) for line in content.split(b"\n")[:-1]] == [
        {"custom_id": "request-1", "method": "POST", "url": url, "body": requests[0]["body"]},
        {"custom_id": "request-2", "method": "POST", "url": "/chat/completions"},
        requests[2],
    ]


async def test_the_same_lines_are_the_same_wish(gateway: Served, recorder: Recorder) -> None:
    for body in (INLINE, INLINE, INLINE | {"requests": REQUESTS[:1]}):
        await gateway.http.post("/v1/batches", json=body)
    one, same, other = (command.fingerprint() for command in commands(recorder))
    assert one == same != other


@pytest.mark.parametrize(
    ("answer", "is_kept"),
    [
        (BATCH, False),  # over another file: an earlier request has made it
        (InvalidRequest("No."), False),
        (ServiceUnavailable("The answer is lost."), True),
    ],
)
async def test_lines_stay_only_where_they_may_be_a_file(
    gateway: Served, recorder: Recorder, answer: Any, is_kept: bool
) -> None:
    recorder.answers[CreateBatch] = answer
    await gateway.http.post("/v1/batches", json=INLINE)
    assert (len(await gateway.keys()) == 1) is is_kept


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"requests": []}, "requests", "empty_array"),
    ({"requests": {}}, "requests", "invalid_type"),
    ({"requests": [{}, "x"]}, "requests[1]", "invalid_type"),
    ({"requests": None}, "input_file_id", "missing_required_parameter"),
    ({"input_file_id": "file-1"}, "requests", "mutually_exclusive_parameters"),
    ({"dry_run": "yes"}, "dry_run", "invalid_type"),
    ({"dry_run": 1}, "dry_run", "invalid_type"),
]


async def test_wrong_lines_are_refused_at_once(gateway: Served, recorder: Recorder, subtests: pytest.Subtests) -> None:
    for change, param, code in REFUSED:
        with subtests.test(str(change)):
            response = await gateway.http.post("/v1/batches", json=INLINE | change)
            assert response.status_code == 400
            assert (error_of(response)["param"], error_of(response)["code"]) == (param, code)
    assert recorder.asked == []
    assert await gateway.keys() == []


async def test_what_json_cannot_say_is_a_400(gateway: Served, subtests: pytest.Subtests) -> None:
    for text in ("NaN", "-Infinity", '"\\ud800"', "[" * 300 + "]" * 300):
        with subtests.test(text[:9]):
            body = json.dumps(INLINE | {"requests": [{"body": {"x": "here"}}]}).replace('"here"', text)
            response = await gateway.http.post("/v1/batches", content=body)
            assert response.status_code == 400
            assert error_of(response)["code"] in ("invalid_json", "invalid_value")


async def test_lines_have_a_limit_of_their_own(services: object, start: Start, recorder: Recorder) -> None:
    gateway = await start(max_body_bytes=1000, max_inline_body_bytes=5000)
    large = {"requests": [{"body": {"x": "x" * 3000}}]}
    assert (await gateway.http.post("/v1/batches", json=INLINE | large)).status_code == 200
    for body in (WISH | {"metadata": {"x": "x" * 3000}}, WISH | {"x": "x" * 3000}, INLINE | {"x": "x" * 6000}):
        assert (await gateway.http.post("/v1/batches", json=body)).status_code in (400, 413)
    assert len(commands(recorder)) == 1


async def test_a_dry_run_makes_nothing(gateway: Served, recorder: Recorder) -> None:
    response = await gateway.http.post("/v1/batches", json=WISH | {"dry_run": True}, headers={"x-litellm-model": "m"})
    assert (response.status_code, response.json()) == (200, VALIDATION.model_dump(mode="json"))
    assert recorder.only(ValidateBatch) == ValidateBatch(**WISH, model="m")
    assert commands(recorder) == []


async def test_a_dry_run_tells_what_is_wrong(gateway: Served, recorder: Recorder) -> None:
    problem = BatchProblem(code="invalid_url", message="No.", param="url", line=3)
    found = VALIDATION.model_copy(update={"valid": False, "errors": BatchErrors(data=[problem])})
    recorder.answers[ValidateBatch] = found
    response = await gateway.http.post("/v1/batches", json=WISH | {"dry_run": True})
    assert response.status_code == 200
    assert response.json()["errors"] == {"object": "list", "data": [problem.model_dump()]}


@pytest.mark.parametrize("answer", [VALIDATION, ServiceUnavailable("Too late.")])
async def test_a_dry_run_of_lines_that_came_along_leaves_nothing(
    gateway: Served, recorder: Recorder, answer: Any
) -> None:
    recorder.answers[ValidateBatch] = answer
    await gateway.http.post("/v1/batches", json=INLINE | {"dry_run": True})
    assert recorder.only(ValidateBatch).upload_key is not None
    assert await gateway.keys() == []


async def test_no_dry_run_is_a_create(gateway: Served, recorder: Recorder) -> None:
    for said in (False, None):
        await gateway.http.post("/v1/batches", json=WISH | {"dry_run": said})
    assert len(commands(recorder)) == 2
