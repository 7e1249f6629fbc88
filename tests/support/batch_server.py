"""A server with OpenAI's Files and Batch API, over HTTP, which does with a batch what a test wants."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Answer = Callable[[Any], Any]
OVER = ("completed", "failed", "expired", "cancelled")


def answered(line: Any, status: int = 200, tokens: int = 3) -> Any:
    """A result line as such a server writes it: under an ID of its own, and under the request's custom_id."""
    usage = {"prompt_tokens": tokens, "completion_tokens": 1, "total_tokens": tokens + 1}
    body = {"said": line["body"]["messages"], "usage": usage} if status == 200 else {"error": {"message": "no"}}
    response = {"status_code": status, "request_id": f"req-{line['custom_id']}", "body": body}
    return {"id": "batch_req_theirs", "custom_id": line["custom_id"], "response": response, "error": None}


@dataclass
class BatchServer:
    """What the server has, and how it is to behave.

    Attributes:
        answer: The result line of a request line; None for a request that is never answered.
        reverse: Whether results come in the opposite of the input's order.
        ending: What batches end as.
        problems: What is wrong with the input of a batch that fails.
        full: Batches still to come for which there is no room.
        held: While true, batches stay in progress.
        outage: A status, and headers, that every request is answered with; None: the server is well.
        together: Where batches wait to be created until there are enough of them.
        cuts: Downloads that end half-way, still to come.
    """

    answer: Answer = answered
    reverse: bool = False
    ending: str = "completed"
    problems: list[Any] = field(default_factory=list)
    full: int = 0
    held: bool = False
    outage: tuple[int, dict[str, str]] | None = None
    together: asyncio.Barrier | None = None
    cuts: int = 0
    files: dict[str, tuple[Any, bytes]] = field(default_factory=dict)
    batches: dict[str, Any] = field(default_factory=dict)
    uploads: list[bytes] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    url: str = ""
    _numbers: Any = field(default_factory=itertools.count)

    def app(self) -> web.Application:
        app = web.Application(client_max_size=2**30, middlewares=[self._watch])
        app.router.add_post("/v1/files", self._upload)
        app.router.add_get("/v1/files", self._files)
        app.router.add_get("/v1/files/{id}/content", self._content)
        app.router.add_delete("/v1/files/{id}", self._delete)
        app.router.add_post("/v1/batches", self._create)
        app.router.add_get("/v1/batches", self._list)
        app.router.add_get("/v1/batches/{id}", self._get)
        app.router.add_post("/v1/batches/{id}/cancel", self._cancel)
        return app

    async def until(self, condition: Callable[["BatchServer"], bool], timeout: float = 20) -> None:
        async with asyncio.timeout(timeout):
            while not condition(self):
                await asyncio.sleep(0.01)

    @web.middleware
    async def _watch(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.asked.append(f"{request.method} {request.path}")
        if self.outage is not None:
            status, headers = self.outage
            return web.json_response({"error": {"message": "busy"}}, status=status, headers=headers)
        response: web.StreamResponse = await handler(request)
        return response

    async def _upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        assert form["purpose"] == "batch"
        upload = form["file"]
        assert isinstance(upload, web.FileField)
        content = upload.file.read()
        self.uploads.append(content)
        return web.json_response(self._store(content, upload.filename))

    async def _files(self, request: web.Request) -> web.Response:
        data = [document for document, _ in reversed(self.files.values())]
        return web.json_response({"object": "list", "data": data, "has_more": False})

    async def _content(self, request: web.Request) -> web.StreamResponse:
        if request.match_info["id"] not in self.files:
            return _missing()
        content = self.files[request.match_info["id"]][1]
        if not self.cuts:
            return web.Response(body=content)
        self.cuts -= 1
        response = web.StreamResponse(headers={"content-length": str(len(content))})
        await response.prepare(request)
        await response.write(content[: len(content) // 2])
        assert request.transport is not None
        request.transport.close()
        return response

    async def _delete(self, request: web.Request) -> web.Response:
        if self.files.pop(request.match_info["id"], None) is None:
            return _missing()
        self.deleted.append(request.match_info["id"])
        return web.json_response({"deleted": True})

    async def _create(self, request: web.Request) -> web.Response:
        self.headers.append(dict(request.headers))
        order = await request.json()
        if self.together is not None:
            await self.together.wait()
        if order["input_file_id"] not in self.files:
            return _missing()
        number = next(self._numbers)
        batch = {
            **order,
            "id": f"batch_{number}",
            "object": "batch",
            "status": "validating",
            "created_at": number,
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
            "errors": None,
        }
        self.batches[batch["id"]] = batch
        return web.json_response(batch)

    async def _list(self, request: web.Request) -> web.Response:
        """Two to a page, the newest first."""
        batches = list(reversed(self.batches.values()))
        after = request.query.get("after")
        begin = 1 + [batch["id"] for batch in batches].index(after) if after else 0
        page = batches[begin : begin + 2]
        return web.json_response({"object": "list", "data": page, "has_more": begin + 2 < len(batches)})

    async def _get(self, request: web.Request) -> web.Response:
        batch = self.batches.get(request.match_info["id"])
        if batch is None:
            return _missing()
        if batch["status"] == "cancelling":
            self._end(batch, "cancelled")
        elif batch["status"] not in OVER:
            batch["status"] = "in_progress"
            if not self.held:
                self._end(batch, self.ending)
        return web.json_response(batch)

    async def _cancel(self, request: web.Request) -> web.Response:
        batch = self.batches[request.match_info["id"]]
        if batch["status"] in OVER:
            return web.json_response({"error": {"message": "over"}}, status=409)
        batch["status"] = "cancelling"
        return web.json_response(batch)

    def _end(self, batch: Any, status: str) -> None:
        problems = self.problems
        if self.full:
            self.full -= 1
            problems = [{"code": "token_limit_exceeded", "message": "Enqueued token limit reached", "line": None}]
        batch["status"] = "failed" if problems else status
        if problems:
            batch["errors"] = {"object": "list", "data": problems}
            return
        requests = [json.loads(line) for line in self.files[batch["input_file_id"]][1].splitlines()]
        results = [result for line in requests if (result := self.answer(line)) is not None]
        results = results[::-1] if self.reverse else results
        good = [result for result in results if result["response"] and result["response"]["status_code"] == 200]
        bad = [result for result in results if result not in good]
        batch["request_counts"] = {"total": len(requests), "completed": len(good), "failed": len(bad)}
        for name, lines in (("output_file_id", good), ("error_file_id", bad)):
            if lines:
                content = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
                batch[name] = self._store(content, "results.jsonl")["id"]

    def _store(self, content: bytes, filename: str) -> Any:
        number = next(self._numbers)
        file = {"id": f"file-{number}", "object": "file", "created_at": number, "filename": filename}
        self.files[f"file-{number}"] = (file, content)
        return file


def _missing() -> web.Response:
    return web.json_response({"error": {"message": "No such object", "code": None}}, status=404)


@asynccontextmanager
async def listening(server: BatchServer, port: int = 0) -> AsyncIterator[BatchServer]:
    """The server on loopback while the context is open, on any free port or on one that it had before."""
    runner = web.AppRunner(server.app(), access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield server
    finally:
        await runner.cleanup()
