"""What is told of the ledger: by team, key, model, day and metadata; and corrections of it."""

import asyncio
import itertools
import random
from decimal import Decimal
from typing import Any

import pytest
from unit.billing.ends import CONFIG, FINISHED_AT, deployment, ended, spend_of

from batchyard.billing.ledger import Ledger, Outcome
from batchyard.billing.ledger_store import LedgerStore
from batchyard.billing.spend_days import SpendDays
from batchyard.common.clock import ManualClock
from batchyard.common.config import Alias, Config, Price
from batchyard.common.contracts.access import ALL_TENANTS
from batchyard.common.contracts.batches import RequestCounts
from batchyard.common.contracts.billing import AdjustSpend, GetSpend, SummarizeSpend
from batchyard.common.contracts.events import BatchEvent
from batchyard.common.contracts.usage import Usage, Work
from batchyard.common.errors import Conflict, NotFound, PermissionDenied

COST = Decimal("0.00078")
FIX = AdjustSpend(adjustment_id="a1", team="team-a", amount=Decimal("-0.0005"), reason="an outage", author="ops")


async def recorded(ledger: Ledger, *events: BatchEvent) -> None:
    for event in events:
        assert await ledger.record(event) is Outcome.RECORDED


async def groups(ledger: Ledger, tenant: str = ALL_TENANTS, **query: Any) -> list[tuple[str | None, int, Decimal]]:
    report = await spend_of(ledger).summarize(tenant, SummarizeSpend(**query))
    return [(group.group, group.batches, group.cost) for group in report.data]


def mixed() -> BatchEvent:
    used = Usage.of(1000, 200, 50, 10)
    work = (
        Work(model="llama", deployment="one", completed=2, usage=used, busy_microseconds=7),
        Work(model="llama", deployment="two", completed=1, usage=used, busy_microseconds=5),
        Work(model="qwen", deployment="three", completed=1, failed=1, usage=used),
        Work(model="qwen", failed=1),
    )
    told = {"one": used, "two": used, "three": used}
    counts = RequestCounts(total=7, completed=4, failed=2)
    return ended(model=None, used=told, request_counts=counts).model_copy(update={"work": work})


async def test_a_batch_of_several_models_has_an_entry_for_each(store: LedgerStore) -> None:
    config = Config(deployments=(*CONFIG.deployments, deployment("three", Price(Decimal(1)), pool="qwen")))
    ledger = Ledger(store, config, ManualClock())
    event = mixed()
    await recorded(ledger, event)
    assert await ledger.record(event) is Outcome.DUPLICATE
    qwen, llama = (await spend_of(ledger).logs("team-a", GetSpend())).data
    assert (llama.model, llama.request_counts, llama.busy_seconds) == (
        "llama",
        RequestCounts(total=3, completed=3),
        Decimal("0.000012"),
    )
    assert (qwen.model, qwen.request_counts, qwen.cost) == (
        "qwen",
        RequestCounts(total=3, completed=1, failed=2),
        Decimal(1000),
    )
    report = await spend_of(ledger).summarize("team-a", SummarizeSpend())
    assert [group.batches for group in report.data] == [1, 1]
    assert (report.total.batches, report.total.requests, report.total.cost) == (1, 6, llama.cost + qwen.cost)
    assert report.total.busy_seconds == Decimal("0.000012")


async def test_tokens_told_without_a_model_are_the_batchs_own(ledger: Ledger) -> None:
    event = ended(used={"one": Usage.of(1000, 200, 50, 10)})
    half = Work(deployment="one", completed=1, usage=Usage.of(600, 100, 25, 5), busy_microseconds=3)
    await recorded(ledger, event.model_copy(update={"work": (half,)}))
    [line] = (await spend_of(ledger).logs("team-a", GetSpend())).data
    assert (line.usage, line.cost, line.model) == (Usage.of(1000, 200, 50, 10), COST, "llama")


async def test_who_administrates_sees_every_team_or_those_named(ledger: Ledger) -> None:
    await recorded(ledger, ended("a"), ended("b"), ended("b"), ended("c"))
    assert await groups(ledger, group_by="team") == [("a", 1, COST), ("b", 2, 2 * COST), ("c", 1, COST)]
    assert await groups(ledger, group_by="team", teams=["a", "b", "x"]) == [("a", 1, COST), ("b", 2, 2 * COST)]
    page = await spend_of(ledger).logs(ALL_TENANTS, GetSpend(teams=("b", "c")))
    assert sorted(line.tenant for line in page.data) == ["b", "b", "c"]


