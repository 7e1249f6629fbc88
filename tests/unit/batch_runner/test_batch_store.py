"""What the store of batches does when NATS refuses, or does not know."""

from pathlib import Path

import pytest
from nats.js.api import DiscardPolicy

from batchyard.batch_runner.batch import BatchRecord
from batchyard.batch_runner.batch_store import BatchStore
from batchyard.common.contracts.batches import BatchStatus
from batchyard.common.errors import ServiceUnavailable
from batchyard.common.ids import new_raw_id
from batchyard.common.messaging.topology import (
    EVENTS,
    STEPS,
    STEPS_CONSUMER,
    WORK,
    declare_consumer,
    steps_consumer,
)
from batchyard.common.object_keys import batch_prefix
from batchyard.common.objects import LocalObjectStore
from batchyard.common.service import Messaging
from batchyard.common.settings import Settings

from .records import new_record

ENDED = BatchStatus.COMPLETED


@pytest.fixture
def store(messaging: Messaging, tmp_path: Path) -> BatchStore:
    return BatchStore(messaging.connection, messaging.js, LocalObjectStore(tmp_path / "objects"))


@pytest.fixture
def record() -> BatchRecord:
    return new_record(
        raw_id=new_raw_id("batch"),
        input_key="input",
        pool="m",
        status=ENDED,
        outbox=(ENDED,),
        expires_at=10**10,
        shards=1,
        dispatched=1,
    )


async def fill(messaging: Messaging, stream: str) -> None:
    """Leave a stream no room for anything."""
    config = (await messaging.js.stream_info(stream)).config
    await messaging.js.update_stream(config.evolve(max_bytes=1, discard=DiscardPolicy.NEW))


async def test_an_event_for_which_there_is_no_room_is_told_later(
    store: BatchStore, messaging: Messaging, record: BatchRecord
) -> None:
    await store.records.create(record.key, record)
    with_room = (await messaging.js.stream_info(EVENTS)).config
    await fill(messaging, EVENTS)
    with pytest.raises(ServiceUnavailable):
        await store.announce(record, ENDED)
    assert await store.get(record.tenant, record.raw_id) == record

    await messaging.js.update_stream(with_room)
    told = await store.announce(record, ENDED)
    assert told is not None
    assert told.outbox == ()
    assert (await messaging.js.stream_info(EVENTS)).state.messages == 1


async def test_a_shard_for_which_the_queue_has_no_room_does_not_count_as_queued(
    store: BatchStore, messaging: Messaging, record: BatchRecord
) -> None:
    await fill(messaging, WORK)
    with pytest.raises(ServiceUnavailable):
        await store.queue_shard(record, 0)


async def test_a_shard_that_is_queued_is_not_queued_again(
    store: BatchStore, messaging: Messaging, record: BatchRecord
) -> None:
    for _ in range(2):
        await store.queue_shard(record, 0)
    assert (await messaging.js.stream_info(WORK)).state.messages == 1


async def test_the_objects_of_a_batch_that_is_not_known_are_left_alone(store: BatchStore, record: BatchRecord) -> None:
    key = f"{batch_prefix(record.tenant, record.raw_id)}input"
    await store.objects.put(key, b"line")
    await store.tidy_up(record)
    await store.objects.stat(key)


async def test_what_is_written_for_a_batch_that_was_swept_is_removed(store: BatchStore, record: BatchRecord) -> None:
    swept = record.model_copy(update={"swept": True})
    await store.records.create(record.key, swept)
    await store.objects.put(f"{batch_prefix(record.tenant, record.raw_id)}input", b"line")
    await store.tidy_up(record)
    assert [info async for info in store.objects.list(batch_prefix(record.tenant, record.raw_id))] == []


async def test_a_step_that_is_acknowledged_and_still_there_is_queued_anew(
    store: BatchStore, messaging: Messaging, record: BatchRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a killed server leaves one: no server does so on demand, so what it says of its consumer is made up here."""
    js = messaging.js
    await declare_consumer(js, steps_consumer(Settings()))
    await store.queue_step("t", record.raw_id)
    assert await store.has_step("t", record.raw_id)
    assert await store.queue_stranded_steps() == 0
    told = await js.consumer_info(STEPS, STEPS_CONSUMER)
    assert told.ack_floor is not None
    stranded = (await js.stream_info(STEPS)).state.last_seq
    told.ack_floor.stream_seq = stranded

    async def consumer_info(*_: object) -> object:
        return told

    monkeypatch.setattr(js, "consumer_info", consumer_info)
    assert not await store.has_step("t", record.raw_id)
    assert await store.queue_stranded_steps() == 1
    state = (await js.stream_info(STEPS)).state
    assert (state.messages, state.first_seq) == (1, stranded + 1)
    assert await store.has_step("t", record.raw_id)
