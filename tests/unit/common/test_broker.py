"""The connection to NATS: it waits for the server, comes back after it, and keeps its secrets."""

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from nats.aio.client import Client
from pydantic import SecretStr
from structlog.testing import capture_logs
from unit.common.nats_rig import WAIT_SECONDS, Logs, Server, events, until

from batchyard.common.contracts.files import File, FilePage, ListFiles
from batchyard.common.errors import ConfigurationError
from batchyard.common.messaging.broker import connection_of, create_broker
from batchyard.common.messaging.commands import CommandClient, CommandRouter
from batchyard.common.messaging.connection import subscribed
from batchyard.common.messaging.records import Entry, Records
from batchyard.common.messaging.topology import FILES_BUCKET
from batchyard.common.service import open_messaging
from batchyard.common.settings import Settings

FILE = File.model_validate({"id": "file-1", "bytes": 1, "created_at": 1, "filename": "a", "purpose": "batch"})


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Not yet started."""
    with Server(tmp_path / "nats") as server:
        yield server


@pytest.fixture
def settings(server: Server) -> Settings:
    return Settings(nats_url=server.url)


@pytest.fixture
def logs() -> Iterator[Logs]:
    with capture_logs() as logs:
        yield logs


@asynccontextmanager
async def connecting(settings: Settings) -> AsyncIterator[asyncio.Task[Client]]:
    broker = create_broker("test", settings)
    task = asyncio.create_task(connection_of(broker))
    try:
        yield task
    finally:
        while not task.done():  # asyncio.wait_for in Python 3.11 may swallow a cancellation
            task.cancel()
            await asyncio.wait({task}, timeout=0.1)
        await broker.stop()


async def list_nothing(tenant: str, command: ListFiles) -> FilePage:
    return FilePage(data=[])


async def test_a_process_that_starts_before_its_server_connects_when_it_appears(
    server: Server, settings: Settings, logs: Logs
) -> None:
    async with connecting(settings) as connection:
        await until(lambda: "nats.connection_trouble" in events(logs))
        server.start()
        assert (await asyncio.wait_for(connection, WAIT_SECONDS)).is_connected


async def test_after_a_restart_of_the_server_records_and_commands_work_again(
    server: Server, settings: Settings, logs: Logs
) -> None:
    server.start()
    async with open_messaging("test", settings) as messaging:
        router = CommandRouter("file-store")
        router.on(ListFiles, list_nothing)
        messaging.broker.include_router(router)
        await messaging.broker.start()
        records = Records(messaging.js, FILES_BUCKET, File)
        revision = await records.create("t.1", FILE)
        server.stop()
        await until(lambda: "nats.disconnected" in events(logs))
        server.start()
        await until(lambda: "nats.reconnected" in events(logs))
        assert await records.get("t.1") == Entry("t.1", FILE, revision)
        assert await CommandClient(messaging.connection, timeout=5).call("t", ListFiles()) == FilePage(data=[])


async def test_a_lost_server_is_a_warning(server: Server, settings: Settings, logs: Logs) -> None:
    server.start()
    async with connecting(settings) as connection:
        await connection
        server.stop()
        await until(lambda: "nats.disconnected" in events(logs))
    assert {record["log_level"] for record in logs if record["event"] == "nats.disconnected"} == {"warning"}


async def test_a_planned_stop_is_not_worth_a_word(server: Server, settings: Settings, logs: Logs) -> None:
    server.start()
    async with open_messaging("test", settings) as messaging:
        router = CommandRouter("file-store")
        router.on(ListFiles, list_nothing)
        messaging.broker.include_router(router)
        await messaging.broker.start()
    assert logs == []
    assert messaging.connection.is_closed


async def test_a_stop_while_the_server_is_away_is_a_stop_all_the_same(
    server: Server, settings: Settings, logs: Logs
) -> None:
    server.start()
    async with asyncio.timeout(WAIT_SECONDS), open_messaging("test", settings) as messaging:
        router = CommandRouter("file-store")
        router.on(ListFiles, list_nothing)
        messaging.broker.include_router(router)
        await messaging.broker.start()
        server.stop()
        await until(lambda: "nats.disconnected" in events(logs))
        await messaging.connection.publish("never.flushed", b"x")
    assert messaging.connection.is_closed


async def test_an_error_of_the_service_itself_passes_through_the_stop(server: Server, settings: Settings) -> None:
    server.start()
    with pytest.raises(ZeroDivisionError):
        async with open_messaging("test", settings):
            raise ZeroDivisionError


async def test_a_command_under_way_is_answered_before_the_stop(server: Server, settings: Settings) -> None:
    begun, let_go = asyncio.Event(), asyncio.Event()

    async def slow(tenant: str, command: ListFiles) -> FilePage:
        begun.set()
        await let_go.wait()
        return FilePage(data=[FILE])

    server.start()
    async with open_messaging("caller", settings) as caller:
        async with open_messaging("test", settings) as messaging:
            router = CommandRouter("file-store")
            router.on(ListFiles, slow)
            messaging.broker.include_router(router)
            await messaging.broker.start()
            await subscribed(messaging.connection)  # the caller has a connection of its own, which may be quicker
            reply = asyncio.create_task(CommandClient(caller.connection, timeout=10).call("t", ListFiles()))
            await begun.wait()
            asyncio.get_running_loop().call_later(0.05, let_go.set)
        assert await reply == FilePage(data=[FILE])


@pytest.mark.parametrize(
    ("options", "right", "wrong"),
    [
        (("--auth", "tokensecret"), {"nats_token": "tokensecret"}, {"nats_token": "wrongsecret"}),
        (
            ("--user", "yard", "--pass", "passsecret"),
            {"nats_user": "yard", "nats_password": "passsecret"},
            {"nats_user": "yard", "nats_password": "wrongsecret"},
        ),
    ],
    ids=["token", "password"],
)
async def test_a_secret_opens_the_door_and_is_in_no_log(
    tmp_path: Path, logs: Logs, options: tuple[str, ...], right: dict[str, str], wrong: dict[str, str]
) -> None:
    with Server(tmp_path / "guarded", options) as server:
        server.start()
        async with connecting(Settings.model_validate({"nats_url": server.url} | right)) as connection:
            assert (await asyncio.wait_for(connection, WAIT_SECONDS)).is_connected
            server.stop()
            await until(lambda: "nats.disconnected" in events(logs))
            server.start()
        async with connecting(Settings.model_validate({"nats_url": server.url} | wrong)) as connection:
            with pytest.raises(ConfigurationError, match="NATS refuses the credentials") as caught:
                await asyncio.wait_for(connection, WAIT_SECONDS)
    assert "secret" not in repr(logs) + str(caught.value)


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # nats-py leaves the socket of a refused attempt open
async def test_credentials_that_are_refused_for_a_while_are_tried_again(tmp_path: Path, logs: Logs) -> None:
    with Server(tmp_path / "guarded", ("--auth", "right")) as server:
        server.start()
        async with connecting(Settings(nats_url=server.url, nats_token=SecretStr("right"))) as connection:
            client = await connection
            server.stop()
            server.options = ("--auth", "other")
            server.start()
            await until(lambda: "Authorization" in repr(logs))
            server.stop()
            server.options = ("--auth", "right")
            server.start()
            await until(lambda: client.is_connected)
            gc.collect()


async def test_a_denied_publish_is_logged_as_critical(tmp_path: Path, logs: Logs) -> None:
    config = tmp_path / "nats.conf"
    config.write_text(
        "authorization { users: [{user: yard, password: p, permissions: {publish: {deny: 'forbidden.>'}}}] }"
    )
    with Server(tmp_path / "guarded", ("-c", str(config))) as server:
        server.start()
        settings = Settings(nats_url=server.url, nats_user="yard", nats_password=SecretStr("p"))
        async with connecting(settings) as connection:
            await (await connection).publish("forbidden.door", b"")
            await until(lambda: "nats.permission_denied" in events(logs))
    (record,) = (record for record in logs if record["event"] == "nats.permission_denied")
    assert record["log_level"] == "critical"
    assert "forbidden.door" in record["error"]


async def test_a_connection_that_the_server_ends_for_good_is_logged_as_critical(
    server: Server, settings: Settings, logs: Logs
) -> None:
    server.start()
    async with connecting(settings) as connection:
        await (await connection).publish("x" * 5000, b"")
        await until(lambda: "nats.closed" in events(logs))
    assert "critical" in [record["log_level"] for record in logs]
