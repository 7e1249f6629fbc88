"""Spend: the period, and what reaches billing."""

import csv
import io
import json
from decimal import Decimal

import httpx
import pytest
from unit.gateway.peers import REPORT, Recorder
from unit.gateway.rig import Served, error_of

from batchyard.common.contracts.billing import AdjustSpend, GetSpend, LedgerLine, LedgerPage, ListPrices, SummarizeSpend
from batchyard.common.errors import InvalidRequest
from batchyard.gateway.auth import TEAM_HEADER
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
    ("path", "group_by"),
    [
        ("/global/spend/report", "team"),
        ("/v1/global/spend/report?group_by=metadata.my%20name", "metadata.my name"),
        ("/spend/keys", "key"),
        ("/spend/tags", "tag"),
    ],
)
async def test_reports_have_litellms_names(gateway: Served, recorder: Recorder, path: str, group_by: str) -> None:
    params = {"limit": "5", "page": "2", "team_id": "a", "api_key": "k", "model": "llama"}
    response = await gateway.http.get(path, params=params | dict(httpx.URL(path).params))
    assert response.json() == REPORT.model_dump(mode="json")
    assert recorder.only(SummarizeSpend) == SummarizeSpend(
        group_by=group_by, limit=5, page=2, teams=("a",), key="k", model="llama"
    )


async def test_the_master_key_sees_all_teams_unless_it_acts_for_one(gateway: Served, recorder: Recorder) -> None:
    assert (await gateway.http.post("/team/new", json={"team_id": "team-a"})).status_code == 200
    await gateway.http.get("/spend/logs")
    await gateway.http.get("/spend/logs", headers={TEAM_HEADER: "team-a"})
    await gateway.http.get("/spend/summary", headers={TEAM_HEADER: "default"})
    await gateway.http.get("/spend/summary")
    assert [tenant for tenant, _ in recorder.asked] == ["*", "team-a", "default", "*"]


LINE = LedgerLine(
    id="batch_1.0", batch_id="batch_1", tenant="-team", key_alias="=1+1", model='a "b", c', cost=Decimal("-0.5"),
    currency="USD", finished_at=NEW_YEAR, recorded_at=NEW_YEAR, metadata={"a": "ä"}, reason="@x",
)  # fmt: skip


@pytest.mark.parametrize(("params", "headers"), [({"format": "csv"}, {}), ({}, {"accept": "text/csv"})])
async def test_the_ledger_is_a_table_that_no_spreadsheet_executes(
    gateway: Served, recorder: Recorder, params: dict[str, str], headers: dict[str, str]
) -> None:
    recorder.answers[GetSpend] = LedgerPage(data=[LINE])
    response = await gateway.http.get("/spend/logs", params=params, headers=headers)
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    [row] = csv.DictReader(io.StringIO(response.text))
    assert (row["team"], row["key_alias"], row["reason"]) == ("'-team", "'=1+1", "'@x")
    assert (row["model"], row["cost"], row["metadata"]) == ('a "b", c', "-0.5", '{"a": "ä"}')
    assert row["finished_at"] == "2026-01-01T00:00:00Z"


async def test_a_table_goes_on_page_by_page(gateway: Served, recorder: Recorder) -> None:
    async def pages(_tenant: str, command: GetSpend) -> LedgerPage:
        asked.append(command.after)
        return LedgerPage(data=[LINE.model_copy(update={"id": str(len(asked))})], has_more=len(asked) < 3)

    asked: list[str | None] = []
    recorder.scripts[GetSpend] = pages
    response = await gateway.http.get("/spend/logs", params={"format": "csv", "limit": "1"})
    assert [row["id"] for row in csv.DictReader(io.StringIO(response.text))] == ["1", "2", "3"]
    assert asked == [None, "1", "2"]


async def test_a_report_is_a_table(gateway: Served, recorder: Recorder) -> None:
    group = REPORT.total.model_copy(update={"group": "@a", "key_id": "k", "batches": 2, "cost": Decimal("1.50")})
    recorder.answers[SummarizeSpend] = REPORT.model_copy(update={"group_by": "key", "data": [group]})
    response = await gateway.http.get("/spend/keys", params={"format": "csv"})
    [row] = csv.DictReader(io.StringIO(response.text))
    assert (row["key"], row["key_id"], row["batches"], row["cost"], row["currency"]) == ("'@a", "k", "2", "1.50", "USD")


async def test_what_is_wrong_is_told_before_a_table_begins(gateway: Served, recorder: Recorder) -> None:
    recorder.answers[GetSpend] = InvalidRequest("No ledger entry 'x'.", param="after")
    response = await gateway.http.get("/spend/logs", params={"format": "csv", "after": "x"})
    assert (response.status_code, error_of(response)["param"]) == (400, "after")


async def test_prices_are_listed(gateway: Served, recorder: Recorder) -> None:
    response = await gateway.http.get("/spend/prices", params={"limit": "3", "after": "v"})
    assert response.json() == {"object": "list", "data": [], "has_more": False}
    assert recorder.only(ListPrices) == ListPrices(limit=3, after="v")


async def test_a_correction_is_sent_once_with_its_key(gateway: Served, recorder: Recorder) -> None:
    body = {"team_id": "t", "amount": -0.1, "reason": "an outage", "batch_id": "batch_1"}
    for _ in range(2):
        response = await gateway.http.post("/spend/adjustments", json=body, headers={"idempotency-key": "once"})
        assert response.status_code == 200
    first, second = (command for _, command in recorder.asked)
    assert first == second
    assert isinstance(first, AdjustSpend)
    assert (first.team, first.amount, first.author) == ("t", Decimal("-0.1"), "master")
    assert [tenant for tenant, _ in recorder.asked] == ["*", "*"]


async def test_an_amount_is_kept_to_ten_places(gateway: Served, recorder: Recorder) -> None:
    for amount in (0.1, "-0.00000000015", -3.7e-197, "1e-99999999"):
        body = {"team_id": "t", "amount": amount, "reason": "r"}
        assert (await gateway.http.post("/spend/adjustments", json=body)).status_code == 200
    kept = [command.amount for _, command in recorder.asked if isinstance(command, AdjustSpend)]
    assert kept == [Decimal("0.1"), Decimal("-0.0000000002"), 0, 0]


@pytest.mark.parametrize("amount", ["x", "NaN", 2_000_000, "1e99999999", None, True, float("1e400")])
async def test_an_amount_that_cannot_be_kept_is_refused(gateway: Served, recorder: Recorder, amount: object) -> None:
    body = json.dumps({"team_id": "t", "amount": amount, "reason": "r"})
    response = await gateway.http.post("/spend/adjustments", content=body)
    assert response.status_code == 400
    assert recorder.asked == []


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
            "Invalid value: 'x'. Supported values are: 'model', 'day', 'key', 'team', 'tag', and 'metadata.<name>'.",
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
