"""A client as the SDKs are: what fails for a moment is tried again; anything else is raised or written down."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from soak.diary import Refused, Wish
from soak.plan import ENDPOINT, PlannedBatch

RETRY_COUNT = "x-stainless-retry-count"
_TIMEOUT = 408
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 1.0


@dataclass
class Client:
    """Speaks to the gateways, to one after the other as behind a load balancer.

    Attributes:
        urls: Of the gateways.
        secret: The key that it sends from now on.
        retries: How often a request was sent again.
        surprises: Answers that no client should have got.
    """

    http: httpx.AsyncClient
    urls: tuple[str, ...]
    secret: str
    retries: int = 0
    surprises: list[str] = field(default_factory=list)
    _turn: Iterator[str] = field(init=False)

    def __post_init__(self) -> None:
        self._turn = itertools.cycle(self.urls)

    async def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """A 2xx answer, however long it takes; the caller sets the bound.

        Raises:
            Refused: The answer is a 4xx.
        """
        wait, sent = _FIRST_WAIT, 0
        headers = options.pop("headers", {})
        while True:
            said = {"authorization": f"Bearer {self.secret}", **headers, RETRY_COUNT: str(sent)}
            try:
                response = await self.http.request(method, f"{next(self._turn)}{path}", headers=said, **options)
            except httpx.TransportError:
                pass
            else:
                if response.status_code < 300:
                    return response
                if response.status_code < 500 and response.status_code != _TIMEOUT:
                    raise refused(f"{method} {path}", response)
            self.retries += 1
            sent += 1
            await asyncio.sleep(wait)
            wait = min(wait * 2, _LONGEST_WAIT)

    async def json(self, method: str, path: str, **options: Any) -> Any:
        return (await self.request(method, path, **options)).json()

    async def upload(self, batch: PlannedBatch) -> Any:
        """Upload the input; a request that is sent again may make a second file."""
        return await self.json(
            "POST",
            "/v1/files",
            data={"purpose": "batch"},
            files={"file": (f"soak-{batch.number}.jsonl", batch.content)},
            headers={"x-litellm-model": batch.model.name} if batch.names_model else {},
        )

    async def create(self, wish: Wish) -> Any:
        """Start the batch, and note how often that was tried in vain. Raises Refused."""
        body = batch_request(str(wish.file_id), wish.planned.number)
        try:
            response = await self.request("POST", "/v1/batches", json=body)
        except Refused as refused:
            wish.unanswered += refused.tries
            raise
        wish.unanswered += int(response.request.headers[RETRY_COUNT])
        return response.json()

    async def batch(self, batch_id: str) -> Any:
        return await self.json("GET", f"/v1/batches/{batch_id}")

    async def cancel(self, batch_id: str) -> None:
        """Ask for a cancel; a batch that has ended in the meantime refuses it, rightly."""
        try:
            await self.request("POST", f"/v1/batches/{batch_id}/cancel")
        except Refused as refused:
            if refused.status != httpx.codes.CONFLICT:
                raise

    async def pages(self, path: str, limit: int, headers: dict[str, str] | None = None) -> AsyncIterator[Any]:
        """Every object of a list."""
        after: dict[str, str] = {}
        while True:
            page = await self.json("GET", path, params={"limit": limit, **after}, headers=headers or {})
            for entry in page["data"]:
                yield entry
            if not page.get("has_more") or not page["data"]:
                return
            after = {"after": page["data"][-1]["id"]}

    async def lines(self, file_id: str | None) -> list[Any]:
        """The lines of a result file; none when there is no such file."""
        if file_id is None:
            return []
        content = (await self.request("GET", f"/v1/files/{file_id}/content")).content
        return [json.loads(line) for line in content.split(b"\n") if line]


def batch_request(file_id: str, number: int) -> Any:
    """The body that makes a batch."""
    return {
        "input_file_id": file_id,
        "endpoint": ENDPOINT,
        "completion_window": "24h",
        "metadata": {"soak": str(number)},
    }


def refused(what: str, response: httpx.Response) -> Refused:
    """A 4xx as an exception."""
    try:
        error = response.json()["error"]
    except (ValueError, KeyError):
        error = {}
    after, tries = response.headers.get("retry-after"), int(response.request.headers[RETRY_COUNT])
    return Refused(what, response.status_code, response.text, error, after, tries)
