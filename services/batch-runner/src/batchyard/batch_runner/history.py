"""What has happened to a tenant's batches, read from the stream for whoever may not read it."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from nats.aio.msg import Msg
from nats.errors import Error
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from pydantic import ValidationError

from batchyard.common import subjects
from batchyard.common.contracts.events import BatchEvent, EventPage, ListEvents, StoredEvent
from batchyard.common.errors import NotFound, ServiceUnavailable
from batchyard.common.ids import decode_id, is_raw_id
from batchyard.common.logs import get_logger
from batchyard.common.messaging.topology import EVENTS

_FETCH_SECONDS = 5.0
_PAGE_BYTES = 512 * 1024
# Each holds a page in memory, and leaves a consumer for as long as it waits for a message at most.
_CONCURRENT_LISTINGS = 8
_log = get_logger(__name__)


class History:
    """The events of all tenants; each call sees those of one."""

    def __init__(self, js: JetStreamContext) -> None:
        self._js = js
        self._listings = asyncio.Semaphore(_CONCURRENT_LISTINGS)

    async def list(self, tenant: str, command: ListEvents) -> EventPage:
        """A page of events, in the order of the stream; at least one, or there are none.

        Raises:
            NotFound: `batch_id` cannot be the ID of a batch.
            ServiceUnavailable: NATS is away.
        """
        raw_id = _raw_id(command.batch_id)
        with _outage_told():
            if command.after is None:
                state = (await self._js.stream_info(EVENTS)).state
                return EventPage(data=[], next=state.last_seq)
            async with self._listings:
                pending, messages = await self._read(tenant, raw_id, command.after, command.limit)
        return _page(messages, command.after, pending)

    async def _read(self, tenant: str, raw_id: str | None, after: int, limit: int) -> tuple[int, Sequence[Msg]]:
        """The number of events after a place, and the first of them."""
        config = ConsumerConfig(
            filter_subject=subjects.event_filter("batches", tenant=tenant, object_id=raw_id),
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=after + 1,
            ack_policy=AckPolicy.NONE,
            mem_storage=True,
            num_replicas=1,
            inactive_threshold=_FETCH_SECONDS * 2,
        )
        consumer = await self._js.add_consumer(EVENTS, config)
        pending = consumer.num_pending or 0
        if not pending:
            return 0, []
        subscription = await self._js.pull_subscribe_bind(consumer.name, EVENTS)
        try:
            # Never more than there are: the server would wait for them.
            return pending, await subscription.fetch(min(pending, limit), timeout=_FETCH_SECONDS)
        finally:
            with suppress(Error):
                await subscription.unsubscribe()


def _page(messages: Sequence[Msg], after: int, pending: int) -> EventPage:
    """As many of the messages as one reply can hold."""
    data: list[StoredEvent] = []
    taken, size, position = 0, 0, after
    for message in messages:
        size += len(message.data)
        if taken and size > _PAGE_BYTES:
            break
        taken += 1
        position = message.metadata.sequence.stream
        try:
            data.append(StoredEvent(sequence=position, event=BatchEvent.model_validate_json(message.data)))
        except ValidationError as error:  # written by a newer release
            _log.warning("event.unreadable", sequence=position, errors=error.error_count())
    return EventPage(data=data, next=position, has_more=taken < pending)


def _raw_id(batch_id: str | None) -> str | None:
    if batch_id is None:
        return None
    raw_id = decode_id(batch_id).raw
    if not is_raw_id("batch", raw_id):
        raise NotFound(f"No batch found with id '{batch_id}'.", param="batch_id")
    return raw_id


@contextmanager
def _outage_told() -> Iterator[None]:
    try:
        yield
    except (Error, OSError) as error:
        raise ServiceUnavailable("The stream of events did not answer. Please retry shortly.") from error
