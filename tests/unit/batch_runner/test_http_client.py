"""Requests over real connections, to a server that says exactly what it is told to."""

import asyncio
import errno
import gc
import gzip
import os
import socket
import struct
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from batchyard.batch_runner.exchange import Answer, Broken, NotSent, TimedOut, TooLarge
from batchyard.batch_runner.http_client import HttpClient, Origin
from batchyard.common.tasks import end
from support.tls import behind_tls

REQUEST = b"POST /v1/x HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
CLOSE, RESET, SILENCE = object(), object(), object()


class Scripted:
    """A server that says one thing after the other: to each request the next entry of `script`.

    An entry is bytes, a tuple of bytes that come one by one, or one of CLOSE, RESET and SILENCE in such a tuple, or an
    event that is waited for.
    """

    def __init__(self) -> None:
        self.script: list[Any] = []
        self.connections = 0
        self.requests: list[bytes] = []
        self.ended = asyncio.Event()  # a connection was ended by the other side
        self._writers: dict[asyncio.StreamWriter, asyncio.Task[None] | None] = {}
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    @property
    def origin(self) -> Origin:
        assert self._server is not None
        return Origin("127.0.0.1", self._server.sockets[0].getsockname()[1], is_tls=False)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.close()
        await asyncio.gather(*(task for task in self._writers.values() if task is not None))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers[writer] = asyncio.current_task()
        self.connections += 1
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                while await self._answered(reader, writer):
                    pass
        finally:
            self.ended.set()
            writer.close()

    async def _answered(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or b"0")
        self.requests.append(head + await reader.readexactly(length))
        said = self.script.pop(0)
        for part in said if isinstance(said, tuple) else (said,):
            if part is CLOSE:
                return False
            if part is RESET:
                raw = writer.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return False
            if isinstance(part, asyncio.Event):
                await part.wait()
                continue
            if part is SILENCE:
                return await reader.read() != b""
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        return True


@pytest.fixture
async def server() -> AsyncIterator[Scripted]:
    scripted = Scripted()
    await scripted.start()
    yield scripted
    await scripted.stop()


@pytest.fixture
async def client() -> AsyncIterator[HttpClient]:
    client = HttpClient()
    yield client
    await client.close()


@pytest.fixture
def ask(client: HttpClient, server: Scripted) -> Callable[..., Awaitable[Answer]]:
    """Sends a request for which the server has been told what to say."""

    async def asked(*script: Any, **options: Any) -> Answer:
        server.script += script
        return await client.send(server.origin, REQUEST, **{"most": 100, "timeout": 5.0, **options})

    return asked


async def test_a_connection_serves_one_request_after_the_other(ask: Any, server: Scripted) -> None:
    for _ in range(3):
        assert (await ask(OK)).body == b"ok"
    assert server.requests == [REQUEST] * 3
    assert server.connections == 1


async def test_who_refuses_a_request_may_not_have_read_it_and_gets_a_new_connection(ask: Any, server: Scripted) -> None:
    for status in (b"400", b"429", b"500"):
        answer = await ask(b"HTTP/1.1 " + status + b" X\r\nRetry-After: 3\r\ncontent-length: 2\r\n\r\nno")
        assert (answer.status, answer.body, answer.header("retry-after")) == (int(status), b"no", "3")
    assert server.requests == [REQUEST] * 3
    assert server.connections == 3


async def test_requests_at_once_have_a_connection_each(client: HttpClient, server: Scripted) -> None:
    server.script = [OK] * 6
    for _ in range(2):
        await asyncio.gather(*(client.send(server.origin, REQUEST, most=100, timeout=5.0) for _ in range(3)))
    assert server.connections == 3


