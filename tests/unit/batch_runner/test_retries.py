"""Retries: a new batch over exactly the lines of an ended one that have no success."""

import asyncio
import json
import time
from typing import Any

import pytest

from batchyard.batch_runner.batch import BatchRecord
from batchyard.batch_runner.estimate import Size
from batchyard.batch_runner.retries import check_retryable, retry_record
from batchyard.batch_runner.unanswered import unanswered_lines
from batchyard.common.contracts.batches import Attempt, Batch, BatchStatus, CancelBatch, GetBatch, RetryBatch
from batchyard.common.contracts.files import DeleteFile, ExpiresAfter, GetFile
from batchyard.common.errors import Conflict, InvalidRequest, NotFound
from batchyard.common.ids import decode_id
from batchyard.common.messaging.commands import CommandClient
from batchyard.common.objects import LocalObjectStore, ObjectNotFound, read
from batchyard.vllm_sim.settings import SimSettings
from support.services import Caller

from .conftest import MODEL, Yard, chat_line, expire_now, lines
from .records import new_record

ONCE = " [[fault:status=400,times=1]]"


def ended(**changes: Any) -> BatchRecord:
    return new_record(**{"status": BatchStatus.COMPLETED, "error_file_id": "file-errors", **changes})


def custom_ids(results: list[Any]) -> list[str]:
    return [line["custom_id"] for line in results]


async def partly_failed(yard: Yard, fault: str = ONCE, **options: Any) -> Batch:
    """A completed batch of 40 lines, every fourth of which has failed."""
    requests = [chat_line(f"r{n}", f"question {n}{fault if n % 4 == 3 else ''}") for n in range(40)]
    batch = await yard.call.ended((await yard.batch(*requests, **options)).id)
    assert (batch.status, batch.request_counts.failed) == (BatchStatus.COMPLETED, 10)
    return batch


async def test_a_retry_sends_the_failed_lines_again_and_no_other(open_yard: Any) -> None:
    yard = await open_yard(shard_lines=4)
    first = await partly_failed(yard, metadata={"job": "nightly"}, output_expires_after=ExpiresAfter(seconds=7200))
    sent = yard.sim.state.log.total
    retry = await yard.call(RetryBatch(batch_id=first.id))
    assert (retry.status, retry.retry_of, retry.model) == (BatchStatus.VALIDATING, first.id, MODEL)
    assert retry.id != first.id
    assert (retry.endpoint, retry.completion_window) == (first.endpoint, first.completion_window)
    assert (retry.input_file_id, retry.metadata) == (first.input_file_id, {"job": "nightly"})
    retry = await yard.call.ended(retry.id)
    assert (retry.status, retry.error_file_id, retry.retry_of) == (BatchStatus.COMPLETED, None, first.id)
    assert (retry.request_counts.total, retry.request_counts.completed) == (10, 10)
    assert yard.sim.state.log.total - sent == 10
    output = await yard.call.content(retry.output_file_id)
    assert custom_ids(output) == [f"r{n}" for n in range(3, 40, 4)]
    assert [int(line["id"][-8:], 16) for line in output] == list(range(4, 41, 4)), "lines keep their numbers"
    file = await yard.call(GetFile(file_id=retry.output_file_id))
    assert file.expires_at == file.created_at + 7200
    assert (await yard.call(GetBatch(batch_id=first.id))).retry_of is None


async def test_a_retry_takes_another_window_and_other_metadata(open_yard: Any) -> None:
    yard = await open_yard()
    first = await partly_failed(yard, metadata={"a": "b"})
    retry = await yard.call(RetryBatch(batch_id=first.id, completion_window="1h", metadata={}))
    assert (retry.completion_window, retry.metadata) == ("1h", {})
    assert retry.expires_at == retry.created_at + 3600
    with pytest.raises(InvalidRequest) as caught:
        await yard.call(RetryBatch(batch_id=first.id, completion_window="soon"))
    assert caught.value.param == "completion_window"


async def test_a_retry_of_a_retry_sends_what_is_left(open_yard: Any) -> None:
    yard = await open_yard()
    requests = [chat_line(f"r{n}", f"question {n} [[fault:status=400,times={n % 3}]]") for n in range(12)]
    batch = await yard.call.ended((await yard.batch(*requests)).id)
    for left in (8, 4):
        assert len(await yard.call.content(batch.error_file_id)) == left
        retried = batch.id
        batch = await yard.call.ended((await yard.call(RetryBatch(batch_id=retried))).id)
        assert batch.retry_of == retried
        assert batch.request_counts.total == left
    assert custom_ids(await yard.call.content(batch.output_file_id)) == ["r2", "r5", "r8", "r11"]
    with pytest.raises(Conflict, match="every request of the batch succeeded"):
        await yard.call(RetryBatch(batch_id=batch.id))


