"""What is sent: the events that endpoints may hear of, in OpenAI's form.

Source: https://platform.openai.com/docs/api-reference/webhook-events
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import uuid4

from batchyard.common.contracts.events import BatchEvent, BudgetEvent
from batchyard.common.ids import new_raw_id

_ID_DIGITS = 32


class EventType(StrEnum):
    """Of what an endpoint may hear."""

    BATCH_COMPLETED = "batch.completed"
    BATCH_FAILED = "batch.failed"
    BATCH_EXPIRED = "batch.expired"
    BATCH_CANCELLED = "batch.cancelled"
    BUDGET_SOFT_EXCEEDED = "budget.soft_exceeded"


@dataclass(frozen=True, slots=True)
class Message:
    """One event as it is sent; `id` is the same at every try and every endpoint, and tells a repetition."""

    id: str
    type: EventType
    body: str


def message_of(event: BatchEvent | BudgetEvent, *, names_team: bool) -> Message:
    """The message that tells of an event, and of whose it is where it goes to who runs Batchyard.

    Raises:
        ValueError: No endpoint hears of such an event.
    """
    if isinstance(event, BatchEvent):
        kind = EventType(f"batch.{event.status}")
        data = {"id": event.batch.id} | ({"team_id": event.tenant} if names_team else {})
    else:
        kind = EventType.BUDGET_SOFT_EXCEEDED
        told = ("key_id", "currency", "spent", "soft_budget", "max_budget", "period_start", "resets_at")
        data = {"team_id": event.tenant} | event.model_dump(mode="json", include=set(told))
    digest = hashlib.sha256(event.id.encode()).hexdigest()[:_ID_DIGITS]
    return _message(f"evt_{digest}", kind, event.occurred_at, data)


def sample_of(kind: EventType, team_id: str, now: float) -> Message:
    """A message like those of `kind`, about nothing that there is."""
    if kind is EventType.BUDGET_SOFT_EXCEEDED:
        data: dict[str, Any] = {"team_id": team_id, "key_id": None, "currency": "USD", "spent": "8.25"}
        data |= {"soft_budget": "8", "max_budget": "10", "period_start": int(now), "resets_at": None}
    else:
        data = {"id": new_raw_id("batch")}
    return _message(f"evt_{uuid4().hex}", kind, now, data)


def _message(event_id: str, kind: EventType, occurred_at: float, data: Mapping[str, Any]) -> Message:
    body = {"id": event_id, "object": "event", "type": str(kind), "created_at": int(occurred_at), "data": data}
    return Message(event_id, kind, json.dumps(body, separators=(",", ":")))
