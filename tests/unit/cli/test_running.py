"""The system as a context: real NATS, and stand-ins for the services."""

import asyncio
import json
import signal
import socket
import stat
from pathlib import Path

import httpx
import nats
import pytest
from unit.cli.conftest import FakeServices

from batchyard.cli.failures import Failure
from batchyard.cli.running import running_stack
from batchyard.cli.stack import Address, Layout
from batchyard.cli.supervisor import Misconfigured, RestartPolicy, Supervisor

NAMES = {"nats", "file-store", "billing", "batch-runner", "gateway"}


def impatient() -> Supervisor:
    return Supervisor(RestartPolicy(first=0.01))


async def test_everything_runs_inside_and_nothing_after(services: FakeServices, tmp_path: Path) -> None:
    async with running_stack(tmp_path / "data", environment=services.environment) as stack:
        assert set(stack.pids) == NAMES
        async with httpx.AsyncClient(base_url=stack.url, trust_env=False) as client:
            assert (await client.get("/health/readiness")).status_code == 200
    assert stack.pids == {}
    assert services.stopped[0] == "gateway"
    assert set(services.stopped) == NAMES - {"nats"}


async def test_what_is_secret_is_private(services: FakeServices, tmp_path: Path) -> None:
    async with running_stack(tmp_path / "data", environment=services.environment) as stack:
        root = stack.layout.root
        assert stat.S_IMODE(root.stat().st_mode) == 0o700
        for file in (root / "nats" / "token", root / "nats" / "nats.conf", root / "logs" / "gateway.log"):
            assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_nats_lets_nobody_in_without_the_token(services: FakeServices, tmp_path: Path) -> None:
    async with running_stack(tmp_path / "data", environment=services.environment) as stack:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(stack.nats.url.rpartition(":")[2]))
        writer.write(b'CONNECT {"verbose": false}\r\nPING\r\n')
        said = await asyncio.wait_for(reader.read(), 5)
        assert b"-ERR 'Authorization Violation'" in said
        writer.close()
        await writer.wait_closed()


async def test_the_token_is_the_installations_own(services: FakeServices, tmp_path: Path) -> None:
    tokens = []
    for name in ("a", "b", "a"):
        async with running_stack(tmp_path / name, environment=services.environment) as stack:
            tokens.append(stack.nats.token)
    assert tokens[0] == tokens[2] != tokens[1]
    assert len(tokens[0]) >= 40


async def test_what_jetstream_took_is_there_after_a_restart(services: FakeServices, tmp_path: Path) -> None:
    for is_first in (True, False):
        async with running_stack(tmp_path / "data", environment=services.environment) as stack:
            client = await nats.connect(stack.nats.url, token=stack.nats.token)
            if is_first:
                await client.jetstream().add_stream(name="FACTS", subjects=["facts"])
                await client.jetstream().publish("facts", b"kept")
            else:
                assert (await client.jetstream().get_msg("FACTS", 1)).data == b"kept"
            await client.close()


async def test_a_killed_gateway_comes_back_where_it_was(services: FakeServices, tmp_path: Path) -> None:
    environment = services.environment
    async with running_stack(tmp_path / "data", environment=environment, supervisor=impatient()) as stack:
        killed = stack.kill("gateway")
        assert await stack.restarted("gateway", after=killed) != killed
        await stack.ready()


async def test_clients_find_a_killed_nats_where_it_was(services: FakeServices, tmp_path: Path) -> None:
    back = asyncio.Event()

    async def ignore(_: Exception) -> None:
        pass

    async def reconnected() -> None:
        back.set()

    environment = services.environment
    async with running_stack(tmp_path / "data", environment=environment, supervisor=impatient()) as stack:
        client = await nats.connect(
            stack.nats.url,
            token=stack.nats.token,
            reconnect_time_wait=0.02,
            max_reconnect_attempts=-1,
            error_cb=ignore,
            reconnected_cb=reconnected,
        )
        stack.kill("nats")
        await asyncio.wait_for(back.wait(), 20)
        await client.flush(5)
        await client.close()


async def test_a_stop_signal_from_outside_is_a_death_like_any_other(services: FakeServices, tmp_path: Path) -> None:
    async with running_stack(tmp_path / "data", environment=services.environment, supervisor=impatient()) as stack:
        killed = stack.kill("billing", signal.SIGTERM)
        await stack.restarted("billing", after=killed)


async def test_one_directory_is_used_by_one_system(services: FakeServices, tmp_path: Path) -> None:
    async with running_stack(tmp_path / "data", environment=services.environment):
        with pytest.raises(Failure, match=r"data is in use by another `batchyard up` \(process \d+\)"):
            async with running_stack(tmp_path / "data", environment=services.environment):
                raise AssertionError


async def test_a_misconfigured_service_ends_the_start(services: FakeServices, tmp_path: Path) -> None:
    environment = {**services.environment, "FAKE_MISCONFIGURED": "billing"}
    with pytest.raises(Misconfigured, match=r"billing cannot work with this configuration:\n.*the price is negative"):
        async with running_stack(tmp_path / "data", environment=environment):
            raise AssertionError


async def test_who_is_not_ready_in_time_is_named_with_its_last_words(services: FakeServices, tmp_path: Path) -> None:
    environment = {**services.environment, "FAKE_UNREADY": "billing"}
    with pytest.raises(Failure, match="not ready after 3 s") as caught:
        async with running_stack(tmp_path / "data", environment=environment, ready_within=3.0):
            raise AssertionError
    assert "billing: database: no answer" in caught.value.message
    assert "service.started" in caught.value.message


async def test_a_directory_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Failure, match="cannot be used for the data: Not a directory"):
        async with running_stack(tmp_path / "file" / "data"):
            raise AssertionError


async def test_a_gateway_can_have_a_port_of_ones_choice(services: FakeServices, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = Address("127.0.0.1", port)
    async with running_stack(tmp_path / "d", address=address, environment=services.environment) as stack:
        assert stack.url == f"http://127.0.0.1:{port}"


async def test_logs_are_appended_across_runs(services: FakeServices, tmp_path: Path) -> None:
    for _ in range(2):
        async with running_stack(tmp_path / "data", environment=services.environment):
            pass
    lines = Layout(tmp_path / "data").log("gateway").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["service.started"] * 2
