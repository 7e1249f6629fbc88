"""Streams and consumers, as the server applies them: what is refused, replaced, redelivered, filtered."""

import asyncio
from pathlib import Path

import pytest
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.errors import APIError
from pydantic import BaseModel, SecretStr

from batchyard.common import service, subjects
from batchyard.common.contracts.batches import BatchStatus
from batchyard.common.errors import ConfigurationError, ServiceUnavailable
from batchyard.common.messaging import topology
from batchyard.common.messaging.records import Records
from batchyard.common.messaging.topology import (
    BATCHES_BUCKET,
    EVENTS,
    STEPS,
    WORK,
    Consumer,
    billing_consumer,
    declare_consumer,
    declare_streams,
    native_consumer,
    steps_consumer,
    work_consumer,
)
from batchyard.common.service import Messaging, open_messaging
from batchyard.common.settings import MIB, Settings
from support.nats_cluster import NatsCluster, running_cluster

_TOO_MANY_FOR_SUBJECT = 10077


class Big(BaseModel):
    text: str


@pytest.fixture
def js(messaging: Messaging) -> JetStreamContext:
    return messaging.js


async def pull(js: JetStreamContext, consumer: Consumer, count: int = 1) -> list[Msg]:
    """The next `count` messages; not acknowledged."""
    await declare_consumer(js, consumer)
    messages = await js.pull_subscribe_bind(consumer.name, consumer.stream)
    got: list[Msg] = []
    while len(got) < count:
        got += await messages.fetch(count - len(got), timeout=10)
    await messages.unsubscribe()
    return got


async def waiting(js: JetStreamContext, consumer: Consumer) -> int:
    return (await js.consumer_info(consumer.stream, consumer.name)).num_pending or 0


async def test_declaring_twice_keeps_what_is_there(js: JetStreamContext, settings: Settings) -> None:
    await js.publish(subjects.work("m", "batch_1", 0), b"shard")
    await declare_streams(js, settings)
    assert (await js.stream_info(WORK)).state.messages == 1


async def test_several_services_may_declare_at_once(settings: Settings) -> None:
    async def declare() -> None:
        async with open_messaging("test", settings):
            pass

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(declare())
    async with open_messaging("test", settings) as messaging:
        for config in topology.streams(settings):
            assert (await messaging.js.stream_info(str(config.name))).config.subjects == config.subjects


async def test_a_changed_setting_of_a_stream_is_brought_to_the_server(js: JetStreamContext, settings: Settings) -> None:
    await js.publish(subjects.event("t", "batches", "b", "completed"), b"kept")
    await declare_streams(js, settings.model_copy(update={"events_max_age": 7200.0}))
    info = await js.stream_info(EVENTS)
    assert info.config.max_age == 7200
    assert info.state.messages == 1


async def test_a_changed_setting_of_a_consumer_is_brought_to_the_server(
    js: JetStreamContext, settings: Settings
) -> None:
    await declare_consumer(js, work_consumer("m", settings))
    changed = work_consumer("m", settings.model_copy(update={"work_ack_wait": 77.0}))
    await declare_consumer(js, changed)
    assert (await js.consumer_info(WORK, changed.name)).config.ack_wait == 77


async def test_more_copies_than_there_are_servers_is_a_configuration_error(settings: Settings) -> None:
    with pytest.raises(ConfigurationError, match="BATCHYARD_NATS_REPLICAS is 3"):
        async with open_messaging("test", settings.model_copy(update={"nats_replicas": 3})):
            pass


async def test_a_cluster_that_stays_too_small_is_a_configuration_error_and_one_that_grows_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = NatsCluster(tmp_path)
    cluster.configure(known=1)
    settings = Settings(nats_url=cluster.nodes[0].url, nats_token=SecretStr(cluster.token), nats_replicas=3)

    async def open_and_close() -> None:
        async with open_messaging("test", settings):
            pass

    try:
        for node in cluster.nodes[:2]:
            node.start()
        with monkeypatch.context() as patience:
            patience.setattr(service, "_JOINING_PATIENCE", 0.0)
            with pytest.raises(ConfigurationError, match="fewer than 3 servers"):
                await open_and_close()
        async with asyncio.TaskGroup() as group:
            group.create_task(open_and_close())
            cluster.nodes[2].start()
    finally:
        for node in cluster.nodes:
            node.close()


