"""One event on its way to one endpoint: sent until it is taken over, for up to 72 hours.

    any 2xx                             delivered
    410                                 nothing is sent to the endpoint any more
    any other status, no answer         tried again, after as long as has passed since the first try: 5 s, 10 s, … 4 h
    too many under way to the endpoint  tried again after a moment
    it still fails after 72 hours       given up, and logged
    the endpoint is gone                not sent

Each try is signed anew; `webhook-id` stays. A process that dies after the answer and before it is noted leaves the
message to be sent once more.
"""

import random
from collections import Counter as Tally
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import Counter

from batchyard.common.clock import Clock
from batchyard.common.contracts.base import Contract
from batchyard.common.crash import crash_point
from batchyard.common.logs import get_logger
from batchyard.common.messaging.work_loop import Done, Later
from batchyard.gateway.webhooks.endpoint import WebhookEndpoint
from batchyard.gateway.webhooks.endpoints import EndpointStore
from batchyard.gateway.webhooks.message import EventType, Message
from batchyard.gateway.webhooks.sender import Sender, Unreachable

DELIVERIES = Counter(
    "batchyard_webhook_deliveries",
    "Tries to send webhooks, by what came of them: delivered, failed (tried again), given_up, gone (410), dropped (no "
    "endpoint any more)",
    ["outcome"],
)

_LONGEST_DELAY = 4 * 3600.0
_LONGEST_BUSY_DELAY = 300.0
_JITTER = 0.2
_GONE = 410
_log = get_logger(__name__)


class Delivery(Contract):
    """What is queued: a message, and the endpoint it is for. Times are Unix seconds."""

    version: int = 1
    team: str
    endpoint_id: str
    event_id: str
    event_type: EventType
    body: str
    queued_at: float


@dataclass(frozen=True, slots=True)
class Patience:
    """How often is tried, and for how long. Seconds."""

    first_retry: float
    max_age: float

    def delay(self, age: float) -> float | None:
        """Seconds until the next try of what was first tried `age` seconds ago; None when that is given up."""
        left = self.max_age - age
        if left <= 0:
            return None
        wait = min(max(self.first_retry, age), _LONGEST_DELAY) * _jitter()
        return min(wait, max(left, self.first_retry))

    def busy_delay(self, age: float) -> float:
        """Seconds until the next look at what others are in the way of."""
        return min(max(self.first_retry / 4, age / 4), _LONGEST_BUSY_DELAY) * _jitter()


def _jitter() -> float:
    return random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311  it guards nothing


class Places:
    """Bounds how much is under way to one endpoint and to one team's: what is slow there holds up no other."""

    def __init__(self, of_team: int, of_endpoint: int) -> None:
        self._of_team = of_team
        self._of_endpoint = of_endpoint
        self._taken: Tally[tuple[str, ...]] = Tally()

    @contextmanager
    def take(self, team: str, endpoint_id: str) -> Iterator[bool]:
        """Whether there is a place, which is taken while the context is open."""
        keys: tuple[tuple[str, ...], ...] = ((team,), (team, endpoint_id))
        if self._taken[keys[0]] >= self._of_team or self._taken[keys[1]] >= self._of_endpoint:
            yield False
            return
        self._taken.update(keys)
        try:
            yield True
        finally:
            self._taken.subtract(keys)
            self._taken = +self._taken


class Deliverer:
    """Works on queued deliveries; any number at a time, in any number of processes."""

    def __init__(
        self, endpoints: EndpointStore, sender: Sender, places: Places, patience: Patience, clock: Clock
    ) -> None:
        self._endpoints = endpoints
        self._sender = sender
        self._places = places
        self._patience = patience
        self._clock = clock

    async def deliver(self, data: bytes) -> Done | Later:
        """Try once. Raises ServiceUnavailable when the endpoints cannot be read."""
        delivery = Delivery.model_validate_json(data)
        endpoint = await self._endpoints.find(delivery.team, delivery.endpoint_id)
        if endpoint is None or endpoint.disabled_at is not None:
            return _done(delivery, "dropped")
        with self._places.take(delivery.team, delivery.endpoint_id) as has_place:
            if not has_place:
                return Later(self._patience.busy_delay(self._age(delivery)))
            return await self._try(delivery, endpoint)

    async def _try(self, delivery: Delivery, endpoint: WebhookEndpoint) -> Done | Later:
        message = Message(delivery.event_id, delivery.event_type, delivery.body)
        try:
            status = await self._sender.send(endpoint, message, self._clock.now())
        except Unreachable as error:
            return self._failed(delivery, str(error))
        crash_point("webhook.answered")
        if 200 <= status < 300:
            return _done(delivery, "delivered")
        if status == _GONE:
            await self._endpoints.disable(delivery.team, delivery.endpoint_id)
            return _done(delivery, "gone")
        return self._failed(delivery, f"it answered {status}")

    def _failed(self, delivery: Delivery, reason: str) -> Done | Later:
        delay = self._patience.delay(self._age(delivery))
        if delay is None:
            return _done(delivery, "given_up", reason)
        DELIVERIES.labels("failed").inc()
        _log.info("webhook.failed", **_named(delivery), reason=reason, retry_in=round(delay, 1))
        return Later(delay)

    def _age(self, delivery: Delivery) -> float:
        return self._clock.now() - delivery.queued_at


def _done(delivery: Delivery, outcome: str, reason: str | None = None) -> Done:
    DELIVERIES.labels(outcome).inc()
    told = {} if reason is None else {"reason": reason}
    (_log.warning if outcome == "given_up" else _log.info)(f"webhook.{outcome}", **_named(delivery), **told)
    return Done()


def _named(delivery: Delivery) -> dict[str, str]:
    return {
        "team_id": delivery.team,
        "endpoint": delivery.endpoint_id,
        "event_id": delivery.event_id,
        "event_type": str(delivery.event_type),
    }
