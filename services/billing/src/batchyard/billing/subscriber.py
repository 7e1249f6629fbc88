"""The ends of batches, read from their durable consumer and brought to the ledger, one at a time.

    recorded, or nothing to record      acknowledged, once the row is committed
    the database or the code fails      back to the stream, for a time that grows with each delivery
    of a version from the future        back to the stream: a newer replica will understand it
    cannot be read, or cannot be true   terminated and logged: it will not get better

One message is fetched when the one before is settled: nothing waits in this process while its time to answer runs out.
"""

import asyncio
from collections.abc import Awaitable, Callable

from nats.aio.msg import Msg
from nats.errors import Error
from nats.js import JetStreamContext

from batchyard.billing.ledger import Ledger, Outcome, Unbillable
from batchyard.common.contracts.events import BatchEvent, newer_version
from batchyard.common.crash import crash_point
from batchyard.common.errors import ServiceUnavailable
from batchyard.common.logs import get_logger
from batchyard.common.messaging.presence import TopologyMissing, bind_consumer
from batchyard.common.messaging.topology import Consumer
from batchyard.common.settings import Settings

Afterwards = Callable[[BatchEvent], Awaitable[None]]

# After a restart of the server an outstanding fetch is lost, and work resumes when this time is over.
_FETCH_SECONDS = 5.0
_ACK_SECONDS = 5.0
_PAUSE_SECONDS = 1.0
_LONGEST_DELAY = 60.0
_log = get_logger(__name__)


class Unreadable(ValueError):
    """The message is not the event that its subject announces."""


class FromTheFuture(Exception):
    """The event has a version that this process does not know yet."""


class EventSubscriber:
    """Reads `consumer` until told to stop, and has `ledger` record every event.

    Any number of replicas may read the same consumer. `afterwards` is awaited with each event that has been recorded,
    again with one that is delivered again.
    """

    def __init__(
        self,
        js: JetStreamContext,
        consumer: Consumer,
        ledger: Ledger,
        settings: Settings,
        afterwards: Afterwards | None = None,
    ) -> None:
        self._afterwards = afterwards
        self._js = js
        self._consumer = consumer
        self._ledger = ledger
        self._settings = settings

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then settle the message at hand and return."""
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                try:
                    await self._read(stopping)
                except (Error, OSError, TopologyMissing) as error:
                    _log.warning("events.unavailable", error=repr(error))
                    await asyncio.wait({stopping}, timeout=_PAUSE_SECONDS)
        finally:
            stopping.cancel()

    async def _read(self, stopping: "asyncio.Task[bool]") -> None:
        # Anew after every trouble: the consumer may have gone with a server that lost its data.
        await bind_consumer(self._js, self._consumer, self._settings)
        subscription = await self._js.pull_subscribe_bind(self._consumer.name, self._consumer.stream)
        try:
            while not stopping.done():
                message = await self._next(subscription, stopping)
                if message is not None:
                    await self.settle(message)
        finally:
            await subscription.unsubscribe()

    async def _next(
        self, subscription: JetStreamContext.PullSubscription, stopping: "asyncio.Task[bool]"
    ) -> Msg | None:
        """The next message; None when there was none in time, or `stopping` came first."""
        fetching = asyncio.create_task(subscription.fetch(1, timeout=_FETCH_SECONDS))
        try:
            await asyncio.wait({fetching, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return fetching.result()[0] if fetching.done() else None
        except TimeoutError:
            return None
        finally:
            fetching.cancel()

    async def settle(self, message: Msg) -> None:
        """Bring one message to its end: acknowledged, given back or terminated."""
        try:
            event = parse(message.subject, message.data)
            outcome = await self._ledger.record(event)
            if self._afterwards is not None:
                await self._afterwards(event)
        except (Unreadable, Unbillable) as error:
            _log.error("event.refused", subject=message.subject, stream_sequence=_sequence(message), error=str(error))
            await message.term()
        except FromTheFuture as error:
            _log.warning("event.from_the_future", subject=message.subject, version=str(error))
            await message.nak(delay=_LONGEST_DELAY)
        except ServiceUnavailable as error:
            await self._give_back(message, "ledger.unavailable", error)
        except Exception as error:  # noqa: BLE001  a bug met by one event must neither lose it nor stop the others
            _log.exception("event.failed", subject=message.subject)
            await self._give_back(message, "event.given_back", error)
        else:
            crash_point("entry.committed")
            _tell(event, outcome)
            await message.ack_sync(timeout=_ACK_SECONDS)

    async def _give_back(self, message: Msg, what: str, error: Exception) -> None:
        delay = redelivery_delay(message.metadata.num_delivered)
        _log.warning(what, subject=message.subject, retry_in=delay, error=str(error))
        await message.nak(delay=delay)


def parse(subject: str, data: bytes) -> BatchEvent:
    """The event in a message.

    Raises:
        Unreadable: It is not one, or not the one its subject names: the subject is what permissions are given for.
        FromTheFuture: Its version is newer than this code.
    """
    try:
        event = BatchEvent.model_validate_json(data)
        announced = event.subject
    except ValueError as error:
        if (version := newer_version(data)) is not None:
            raise FromTheFuture(version) from error
        raise Unreadable(str(error)) from error
    if announced != subject:
        raise Unreadable(f"the event inside belongs to {announced}")
    return event


def redelivery_delay(deliveries: int) -> float:
    """Seconds until the next attempt after so many deliveries: 1, 2, 4 … 60."""
    return min(2.0 ** min(deliveries - 1, 10), _LONGEST_DELAY)


def _sequence(message: Msg) -> int:
    return message.metadata.sequence.stream


def _tell(event: BatchEvent, outcome: Outcome) -> None:
    _log.info(
        f"ledger.{outcome}", tenant=event.tenant, batch=event.raw_batch_id, status=event.status, event_id=event.id
    )
