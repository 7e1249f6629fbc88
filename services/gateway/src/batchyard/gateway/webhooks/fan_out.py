"""From an event to one delivery for each endpoint that hears of it, each a message of its own.

An event is acknowledged once all of them are queued. One that is read again, since a process died in between, adds none
that waits or was queued within the last two minutes; one that was delivered before may then be sent again, under the
same `webhook-id`.
"""

from nats.js import JetStreamContext
from pydantic import TypeAdapter, ValidationError

from batchyard.common import subjects
from batchyard.common.clock import Clock
from batchyard.common.contracts.events import BatchEvent, BudgetEvent, newer_version
from batchyard.common.crash import crash_point
from batchyard.common.logs import get_logger
from batchyard.common.messaging.publishing import publish
from batchyard.common.messaging.topology import WEBHOOKS
from batchyard.common.messaging.work_loop import Done, Later
from batchyard.gateway.webhooks.delivery import Delivery
from batchyard.gateway.webhooks.endpoint import OPERATOR
from batchyard.gateway.webhooks.endpoints import EndpointStore
from batchyard.gateway.webhooks.message import message_of

_UPGRADE_SECONDS = 60.0
_EVENT: TypeAdapter[BatchEvent | BudgetEvent] = TypeAdapter(BatchEvent | BudgetEvent)
_log = get_logger(__name__)


class FanOut:
    """Queues deliveries."""

    def __init__(self, js: JetStreamContext, endpoints: EndpointStore, max_age: float, clock: Clock) -> None:
        self._js = js
        self._endpoints = endpoints
        self._max_age = max_age
        self._clock = clock

    async def tell(self, data: bytes) -> Done | Later:
        """Queue an event for whoever hears of it. Raises ServiceUnavailable: it is to be read again then."""
        try:
            event = _EVENT.validate_json(data)
        except ValidationError as error:
            return _unreadable(data, error)
        if self._clock.now() - event.occurred_at > self._max_age:  # as after the stream has lost who has read it
            _log.info("webhook.too_old", team_id=event.tenant, of=event.id)
            return Done()
        for team in (event.tenant, OPERATOR):
            await self._tell(team, event)
        crash_point("webhook.event_queued")
        return Done()

    async def _tell(self, team: str, event: BatchEvent | BudgetEvent) -> None:
        message = message_of(event, names_team=team == OPERATOR)
        for endpoint in await self._endpoints.of(team):
            if endpoint.hears(message.type, event.occurred_at):
                delivery = Delivery(
                    team=team,
                    endpoint_id=endpoint.id,
                    event_id=message.id,
                    event_type=message.type,
                    body=message.body,
                    queued_at=self._clock.now(),
                )
                subject = subjects.hook(team, endpoint.id, message.id)
                data = delivery.model_dump_json().encode()
                await publish(self._js, subject, data, WEBHOOKS, {"Nats-Msg-Id": f"{endpoint.id}.{message.id}"})
                crash_point("webhook.queued")


def _unreadable(data: bytes, error: ValidationError) -> Done | Later:
    """What is done with an event that is none: one of a newer release is left to a gateway of that."""
    if (version := newer_version(data)) is not None:
        _log.warning("webhook.from_the_future", version=version)
        return Later(_UPGRADE_SECONDS)
    _log.error("webhook.unreadable", errors=error.error_count())
    return Done()