@pytest.mark.parametrize(
    "said",
    [
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\n", b"o\r\n1;x=y\r\nk\r\n0\r\ntrailer: 1\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\n\r\no", b"k", CLOSE),
        (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + OK),
        tuple(OK[index : index + 1] for index in range(len(OK))),
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n%b"
        % (len(gzip.compress(b"ok")), gzip.compress(b"ok")),
        b"HTTP/1.1 200 OK\r\ncontent-encoding: Identity \r\ncontent-length: 2\r\n\r\nok",
    ],
    ids=[
        "chunked",
        "until the end of the connection",
        "after interim answers",
        "byte by byte",
        "1.0",
        "compressed",
        "uncompressed, by its own word",
    ],
)
async def test_an_answer_may_come_in_many_ways(ask: Any, said: Any) -> None:
    answer = await ask(said)
    assert (answer.status, answer.body) == (200, b"ok")
    assert (await ask(OK)).body == b"ok", "whatever became of the connection"


@pytest.mark.parametrize(
    "said",
    [
        (CLOSE,),
        (RESET,),
        (OK[:10], CLOSE),
        (OK[:-1], CLOSE),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n", CLOSE),
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: br\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n%b"
        % (2 * len(gzip.compress(b"ok")), 2 * gzip.compress(b"ok")),
        (b"HTTP/1.1 200 OK\r\nx: " + b"x" * 70_000, SILENCE),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 3_000, SILENCE),
        (b"HTTP/1.1 102 Processing\r\ncontent-length: 2\r\n\r\nok", SILENCE),
        (CHUNKED + b"2;" + b"x" * 70_000, SILENCE),
        (CHUNKED + b"2\r\nok\r\n0\r\nx: " + b"x" * 400_000, SILENCE),
        (CHUNKED + b"2\r\nok\r\n0\r\n" + b"x: x\r\n" * 70_000, SILENCE),
        (b"HTTP/1.1 000 X\r\n\r\n", SILENCE),
        (b"HTTP/1.1 099 X\r\ncontent-length: 2\r\n\r\nok", SILENCE),
        (b"HTTP/1.1 1000 X\r\ncontent-length: 2\r\n\r\nok", SILENCE),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", SILENCE),
        (b"HTTP/1.1 200 OK\ncontent-length: 2\n\nok", SILENCE),
        (b"HTTP/1.1 200 OK\r\nx: y\r\n z\r\ncontent-length: 2\r\n\r\nok", SILENCE),
        (b"HTTP/1.1 200 OK\r\ncontent-length: -2\r\n\r\nok", SILENCE),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nokk", SILENCE),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", SILENCE),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", SILENCE),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: identity\r\n\r\nok", SILENCE),
    ],
)
async def test_what_is_no_whole_answer_is_none_and_that_is_known_at_once(ask: Any, said: Any) -> None:
    with pytest.raises(Broken):
        await ask(said)
    assert (await ask(OK)).body == b"ok", "over a new connection"


async def test_what_is_wrong_with_an_answer_is_told(ask: Any) -> None:
    with pytest.raises(Broken, match=r"not HTTP/1\.1: Missing expected CR after response line"):
        await ask(b"HTTP/1.1 200 OK\ncontent-length: 2\n\nok")


async def test_a_body_in_many_parts_takes_no_more_memory_than_it_has_bytes(ask: Any) -> None:
    parts = 100_000
    said = CHUNKED + b"2\r\nok\r\n" * parts + b"0\r\n\r\n"
    tracemalloc.start()
    try:
        answer = await ask(said, most=2 * parts)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert answer.body == b"ok" * parts
    assert peak < 3_000_000, "as parts they had six"


async def test_who_ends_his_side_without_reading_the_request_has_answered(client: HttpClient) -> None:
    over = asyncio.Event()

    async def says_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nok")
        writer.write_eof()
        await over.wait()
        writer.close()

    async with await asyncio.start_server(says_at_once, "127.0.0.1", 0) as server:
        origin = Origin("127.0.0.1", server.sockets[0].getsockname()[1], is_tls=False)
        answer = await client.send(origin, REQUEST + bytes(2**25), most=100, timeout=5.0)
        over.set()
    assert answer.body == b"ok"


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 101\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 101,
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n%b"
        % (len(gzip.compress(bytes(10_000))), gzip.compress(bytes(10_000))),
    ],
)
async def test_an_answer_beyond_the_limit_is_not_read(ask: Any, server: Scripted, said: bytes) -> None:
    with pytest.raises(TooLarge):
        await ask((said, SILENCE))
    await asyncio.wait_for(server.ended.wait(), 5)


