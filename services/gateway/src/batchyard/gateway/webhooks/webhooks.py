"""Webhooks, put together: the endpoints, what is sent to them, and who sends it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from nats.errors import Error
from nats.js import JetStreamContext

from batchyard.common.clock import Clock
from batchyard.common.logs import get_logger
from batchyard.common.messaging.presence import TopologyMissing, bind_consumer
from batchyard.common.messaging.records import Records
from batchyard.common.messaging.topology import (
    WEBHOOKS_BUCKET,
    Consumer,
    deliveries_consumer,
    webhooks_consumer,
)
from batchyard.common.messaging.work_loop import Done, Handler, Later, WorkLoop
from batchyard.common.operations import expose
from batchyard.common.tasks import unless
from batchyard.gateway.settings import GatewaySettings
from batchyard.gateway.webhooks.addresses import Addresses
from batchyard.gateway.webhooks.backlog import Backlog
from batchyard.gateway.webhooks.delivery import Deliverer, Patience, Places
from batchyard.gateway.webhooks.endpoint import TeamEndpoints
from batchyard.gateway.webhooks.endpoints import EndpointStore
from batchyard.gateway.webhooks.fan_out import FanOut
from batchyard.gateway.webhooks.sender import Sender, open_sender

_EVENTS_AT_ONCE = 4
_TEAMS_SHARE = 4  # a team has at most one in so many of the places
_ENDPOINTS_SHARE = 16  # and an endpoint one in so many
_PAUSE_SECONDS = 1.0
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Webhooks:
    """What the routes need of webhooks, and `run`, which delivers."""

    endpoints: EndpointStore
    sender: Sender
    addresses: Addresses
    places: Places
    js: JetStreamContext
    settings: GatewaySettings
    clock: Clock

    async def run(self, stop: asyncio.Event) -> None:
        """Read events, and deliver them, until `stop` is set.

        What is under way has `shutdown_timeout` seconds to end, as requests have, and is then left to another process.
        """
        settings = self.settings
        patience = Patience(settings.webhook_first_retry, settings.webhook_max_age)
        deliverer = Deliverer(self.endpoints, self.sender, self.places, patience, self.clock)
        fan_out = FanOut(self.js, self.endpoints, settings.webhook_max_age, self.clock)
        backlog = Backlog(self.js, deliveries_consumer(settings))
        expose(backlog, backlog.refresh)
        late = asyncio.Event()

        async def deliver(data: bytes) -> Done | Later:
            # Not at once: what this process has asked for, and reads no more, could get it.
            return await unless(late, deliverer.deliver(data)) or Later(_PAUSE_SECONDS)

        async with asyncio.TaskGroup() as tasks:
            ending = tasks.create_task(_set_after(stop, settings.shutdown_timeout, late))
            telling = tasks.create_task(self._work(webhooks_consumer(settings), _EVENTS_AT_ONCE, fan_out.tell, stop))
            await self._work(deliveries_consumer(settings), settings.webhook_slots, deliver, stop)
            await telling
            ending.cancel()

    async def _work(self, consumer: Consumer, slots: int, handler: Handler, stop: asyncio.Event) -> None:
        bind = partial(bind_consumer, self.js, consumer, self.settings)
        while not stop.is_set():
            try:
                await bind()
                await WorkLoop(self.js, consumer, slots, handler, bind=bind).run(stop)
            except (Error, OSError, TopologyMissing) as error:
                _log.warning("webhooks.unavailable", consumer=consumer.name, error=repr(error))
                await unless(stop, asyncio.sleep(_PAUSE_SECONDS))


async def _set_after(first: asyncio.Event, seconds: float, then: asyncio.Event) -> None:
    await first.wait()
    await asyncio.sleep(seconds)
    then.set()


@asynccontextmanager
async def open_webhooks(js: JetStreamContext, settings: GatewaySettings, clock: Clock) -> AsyncIterator[Webhooks]:
    """Webhooks while the context is open; nothing is delivered but by `run`."""
    addresses = Addresses(settings.webhook_networks)
    records = Records(js, WEBHOOKS_BUCKET, TeamEndpoints)
    slots = settings.webhook_slots
    places = Places(max(1, slots // _TEAMS_SHARE), max(1, slots // _ENDPOINTS_SHARE))
    async with open_sender(addresses, settings.webhook_timeout) as sender:
        endpoints = EndpointStore(records, clock, settings.max_webhook_endpoints)
        yield Webhooks(endpoints, sender, addresses, places, js, settings, clock)
