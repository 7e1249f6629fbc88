"""The ledger: one entry per batch that executed, seen by its tenant alone."""

import json
from decimal import Decimal
from hashlib import sha256
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import text
from structlog.testing import capture_logs
from unit.billing.ends import CONFIG, FINISHED_AT, deployment, ended, spend_of

from batchyard.billing.database import Database
from batchyard.billing.ledger import Ledger, Outcome, Unbillable
from batchyard.billing.ledger_store import LedgerStore
from batchyard.billing.selection import Selection
from batchyard.common.clock import ManualClock
from batchyard.common.config import Config, Price
from batchyard.common.contracts.batches import BatchStatus, RequestCounts
from batchyard.common.contracts.billing import GetSpend, GroupBy, LedgerLine, SummarizeSpend
from batchyard.common.contracts.events import BatchEvent
from batchyard.common.contracts.usage import Usage
from batchyard.common.errors import InvalidRequest

DAY = 86_400
BILLABLE = [BatchStatus.COMPLETED, BatchStatus.EXPIRED, BatchStatus.CANCELLED]


async def lines(ledger: Ledger, tenant: str = "team-a", **query: Any) -> list[LedgerLine]:
    return (await spend_of(ledger).logs(tenant, GetSpend(**query))).data


async def recorded(ledger: Ledger, *events: BatchEvent) -> None:
    for event in events:
        assert await ledger.record(event) is Outcome.RECORDED


async def test_an_entry_says_what_was_used_and_what_it_cost(ledger: Ledger) -> None:
    event = ended()
    await recorded(ledger, event)
    [version] = await ledger._store.prices(2)
    assert await lines(ledger) == [
        LedgerLine(
            id=f"{event.raw_batch_id}.0",
            batch_id=event.batch.id,
            tenant="team-a",
            key_id=sha256(b"key-1").hexdigest(),
            key_alias="key-1",
            model="llama",
            endpoint="/v1/chat/completions",
            status="completed",
            request_counts=RequestCounts(total=3, completed=2, failed=1),
            usage=Usage.of(1000, 200, 50, 10),
            cost=Decimal("0.00078"),
            currency="USD",
            price_version=version.version,
            input_price=Decimal("0.00000075"),
            cached_price=Decimal("0.00000015"),
            output_price=Decimal("0.000003"),
            discount=Decimal("0.5"),
            batch_created_at=FINISHED_AT - 60,
            finished_at=FINISHED_AT,
            recorded_at=1_700_000_000,
            metadata={"project": "x"},
        )
    ]


@pytest.mark.parametrize("status", BILLABLE)
async def test_what_ran_is_billed_however_the_batch_ended(ledger: Ledger, status: BatchStatus) -> None:
    await recorded(ledger, ended(status=status))
    [line] = await lines(ledger)
    assert (line.status, line.finished_at, line.cost) == (status, FINISHED_AT, Decimal("0.00078"))


async def test_a_batch_that_failed_validation_has_no_entry(ledger: Ledger) -> None:
    assert await ledger.record(ended(status=BatchStatus.FAILED)) is Outcome.NOTHING_RAN
    assert await lines(ledger) == []


async def test_a_batch_cancelled_before_it_ran_costs_nothing(ledger: Ledger) -> None:
    await recorded(ledger, ended(status=BatchStatus.CANCELLED, used={}, usage=None, metadata=None, model=None))
    [line] = await lines(ledger)
    assert line.input_price is None
    assert line.metadata is None
    assert (line.cost, line.usage) == (Decimal(0), Usage())


async def test_the_end_of_a_batch_is_recorded_once(ledger: Ledger) -> None:
    event = ended()
    await recorded(ledger, event)
    again = event.model_copy(update={"id": "another", "usage_by_deployment": {}})
    assert await ledger.record(again) is Outcome.DUPLICATE
    assert [line.cost for line in await lines(ledger)] == [Decimal("0.00078")]


async def test_two_tenants_may_have_a_batch_of_one_name(ledger: Ledger) -> None:
    event = ended()
    await recorded(ledger, event, event.model_copy(update={"tenant": "team-b"}))


async def test_a_price_changed_later_does_not_rewrite_the_past(store: LedgerStore, ledger: Ledger) -> None:
    event = ended()
    await recorded(ledger, event)
    dearer = Config(deployments=(deployment("one", Price(Decimal(1), Decimal(1))),))
    assert await Ledger(store, dearer, ManualClock()).record(event) is Outcome.DUPLICATE
    [entry] = await store.page(Selection("team-a"), 10)
    assert entry.prices == {
        "one": {
            "priced_as": "one",
            "input": "0.00000075",
            "cached": "0.00000015",
            "output": "0.0000030",
            "second": None,
            "hour": None,
            "discount": "0.5",
        }
    }
    assert entry.usage_by_deployment == {"one": Usage.of(1000, 200, 50, 10)}
    assert (entry.raw_batch_id, entry.event_id) == (event.raw_batch_id, event.id)
    assert entry.line.cost == Decimal("0.00078")


