"""The documents in docs/ say what the code says."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from batchyard.common.contracts import events
from batchyard.common.contracts.base import Contract
from batchyard.common.messaging.async_api import all_commands

_DOCS = Path(__file__).parents[2] / "docs"


def document(name: str) -> Any:
    return json.loads((_DOCS / name).read_text())


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def resolved(whole: Any, reference: str) -> Any:
    value = whole
    for part in reference.removeprefix("#/").split("/"):
        value = value[part.replace("~1", "/").replace("~0", "~")]
    return value


def test_they_are_what_the_code_generates() -> None:
    check = [sys.executable, str(_DOCS / "generate.py"), "--check"]
    done = subprocess.run(check, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_gateway_serves_the_same_document(base_url: str) -> None:
    assert httpx.get(f"{base_url}/openapi.json", trust_env=False).json() == document("openapi.json")


@pytest.mark.parametrize("name", ["openapi.json", "asyncapi.json"])
def test_every_reference_leads_somewhere(name: str) -> None:
    whole = document(name)
    found = set(references(whole))
    assert found
    for reference in found:
        assert resolved(whole, reference)


def test_every_command_is_there_with_its_reply() -> None:
    whole = document("asyncapi.json")
    for command in all_commands():
        operation = whole["operations"][f"{command.noun}.{command.verb}"]
        channel = resolved(whole, operation["channel"]["$ref"])
        assert channel["address"] == command.pattern()
        (message,) = channel["messages"].values()
        payload = resolved(whole, message["$ref"])["payload"]["$ref"]
        assert payload == f"#/components/schemas/{command.__name__}"
        (reply,) = resolved(whole, operation["reply"]["channel"]["$ref"])["messages"].values()
        schema = resolved(whole, resolved(whole, reply["$ref"])["payload"]["$ref"])
        assert {"$ref": f"#/components/schemas/{command.result.__name__}"} in schema["properties"]["result"]["anyOf"]


def test_every_event_is_there() -> None:
    whole = document("asyncapi.json")
    told = {
        name
        for operation in whole["operations"].values()
        if operation["action"] == "send"
        for name in resolved(whole, operation["channel"]["$ref"])["messages"]
    }
    declared = {
        name
        for name, kind in vars(events).items()
        if isinstance(kind, type) and issubclass(kind, Contract) and kind.__module__ == events.__name__
    }
    answers = {events.EventPage.__name__, events.StoredEvent.__name__}  # of `events.list`
    assert told == declared - answers


def test_the_tests_that_the_documents_name_exist() -> None:
    for path in [*_DOCS.glob("*.md"), _DOCS.parent / "README.md"]:
        for file, name in re.findall(r"(tests/[\w/.]+\.(?:py|js))(?:::(\w+))?", path.read_text()):
            source = (_DOCS.parent / file).read_text()
            assert not name or f"def {name}(" in source, f"{path.name} names {file}::{name}"
