"""`batchyard keys`, `teams` and `webhooks`, before a gateway."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner
from unit.gateway.rig import KEY, Served, running_gateway

from batchyard.cli.main import app
from batchyard.common.settings import Settings
from batchyard.gateway.settings import GatewaySettings
from support.receiver import LOOPBACK, receiving

Run = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
async def gateway(settings: Settings) -> AsyncIterator[Served]:
    """A gateway without the services behind it: keys are its own."""
    common = settings.model_dump(exclude_unset=True)
    # Its log would otherwise run into the output of the commands, as both are in this process.
    own = GatewaySettings(**common, shutdown_timeout=2, webhook_allowed_networks=LOOPBACK)
    with capture_logs():
        async with running_gateway(own) as served:
            yield served


@pytest.fixture
def run(gateway: Served, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command: its exit code, stdout and stderr."""
    monkeypatch.setenv("BATCHYARD_URL", f"{gateway.url}/v1")
    monkeypatch.setenv("BATCHYARD_MASTER_KEY", KEY)
    monkeypatch.setenv("COLUMNS", "300")

    async def run(*arguments: str) -> tuple[int, str, str]:
        result = await asyncio.to_thread(CliRunner().invoke, app, arguments)
        return result.exit_code, result.stdout, result.stderr

    return run


async def status(gateway: Served, secret: str) -> int:
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as http:
        return (await http.get("/key/info", headers={"authorization": f"Bearer {secret}"})).status_code


async def test_the_life_of_an_endpoint_of_webhooks(run: Run) -> None:
    async with receiving() as receiver:
        await run("teams", "create", "search")
        wanted = (receiver.url, "--team", "search", "--event", "batch.failed")
        code, secret, note = await run("webhooks", "create", *wanted)
        assert code == 0
        assert "cannot be shown again" in note
        _, listed, _ = await run("webhooks", "list", "--team", "search", "--json")
        (found,) = json.loads(listed)
        assert (found["url"], found["event_types"]) == (receiver.url, ["batch.failed"])
        assert "webhook_endpoint" not in (await run("webhooks", "list"))[1]  # the operator has none
        assert (await run("webhooks", "test", found["id"], "--team", "search"))[0] == 0
        receiver.received[0].unwrapped(secret.strip())
        _, rotated, _ = await run("webhooks", "rotate", found["id"], "--team", "search")
        receiver.answers = [500]
        assert (await run("webhooks", "test", found["id"], "--team", "search"))[0] == 1
        for one in (secret, rotated):
            receiver.received[1].unwrapped(one.strip())
    assert (await run("webhooks", "delete", found["id"]))[0] == 1
    assert (await run("webhooks", "delete", found["id"], "--team", "search"))[0] == 0
    assert found["id"] not in (await run("webhooks", "list", "--team", "search"))[1]


async def test_the_life_of_a_key(gateway: Served, run: Run) -> None:
    assert (await run("teams", "create", "search", "--max-budget", "100", "--budget-duration", "1mo"))[0] == 0
    code, secret, note = await run("keys", "create", "--team", "search", "--alias", "nightly", "--rpm-limit", "600")
    assert code == 0
    assert re.fullmatch(r"sk-[\w-]{43}\n", secret)
    assert "cannot be shown again" in note
    assert await status(gateway, secret.strip()) == 200

    _, listed, _ = await run("keys", "list")
    assert "nightly" in listed
    assert f"sk-...{secret.strip()[-4:]}" in listed
    _, shown, _ = await run("keys", "show", "nightly", "--json")
    info = json.loads(shown)
    assert (info["team_id"], info["rpm_limit"]) == ("search", 600)

    _, changed, _ = await run("keys", "update", "nightly", "--model", "llama", "--no", "rpm_limit", "--json")
    assert (json.loads(changed)["models"], json.loads(changed)["rpm_limit"]) == (["llama"], None)

    _, rotated, _ = await run("keys", "rotate", "nightly")
    assert [await status(gateway, one.strip()) for one in (secret, rotated)] == [200, 200]
    _, newest, _ = await run("keys", "rotate", "nightly", "--now")
    assert [await status(gateway, one.strip()) for one in (secret, rotated, newest)] == [401, 401, 200]

    assert (await run("keys", "block", info["token"]))[0] == 0
    assert await status(gateway, newest.strip()) == 401
    assert (await run("keys", "unblock", newest.strip()))[0] == 0
    assert await status(gateway, newest.strip()) == 200
    assert (await run("keys", "delete", "nightly"))[0] == 0
    assert await status(gateway, newest.strip()) == 401


async def test_the_life_of_a_team(run: Run) -> None:
    await run("teams", "create", "search", "--alias", "Search", "--pause-over-budget", "--max-batches", "3")
    await run("keys", "create", "--team", "search", "--alias", "nightly")
    _, shown, _ = await run("teams", "show", "search")
    assert "nightly" in shown
    assert re.search(r"max_batches +3", shown)
    _, changed, _ = await run("teams", "update", "search", "--run-over-budget", "--json")
    assert json.loads(changed)["pause_over_budget"] is False
    await run("teams", "block", "search")
    _, listed, _ = await run("teams", "list")
    assert "blocked" in listed
    assert "unknown" in listed, "there is no billing here to say what it has spent"
    await run("teams", "unblock", "search")
    code, _, said = await run("teams", "delete", "search")
    assert code == 1
    assert "has 1 keys" in said
    await run("keys", "delete", "nightly")
    assert (await run("teams", "delete", "search"))[0] == 0
    assert json.loads((await run("teams", "list", "--json"))[1]) == []


async def test_what_is_refused_ends_with_the_gateways_words(run: Run) -> None:
    code, out, said = await run("keys", "create", "--team", "nobody")
    assert (code, out) == (1, "")
    assert "404 No such team: nobody" in said
    code, _, said = await run("keys", "show", "nothing")
    assert code == 1
    assert "No such key" in said


async def test_many_keys_are_listed_whole(gateway: Served, run: Run) -> None:
    for _ in range(101):
        await gateway.http.post("/key/generate", json={})
    assert len(json.loads((await run("keys", "list", "--json"))[1])) == 101


async def test_the_master_key_comes_from_the_configuration_too(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BATCHYARD_MASTER_KEY")
    code, _, said = await run("keys", "list")
    assert code == 2
    assert "BATCHYARD_MASTER_KEY" in said
    config = tmp_path / "config.yaml"
    config.write_text(f"general_settings:\n  master_key: {KEY}\n")
    assert (await run("keys", "--config", str(config), "list"))[0] == 0


@pytest.mark.parametrize("arguments", [("keys", "--help"), ("keys", "create", "--help"), ("teams", "create", "--help")])
def test_help_needs_nobody(arguments: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    assert "--config" in result.stdout or "--max-budget" in result.stdout


def test_a_gateway_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHYARD_MASTER_KEY", KEY)
    result = CliRunner().invoke(app, ["keys", "--url", "http://127.0.0.1:9", "list"])
    assert result.exit_code == 1
    assert "does not answer" in result.stderr
