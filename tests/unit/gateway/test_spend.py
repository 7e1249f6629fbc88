"""Spend: the period, and what reaches billing."""

import pytest
from unit.gateway.peers import REPORT, Recorder
from unit.gateway.rig import Served, error_of

from batchyard.common.contracts.billing import GetSpend, SummarizeSpend
from batchyard.common.errors import InvalidRequest
from batchyard.gateway.spend_period import period

DAY = 86_400
NEW_YEAR = 1_767_225_600  # 2026-01-01T00:00:00Z


@pytest.mark.parametrize("prefix", ["", "/v1"])
async def test_the_ledger_is_asked_as_the_client_wants(gateway: Served, recorder: Recorder, prefix: str) -> None:
    params = {"start_date": "2026-01-01", "end_date": "2026-01-31", "model": "llama", "limit": "7", "after": "batch_1"}
    response = await gateway.http.get(f"{prefix}/spend/logs", params=params)
    assert response.json() == {"object": "list", "data": [], "has_more": False}
    assert recorder.only(GetSpend) == GetSpend(
        model="llama", start=NEW_YEAR, end=NEW_YEAR + 31 * DAY, limit=7, after="batch_1"
    )


async def test_one_batch_can_be_asked_for(gateway: Served, recorder: Recorder) -> None:
    await gateway.http.get("/spend/logs", params={"batch_id": "batch_1"})
    assert recorder.only(GetSpend) == GetSpend(batch_id="batch_1")


async def test_the_summary_is_grouped(gateway: Served, recorder: Recorder) -> None:
    response = await gateway.http.get("/spend/summary", params={"group_by": "key"})
    assert response.json() == REPORT.model_dump(mode="json")
    assert recorder.only(SummarizeSpend) == SummarizeSpend(group_by="key")


@pytest.mark.parametrize(
    ("path", "param", "message"),
    [
        (
            "/spend/logs?limit=1001",
            "limit",
            "Invalid 'limit': integer above maximum value. Expected a value <= 1000, but got 1001 instead.",
        ),
        (
            "/spend/summary?group_by=x",
            "group_by",
            "Invalid value: 'x'. Supported values are: 'model', 'day', and 'key'.",
        ),
        (
            "/spend/summary?end_date=31.1.2026",
            "end_date",
            "Invalid value for 'end_date': expected a date like '2026-01-31' or Unix seconds, but got '31.1.2026'.",
        ),
    ],
)
async def test_wrong_parameters_are_a_400(gateway: Served, path: str, param: str, message: str) -> None:
    response = await gateway.http.get(path)
    assert response.status_code == 400
    assert (error_of(response)["message"], error_of(response)["param"]) == (message, param)


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (None, None, (None, None)),
        ("", "", (None, None)),
        ("2026-01-01", "2026-01-01", (NEW_YEAR, NEW_YEAR + DAY)),
        (str(NEW_YEAR), str(NEW_YEAR + 1), (NEW_YEAR, NEW_YEAR + 1)),
        ("0", None, (0, None)),
    ],
)
def test_dates_are_whole_days_and_numbers_are_seconds(
    start: str | None, end: str | None, expected: tuple[int | None, int | None]
) -> None:
    assert period(start, end) == expected


@pytest.mark.parametrize("value", ["2026-02-30", "2026-W01-1", "yesterday", "-1", "9999-12-31"])
def test_what_is_no_moment_is_refused(value: str) -> None:
    with pytest.raises(InvalidRequest, match="end_date"):
        period(None, value)