async def test_more_room_than_there_is_is_a_configuration_error(tmp_path: Path) -> None:
    async with running_cluster(tmp_path / "small", 1, "max_file_store: 20MB") as server:
        small = Settings(nats_url=server.url, nats_token=SecretStr(server.token))
        async with open_messaging("test", small.model_copy(update={"nats_bucket_bytes": MIB, "events_max_bytes": MIB})):
            pass
        with pytest.raises(ConfigurationError, match="BATCHYARD_NATS_BUCKET_BYTES"):
            async with open_messaging("test", small.model_copy(update={"nats_bucket_bytes": 10 * MIB})):
                pass


async def test_storage_is_chosen_once(js: JetStreamContext, settings: Settings) -> None:
    with pytest.raises(ConfigurationError, match="BATCHYARD_NATS_STORAGE is memory"):
        await declare_streams(js, settings.model_copy(update={"nats_storage": "memory"}))


async def test_a_full_bucket_refuses_and_keeps_what_it_has(messaging: Messaging, settings: Settings) -> None:
    await declare_streams(messaging.js, settings.model_copy(update={"nats_bucket_bytes": MIB}))
    records = Records(messaging.js, BATCHES_BUCKET, Big)
    for number in range(9):
        await records.create(f"t.{number}", Big(text="x" * 100_000))
    with pytest.raises(ServiceUnavailable):
        await records.create("t.9", Big(text="x" * 200_000))
    assert [entry.key async for entry in records.list("t")] == [f"t.{number}" for number in range(9)]
    await declare_streams(messaging.js, settings)
    await records.create("t.more", Big(text="x" * 100_000))


async def test_the_oldest_events_make_room_for_new_ones(js: JetStreamContext, settings: Settings) -> None:
    await declare_streams(js, settings.model_copy(update={"events_max_bytes": MIB}))
    for number in range(20):
        await js.publish(subjects.event("t", "batches", f"batch_{number}", "completed"), b"x" * 100_000)
    state = (await js.stream_info(EVENTS)).state
    assert state.bytes <= MIB
    assert state.last_seq == 20


async def test_everything_is_kept_on_disk(js: JetStreamContext, settings: Settings) -> None:
    kept = [(await js.stream_info(str(config.name))).config.storage for config in topology.streams(settings)]
    assert set(kept) == {"file"}


# --- WORK: dispatch is idempotent


async def test_a_shard_that_still_waits_is_not_queued_again(js: JetStreamContext) -> None:
    subject = subjects.work("m", "batch_1", 0)
    await js.publish(subject, b"first")
    with pytest.raises(APIError) as caught:
        await js.publish(subject, b"second")
    assert caught.value.err_code == _TOO_MANY_FOR_SUBJECT


async def test_a_shard_in_flight_is_not_queued_again(js: JetStreamContext, settings: Settings) -> None:
    subject = subjects.work("m", "batch_1", 0)
    await js.publish(subject, b"first")
    await pull(js, work_consumer("m", settings))
    with pytest.raises(APIError) as caught:
        await js.publish(subject, b"second")
    assert caught.value.err_code == _TOO_MANY_FOR_SUBJECT


async def test_a_shard_that_was_acknowledged_may_be_queued_anew(js: JetStreamContext, settings: Settings) -> None:
    subject = subjects.work("m", "batch_1", 0)
    await js.publish(subject, b"first")
    (message,) = await pull(js, work_consumer("m", settings))
    await message.ack_sync()
    await js.publish(subject, b"second")
    (message,) = await pull(js, work_consumer("m", settings))
    assert message.data == b"second"


async def test_a_shard_without_a_sign_of_life_goes_to_another_runner(js: JetStreamContext, settings: Settings) -> None:
    consumer = work_consumer("m", settings.model_copy(update={"work_ack_wait": 1.0}))
    await js.publish(subjects.work("m", "batch_1", 0), b"shard")
    await pull(js, consumer)
    (again,) = await pull(js, consumer)
    assert again.metadata.num_delivered == 2


async def test_each_pool_has_its_own_shards(js: JetStreamContext, settings: Settings) -> None:
    pools = ["m", "m.b", "M", "*", "org/m"]
    for pool in pools:
        await js.publish(subjects.work(pool, "batch_1", 0), pool.encode())
    for pool in pools:
        (message,) = await pull(js, work_consumer(pool, settings))
        assert message.data.decode() == pool
        assert await waiting(js, work_consumer(pool, settings)) == 0