async def test_a_request_that_takes_too_long_is_ended(ask: Any, server: Scripted) -> None:
    with pytest.raises(TimedOut, match=r"within 0\.05 s$"):
        await ask((OK[:-1], SILENCE), timeout=0.05)
    await asyncio.wait_for(server.ended.wait(), 5)


async def test_a_request_that_is_cancelled_ends_its_connection(ask: Any, server: Scripted) -> None:
    asking = asyncio.create_task(ask((SILENCE,)))
    while not server.requests:
        await asyncio.sleep(0.001)
    await end([asking])
    await asyncio.wait_for(server.ended.wait(), 5)
    assert (await ask(OK)).body == b"ok"


@pytest.mark.parametrize(
    "said",
    [
        OK + OK,
        OK + b"H",
        (OK, CLOSE),
        OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"),
        OK.replace(b"\r\n\r\n", b"\r\nConnection: x, Close\r\n\r\n"),
        b"HTTP/1.1 204 No Content\r\ncontent-length: %d\r\n\r\n%b" % (len(OK), OK),
        (b"HTTP/1.1 204 No Content\r\ncontent-length: 2\r\n\r\n", b"ok"),
        b"HTTP/1.1 304 Not Modified\r\ncontent-length: 2\r\n\r\n",
    ],
)
async def test_a_connection_that_is_no_longer_clean_is_not_used_again(ask: Any, server: Scripted, said: Any) -> None:
    await ask(said)
    if isinstance(said, tuple):
        await asyncio.wait_for(server.ended.wait(), 5)
        await asyncio.sleep(0.01)  # its end has to travel, or it is the next test's case
    assert (await ask(OK, repeatable=True)).body == b"ok"
    assert server.connections == 2


async def test_only_what_may_be_repeated_is_sent_again_when_a_kept_connection_breaks(
    ask: Any, server: Scripted
) -> None:
    await ask(OK)
    assert (await ask((CLOSE,), OK, repeatable=True)).body == b"ok"
    with pytest.raises(Broken):
        await ask((CLOSE,))
    assert len(server.requests) == 4


async def test_a_server_that_is_not_there_was_sent_nothing(client: HttpClient) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        origin = Origin("127.0.0.1", free.getsockname()[1], is_tls=False)
        with pytest.raises(NotSent, match="no connection to 127.0.0.1"):
            await client.send(origin, REQUEST, most=1, timeout=1.0)
    for name in ("no-such-host.invalid", "x" * 100):
        with pytest.raises(NotSent):
            await client.send(Origin(name, 80, is_tls=False), REQUEST, most=1, timeout=5.0)


async def test_no_connection_is_kept_once_the_client_is_closed(ask: Any, server: Scripted, client: Any) -> None:
    gate = asyncio.Event()
    asking = asyncio.create_task(ask((gate, OK)))
    while not server.requests:
        await asyncio.sleep(0.001)
    await client.close()
    gate.set()
    assert (await asking).body == b"ok"
    await asyncio.wait_for(server.ended.wait(), 2)


async def test_a_kernel_that_gives_up_connecting_has_sent_nothing(ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def given_up(*_: Any, **__: Any) -> None:
        raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))

    monkeypatch.setattr("batchyard.batch_runner.http_client.start_connection", given_up)
    with pytest.raises(NotSent, match="timed out"):
        await ask()


