"""The results of a batch as one file."""

import json
import os
from pathlib import Path

import pytest
from unit.gateway.peers import BATCH, Recorder
from unit.gateway.rig import KEY, Served, error_of, raw_request, until

from batchyard.common.contracts.batches import Batch, BatchStatus, GetBatch
from batchyard.common.errors import NotFound
from batchyard.common.result_lines import request_id

BATCH_HEX = "0123456789abcdef" * 2
PATH = "/v1/batches/batch_1/results"


def results(lines: list[int], size: int = 0) -> bytes:
    """Result lines for lines of the input."""
    members = ({"id": request_id(BATCH_HEX, line), "custom_id": f"r{line}", "x": "x" * size} for line in lines)
    return b"".join(json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in members)


async def with_files(gateway: Served, recorder: Recorder, **files: bytes) -> Batch:
    """Let batch-runner know an ended batch whose `output` and `error` files hold these bytes."""
    ids = {}
    for what, content in files.items():
        response = await gateway.upload(content, name=f"{what}.jsonl", purpose="evals")
        ids[f"{what}_file_id"] = response.json()["id"]
    batch = BATCH.model_copy(update={"status": BatchStatus.COMPLETED, **ids})
    recorder.answers[GetBatch] = batch
    return batch


def numbers(content: bytes) -> list[int]:
    return [int(json.loads(line)["custom_id"][1:]) for line in content.splitlines()]


@pytest.mark.parametrize("prefix", ["", "/v1"])
async def test_output_and_errors_come_in_the_order_of_the_input(
    gateway: Served, recorder: Recorder, prefix: str
) -> None:
    await with_files(gateway, recorder, output=results([1, 2, 5, 9, 10]), error=results([3, 4, 7]))
    response = await gateway.http.get(f"{prefix}/batches/batch_1/results")
    assert response.status_code == 200
    assert response.content == results([1, 2, 3, 4, 5, 7, 9, 10])
    assert response.headers["content-type"] == "application/x-ndjson"
    assert response.headers["content-length"] == str(len(response.content))
    assert 'filename="batch_1_results.jsonl"' in response.headers["content-disposition"]
    assert recorder.only(GetBatch) == GetBatch(batch_id="batch_1")


@pytest.mark.parametrize(
    ("status", "expected"), [("completed", [1, 4]), ("failed", [2, 3])], ids=["completed", "failed"]
)
async def test_a_status_chooses_the_lines(
    gateway: Served, recorder: Recorder, status: str, expected: list[int]
) -> None:
    await with_files(gateway, recorder, output=results([1, 4]), error=results([2, 3]))
    response = await gateway.http.get(PATH, params={"status": status})
    assert numbers(response.content) == expected


@pytest.mark.parametrize("what", ["output", "error"])
async def test_one_file_is_enough(gateway: Served, recorder: Recorder, what: str) -> None:
    await with_files(gateway, recorder, **{what: results([1, 2, 3])})
    assert numbers((await gateway.http.get(PATH)).content) == [1, 2, 3]
    other = "failed" if what == "output" else "completed"
    response = await gateway.http.get(PATH, params={"status": other})
    assert (response.status_code, response.content, response.headers["content-length"]) == (200, b"", "0")


async def test_head_answers_the_headers_alone(gateway: Served, recorder: Recorder) -> None:
    await with_files(gateway, recorder, output=results([1]), error=results([2]))
    response = await gateway.http.head(PATH)
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-length"] == str(len(results([1, 2])))
    recorder.answers[GetBatch] = BATCH
    assert (await gateway.http.head(PATH)).status_code == 409


async def test_an_unknown_status_is_a_400(gateway: Served, recorder: Recorder) -> None:
    response = await gateway.http.get(PATH, params={"status": "all"})
    assert response.status_code == 400
    assert error_of(response) == {
        "message": "Invalid value: 'all'. Supported values are: 'completed' and 'failed'.",
        "type": "invalid_request_error",
        "param": "status",
        "code": "invalid_value",
    }


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (BatchStatus.VALIDATING, 409, "once it has ended"),
        (BatchStatus.IN_PROGRESS, 409, "once it has ended"),
        (BatchStatus.FINALIZING, 409, "once it has ended"),
        (BatchStatus.CANCELLING, 409, "once it has ended"),
        (BatchStatus.FAILED, 404, "its input was refused"),
        (BatchStatus.CANCELLED, 404, "it was cancelled before it began"),
    ],
)
async def test_a_batch_without_results_says_so(
    gateway: Served, recorder: Recorder, status: BatchStatus, code: int, words: str
) -> None:
    recorder.answers[GetBatch] = BATCH.model_copy(update={"status": status})
    response = await gateway.http.get(PATH)
    assert response.status_code == code
    assert words in error_of(response)["message"]
    assert response.headers.get("x-should-retry") == ("false" if code == 409 else None)


async def test_an_unknown_batch_is_a_404(gateway: Served, recorder: Recorder) -> None:
    recorder.answers[GetBatch] = NotFound("No batch found with id 'batch_1'.", param="id")
    response = await gateway.http.get(PATH)
    assert (response.status_code, error_of(response)["message"]) == (404, "No batch found with id 'batch_1'.")


@pytest.mark.parametrize("what", ["output", "error"])
@pytest.mark.parametrize("bytes_alone", [False, True])
async def test_a_file_that_is_gone_is_named(gateway: Served, recorder: Recorder, what: str, bytes_alone: bool) -> None:
    batch = await with_files(gateway, recorder, output=results([1]), error=results([2]))
    file_id = getattr(batch, f"{what}_file_id")
    if bytes_alone:
        await gateway.objects.delete([key for key in await gateway.keys() if key.endswith(file_id[5:])])
    else:
        await gateway.http.delete(f"/v1/files/{file_id}")
    response = await gateway.http.get(PATH)
    assert response.status_code == 404
    assert (
        error_of(response)["message"] == f"The {what} file '{file_id}' of batch 'batch_1' was deleted or has expired."
    )
    assert error_of(response)["param"] == f"{what}_file_id"
    other = {"output": "failed", "error": "completed"}[what]
    assert (await gateway.http.get(PATH, params={"status": other})).status_code == 200


async def test_results_that_the_client_leaves_free_the_store(gateway: Served, recorder: Recorder) -> None:
    """Many megabytes are read no faster than they are taken."""
    await with_files(
        gateway, recorder, output=results(list(range(1, 4000, 2)), 8000), error=results(list(range(2, 4000, 2)), 8000)
    )
    keys = await gateway.keys()

    def descriptors() -> int:
        open_files = [os.path.realpath(Path("/proc/self/fd") / name) for name in os.listdir("/proc/self/fd")]  # noqa: PTH208
        return sum(path.endswith(tuple(keys)) for path in open_files)

    head = f"GET {PATH} HTTP/1.1\nhost: x\nauthorization: Bearer {KEY}\n\n"
    async with raw_request(gateway.port, head) as reader:
        await reader.readexactly(1000)
        assert descriptors() == 2
    await until(lambda: descriptors() == 0)
    assert numbers((await gateway.http.get(PATH)).content) == list(range(1, 4000))


async def test_results_need_a_key(gateway: Served, recorder: Recorder) -> None:
    response = await gateway.http.get(PATH, headers={"authorization": "Bearer wrong"})
    assert (response.status_code, error_of(response)["code"]) == (401, "invalid_api_key")
    assert recorder.asked == []
