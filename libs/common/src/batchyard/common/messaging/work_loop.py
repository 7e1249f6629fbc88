"""A slot-first pull loop: take a slot, fetch one message, work on it with a heartbeat, acknowledge.

Jobs take minutes or hours, so nothing is fetched that cannot be worked on at once: a message that waits in a process
has no heartbeat and would be delivered to a second one.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from nats.aio.msg import Msg
from nats.errors import Error
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js import JetStreamContext

from batchyard.common.bounded import remember
from batchyard.common.errors import ConfigurationError, ServiceUnavailable
from batchyard.common.logs import get_logger
from batchyard.common.messaging.topology import Consumer, declare_consumer
from batchyard.common.objects import ObjectStoreUnavailable
from batchyard.common.tasks import unless

_FETCH_SECONDS = 5.0
_TROUBLE_SECONDS = 1.0
_GIVE_WAY_SECONDS = 0.005
_FIRST_BACKOFF = 0.5
_LONGEST_OUTAGE_BACKOFF = 4.0
_LONGEST_ERROR_BACKOFF = 30.0
_FAILURES_REMEMBERED = 10_000
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Done:
    """The message is dealt with for good."""


@dataclass(frozen=True, slots=True)
class Later:
    """The message is to come again, to any process, after `delay` seconds."""

    delay: float


Handler = Callable[[bytes], Awaitable[Done | Later]]
Bind = Callable[[], Awaitable[None]]


class WorkLoop:
    """Works on the messages of one consumer, `slots` at a time.

    A handler that raises is tried again with a growing delay: no message is ever dropped because of an error. The delay
    grows with the failures in a row that this process has seen, not with the message's deliveries, of which most may
    have been asked for. It stays short where another part is away, so that work goes on soon after that is back.

    With more than `eager` jobs under way it leaves a message to other processes for a moment before it takes it itself,
    the longer the more jobs it has: of several, the one with the least to do gets what comes.

    `bind`, where it is given, is awaited after each fetch that failed: the consumer may have gone with a server that
    lost its data, and is made anew, or waited for.
    """

    def __init__(
        self,
        js: JetStreamContext,
        consumer: Consumer,
        slots: int,
        handler: Handler,
        eager: int | None = None,
        bind: Bind | None = None,
    ) -> None:
        self._js = js
        self._consumer = consumer
        self._slots = asyncio.Semaphore(slots)
        self._eager = slots if eager is None else eager
        self._under_way = 0
        self._handler = handler
        self._bind = bind
        self._heartbeat = (consumer.config.ack_wait or 30.0) / 3
        self._failures: dict[str, int] = {}

    async def declare(self) -> None:
        """Make the consumer exist; call it once, before `run`."""
        await declare_consumer(self._js, self._consumer)

    async def run(self, stop: asyncio.Event) -> None:
        """Fetch until `stop` is set, then wait for the jobs that are under way."""
        subscription = await self._js.pull_subscribe_bind(self._consumer.name, stream=self._consumer.stream)
        async with asyncio.TaskGroup() as jobs:
            while await self._slot(stop):
                if (excess := self._under_way - self._eager) > 0:
                    await unless(stop, asyncio.sleep(excess * _GIVE_WAY_SECONDS))
                message = await self._fetch(subscription, stop)
                if message is not None:
                    self._under_way += 1
                    jobs.create_task(self._job(message))
                else:
                    self._slots.release()
            # A pull subscription that is still there would keep the connection's drain waiting.
            await subscription.unsubscribe()

    async def _fetch(self, subscription: JetStreamContext.PullSubscription, stop: asyncio.Event) -> Msg | None:
        try:
            messages = await unless(stop, subscription.fetch(1, timeout=_FETCH_SECONDS))
        except NatsTimeoutError:
            return None
        except (Error, OSError) as error:
            _log.warning("queue.fetch_failed", consumer=self._consumer.name, error=repr(error))
            await unless(stop, asyncio.sleep(_TROUBLE_SECONDS))
            await self._rebind()
            return None
        return messages[0] if messages else None

    async def _rebind(self) -> None:
        if self._bind is None:
            return
        try:
            await self._bind()
        except (Error, OSError, ConfigurationError) as error:
            _log.warning("queue.no_consumer", consumer=self._consumer.name, error=repr(error))

    async def _slot(self, stop: asyncio.Event) -> bool:
        await unless(stop, self._slots.acquire())
        return not stop.is_set()

    async def _job(self, message: Msg) -> None:
        beat = asyncio.create_task(self._beat(message))
        try:
            verdict = await self._verdict(message)
        finally:
            beat.cancel()
            self._under_way -= 1
            self._slots.release()
        try:
            if isinstance(verdict, Done):
                await message.ack_sync(timeout=5.0)
            else:
                await message.nak(delay=verdict.delay)
        except (Error, OSError, TimeoutError) as error:
            # The message comes again after its ack wait, and finds its work done.
            _log.warning("queue.ack_failed", subject=message.subject, error=repr(error))

    async def _verdict(self, message: Msg) -> Done | Later:
        try:
            verdict = await self._handler(message.data)
        except (ServiceUnavailable, ObjectStoreUnavailable) as error:
            _log.warning("queue.job_postponed", subject=message.subject, reason=str(error))
            return self._after_failure(message.subject, _LONGEST_OUTAGE_BACKOFF)
        except Exception as error:  # noqa: BLE001  whatever it was, the message must come again
            _log.error("queue.job_failed", subject=message.subject, exc_info=error)
            return self._after_failure(message.subject, _LONGEST_ERROR_BACKOFF)
        self._failures.pop(message.subject, None)
        return verdict

    def _after_failure(self, subject: str, longest: float) -> Later:
        before = self._failures.pop(subject, 0)
        # Those that are forgotten other processes took.
        remember(self._failures, subject, before + 1, _FAILURES_REMEMBERED)
        return Later(min(longest, _FIRST_BACKOFF * 2.0 ** min(before, 10)))

    async def _beat(self, message: Msg) -> None:
        while True:
            await asyncio.sleep(self._heartbeat)
            try:
                await message.in_progress()
            except (Error, OSError) as error:
                _log.warning("queue.heartbeat_failed", subject=message.subject, error=repr(error))