async def test_tokens_credited_to_no_deployment_are_priced_by_the_pool(ledger: Ledger) -> None:
    await recorded(ledger, ended(used={}, usage=Usage.of(1000, 200, 50, 10)))
    assert (await lines(ledger))[0].cost == Decimal("0.00078")


async def test_a_missing_price_is_told_once_per_deployment(store: LedgerStore) -> None:
    config = Config(deployments=(deployment("one", Price()), deployment("two", Price())))
    ledger = Ledger(store, config, ManualClock())
    await ledger.write_prices()
    with capture_logs() as logs:
        await recorded(ledger, ended(), ended(), ended(used={"two": Usage.of(1, 0, 0, 0)}))
    assert [(log["event"], log["deployment"]) for log in logs] == [
        ("billing.unpriced", "one"),
        ("billing.unpriced", "two"),
    ]
    assert {line.cost for line in await lines(ledger)} == {Decimal(0)}


async def test_a_deployment_that_left_the_configuration_is_told(ledger: Ledger) -> None:
    gone = {"gone": Usage.of(1000, 200, 50, 10)}
    await ledger.write_prices()
    with capture_logs() as logs:
        await recorded(ledger, ended(used=gone), ended(used=gone), ended(used={"lost": Usage()}, model=None))
    told = [(log["event"], log["deployment"], log["priced_as"]) for log in logs]
    assert told == [("billing.unknown_deployment", "gone", "one"), ("billing.unknown_deployment", "lost", None)]
    assert [line.cost for line in await lines(ledger, model="llama")] == [Decimal("0.00078")] * 2


@pytest.mark.parametrize(
    "event",
    [
        ended(used={"one": Usage.of(-1, 0, 0, 0)}),
        ended(used={"one": Usage.of(0, -1, 0, 0)}),
        ended(used={"one": Usage.of(0, 0, 2**80, 0)}),
        ended(used={"one": Usage.of(0, 0, 9 * 10**14, 0)}),
        ended(request_counts=RequestCounts(total=-1)),
        ended(created_at=2**70),
        ended(at=300_000_000_000),
        ended(completed_at=None).model_copy(update={"occurred_at": float("inf")}),
        ended(completed_at=None).model_copy(update={"occurred_at": float("nan")}),
    ],
)
async def test_numbers_that_cannot_be_true_are_refused(ledger: Ledger, event: BatchEvent) -> None:
    with pytest.raises(Unbillable):
        await ledger.record(event)
    assert await lines(ledger) == []


async def test_names_may_hold_anything(ledger: Ledger) -> None:
    name = "a;b'\"%\n\0😀"
    await recorded(ledger, ended(name, model=name, key=name, metadata={name: name}))
    [line] = await lines(ledger, name, model=name)
    assert line.model == name.replace("\0", "\ufffd")
    assert line.metadata == {line.model: line.model}


async def test_a_tenant_sees_nothing_of_another(ledger: Ledger) -> None:
    event = ended("team-a")
    await recorded(ledger, event)
    assert await lines(ledger, "team-b") == []
    assert await lines(ledger, "team-b", batch_id=event.batch.id) == []
    with pytest.raises(InvalidRequest) as theirs:
        await lines(ledger, "team-b", after=event.batch.id)
    with pytest.raises(InvalidRequest) as nobodys:
        await lines(ledger, "team-b", after="batch_0")
    assert theirs.value.message.replace(event.batch.id, "batch_0") == nobodys.value.message
    assert (await spend_of(ledger).summarize("team-b", SummarizeSpend())).total.batches == 0


async def test_a_batch_is_found_by_either_form_of_its_id(ledger: Ledger) -> None:
    event = ended()
    await recorded(ledger, event, ended())
    for form in (event.batch.id, event.raw_batch_id):
        assert [line.batch_id for line in await lines(ledger, batch_id=form)] == [event.batch.id]
    assert await lines(ledger, batch_id="") == []


async def test_entries_are_chosen_by_model_and_time(ledger: Ledger) -> None:
    await recorded(ledger, *(ended(model=model, at=at) for model in ("m", "n") for at in (10, 20, 30)))
    found = [(line.model, line.finished_at) for line in await lines(ledger, model="m", start=10, end=30)]
    assert found == [("m", 20), ("m", 10)]
    assert len(await lines(ledger, start=-(2**80), end=2**80)) == 6
    assert await lines(ledger, start=2**80) == []


