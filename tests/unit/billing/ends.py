"""Ends of batches, the configuration they are billed by, and a replica that bills them."""

import asyncio
import dataclasses
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from batchyard.billing.ledger import Ledger
from batchyard.billing.spend import Spend
from batchyard.billing.spend_sums import SpendSums
from batchyard.billing.subscriber import EventSubscriber
from batchyard.common.clock import ManualClock
from batchyard.common.config import Config, Deployment, Price
from batchyard.common.contracts.batches import Batch, BatchStatus, RequestCounts
from batchyard.common.contracts.events import BatchEvent
from batchyard.common.contracts.usage import Usage
from batchyard.common.ids import encode_id, new_raw_id
from batchyard.common.messaging.topology import Consumer, billing_consumer
from batchyard.common.service import Messaging
from batchyard.common.settings import Settings

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For what only SQLite does, or what is done to its file."""

FINISHED_AT = 1_767_225_600  # 2026-01-01T00:00:00Z
PRICE = Price(input=Decimal("0.0000015"), output=Decimal("0.000006"), cached=Decimal("0.0000003"))
_END_OF = {
    BatchStatus.COMPLETED: "completed_at",
    BatchStatus.EXPIRED: "expired_at",
    BatchStatus.CANCELLED: "cancelled_at",
    BatchStatus.FAILED: "failed_at",
}


def deployment(name: str, price: Price = PRICE, *, pool: str = "llama") -> Deployment:
    return Deployment(id=name, pool=pool, model=pool, base_url="http://127.0.0.1:1", price=price)


CONFIG = Config(deployments=(deployment("one"), deployment("two")), batch_discount=Decimal("0.5"))


def ended(
    tenant: str = "team-a",
    *,
    raw_id: str | None = None,
    status: BatchStatus = BatchStatus.COMPLETED,
    model: str | None = "llama",
    at: int = FINISHED_AT,
    key: str | None = "key-1",
    used: Mapping[str, Usage] | None = None,
    **batch: Any,
) -> BatchEvent:
    """The end of a batch of three lines, two of them answered, on the deployment `one` unless told otherwise."""
    raw = raw_id or new_raw_id("batch")
    usage_by_deployment = {"one": Usage.of(1000, 200, 50, 10)} if used is None else used
    values: dict[str, Any] = {
        "id": encode_id("batch", raw, model),
        "endpoint": "/v1/chat/completions",
        "model": model,
        "input_file_id": "file-1",
        "completion_window": "24h",
        "status": status,
        "created_at": max(at - 60, 0),
        _END_OF[status]: at,
        "request_counts": RequestCounts(total=3, completed=2, failed=1),
        "usage": sum(usage_by_deployment.values(), Usage()),
        "metadata": {"project": "x"},
    }
    return BatchEvent(
        id=f"{raw}.{status}",
        occurred_at=at + 0.5,
        tenant=tenant,
        raw_batch_id=raw,
        status=status,
        batch=Batch(**(values | batch)),
        key_id=None if key is None else hashlib.sha256(key.encode()).hexdigest(),
        key_alias=key,
        usage_by_deployment=dict(usage_by_deployment),
    )


def spend_of(ledger: Ledger) -> Spend:
    """The answers about a ledger."""
    return Spend(ledger, ledger._store, SpendSums(ledger._store._database), ManualClock())


def quick_consumer() -> Consumer:
    """The durable of billing, with less patience for a replica that died."""
    consumer = billing_consumer()
    return dataclasses.replace(consumer, config=consumer.config.evolve(ack_wait=1.0))


async def publish(js: JetStreamContext, event: BatchEvent, message_id: str | None = None) -> None:
    """Publish an event as batch-runner does."""
    await js.publish(event.subject, event.model_dump_json().encode(), headers={"Nats-Msg-Id": message_id or event.id})


async def eventually(condition: Callable[[], Awaitable[bool]], within: float = 60.0) -> None:
    """Return when `condition` holds; fail when it does not within so many seconds."""
    deadline = time.monotonic() + within
    while not await condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def started(messaging: Messaging, consumer: Consumer, ledger: Ledger) -> AsyncIterator[None]:
    """One replica that reads events; at the end of the context it has been stopped and has returned."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(EventSubscriber(messaging.js, consumer, ledger, Settings()).run(stop))
        try:
            yield
        finally:
            stop.set()


async def settled(messaging: Messaging, consumer: Consumer) -> bool:
    """Whether every event published so far is acknowledged or terminated."""
    stream = await messaging.js.stream_info(consumer.stream)
    try:
        info = await messaging.js.consumer_info(consumer.stream, consumer.name)
    except NotFoundError:
        return False  # the replica has not declared it yet
    assert info.ack_floor is not None
    assert info.ack_floor.stream_seq is not None
    return (info.num_pending, info.num_ack_pending) == (0, 0) and info.ack_floor.stream_seq == stream.state.last_seq
