"""What a batch shows as its cost: that of the ledger, and kept."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.billing.ends import deployment

from batchyard.batch_runner import transitions
from batchyard.batch_runner.batch import BatchRecord
from batchyard.batch_runner.batch_views import to_batch, to_event
from batchyard.batch_runner.outcome import ShardOutcome
from batchyard.billing.charges import charges_for, work_of
from batchyard.common.config import Config, Price
from batchyard.common.contracts.batches import BatchStatus
from batchyard.common.contracts.usage import Usage, Work
from batchyard.common.pricing import Cost, cost_of_batch, price_batch

from .records import new_record

PRICED = Config(
    deployments=(
        deployment("one"),
        deployment("two", Price(batch_input=Decimal("0.00000033"), output=Decimal("0.0000071"))),
        deployment("gpu", Price(gpu_hour=Decimal("2.99"), gpus=3), pool="embedder"),
        deployment("free", Price(), pool="gift"),
    ),
    batch_discount=Decimal("0.5"),
    currency="EUR",
)
NOTHING_USED: list[Work] = []
TOKENS = Usage.of(1000, 200, 50, 10)

usages = st.builds(Usage.of, *(st.integers(0, 10**6) for _ in range(4)))
works = st.builds(
    Work,
    model=st.sampled_from([None, "llama", "embedder", "gift"]),
    deployment=st.sampled_from(["one", "two", "gpu", "free", "gone"]),
    completed=st.integers(0, 9),
    usage=usages,
    busy_microseconds=st.integers(0, 10**9),
)
# Runners from before there was `work` told of tokens by deployment alone.
outcomes = st.builds(
    lambda work, older: (tuple(work), older),
    st.lists(works, max_size=6),
    st.dictionaries(st.sampled_from(["one", "two"]), usages, max_size=2),
)


def running(model: str | None, shards: int = 1) -> BatchRecord:
    record = transitions.planned(
        new_record(), 1001, pool=model, model=model, input_key="i", plan_key="p", lines=10, shards=shards
    )
    return transitions.dispatched(record, range(shards))


def ended(record: BatchRecord, config: Config) -> BatchRecord:
    record = transitions.finalizing(record, 1002, BatchStatus.COMPLETED, "o", "e")
    cost = cost_of_batch(record.all_work, record.model, config)
    return transitions.finished(record, 1003, "file-o", None, cost)


@given(model=st.sampled_from([None, "llama"]), shards=st.lists(outcomes, min_size=1, max_size=4))
def test_a_batch_that_has_ended_shows_what_the_ledger_charges(
    model: str | None, shards: list[tuple[tuple[Work, ...], dict[str, Usage]]]
) -> None:
    record = running(model, len(shards))
    for shard, (work, older) in enumerate(shards):
        usage = dict(older)
        for part in work:
            assert part.deployment is not None
            usage[part.deployment] = usage.get(part.deployment, Usage()) + part.usage
        record = transitions.settled(record, ShardOutcome(shard=shard, usage_by_deployment=usage, work=work))
    record = ended(record, PRICED)
    event = to_event(record, BatchStatus.COMPLETED)
    entries = charges_for(event, price_batch(work_of(event), event.batch.model, PRICED), "EUR", "v", 1004)
    charged = sum(entry.line.cost for entry in entries)
    assert event.batch == to_batch(record)
    assert (event.batch.cost or 0) == charged
    if charged:
        assert event.batch.currency == "EUR"


def test_the_cost_is_kept_with_the_record_to_the_last_digit() -> None:
    record = transitions.settled(running("llama"), ShardOutcome(shard=0, usage_by_deployment={"one": TOKENS}))
    read = BatchRecord.model_validate_json(ended(record, PRICED).model_dump_json())
    assert (to_batch(read).cost, to_batch(read).currency) == (Decimal("0.00078"), "EUR")


def test_a_record_from_before_there_were_costs_has_none() -> None:
    older = ended(running("llama"), PRICED).model_dump(mode="json", exclude={"cost", "currency"})
    read = to_batch(BatchRecord.model_validate(older))
    assert (read.cost, read.currency) == (None, None)


@pytest.mark.parametrize(
    ("work", "model", "cost"),
    [
        pytest.param([Work(deployment="one", usage=TOKENS)], "llama", "0.00078", id="used and priced"),
        pytest.param(
            [Work(deployment="free", model="gift", usage=TOKENS), Work(deployment="one", model="llama", usage=TOKENS)],
            None,
            "0.00078",
            id="one of two models has a price",
        ),
        pytest.param([Work(deployment="free", usage=TOKENS)], "gift", None, id="what was used has no price"),
        pytest.param(NOTHING_USED, "llama", "0", id="nothing used of what has a price"),
        pytest.param(NOTHING_USED, "gift", None, id="nothing used of what has none"),
        pytest.param(NOTHING_USED, None, "0", id="nothing used, some models have a price"),
    ],
)
def test_only_what_has_a_price_has_a_cost(work: list[Work], model: str | None, cost: str | None) -> None:
    assert cost_of_batch(work, model, PRICED) == (None if cost is None else Cost(Decimal(cost), "EUR"))