@pytest.mark.parametrize("ending", [BatchStatus.CANCELLED, BatchStatus.EXPIRED])
async def test_lines_that_were_never_run_are_retried(open_yard: Any, ending: BatchStatus) -> None:
    yard = await open_yard(
        SimSettings(port=0, base_latency=0.05), max_parallel_requests=2, shard_window=2, reconcile_interval=0.1
    )
    batch = await yard.batch(*lines(100))
    await yard.call.until(batch.id, lambda _: yard.sim.state.log.total > 10)
    with pytest.raises(Conflict, match="Cannot retry a batch with status 'in_progress'"):
        await yard.call(RetryBatch(batch_id=batch.id))
    if ending is BatchStatus.CANCELLED:
        await yard.call(CancelBatch(batch_id=batch.id))
    else:
        await expire_now(yard, batch)
    batch = await yard.call.ended(batch.id, timeout=20)
    assert batch.status is ending
    retry = await yard.call.ended((await yard.call(RetryBatch(batch_id=batch.id))).id)
    assert retry.status is BatchStatus.COMPLETED
    first = custom_ids(await yard.call.content(batch.output_file_id))
    second = custom_ids(await yard.call.content(retry.output_file_id))
    assert sorted(first + second) == sorted(f"r{n}" for n in range(100))


async def test_a_retry_finds_the_models_where_the_batch_found_them(open_yard: Any) -> None:
    """The first of the lines that are left names no model: the batch that is retried had found it in another one."""
    yard = await open_yard()
    unnamed = json.loads(chat_line("r1", f"question 1{ONCE}"))
    del unnamed["body"]["model"]
    first = await yard.batch(chat_line("r0", "question 0"), json.dumps(unnamed).encode(), model=None)
    first = await yard.call.ended(first.id)
    assert (first.status, first.request_counts.failed, decode_id(first.id).model) == ("completed", 1, None)
    retry = await yard.call.ended((await yard.call(RetryBatch(batch_id=first.id))).id)
    assert (retry.status, retry.model, retry.request_counts.completed) == (BatchStatus.COMPLETED, MODEL, 1)


async def test_a_batch_of_several_models_is_retried_as_one(open_yard: Any) -> None:
    yard = await open_yard(SimSettings(port=0, models=("a", "b")), mixed_models=True)
    requests = [chat_line(f"r{n}", f"question {n}{ONCE}", model="ab"[n % 2]) for n in range(6)]
    first = await yard.call.ended((await yard.batch(*requests, model=None)).id)
    assert first.request_counts.failed == 6
    retry = await yard.call.ended((await yard.call(RetryBatch(batch_id=first.id))).id)
    assert (retry.status, retry.model, retry.request_counts.completed) == (BatchStatus.COMPLETED, None, 6)
    assert custom_ids(await yard.call.content(retry.output_file_id)) == [f"r{n}" for n in range(6)]


@pytest.mark.parametrize("what", ["input", "error"])
async def test_a_retry_needs_both_files(open_yard: Any, what: str) -> None:
    yard = await open_yard()
    first = await partly_failed(yard)
    file_id = first.input_file_id if what == "input" else first.error_file_id
    await yard.call(DeleteFile(file_id=file_id))
    with pytest.raises(NotFound) as caught:
        await yard.call(RetryBatch(batch_id=first.id))
    assert caught.value.param == f"{what}_file_id"
    assert f"The {what} file '{file_id}' of batch '{first.id}'" in caught.value.message


@pytest.mark.parametrize(("what", "param"), [("input", "input_file_id"), ("error", "retry_of")])
async def test_a_file_that_goes_before_it_is_read_fails_the_retry(open_yard: Any, what: str, param: str) -> None:
    yard = await open_yard()
    first = await partly_failed(yard)
    file_id = first.input_file_id if what == "input" else first.error_file_id
    assert file_id is not None
    key = f"files/default/{decode_id(file_id).raw.removeprefix('file-')}"
    await yard.objects.delete([key])  # the file's record is still there
    retry = await yard.call.ended((await yard.call(RetryBatch(batch_id=first.id))).id)
    assert retry.status is BatchStatus.FAILED
    assert [(problem.code, problem.param) for problem in retry.errors.data] == [("file_not_found", param)]


