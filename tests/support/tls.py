"""TLS in front of a server of the tests, by an authority that nobody else trusts."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import trustme

from batchyard.common.tasks import end


@asynccontextmanager
async def behind_tls(endpoint: str, directory: Path, host: str = "127.0.0.1") -> AsyncIterator[tuple[str, Path]]:
    """An https endpoint that passes everything on to an http one, and the file of the authority to trust for it.

    `host` is whom its certificate names.
    """
    authority = trustme.CA()
    ca_file = directory / "ca.pem"
    authority.cert_pem.write_to_path(ca_file)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(host).configure_cert(context)
    behind = urlsplit(endpoint)
    connections: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        onward_reader, onward_writer = await asyncio.open_connection(behind.hostname, behind.port)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_pass(reader, onward_writer))
                group.create_task(_pass(onward_reader, writer))
        finally:
            for one in (writer, onward_writer):
                one.close()
                with suppress(OSError):
                    await one.wait_closed()

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
    try:
        async with server:
            yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}", ca_file
    finally:
        await end(connections)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while chunk := await reader.read(65_536):
            writer.write(chunk)
            await writer.drain()
        writer.close()