async def test_a_connection_that_fails_just_when_its_time_is_up_has_timed_out(
    ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken_off(*_: Any, **__: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ConnectionAbortedError(errno.ECONNABORTED, "aborted")

    monkeypatch.setattr("batchyard.batch_runner.http_client.start_connection", broken_off)
    with pytest.raises(TimedOut):
        await ask(timeout=0.05)


async def test_names_are_looked_up(client: HttpClient, server: Scripted) -> None:
    server.script = [OK]
    origin = Origin("localhost", server.origin.port, is_tls=False)
    assert (await client.send(origin, REQUEST, most=100, timeout=5.0)).body == b"ok"


class Resolver:
    """What a loop does with names, until it is to hang, and then to fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hangs = False
        self.fails = asyncio.Event()
        self.asked = 0
        loop = asyncio.get_running_loop()
        self._resolve = loop.getaddrinfo
        monkeypatch.setattr(loop, "getaddrinfo", self)

    async def __call__(self, *names: Any, **options: Any) -> Any:
        self.asked += 1
        if self.hangs:
            await self.fails.wait()
            raise socket.gaierror(socket.EAI_AGAIN, "no resolver answers")
        return await self._resolve(*names, **options)


async def nothing_else_goes_on() -> None:
    async with asyncio.timeout(5):
        while len(asyncio.all_tasks()) > 1:
            await asyncio.sleep(0.001)


async def test_a_look_up_that_fails_when_nobody_waits_any_more_is_forgotten(
    ask: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    resolver = Resolver(monkeypatch)
    resolver.hangs = True
    asking = [asyncio.create_task(ask()) for _ in range(3)]
    while not resolver.asked:
        await asyncio.sleep(0)
    await end(asking)
    assert resolver.asked == 1
    resolver.fails.set()
    resolver.hangs = False
    await nothing_else_goes_on()
    assert (await ask(OK)).body == b"ok"
    gc.collect()
    assert not caplog.records


async def test_a_look_up_that_hangs_is_left_to_itself(
    ask: Any, client: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchyard.batch_runner.http_client._CONNECT_TIMEOUT", 0.05)
    monkeypatch.setattr("batchyard.batch_runner.http_client._LOOK_TIMEOUT", 0.02)
    resolver = Resolver(monkeypatch)
    resolver.hangs = True
    with pytest.raises(NotSent, match=r"within 0\.05 s"):
        await ask()
    resolver.hangs = False
    assert (await ask(OK)).body == b"ok"
    resolver.hangs = True
    waiting = asyncio.create_task(client.send(Origin("x", 80, is_tls=False), REQUEST, most=1, timeout=5.0))
    await asyncio.sleep(0)
    await client.close()
    with pytest.raises(NotSent, match="closed"):
        await waiting
    await nothing_else_goes_on()


@pytest.mark.parametrize("is_cancelled", [True, False])
async def test_a_handshake_that_comes_to_nothing_leaves_nothing(
    client: HttpClient, server: Scripted, monkeypatch: pytest.MonkeyPatch, is_cancelled: bool
) -> None:
    monkeypatch.setattr("batchyard.batch_runner.http_client._CONNECT_TIMEOUT", 0.2)
    origin = Origin("127.0.0.1", server.origin.port, is_tls=True)
    asking = asyncio.create_task(client.send(origin, REQUEST, most=1, timeout=5.0))
    while not server.connections:
        await asyncio.sleep(0.001)
    if is_cancelled:
        await end([asking])
    else:
        with pytest.raises(NotSent, match=r"within 0\.2 s"):
            await asking
    await asyncio.wait_for(server.ended.wait(), 2)
    del asking
    async with asyncio.timeout(5):
        while any(type(one).__name__ in {"Connection", "SSLProtocol"} for one in gc.get_objects()):
            await asyncio.sleep(0.05)
            gc.collect()


async def test_a_server_behind_tls_is_who_it_says(
    server: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.script = [OK, OK]
    async with behind_tls(f"http://127.0.0.1:{server.origin.port}", tmp_path) as (endpoint, authority):
        origin = Origin("127.0.0.1", int(endpoint.rpartition(":")[2]), is_tls=True)
        stranger = HttpClient()
        with pytest.raises(NotSent, match="certificate"):
            await stranger.send(origin, REQUEST, most=100, timeout=5.0)
        await stranger.close()
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        client = HttpClient()
        for _ in range(2):
            assert (await client.send(origin, REQUEST, most=100, timeout=5.0)).body == b"ok"
        await client.close()
    assert server.connections <= 2, "the stranger's, and one for both requests"