async def test_another_tenants_batch_cannot_be_retried(open_yard: Any) -> None:
    yard = await open_yard()
    first = await partly_failed(yard)
    stranger = Caller(CommandClient(yard.messaging.connection), yard.objects, "stranger")
    for batch_id in (first.id, "batch_nope", "nonsense"):
        with pytest.raises(NotFound, match=f"No batch found with id '{batch_id}'"):
            await stranger(RetryBatch(batch_id=batch_id))


async def test_a_retry_that_is_sent_again_is_one_batch(open_yard: Any) -> None:
    yard = await open_yard()
    failed = await partly_failed(yard)
    wish = {"batch_id": failed.id, "metadata": {"try": "2"}}
    once = RetryBatch(**wish, attempt=Attempt(token="a", asked_at=time.time()))
    assert len({(await yard.call(once)).id for _ in range(2)}) == 1
    keyed = RetryBatch(**wish, idempotency_key="k")
    first, again = await asyncio.gather(yard.call(keyed), yard.call(keyed))
    assert first.id == again.id
    with pytest.raises(Conflict, match="Idempotency-Key"):
        await yard.call(RetryBatch(batch_id=failed.id, idempotency_key="k"))


async def test_retries_at_once_are_batches_of_their_own(open_yard: Any) -> None:
    yard = await open_yard()
    first = await partly_failed(yard)
    retries = await asyncio.gather(*(yard.call(RetryBatch(batch_id=first.id)) for _ in range(3)))
    assert len({retry.id for retry in retries}) == 3
    for retry in retries:
        assert (await yard.call.ended(retry.id)).request_counts.total == 10


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"status": BatchStatus.VALIDATING, "error_file_id": None}, "with status 'validating'"),
        ({"status": BatchStatus.FINALIZING, "error_file_id": None}, "with status 'finalizing'"),
        ({"status": BatchStatus.CANCELLING, "error_file_id": None}, "with status 'cancelling'"),
        ({"status": BatchStatus.FAILED, "error_file_id": None}, "its input was refused"),
        ({"status": BatchStatus.COMPLETED, "error_file_id": None}, "every request of the batch succeeded"),
        ({"status": BatchStatus.CANCELLED, "error_file_id": None}, "was cancelled without an error file"),
    ],
)
def test_a_batch_without_errors_is_not_retried(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(Conflict, match=words):
        check_retryable(ended(**changes))


def test_a_retry_is_billed_to_the_key_that_asks() -> None:
    command = RetryBatch(batch_id="batch_x", key_id="k2", key_alias="night")
    record = retry_record(
        ended(key_id="k1", key_alias="day"), command, "batch_y", 5000, Size(lines=1), input_key="in", retried_key="err"
    )
    assert (record.key_alias, record.created_at, record.expires_at) == ("night", 5000, 5000 + 86_400)
    assert record.key_id == "k2"
    assert (record.input_key, record.retried_key) == ("in", "err")


async def test_lines_that_are_not_named_become_empty_ones(store: LocalObjectStore) -> None:
    odd = "ä\\ 😀"
    requests = [chat_line(custom_id, "hi") for custom_id in ("a", "b", odd, "d")]
    first, second, third, fourth = requests
    await store.put("in", b"\xef\xbb\xbf" + first + b"\r\n\n  \n" + second + b"\n" + third + b"\n\n" + fourth)
    errors: list[dict[str, Any]] = [
        {"id": "x", "custom_id": custom_id, "response": None, "error": {}} for custom_id in ("a", odd)
    ]
    await store.put("errors", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in errors).encode())
    for _ in range(2):  # a second try writes the same
        await store.put("picked", unanswered_lines(store, "in", "errors"))
        picked = await read(store, "picked", max_bytes=10_000)
        assert picked == first + b"\r\n\n\n\n" + third + b"\n\n\n"


@pytest.mark.parametrize("missing", ["in", "errors"])
async def test_a_missing_file_is_named_by_its_key(store: LocalObjectStore, missing: str) -> None:
    for key in {"in", "errors"} - {missing}:
        await store.put(key, chat_line("a", "hi"))
    with pytest.raises(ObjectNotFound) as caught:
        await store.put("picked", unanswered_lines(store, "in", "errors"))
    assert caught.value.key == missing