async def test_prices_and_costs_are_kept_as_integers_and_text(database: Database, ledger: Ledger) -> None:
    await recorded(ledger, ended())
    kind = "typeof(cost)" if database.dialect == "sqlite" else "pg_typeof(cost)::text"
    query = text(f"SELECT {kind} AS kind, cost, input_price, CAST(prices AS TEXT) AS prices FROM ledger_entries")
    async with database.reading() as connection:
        row = (await connection.execute(query)).mappings().one()
    assert row["kind"] in ("integer", "bigint")
    assert (row["cost"], row["input_price"]) == (7_800_000, "0.00000075")
    assert json.loads(row["prices"])["one"]["input"] == "0.00000075"


shared_database = hypothesis_settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
"""Every example is a tenant of its own, so that all may share the test's database."""


@given(ends=st.lists(st.integers(1, 4), max_size=12), limit=st.integers(1, 5))
@shared_database
async def test_pages_hold_every_entry_once_in_order(ledger: Ledger, ends: list[int], limit: int) -> None:
    tenant = uuid4().hex
    events = [ended(tenant, at=at) for at in ends]
    await recorded(ledger, *events)
    newest_first = sorted(events, key=lambda e: (e.batch.completed_at, e.raw_batch_id), reverse=True)
    seen: list[str | None] = []
    after = None
    while True:
        page = await spend_of(ledger).logs(tenant, GetSpend(limit=limit, after=after))
        seen += [line.batch_id for line in page.data]
        assert page.has_more == (len(seen) < len(events))
        if not page.has_more:
            break
        assert len(page.data) == limit
        after = page.data[-1].batch_id
    assert seen == [event.batch.id for event in newest_first]


spent = st.tuples(
    st.sampled_from(["m", "n", None]),
    st.sampled_from(["k", None]),
    st.integers(0, 3 * DAY),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
)


@given(spent=st.lists(spent, max_size=12), group_by=st.sampled_from(["model", "day", "key"]))
@shared_database
async def test_a_summary_is_the_sum_of_its_lines(ledger: Ledger, spent: list[Any], group_by: GroupBy) -> None:
    tenant = uuid4().hex
    await recorded(
        ledger,
        *(
            ended(tenant, model=model, key=key, at=at, used={"one": Usage.of(prompt, prompt // 3, output, 0)})
            for model, key, at, prompt, output in spent
        ),
    )
    found = await lines(ledger, tenant)
    report = await spend_of(ledger).summarize(tenant, SummarizeSpend(group_by=group_by))
    names = [group.group for group in report.data]
    assert names == sorted(names, key=lambda name: (name is None, name or ""))
    for group in report.data:
        mine = [line for line in found if _group_of(line, group_by) == group.group]
        assert group.batches == len(mine)
        assert group.requests == 3 * len(mine)
        assert group.input_tokens == sum(line.usage.input_tokens for line in mine)
        assert group.cached_tokens == sum(line.usage.input_tokens_details.cached_tokens for line in mine)
        assert group.output_tokens == sum(line.usage.output_tokens for line in mine)
        assert group.cost == sum(line.cost for line in mine)
    assert report.total.cost == sum(line.cost for line in found)
    assert report.total.batches == len(found)
    assert report.currency == CONFIG.currency


def _group_of(line: LedgerLine, group_by: GroupBy) -> str | None:
    if group_by == "day":
        return f"1970-01-{1 + line.finished_at // DAY:02}"
    return line.model if group_by == "model" else line.key_alias


async def test_a_summary_keeps_to_its_time(ledger: Ledger) -> None:
    await recorded(ledger, *(ended(at=at) for at in (0, DAY - 1, DAY, 2 * DAY)))
    report = await spend_of(ledger).summarize("team-a", SummarizeSpend(group_by="day", start=1, end=2 * DAY))
    assert [(group.group, group.batches) for group in report.data] == [("1970-01-01", 1), ("1970-01-02", 1)]


async def test_a_summary_may_exceed_64_bits(store: LedgerStore) -> None:
    config = Config(deployments=(deployment("one", Price(input=Decimal(1))),))
    ledger = Ledger(store, config, ManualClock())
    used = {"one": Usage.of(900_000_000, 0, 0, 0)}
    await recorded(ledger, *(ended(used=used) for _ in range(3)))
    assert (await spend_of(ledger).summarize("team-a", SummarizeSpend())).total.cost == 2_700_000_000


async def test_a_summary_does_not_add_up_currencies(store: LedgerStore, ledger: Ledger) -> None:
    await recorded(ledger, ended())
    euros = Ledger(store, Config(deployments=CONFIG.deployments, currency="EUR"), ManualClock())
    await recorded(euros, ended())
    report = await spend_of(euros).summarize("team-a", SummarizeSpend())
    assert (report.currency, report.total.batches, report.total.cost) == ("EUR", 1, Decimal("0.00156"))
    assert {line.currency for line in await lines(euros)} == {"USD", "EUR"}
