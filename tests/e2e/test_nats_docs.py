"""What docs/nats.md shows is what works: its requests are sent and its code is run, before a real system."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from batchyard.common.client import ClientSettings, connect
from batchyard.common.messaging.async_api import all_commands
from batchyard.common.messaging.permissions import TENANT_NOUNS
from batchyard.vllm_sim.settings import SimSettings
from batchyard.vllm_sim.testing import running_sim
from support.guarded_system import guarded_system
from support.nats_users import connected, guarded_nats
from support.stack import config_for
from support.systems import request_line

PAGE = (Path(__file__).parents[2] / "docs" / "nats.md").read_text()
USER = "tenant-reports"


def block(language: str) -> str:
    found = re.search(rf"<!-- run -->\n```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found
    return found[1]


def requests() -> Iterator[tuple[str, str]]:
    """The subjects and bodies of the page's `nats req`."""
    for words in map(shlex.split, re.findall(r"^nats .*?'.*?'$", block("bash"), re.DOTALL | re.MULTILINE)):
        assert words[:3] == ["nats", f"--inbox-prefix=_INBOX.{USER}", "req"]
        yield words[3], words[4]


async def test_the_page_works(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with guarded_nats(tmp_path / "nats", ("reports",)) as server:
        async with running_sim(SimSettings()) as sim, connected(server, USER) as tenant:
            config = config_for(sim.url, tmp_path / "config.yaml")
            async with guarded_system(server, tmp_path, config) as system:
                told = {**server.settings(USER), "tenant": "reports", "object_store": system.object_store}
                results: list[Any] = []
                made: dict[str, str] = {}
                for subject, body in requests():
                    said = re.sub("(FILE|BATCH)_ID", lambda name: made[name[1].lower()], body)
                    reply = json.loads((await tenant.client.request(subject, said.encode(), timeout=10)).data)
                    assert reply["error"] is None, reply
                    results.append(reply["result"])
                    made[results[-1]["object"]] = results[-1].get("id", "")
                assert len(results) == 5
                assert [event["event"]["tenant"] for event in results[3]["data"]][:1] == ["reports"]

                (tmp_path / "requests.jsonl").write_bytes(request_line("mine", "Hello"))
                monkeypatch.chdir(tmp_path)
                for name, value in told.items():
                    monkeypatch.setenv(f"BATCHYARD_{name.upper()}", str(value))
                space: dict[str, Any] = {}
                exec(block("python"), space)
                await space["main"]()
                assert "\nmine {'id': 'chatcmpl-" in capsys.readouterr().out
        assert server.violations == []


def test_every_command_of_a_tenant_is_on_the_page() -> None:
    for command in all_commands():
        if command.noun in TENANT_NOUNS and command.noun != "uploads":
            assert f"`{command.noun}.{command.verb}`" in PAGE, command


def test_every_setting_of_the_client_is_explained() -> None:
    assert [name for name, field in ClientSettings.model_fields.items() if not field.description] == []
    assert connect.__doc__
