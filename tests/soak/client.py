"""A client as the SDKs are: what fails for a moment is tried again; anything else is written down."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from soak.plan import ENDPOINT, PlannedBatch

_RETRIED = frozenset({408, 429})
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 1.0


class Refused(Exception):
    """An answer that trying again would not change."""

    def __init__(self, what: str, status: int, text: str) -> None:
        super().__init__(f"{what}: {status} {text[:300]}")
        self.status = status


@dataclass
class Client:
    """Speaks to the gateway.

    Attributes:
        retries: How often a request was sent again.
        surprises: Answers that no client should have got.
    """

    http: httpx.AsyncClient
    url: str
    retries: int = 0
    surprises: list[str] = field(default_factory=list)

    async def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """A 2xx answer, however long it takes; the caller sets the bound.

        Raises:
            Refused: The answer is a 4xx.
        """
        wait, sent = _FIRST_WAIT, 0
        headers = options.pop("headers", {})
        while True:
            said = {**headers, "x-stainless-retry-count": str(sent)}
            try:
                response = await self.http.request(method, f"{self.url}{path}", headers=said, **options)
            except httpx.TransportError:
                pass
            else:
                if response.status_code < 300:
                    return response
                if response.status_code < 500 and response.status_code not in _RETRIED:
                    raise Refused(f"{method} {path}", response.status_code, response.text)
            self.retries += 1
            sent += 1
            await asyncio.sleep(wait)
            wait = min(wait * 2, _LONGEST_WAIT)

    async def json(self, method: str, path: str, **options: Any) -> Any:
        return (await self.request(method, path, **options)).json()

    async def submit(self, batch: PlannedBatch) -> Any:
        """Upload the input and start the batch; a request that is sent again may make a second file."""
        headers = {"x-litellm-model": batch.model.name} if batch.names_model else {}
        file = await self.json(
            "POST",
            "/v1/files",
            data={"purpose": "batch"},
            files={"file": (f"soak-{batch.number}.jsonl", batch.content)},
            headers=headers,
        )
        return await self.json(
            "POST",
            "/v1/batches",
            json={
                "input_file_id": file["id"],
                "endpoint": ENDPOINT,
                "completion_window": "24h",
                "metadata": {"soak": str(batch.number)},
            },
        )

    async def batch(self, batch_id: str) -> Any:
        return await self.json("GET", f"/v1/batches/{batch_id}")

    async def cancel(self, batch_id: str) -> None:
        """Ask for a cancel; a batch that has ended in the meantime refuses it, rightly."""
        try:
            await self.request("POST", f"/v1/batches/{batch_id}/cancel")
        except Refused as refused:
            if refused.status != httpx.codes.CONFLICT:
                raise

    async def pages(self, path: str, limit: int) -> AsyncIterator[Any]:
        """Every object of a list."""
        after: dict[str, str] = {}
        while True:
            page = await self.json("GET", path, params={"limit": limit, **after})
            for entry in page["data"]:
                yield entry
            if not page.get("has_more") or not page["data"]:
                return
            last = page["data"][-1]
            after = {"after": last.get("batch_id") or last["id"]}

    async def lines(self, file_id: str | None) -> list[Any]:
        """The lines of a result file; none when there is no such file."""
        if file_id is None:
            return []
        content = (await self.request("GET", f"/v1/files/{file_id}/content")).content
        return [json.loads(line) for line in content.split(b"\n") if line]
