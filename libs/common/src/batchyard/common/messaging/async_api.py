"""The AsyncAPI document of everything that another program may send to Batchyard over NATS, or hear from it.

Source: https://www.asyncapi.com/docs/reference/specification/v3.0.0
"""

import inspect
import json
import pkgutil
from collections.abc import Iterator
from importlib import import_module
from typing import Any, cast

from faststream.nats import NatsBroker
from faststream.specification import AsyncAPI
from pydantic import BaseModel

from batchyard.common import contracts, subjects
from batchyard.common.contracts.base import Command, Reply
from batchyard.common.contracts.events import BatchEvent, BatchProgress, BudgetEvent
from batchyard.common.messaging.commands import CommandRouter, owner_of

_DESCRIPTION = """The commands that the services answer, and what they tell by themselves.
Names become tokens of a subject by an encoding that can be undone: letters, digits, `-` and `_` stay, and every other
byte of their UTF-8 form is `=XX`.
The queues between the services are not described: what lies in them is nobody else's business."""

_PARAMETERS = {
    "tenant": "Whose objects these are",
    "batch": "The batch's raw ID",
    "key": "The key's ID, or `team` for the budget of the team",
    "status": "The status that the batch has reached",
}
_FACTS: dict[str, tuple[type[BaseModel], str, str]] = {
    "batches.event": (
        BatchEvent,
        subjects.BATCH_EVENT_PATTERN,
        "Kept for 30 days in the stream EVENTS, and delivered at least once: `id` tells a repetition.",
    ),
    "budgets.event": (
        BudgetEvent,
        subjects.BUDGET_EVENT_PATTERN,
        "Kept for 30 days in the stream EVENTS, and delivered at least once: `id` tells a repetition.",
    ),
    "batches.progress": (
        BatchProgress,
        subjects.LIVE_PATTERN,
        "For whoever is listening: never stored.",
    ),
}


def all_commands() -> list[type[Command[Any]]]:
    """Every command of the contracts, by subject."""
    for module in pkgutil.iter_modules(contracts.__path__):
        import_module(f"{contracts.__name__}.{module.name}")
    found = {command.pattern(): command for command in _concrete(Command)}
    return [found[pattern] for pattern in sorted(found)]


def async_api() -> dict[str, Any]:
    """The document, the same every time."""
    document = _of_commands()
    for command in all_commands():
        _add_reply(document, command)
    for name, (kind, address, description) in _FACTS.items():
        _add_fact(document, name, kind, address, description)
    for channel in document["channels"].values():
        _tidy(channel)
    return document


def _concrete(command: type[Command[Any]]) -> Iterator[type[Command[Any]]]:
    for kind in command.__subclasses__():
        if "verb" in vars(kind) and kind.__module__.startswith(contracts.__name__):
            yield kind
        yield from _concrete(kind)


def _of_commands() -> dict[str, Any]:
    """What FastStream knows of the commands, from the routers as the services make them."""
    broker = NatsBroker("nats://localhost:4222")
    routers: dict[str, CommandRouter] = {}
    for command in all_commands():
        owner = owner_of(command)
        routers.setdefault(owner, CommandRouter(owner)).on(command, _unanswered)
    for router in routers.values():
        broker.include_router(router)
    made = AsyncAPI(broker, title="Batchyard over NATS", version="1", description=_DESCRIPTION).to_specification()
    return cast("dict[str, Any]", json.loads(made.to_json()))


async def _unanswered(_tenant: str, _command: Any) -> Any:
    raise NotImplementedError


def _add_reply(document: dict[str, Any], command: type[Command[Any]]) -> None:
    title = f"{command.noun}.{command.verb}"
    name = f"{title}.reply"
    _add_message(document, name, Reply[command.result])  # type: ignore[name-defined]
    document["channels"][name] = {"address": None, "messages": {"Reply": _reference("components/messages", name)}}
    document["operations"][title]["reply"] = {
        "address": {"description": "NATS' reply subject", "location": "$message.header#/reply-to"},
        "channel": _reference("channels", name),
        "messages": [_reference(f"channels/{name}/messages", "Reply")],
    }


def _add_fact(document: dict[str, Any], name: str, kind: type[BaseModel], address: str, description: str) -> None:
    _add_message(document, name, kind)
    document["channels"][name] = {
        "address": address,
        "description": description,
        "messages": {kind.__name__: _reference("components/messages", name)},
    }
    document["operations"][name] = {
        "action": "send",
        "channel": _reference("channels", name),
        "messages": [_reference(f"channels/{name}/messages", kind.__name__)],
    }


def _add_message(document: dict[str, Any], name: str, payload: type[BaseModel]) -> None:
    schema = payload.model_json_schema(mode="serialization", ref_template="#/components/schemas/{model}")
    schemas = document["components"]["schemas"]
    key = payload.__name__.replace("[", "_").replace("]", "")
    for other, definition in {**schema.pop("$defs", {}), key: schema}.items():
        if schemas.setdefault(other, definition) != definition:
            raise ValueError(f"two schemas have the name {other}")
    document["components"]["messages"][name] = {"title": name, "payload": _reference("components/schemas", key)}


def _tidy(channel: dict[str, Any]) -> None:
    if "description" in channel:
        channel["description"] = inspect.cleandoc(channel["description"])
    used = {name: said for name, said in _PARAMETERS.items() if f"{{{name}}}" in (channel["address"] or "")}
    if used:
        channel["parameters"] = {name: {"description": said} for name, said in used.items()}


def _reference(kind: str, name: str) -> dict[str, str]:
    return {"$ref": f"#/{kind}/{name}"}
