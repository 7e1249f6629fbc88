"""Following batches by what is told of them: first listen, then look, so that nothing falls in between."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from time import monotonic

from batchyard.common import subjects
from batchyard.common.client.session import Session, Waker
from batchyard.common.contracts.batches import Batch, GetBatch
from batchyard.common.contracts.events import BatchProgress, EventPage, ListEvents, StoredEvent
from batchyard.common.errors import ServiceUnavailable
from batchyard.common.ids import decode_id
from batchyard.common.logs import get_logger

_LOOK_SECONDS = 15.0
"""Whoever waits looks at least this often, should a message have been lost."""

_STORED_WITHIN = (0.05, 0.25, 1.0)
"""Seconds: an event may be heard a moment before it can be read from the stream."""

_PAUSE_SECONDS = 1.0
_log = get_logger(__name__)


async def until_ended(
    session: Session,
    batch_id: str,
    timeout: float | None,
    progress: Callable[[Batch | BatchProgress], None] | None,
) -> Batch:
    """See `Batches.wait`."""
    deadline = monotonic() + timeout if timeout is not None else float("inf")
    raw_id = decode_id(batch_id).raw
    await session.call(GetBatch(batch_id=batch_id))  # what is no ID makes no subject
    told = (
        subjects.event_filter("batches", tenant=session.tenant, object_id=raw_id),
        subjects.live(session.tenant, raw_id),
    )
    async with session.woken_by(told) as waker:
        while True:
            try:
                batch = await session.call(GetBatch(batch_id=batch_id))
            except ServiceUnavailable as error:
                if monotonic() >= deadline:
                    raise
                _log.warning("client.waiting", batch=batch_id, reason=str(error))
            else:
                if progress is not None:
                    progress(batch)
                if batch.status.is_terminal:
                    return batch
            await _until_news(waker, min(deadline, monotonic() + _LOOK_SECONDS), progress)
            if monotonic() >= deadline:
                raise TimeoutError(f"The batch '{batch_id}' has not ended within {timeout:g} s; it goes on.")


async def _until_news(waker: Waker, latest: float, progress: Callable[[Batch | BatchProgress], None] | None) -> None:
    """Sleep until an event says that it is time for a look. Ticks are passed on, and are no reason for one."""
    while (left := latest - monotonic()) > 0 and await waker.sleep(left):
        tick = waker.take_tick()
        if tick is None:
            return
        if progress is not None:
            progress(BatchProgress.model_validate_json(tick))


async def followed(session: Session, after: int | None, batch_id: str | None) -> AsyncGenerator[StoredEvent, None]:
    """See `Batches.events`."""
    end = (await _page(session, ListEvents(batch_id=batch_id))).next  # what is no ID makes no subject
    object_id = None if batch_id is None else decode_id(batch_id).raw
    after = end if after is None else after
    told = [subjects.event_filter("batches", tenant=session.tenant, object_id=object_id)]
    async with session.woken_by(told) as waker:
        was_woken = False
        while True:
            for delay in (0.0, *(_STORED_WITHIN if was_woken else ())):
                await asyncio.sleep(delay)
                page = await _page(session, ListEvents(after=after, batch_id=batch_id))
                if page.next > after:
                    break
            for stored in page.data:
                yield stored
            after = page.next
            was_woken = False if page.has_more else await waker.sleep(_LOOK_SECONDS)


async def _page(session: Session, command: ListEvents) -> EventPage:
    while True:
        try:
            return await session.call(command)
        except ServiceUnavailable as error:
            _log.warning("client.waiting", reason=str(error))
            await asyncio.sleep(_PAUSE_SECONDS)
