"""Commands over a real broker: results, errors and absences reach the caller as what they are."""

import asyncio
import json
from contextlib import AsyncExitStack

import pytest
from nats.aio.msg import Msg

from batchyard.common.contracts.files import (
    DeletedFile,
    DeleteFile,
    File,
    FilePage,
    GetFile,
    ListFiles,
    Purpose,
)
from batchyard.common.errors import InternalError, NotFound, ServiceUnavailable
from batchyard.common.messaging.commands import CommandClient, CommandRouter
from batchyard.common.messaging.connection import subscribed
from batchyard.common.service import Messaging, open_messaging
from batchyard.common.settings import Settings

FILE = File(id="file-1", bytes=3, created_at=1, filename="a.jsonl", purpose=Purpose.BATCH)


class _Files:
    """A service with one file, one error and one bug."""

    def __init__(self) -> None:
        self.tenants: list[str] = []

    async def get(self, tenant: str, command: GetFile) -> File:
        self.tenants.append(tenant)
        if command.file_id != FILE.id:
            raise NotFound("No such File object: x", param="id")
        return FILE

    async def delete(self, tenant: str, command: DeleteFile) -> DeletedFile:
        raise ZeroDivisionError("a secret")


@pytest.fixture
async def files(messaging: Messaging) -> _Files:
    files = _Files()
    router = CommandRouter("file-store")
    router.on(GetFile, files.get)
    router.on(DeleteFile, files.delete)
    messaging.broker.include_router(router)
    await messaging.broker.start()
    return files


@pytest.fixture
def client(messaging: Messaging, files: _Files) -> CommandClient:
    return CommandClient(messaging.connection, timeout=2.0)


async def test_a_command_is_answered_for_the_tenant_in_its_subject(client: CommandClient, files: _Files) -> None:
    assert await client.call("team a/1", GetFile(file_id="file-1")) == FILE
    assert files.tenants == ["team a/1"]


async def test_an_error_arrives_as_the_error_it_was(client: CommandClient) -> None:
    with pytest.raises(NotFound, match="No such File object: x") as caught:
        await client.call("t", GetFile(file_id="file-2"))
    assert caught.value.param == "id"


async def test_a_bug_is_answered_without_its_details(client: CommandClient) -> None:
    with pytest.raises(InternalError) as caught:
        await client.call("t", DeleteFile(file_id="file-1"))
    assert "secret" not in caught.value.message


async def test_nobody_listening_is_told_at_once(client: CommandClient) -> None:
    with pytest.raises(ServiceUnavailable, match="file-store service is not running"):
        await asyncio.wait_for(client.call("t", ListFiles()), timeout=1.0)


async def test_a_malformed_command_names_the_field(messaging: Messaging, client: CommandClient) -> None:
    message = await messaging.connection.request(GetFile.subject("t"), b'{"file_id": 7, "x": 1}', timeout=2.0)
    error = json.loads(message.data)["error"]
    assert error["http_status"] == 400
    assert error["param"] == "file_id"


@pytest.mark.parametrize("headers", [None, {"content-type": "application/json"}])
@pytest.mark.parametrize("content", [b"\xff{", b"{", b"", b"[" * 5000, b'{"file_id": %b}' % (b"9" * 5000)])
async def test_bytes_that_are_not_json_are_refused(
    messaging: Messaging, client: CommandClient, content: bytes, headers: dict[str, str] | None
) -> None:
    message = await messaging.connection.request(GetFile.subject("t"), content, timeout=2.0, headers=headers)
    assert json.loads(message.data)["error"]["http_status"] == 400


async def test_a_replica_that_stops_answers_what_has_reached_it(settings: Settings, messaging: Messaging) -> None:
    client = CommandClient(messaging.connection, timeout=10.0)
    answered = 0

    async def answer(tenant: str, command: ListFiles) -> FilePage:
        await asyncio.sleep(0.002)
        return FilePage(data=[])

    async def replica() -> AsyncExitStack:
        exits = AsyncExitStack()
        own = await exits.enter_async_context(open_messaging("replica", settings))
        router = CommandRouter("file-store")
        router.on(ListFiles, answer)
        own.broker.include_router(router)
        await own.broker.start()
        await subscribed(own.connection)
        return exits

    async def call_often() -> None:
        nonlocal answered
        for _ in range(30):
            await client.call("t", ListFiles())
            answered += 1

    stopping, staying = await replica(), await replica()
    calls = [asyncio.create_task(call_often()) for _ in range(100)]
    async with asyncio.timeout(20):
        while answered < 300:
            await asyncio.sleep(0.001)
    await stopping.aclose()
    await asyncio.gather(*calls)  # raises for a command without an answer
    assert answered == 3000
    await staying.aclose()


async def test_commands_are_answered_side_by_side(messaging: Messaging) -> None:
    gate = asyncio.Event()
    waiting = 0

    async def slow(tenant: str, command: ListFiles) -> FilePage:
        nonlocal waiting
        waiting += 1
        if waiting == 10:
            gate.set()
        await gate.wait()
        return FilePage(data=[])

    router = CommandRouter("file-store")
    router.on(ListFiles, slow)
    messaging.broker.include_router(router)
    await messaging.broker.start()
    client = CommandClient(messaging.connection, timeout=5.0)
    pages = await asyncio.gather(*(client.call("t", ListFiles()) for _ in range(10)))
    assert len(pages) == 10


async def test_a_broken_value_of_the_services_own_is_not_the_callers_fault(messaging: Messaging) -> None:
    async def stored(tenant: str, command: GetFile) -> File:
        return File.model_validate_json('{"id": "file-1"}')

    router = CommandRouter("file-store")
    router.on(GetFile, stored)
    messaging.broker.include_router(router)
    await messaging.broker.start()
    with pytest.raises(InternalError):
        await CommandClient(messaging.connection, timeout=2.0).call("t", GetFile(file_id="file-1"))


async def test_an_answer_that_cannot_be_read_is_an_error_of_the_server(messaging: Messaging) -> None:
    async def answer(message: Msg) -> None:
        await message.respond(b"{}")

    await messaging.connection.subscribe(GetFile.subject("t"), cb=answer)
    with pytest.raises(InternalError, match="file-store service gave an answer that cannot be read"):
        await CommandClient(messaging.connection, timeout=2.0).call("t", GetFile(file_id="file-1"))