async def test_a_team_sees_nothing_of_another_whatever_it_asks(ledger: Ledger) -> None:
    await recorded(ledger, ended("a"), ended("b"))
    assert await groups(ledger, "a", group_by="team") == [("a", 1, COST)]
    assert await groups(ledger, "a", group_by="team", teams=["b"]) == []
    assert (await spend_of(ledger).logs("a", GetSpend(teams=("b",)))).data == []


async def test_keys_are_told_apart_by_their_ids(ledger: Ledger) -> None:
    await recorded(ledger, ended(key="one"), ended(key="one"), ended(key=None))
    await recorded(ledger, ended(key="one").model_copy(update={"key_id": "another"}))
    report = await spend_of(ledger).summarize("team-a", SummarizeSpend(group_by="key"))
    assert [(group.group, group.batches) for group in report.data] == [("one", 2), ("one", 1), (None, 1)]
    assert len({group.key_id for group in report.data}) == 3
    for key, count in (("one", 3), ("another", 1), ("nobody", 0)):
        assert len((await spend_of(ledger).logs("team-a", GetSpend(key=key))).data) == count


async def test_metadata_is_a_group_by_name_and_all_of_it_as_tags(ledger: Ledger) -> None:
    odd = "a'b.c$ [0]"
    await recorded(
        ledger,
        ended(metadata={"project": "x", odd: "1"}),
        ended(metadata={"project": "x"}),
        ended(metadata={"project": "ä\0"}),
        ended(metadata=None),
    )
    assert await groups(ledger, group_by="metadata.project") == [
        ("x", 2, 2 * COST),
        ("ä\ufffd", 1, COST),
        (None, 1, COST),
    ]
    assert await groups(ledger, group_by=f"metadata.{odd}") == [("1", 1, COST), (None, 3, 3 * COST)]
    assert [group for group, _, _ in await groups(ledger, group_by="tag")] == [
        f"{odd}:1",
        "project:x",
        "project:ä\ufffd",
    ]
    total = (await spend_of(ledger).summarize("team-a", SummarizeSpend(group_by="tag"))).total
    assert (total.batches, total.cost) == (4, 4 * COST)


async def test_groups_come_in_pages(ledger: Ledger) -> None:
    await recorded(ledger, *(ended(f"t{number}") for number in range(5)))
    seen = []
    for page in (1, 2, 3, 4):
        query = SummarizeSpend(group_by="team", limit=2, page=page)
        report = await spend_of(ledger).summarize(ALL_TENANTS, query)
        seen.append([group.group for group in report.data])
        assert report.has_more is (page < 3)
        assert report.total.batches == 5
    assert seen == [["t0", "t1"], ["t2", "t3"], ["t4"], []]


async def test_a_period_may_cut_days(ledger: Ledger) -> None:
    """Whole days come from their sums, the rest from the entries: nothing is left out, and nothing counts twice."""
    hour, day = 3600, 86_400
    moments = [FINISHED_AT + seconds for seconds in (-day, -1, 0, hour, day - 1, day, 2 * day + hour, 3 * day)]
    await recorded(ledger, *(ended(key=f"k{moment % 2}", at=moment) for moment in moments))
    await spend_of(ledger).adjust(ALL_TENANTS, FIX)
    ends = [None, *(FINISHED_AT + seconds for seconds in (-day, -1, 0, 1, hour, day - 1, day, 2 * day, 3 * day + 1))]
    for start, end in itertools.product(ends, repeat=2):
        expected = [m for m in moments if (start is None or m >= start) and (end is None or m < end)]
        period = {"start": start, "end": end}
        assert sum(batches for _, batches, _ in await groups(ledger, "team-a", **period)) == len(expected), period
    assert [batches for _, batches, _ in await groups(ledger, group_by="day")] == [0, 2, 3, 1, 1, 1]
    assert [name for name, *_ in await groups(ledger, group_by="key", key="k1")] == ["k1"]
    assert await SpendDays(ledger._store._database).wrong() == 0


