"""The few calls to Batchyard's HTTP API that the commands make, as any client would."""

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import httpx

from batchyard.cli.failures import Failure
from batchyard.common.contracts.batches import Batch, BatchValidation
from batchyard.common.contracts.billing import LedgerLine, LedgerPage, SpendReport
from batchyard.common.contracts.files import File

_TIMEOUT = httpx.Timeout(10.0, read=60.0, write=60.0)
_VALIDATION_TIMEOUT = 600.0
_CONNECT_RETRIES = 4  # a gateway that died is back within seconds


class Api:
    """A client of one Batchyard on this machine.

    Args:
        url: The root; with /v1, as clients of OpenAI's API are told, it is the same.
        key: An API key.
    """

    def __init__(self, url: str, key: str) -> None:
        headers = {"authorization": f"Bearer {key}"}
        self._http = httpx.AsyncClient(
            base_url=url.rstrip("/").removesuffix("/v1"),
            headers=headers,
            timeout=_TIMEOUT,
            trust_env=False,  # loopback is never behind the proxy that the environment may name
            transport=httpx.AsyncHTTPTransport(retries=_CONNECT_RETRIES),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def upload(self, path: Path, name: str) -> File:
        """Upload a file of purpose `batch`."""
        with path.open("rb") as content:
            part = (name, content, "application/octet-stream")
            answer = await self._call("POST", "/v1/files", data={"purpose": "batch"}, files={"file": part})
        return File.model_validate_json(answer)

    async def create_batch(self, file_id: str, endpoint: str) -> Batch:
        wish = {"input_file_id": file_id, "endpoint": endpoint, "completion_window": "24h"}
        return Batch.model_validate_json(await self._call("POST", "/v1/batches", json=wish))

    async def validate(self, file_id: str, endpoint: str, model: str | None) -> BatchValidation:
        """What a batch over a file would come to; the answer takes as long as reading the file does."""
        wish = {"input_file_id": file_id, "endpoint": endpoint, "completion_window": "24h", "dry_run": True}
        timeout = httpx.Timeout(10.0, read=_VALIDATION_TIMEOUT)
        answer = await self._call(
            "POST", "/v1/batches", json=wish | ({"model": model} if model else {}), timeout=timeout
        )
        return BatchValidation.model_validate_json(answer)

    async def delete(self, file_id: str) -> None:
        await self._call("DELETE", f"/v1/files/{file_id}")

    async def batch(self, batch_id: str) -> Batch:
        return Batch.model_validate_json(await self._call("GET", f"/v1/batches/{batch_id}"))

    async def spend(self, batch_id: str) -> LedgerLine | None:
        """The ledger's line of a batch, or None while there is none."""
        answer = await self._call("GET", "/spend/logs", params={"batch_id": batch_id})
        page = LedgerPage.model_validate_json(answer)
        return page.data[0] if page.data else None

    async def logs(self, query: Mapping[str, Any]) -> LedgerPage:
        """A page of the ledger, newest first."""
        return LedgerPage.model_validate_json(await self._call("GET", "/spend/logs", params=query))

    async def report(self, query: Mapping[str, Any]) -> SpendReport:
        """A page of sums."""
        return SpendReport.model_validate_json(await self._call("GET", "/global/spend/report", params=query))

    async def adjust(self, body: Mapping[str, Any]) -> LedgerLine:
        """Correct what a team was charged."""
        headers = {"idempotency-key": uuid4().hex}
        return LedgerLine.model_validate_json(
            await self._call("POST", "/spend/adjustments", json=body, headers=headers)
        )

    async def stream(self, path: str, query: Mapping[str, Any]) -> AsyncIterator[bytes]:
        """The bytes of an answer, as they come."""
        with told("GET", path):
            async with self._http.stream("GET", path, params=query) as answer:
                if answer.is_error:
                    await answer.aread()
                    refuse_errors(answer)
                async for chunk in answer.aiter_bytes():
                    yield chunk

    async def download(self, file_id: str, target: Path) -> None:
        """Write a file's content to `target`."""
        path = f"/v1/files/{file_id}/content"
        with told("GET", path), target.open("wb") as file:
            async with self._http.stream("GET", path) as answer:
                if answer.is_error:
                    await answer.aread()
                    refuse_errors(answer)
                async for chunk in answer.aiter_bytes():
                    file.write(chunk)

    async def _call(self, method: str, path: str, **content: Any) -> bytes:
        with told(method, path):
            answer = await self._http.request(method, path, **content)
        refuse_errors(answer)
        return answer.content


@contextmanager
def told(method: str, path: str) -> Iterator[None]:
    """Raise Failure when the gateway does not answer."""
    try:
        yield
    except httpx.HTTPError as error:
        raise Failure(f"{method} {path}: the gateway does not answer ({type(error).__name__}).") from error


def refuse_errors(answer: httpx.Response) -> None:
    """Raise Failure for an answer that is an error, in its words."""
    if answer.is_error:
        raise Failure(f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {_message(answer)}")


def _message(answer: httpx.Response) -> str:
    try:
        body: Any = json.loads(answer.content)
        return str(body["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return answer.text[:200]
