"""`events.list`: what has happened to a tenant's batches, from any place on."""

import pytest

from batchyard.batch_runner.history import History
from batchyard.common.contracts.batches import Batch, BatchStatus
from batchyard.common.contracts.events import BatchEvent, ListEvents
from batchyard.common.errors import NotFound, ServiceUnavailable
from batchyard.common.ids import encode_id, new_raw_id
from batchyard.common.messaging.topology import EVENTS
from batchyard.common.service import Messaging

RAW = new_raw_id("batch")


@pytest.fixture
def history(messaging: Messaging) -> History:
    return History(messaging.js)


async def happened(
    messaging: Messaging, tenant: str, raw_id: str = RAW, status: BatchStatus = BatchStatus.IN_PROGRESS, more: str = ""
) -> int:
    """Publish an event as batch-runner does; its place in the stream."""
    batch = Batch(
        id=encode_id("batch", raw_id, "m"),
        endpoint="/v1/chat/completions",
        input_file_id="file-1",
        completion_window="24h",
        status=status,
        created_at=1,
        metadata={"more": more},
    )
    event = BatchEvent(
        id=f"{raw_id}.{status}", occurred_at=1.0, tenant=tenant, raw_batch_id=raw_id, status=status, batch=batch
    )
    acknowledged = await messaging.js.publish(event.subject, event.model_dump_json().encode())
    return acknowledged.seq


async def test_a_tenant_sees_its_own_events_in_order(messaging: Messaging, history: History) -> None:
    first = await happened(messaging, "mine")
    await happened(messaging, "mine.too")
    last = await happened(messaging, "mine", status=BatchStatus.COMPLETED)
    page = await history.list("mine", ListEvents(after=0))
    assert [(stored.sequence, stored.event.status) for stored in page.data] == [
        (first, BatchStatus.IN_PROGRESS),
        (last, BatchStatus.COMPLETED),
    ]
    assert (page.next, page.has_more) == (last, False)
    assert (await history.list("*", ListEvents(after=0))).data == []
    assert (await history.list("nobody", ListEvents(after=0))).next == 0


async def test_pages_follow_one_another_without_a_gap(messaging: Messaging, history: History) -> None:
    sequences = [await happened(messaging, "mine", new_raw_id("batch")) for _ in range(7)]
    seen, after, has_more = [], 0, True
    while has_more:
        page = await history.list("mine", ListEvents(after=after, limit=3))
        seen += [stored.sequence for stored in page.data]
        after, has_more = page.next, page.has_more
    assert seen == sequences
    assert (await history.list("mine", ListEvents(after=after))).data == []


async def test_without_a_place_it_says_where_the_stream_ends(messaging: Messaging, history: History) -> None:
    assert (await history.list("mine", ListEvents())).next == 0
    last = await happened(messaging, "other")
    page = await history.list("mine", ListEvents())
    assert (page.data, page.next) == ([], last)
    later = await happened(messaging, "mine")
    assert [stored.sequence for stored in (await history.list("mine", ListEvents(after=page.next))).data] == [later]


async def test_events_of_one_batch(messaging: Messaging, history: History) -> None:
    other = new_raw_id("batch")
    await happened(messaging, "mine", other)
    sequence = await happened(messaging, "mine")
    for batch_id in (RAW, encode_id("batch", RAW, "m")):
        page = await history.list("mine", ListEvents(after=0, batch_id=batch_id))
        assert [stored.sequence for stored in page.data] == [sequence]
    with pytest.raises(NotFound, match="No batch found"):
        await history.list("mine", ListEvents(after=0, batch_id="*"))


async def test_a_page_fits_into_a_message(messaging: Messaging, history: History) -> None:
    for _ in range(4):
        await happened(messaging, "mine", new_raw_id("batch"), more="x" * 200_000)
    page = await history.list("mine", ListEvents(after=0))
    assert (len(page.data), page.has_more) == (2, True)
    assert len((await history.list("mine", ListEvents(after=page.next))).data) == 2


async def test_an_event_of_a_newer_release_is_passed_over(messaging: Messaging, history: History) -> None:
    await messaging.js.publish(f"batchyard.v1.evt.mine.batches.{RAW}.completed", b'{"version":2}')
    sequence = await happened(messaging, "mine")
    page = await history.list("mine", ListEvents(after=0))
    assert [stored.sequence for stored in page.data] == [sequence]


async def test_a_missing_stream_is_an_outage(messaging: Messaging, history: History) -> None:
    await messaging.js.delete_stream(EVENTS)
    for after in (None, 0):
        with pytest.raises(ServiceUnavailable):
            await history.list("mine", ListEvents(after=after))
