"""Webhooks with the unchanged `openai` SDK: it makes the endpoints, and it checks what they receive."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

_DOCUMENT = Path(__file__).parents[2] / "docs" / "webhooks.md"
_MASTER = {"x-batchyard-team": "default"}
_PATIENCE = 30.0


@contextmanager
def documented_receiver(port: int, secret: str, output: Path) -> Iterator[None]:
    """The receiver of docs/webhooks.md, on a port that is free."""
    program = re.search(r"<!-- tested: .*? -->\n```python\n(.*?)```", _DOCUMENT.read_text(), re.DOTALL)
    assert program
    code = program[1].replace('("", 8000)', f'("127.0.0.1", {port})')
    assert str(port) in code
    environment = {**os.environ, "OPENAI_WEBHOOK_SECRET": secret}
    with output.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-c", code], stdout=file, stderr=file, env=environment)
    try:
        deadline = time.monotonic() + _PATIENCE
        while True:
            assert process.poll() is None, output.read_text()
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_documented_receiver_is_told_of_a_batch(client: OpenAI, port: int, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{port}/hook"
    made = client.webhooks.create(name="docs", url=url, event_types=["batch.completed", "batch.failed"])
    output = tmp_path / "output"
    with documented_receiver(port, made.signing_secret, output):
        for kind in ("batch.completed", "batch.cancelled"):
            assert client.webhooks.test(made.id, event_type=kind).status_code == 204
        file = client.files.create(file=("in.jsonl", b"{}"), purpose="batch")
        batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
        deadline = time.monotonic() + _PATIENCE
        while f"batch.failed Data(id='{batch.id}'" not in output.read_text():
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(0.05)
        client.webhooks.rotate_secret(made.id)
        assert client.webhooks.test(made.id, event_type="batch.failed").status_code == 400
    assert client.webhooks.delete(made.id).deleted


def test_the_life_of_an_endpoint(client: OpenAI) -> None:
    types: Any = ["batch.failed", "budget.soft_exceeded"]
    assert set(types) <= set(client.webhooks.event_types.list().data)
    made = [
        client.webhooks.create(name=f"n{n}", url="https://example.org/", event_types=types, extra_headers=_MASTER)
        for n in range(3)
    ]
    team = client.with_options(default_headers=_MASTER)
    assert [found.id for found in team.webhooks.list(limit=2)] == [each.id for each in reversed(made)]
    found = team.webhooks.retrieve(made[0].id)
    assert found.to_dict() == {k: v for k, v in made[0].to_dict().items() if k != "signing_secret"}
    changed = team.webhooks.update(found.id, name="other", url="https://example.org/2")
    assert (changed.name, changed.url, changed.event_types) == ("other", "https://example.org/2", types)
    rotated = team.webhooks.rotate_secret(found.id, keep_old_secret_active_for_24_hours=True)
    assert rotated.signing_secret not in {each.signing_secret for each in made}
    team.webhooks.update(found.id, url="http://127.0.0.1:9/")
    with pytest.raises(openai.BadRequestError, match="could not be reached"):
        team.webhooks.test(found.id, event_type="batch.failed")
    for each in made:
        assert team.webhooks.delete(each.id).object == "webhook_endpoint.deleted"
    with pytest.raises(openai.NotFoundError):
        team.webhooks.retrieve(found.id)
    with pytest.raises(openai.NotFoundError):
        client.webhooks.delete(found.id)