async def test_whole_batches_of_a_pool_have_a_queue_beside_its_shards(js: JetStreamContext, settings: Settings) -> None:
    await js.publish(subjects.work("m", "batch_1", 0), b"shard")
    await js.publish(subjects.native_work("m", "batch_2"), b"whole")
    for consumer, wanted in ((work_consumer("m", settings), b"shard"), (native_consumer("m", settings), b"whole")):
        (message,) = await pull(js, consumer)
        assert message.data == wanted
        assert await waiting(js, consumer) == 0
    await js.purge_stream(WORK, subject=subjects.work_of_batch("batch_2"))
    assert (await js.stream_info(WORK)).state.messages == 1


@pytest.mark.parametrize("pool", ["x" * 512, "/" * 512, "模" * 300], ids=["long", "escaped", "unicode"])
async def test_a_long_model_name_has_a_consumer_too(js: JetStreamContext, settings: Settings, pool: str) -> None:
    await js.publish(subjects.work(pool, "batch_1", 0), b"shard")
    (message,) = await pull(js, work_consumer(pool, settings))
    assert message.data == b"shard"


# --- STEPS: the last wish counts, and none is lost


async def test_a_newer_wish_replaces_one_that_waits(js: JetStreamContext, settings: Settings) -> None:
    subject = subjects.step("t", "batch_1")
    await js.publish(subject, b"old")
    await js.publish(subject, b"new")
    (message,) = await pull(js, steps_consumer(settings))
    assert message.data == b"new"
    assert await waiting(js, steps_consumer(settings)) == 0


async def test_a_wish_made_while_another_is_worked_on_is_worked_on_next(
    js: JetStreamContext, settings: Settings
) -> None:
    subject = subjects.step("t", "batch_1")
    await js.publish(subject, b"old")
    (old,) = await pull(js, steps_consumer(settings))
    await js.publish(subject, b"new")
    await old.ack_sync()
    (new,) = await pull(js, steps_consumer(settings))
    assert new.data == b"new"
    await new.ack_sync()
    assert (await js.stream_info(STEPS)).state.messages == 0


async def test_wishes_for_other_batches_are_their_own(js: JetStreamContext, settings: Settings) -> None:
    wishes = [("t", "batch_1"), ("t", "batch_2"), ("u", "batch_1")]
    for tenant, batch in wishes:
        await js.publish(subjects.step(tenant, batch))
    got = await pull(js, steps_consumer(settings), len(wishes))
    assert [message.subject for message in got] == [subjects.step(*wish) for wish in wishes]


# --- EVENTS


@pytest.fixture
async def events(js: JetStreamContext) -> list[str]:
    """One event per status of one batch, and one of another noun."""
    published = [subjects.event("t.x", "batches", "batch_1", status) for status in BatchStatus]
    for subject in [*published, subjects.event("t", "files", "file-1", "completed")]:
        await js.publish(subject, b"{}")
    return published


async def test_billing_gets_the_ends_of_batches_and_nothing_else(js: JetStreamContext, events: list[str]) -> None:
    ends = [
        subject for subject in events if subject.rpartition(".")[2] in ("completed", "failed", "expired", "cancelled")
    ]
    got = await pull(js, billing_consumer(), len(ends))
    assert [message.subject for message in got] == ends
    assert await waiting(js, billing_consumer()) == 0


async def test_an_event_that_billing_has_stays_for_others(js: JetStreamContext, events: list[str]) -> None:
    for message in await pull(js, billing_consumer(), 4):
        await message.ack_sync()
    assert (await js.stream_info(EVENTS)).state.messages == len(events) + 1


async def test_an_event_that_billing_has_not_acknowledged_survives_it(js: JetStreamContext, events: list[str]) -> None:
    first, *_ = await pull(js, billing_consumer(), 4)
    await first.nak()
    (again,) = await pull(js, billing_consumer())
    assert again.subject == first.subject


async def test_an_event_published_twice_is_stored_once(js: JetStreamContext) -> None:
    subject = subjects.event("t", "batches", "batch_1", "completed")
    for _ in range(2):
        await js.publish(subject, b"{}", headers={"Nats-Msg-Id": "batch_1.completed"})
    assert (await js.stream_info(EVENTS)).state.messages == 1
