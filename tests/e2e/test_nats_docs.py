"""What docs/nats.md shows is what works: its requests are sent and its code is run, before a real system."""

import asyncio
import json
import os
import re
import shlex
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from pydantic import SecretStr

from batchyard.common.client import ClientSettings, connect
from batchyard.common.messaging.async_api import all_commands
from batchyard.common.messaging.permissions import TENANT_NOUNS
from batchyard.vllm_sim.settings import SimSettings
from batchyard.vllm_sim.testing import running_sim
from support.guarded_system import GuardedSystem, guarded_system
from support.nats_users import connected, guarded_nats
from support.node import PACKAGES, node_with_packages
from support.s3 import start_s3_server
from support.stack import config_for
from support.systems import request_line

PAGE = (Path(__file__).parents[2] / "docs" / "nats.md").read_text()
USER = "tenant-reports"
in_one_loop = pytest.mark.asyncio(loop_scope="module")


def block(language: str) -> str:
    found = re.search(rf"<!-- run -->\n```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found
    return found[1]


def requests() -> Iterator[tuple[str, str]]:
    """The subjects and bodies of the page's `nats req`."""
    for words in map(shlex.split, re.findall(r"^nats .*?'.*?'$", block("bash"), re.DOTALL | re.MULTILINE)):
        assert words[:3] == ["nats", f"--inbox-prefix=_INBOX.{USER}", "req"]
        yield words[3], words[4]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[GuardedSystem]:
    """A system over an S3 server, since a folder has no URLs."""
    directory = tmp_path_factory.mktemp("page")
    with guarded_nats(directory / "nats", ("reports",)) as server, start_s3_server(directory / "s3") as s3:
        bucket = {
            "object_store": f"s3://page?endpoint={s3.endpoint}&create_bucket=true",
            "object_store_access_key": s3.access_key,
            "object_store_secret_key": SecretStr(s3.secret_key),
        }
        async with running_sim(SimSettings()) as sim:
            config = config_for(sim.url, directory / "config.yaml")
            async with guarded_system(server, directory, config, **bucket) as system:
                yield system
        assert server.violations == []


@in_one_loop
async def test_the_requests_work(system: GuardedSystem) -> None:
    async with connected(system.nats, USER) as tenant:
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


@in_one_loop
async def test_the_python_code_works(
    system: GuardedSystem, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "requests.jsonl").write_bytes(request_line("mine", "Hello"))
    monkeypatch.chdir(tmp_path)
    for name, value in {**system.nats.settings(USER), "tenant": "reports"}.items():
        monkeypatch.setenv(f"BATCHYARD_{name.upper()}", str(value))
    space: dict[str, Any] = {}
    exec(block("python"), space)
    await space["main"]()
    assert "\nmine {'id': 'chatcmpl-" in capsys.readouterr().out


@in_one_loop
async def test_the_code_for_node_works(system: GuardedSystem, tmp_path: Path) -> None:
    node = await asyncio.to_thread(node_with_packages)
    (tmp_path / "page.mjs").write_text(block("javascript"))
    (tmp_path / "node_modules").symlink_to(PACKAGES / "node_modules")
    told = system.nats.settings(USER)
    process = await asyncio.create_subprocess_exec(
        node,
        "page.mjs",
        cwd=tmp_path,
        env={
            **os.environ,
            "NATS_URL": told["nats_url"],
            "NATS_USER": told["nats_user"],
            "NATS_PASSWORD": told["nats_password"],
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    assert [json.loads(line)["custom_id"] for line in out.decode().split("\n") if line] == ["1"]


def test_every_command_of_a_tenant_is_on_the_page() -> None:
    for command in all_commands():
        if command.noun in TENANT_NOUNS and command.noun != "uploads":
            assert f"`{command.noun}.{command.verb}`" in PAGE, command


def test_every_setting_of_the_client_is_explained() -> None:
    assert [name for name, field in ClientSettings.model_fields.items() if not field.description] == []
    assert connect.__doc__