async def test_ends_at_the_same_time_are_all_in_the_sums(store: LedgerStore) -> None:
    config = Config(deployments=(*CONFIG.deployments, deployment("three", pool="qwen")))
    ledgers = [Ledger(store, config, ManualClock()) for _ in range(4)]
    await ledgers[0].write_prices()
    events = [mixed() for _ in range(20)]
    backwards = [event.model_copy(update={"work": event.work[::-1]}) for event in events[::2]]
    outcomes = await asyncio.gather(
        *(ledgers[number % 4].record(event) for number, event in enumerate([*events[1::2], *backwards, *events]))
    )
    assert outcomes.count(Outcome.RECORDED) == 20
    assert sum(batches for _, batches, _ in await groups(ledgers[0])) == 40
    assert await SpendDays(store._database).wrong() == 0


async def test_names_of_any_length_are_summed(ledger: Ledger) -> None:
    rng = random.Random(1)
    key, model = ("".join(chr(rng.randrange(0x10000, 0x20000)) for _ in range(512)) for _ in range(2))
    await recorded(ledger, ended(key=key, model=model))
    assert await groups(ledger, group_by="model", key=key) == [(model[:256], 1, COST)]
    assert await groups(ledger, group_by="key", model=model) == [(key[:128], 1, COST)]


async def test_a_model_is_found_by_any_of_its_names(store: LedgerStore) -> None:
    config = Config(deployments=CONFIG.deployments, aliases={"fast": Alias("llama")})
    ledger = Ledger(store, config, ManualClock())
    await recorded(ledger, ended(), ended(model="other"))
    for name in ("llama", "fast", "hosted_vllm/llama"):
        page = await spend_of(ledger).logs("team-a", GetSpend(model=name))
        assert [line.model for line in page.data] == ["llama"]


async def test_a_correction_is_an_entry_of_its_own(ledger: Ledger) -> None:
    event = ended()
    await recorded(ledger, event)
    spend = spend_of(ledger)
    line = await spend.adjust(ALL_TENANTS, FIX.model_copy(update={"batch_id": event.batch.id}))
    assert (line.kind, line.batch_id, line.key_alias, line.model) == ("adjustment", event.batch.id, "key-1", "llama")
    assert (line.reason, line.author, line.cost) == ("an outage", "ops", Decimal("-0.0005"))
    about = (await spend.logs("team-a", GetSpend(batch_id=event.batch.id))).data
    assert sorted((entry.kind, entry.cost) for entry in about) == [("adjustment", Decimal("-0.0005")), ("charge", COST)]
    assert await groups(ledger, "team-a") == [("llama", 1, COST - Decimal("0.0005"))]


async def test_a_correction_sent_again_is_one(ledger: Ledger) -> None:
    spend = spend_of(ledger)
    first = await spend.adjust(ALL_TENANTS, FIX)
    assert await spend.adjust(ALL_TENANTS, FIX) == first
    with pytest.raises(Conflict):
        await spend.adjust(ALL_TENANTS, FIX.model_copy(update={"amount": Decimal(3)}))
    report = await spend.summarize("team-a", SummarizeSpend(group_by="day"))
    assert [(group.batches, group.cost) for group in report.data] == [(0, Decimal("-0.0005"))]


async def test_nobody_corrects_what_they_are_charged_themselves(ledger: Ledger) -> None:
    with pytest.raises(PermissionDenied):
        await spend_of(ledger).adjust("team-a", FIX)
    assert (await spend_of(ledger).logs("team-a", GetSpend())).data == []


async def test_a_correction_of_a_batch_needs_its_charge(ledger: Ledger) -> None:
    event = ended("team-b", at=FINISHED_AT)
    await recorded(ledger, event)
    with pytest.raises(NotFound):
        await spend_of(ledger).adjust(ALL_TENANTS, FIX.model_copy(update={"batch_id": event.batch.id}))


async def test_pages_go_on_after_an_entry_or_after_a_batch(store: LedgerStore) -> None:
    ledger = Ledger(store, CONFIG, ManualClock())
    event = mixed()
    await recorded(ledger, event, ended(at=FINISHED_AT - 1))
    spend = spend_of(ledger)
    first, second, third = (await spend.logs("team-a", GetSpend())).data
    assert (await spend.logs("team-a", GetSpend(after=first.id))).data == [second, third]
    assert (await spend.logs("team-a", GetSpend(after=event.batch.id))).data == [third]
