"""What a request and its answer cost the client: the runner's own one beside aiohttp, in turns.

    .venv/bin/python benchmarks/http_client.py

Both send the same requests, as many at a time, to a server in a process of its own that answers at once. Prints the
microseconds of the processor that the client took for each.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from statistics import median
from typing import cast

import aiohttp
import uvloop

from batchyard.batch_runner.upstream import HttpUpstream
from batchyard.common.config import Deployment

PATH = "/v1/chat/completions"
BODY = b'{"model":"m","messages":[{"role":"user","content":"Name a fish that lives deeper than 1234 m, please."}]}'
ANSWER = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1790000000,"model":"m","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"The snailfish lives down there, at more than eight thousand metres.","tool_calls":'
    b'[]},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":33,"total_tokens":48,"completion_tokens":15}}'
)


class AtOnce(asyncio.Protocol):
    """Answers each request as soon as its body, which ends with the message, is there."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._seen = b""

    def data_received(self, data: bytes) -> None:
        self._seen += data
        if self._seen.endswith(BODY):
            self._seen = b""
            head = b"HTTP/1.1 200 OK\r\nserver: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
            self._transport.write(head % len(ANSWER) + ANSWER)


async def serve() -> None:
    server = await asyncio.get_running_loop().create_server(AtOnce, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def cost(send: Callable[[int], Awaitable[bytes]], requests: int, in_flight: int) -> float:
    """Microseconds of the processor for a request."""
    numbers = iter(range(requests))

    async def work() -> None:
        for number in numbers:
            assert await send(number) == ANSWER

    began = time.process_time()
    await asyncio.gather(*(work() for _ in range(in_flight)))
    return (time.process_time() - began) / requests * 1e6


async def compare(options: argparse.Namespace) -> None:
    server = await asyncio.create_subprocess_exec(sys.executable, __file__, "--serve", stdout=asyncio.subprocess.PIPE)
    assert server.stdout is not None
    url = f"http://127.0.0.1:{int(await server.stdout.readline())}"
    deployment = Deployment(id="d", pool="m", model="m", base_url=url)
    connector = aiohttp.TCPConnector(limit=0)
    try:
        async with HttpUpstream(600.0, 2**24) as upstream, aiohttp.ClientSession(connector=connector) as session:

            async def by_aiohttp(number: int) -> bytes:
                headers = {"content-type": "application/json", "x-request-id": f"request-{number}"}
                async with session.post(url + PATH, data=BODY, headers=headers) as response:
                    return await response.read()

            async def by_runner(number: int) -> bytes:
                return (await upstream.post(deployment, PATH, BODY, f"request-{number}")).body

            found: dict[str, list[float]] = {"aiohttp": [], "the runner's": []}
            for _ in range(options.rounds):
                for name, send in zip(found, (by_aiohttp, by_runner), strict=True):
                    found[name].append(await cost(send, options.requests, options.in_flight))
    finally:
        server.terminate()
        await server.wait()
    for name, costs in found.items():
        print(f"{name:<13} {median(costs):6.1f} µs  ({', '.join(f'{one:.1f}' for one in costs)})")
    ratio = median(found["aiohttp"]) / median(found["the runner's"])
    print(f"aiohttp takes {ratio:.1f} times as much")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--in-flight", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    uvloop.run(serve() if options.serve else compare(options))


if __name__ == "__main__":
    main()
