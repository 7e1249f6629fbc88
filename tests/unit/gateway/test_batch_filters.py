"""The filters of a list of batches: what reaches the runner, and what is refused."""

import pytest
from unit.gateway.peers import Recorder
from unit.gateway.rig import Served, error_of

from batchyard.common.contracts.batches import BatchStatus, ListBatches

DONE, FAILED = BatchStatus.COMPLETED, BatchStatus.FAILED


FILTERS: list[tuple[str, ListBatches]] = [
    ("", ListBatches()),
    ("status=failed", ListBatches(status=(FAILED,))),
    ("status=failed,completed", ListBatches(status=(FAILED, DONE))),
    ("status=failed&status=completed&status=failed", ListBatches(status=(FAILED, DONE))),
    ("status[]=failed&status[]=completed", ListBatches(status=(FAILED, DONE))),
    ("status=&model=&metadata[a]=", ListBatches(metadata={"a": ""})),
    ("model=a%2Fb", ListBatches(model="a/b")),
    ("metadata[team]=search&metadata%5Bjob%5D=a%20b", ListBatches(metadata={"team": "search", "job": "a b"})),
    ("metadata[a]=1&metadata[a]=1", ListBatches(metadata={"a": "1"})),
    ("created_after=5&created_before=9", ListBatches(created_after=5, created_before=9)),
    ("unknown=1&order=asc", ListBatches()),
    ("limit=5&after=batch_1&status=failed", ListBatches(limit=5, after="batch_1", status=(FAILED,))),
]
REFUSED: list[tuple[str, str, str]] = [
    ("status=done", "status", "invalid_value"),
    ("status=failed,done", "status", "invalid_value"),
    ("metadata=x", "metadata", "invalid_value"),
    ("metadata[]=x", "metadata", "invalid_value"),
    (f"metadata[{'k' * 65}]=x", "metadata", "invalid_value"),
    (f"metadata[k]={'x' * 513}", "metadata", "invalid_value"),
    ("metadata[a]=1&metadata[a]=2", "metadata.a", "invalid_value"),
    ("&".join(f"metadata[{n}]=x" for n in range(17)), "metadata", "invalid_value"),
    ("created_after=yesterday", "created_after", "invalid_type"),
    ("created_before=1.5", "created_before", "invalid_type"),
    ("created_after=-1", "created_after", "integer_below_min_value"),
    (f"created_after={10**30}", "created_after", "integer_above_max_value"),
    (f"created_after={'9' * 5000}", "created_after", "invalid_type"),
    (f"model={'m' * 513}", "model", "string_above_max_length"),
]


async def test_filters_reach_the_runner(gateway: Served, recorder: Recorder, subtests: pytest.Subtests) -> None:
    for query, wanted in FILTERS:
        with subtests.test(query):
            recorder.asked.clear()
            assert (await gateway.http.get(f"/v1/batches?{query}")).status_code == 200
            assert recorder.only(ListBatches) == wanted


async def test_what_is_no_filter_is_a_400(gateway: Served, recorder: Recorder, subtests: pytest.Subtests) -> None:
    for query, param, code in REFUSED:
        with subtests.test(query[:80]):
            response = await gateway.http.get(f"/v1/batches?{query}")
            assert response.status_code == 400
            assert (error_of(response)["param"], error_of(response)["code"]) == (param, code)
    assert recorder.asked == []


async def test_the_statuses_that_are_possible_are_named(gateway: Served) -> None:
    error = error_of(await gateway.http.get("/v1/batches?status=done"))
    assert error["message"].startswith("Invalid value: 'done'. Supported values are: 'validating', 'failed', ")
