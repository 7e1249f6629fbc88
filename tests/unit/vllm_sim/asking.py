"""How these tests ask a simulator, and what they get back."""

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import aiohttp

from batchyard.vllm_sim.testing import RunningSim


class Answer:
    """Status, headers and body of an answer."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        """The content of the first choice of a chat completion."""
        content = self.json["choices"][0]["message"]["content"]
        assert isinstance(content, str)
        return content

    @property
    def events(self) -> list[Any]:
        """The chunks of a stream that ended with [DONE]."""
        *chunks, done, rest = self.body.decode().split("\n\n")
        assert (done, rest) == ("data: [DONE]", "")
        return [json.loads(chunk.removeprefix("data: ")) for chunk in chunks]


class Client:
    """A simulator and a session that asks it."""

    def __init__(self, sim: RunningSim, session: aiohttp.ClientSession) -> None:
        self.sim = sim
        self.state = sim.state
        self.session = session

    async def request(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        async with self.session.request(method, self.sim.url + path, json=body, headers=headers) as response:
            return Answer(response.status, response.headers, await response.read())

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        return await self.request("GET", path, headers=headers)

    async def post(self, path: str, body: object, headers: Mapping[str, str] | None = None) -> Answer:
        return await self.request("POST", path, body, headers)

    async def post_bytes(self, path: str, body: bytes, content_type: str = "application/json") -> Answer:
        headers = {"Content-Type": content_type}
        async with self.session.post(self.sim.url + path, data=body, headers=headers) as response:
            return Answer(response.status, response.headers, await response.read())

    async def chat(self, text: str, **fields: object) -> Answer:
        return await self.post("/v1/chat/completions", {"messages": user(text), **fields})

    def outcomes(self) -> list[str]:
        """What became of each request, in the order of arrival."""
        return [record.outcome for record in self.state.log.records()]


def user(text: str) -> list[dict[str, Any]]:
    """Return the messages of one question."""
    return [{"role": "user", "content": text}]


Start = Callable[..., Awaitable[Client]]
"""Starts a simulator with the settings given by name."""
