"""The life of one inference request, from its arrival to its answer or its fault."""

import asyncio
import json
import time
from dataclasses import replace
from http import HTTPStatus
from itertools import count
from uuid import uuid4

from aiohttp import web

from batchyard.vllm_sim.delivery import hang, reset, send_body, send_stream
from batchyard.vllm_sim.engine import Engine, longest
from batchyard.vllm_sim.errors import (
    BadValueError,
    FaultError,
    RoutingError,
    SchemaError,
    SimError,
    UnhealthyError,
)
from batchyard.vllm_sim.faults import Fault, FaultKind, FaultSyntaxError
from batchyard.vllm_sim.fields import Body
from batchyard.vllm_sim.prompts import joined, prompt_digest
from batchyard.vllm_sim.replies import check_key, error_response, json_bytes
from batchyard.vllm_sim.request_log import ANSWERED, DISCONNECTED, PENDING, Record
from batchyard.vllm_sim.state import SimState
from batchyard.vllm_sim.work import Endpoint, Reply, Usage, Work

_id_start = uuid4().hex[:16]
_id_numbers = count(1)


class Inference:
    """The handler of one route.

    Args:
        route: its path, as the log shows it.
        endpoint: what makes work of a body.
    """

    def __init__(self, state: SimState, engine: Engine, route: str, endpoint: Endpoint) -> None:
        self._state = state
        self._settings = state.settings
        self._engine = engine
        self._route = route
        self._endpoint = endpoint

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer a request, whatever becomes of it, and keep its record."""
        log = self._state.log
        record = log.begin(self._route, request.headers.get("X-Request-Id"))
        try:
            return await self._serve(request, record)
        except SimError as error:
            log.finish(record, error.outcome, error.status)
            return error_response(error)
        except (asyncio.CancelledError, ConnectionError):
            if record.outcome == PENDING:
                log.finish(record, DISCONNECTED, None)
                self._state.counters.finished["abort"] += 1
            raise

    async def _serve(self, request: web.Request, record: Record) -> web.StreamResponse:
        check_key(request, self._settings)
        if not self._state.healthy:
            raise UnhealthyError
        work = self._endpoint(await _read(request), self._settings)
        prompt = joined(work.prompts)
        record.model = work.model
        record.digest = prompt_digest(prompt)
        fault = self._fault(prompt, record.digest)
        if fault is not None and fault.status is not None:
            await asyncio.sleep(fault.delay)
            raise FaultError(fault, fault.status)
        if work.priority and self._settings.refuse_priority and self._settings.scheduling_policy != "priority":
            raise BadValueError(f"Got priority {work.priority} but Priority scheduling is not enabled.", "priority")
        if fault is not None and fault.kind is FaultKind.ABORT:
            work = _aborted(work, fault)
        await self._state.capacity.acquire(work.priority)
        try:
            return await self._run(request, record, work, fault)
        finally:
            self._state.capacity.release()

    def _fault(self, prompt: str, digest: str) -> Fault | None:
        try:
            return self._state.faults.decide(prompt, digest)
        except FaultSyntaxError as error:
            raise BadValueError(str(error)) from None

    async def _run(self, request: web.Request, record: Record, work: Work, fault: Fault | None) -> web.StreamResponse:
        engine = self._engine
        usage = engine.start(work)
        try:
            seconds = engine.prefill_seconds(usage, fault)
            if work.chunks is None:
                seconds += engine.decode_seconds(work)
            if seconds:
                await asyncio.sleep(seconds)
            if fault is not None and fault.kind in {FaultKind.HANG, FaultKind.RESET}:
                return await self._vanish(request, record, fault)
            return await self._answer(request, record, work, usage, fault)
        finally:
            engine.leave(usage)

    async def _vanish(self, request: web.Request, record: Record, fault: Fault) -> web.StreamResponse:
        try:
            if fault.kind is FaultKind.HANG:
                await hang()
            return reset(request)
        finally:
            self._state.log.finish(record, fault.outcome, None)

    async def _answer(
        self, request: web.Request, record: Record, work: Work, usage: Usage, fault: Fault | None
    ) -> web.StreamResponse:
        request_id = record.request_id or f"{_id_start}{next(_id_numbers):016x}"
        reply = Reply(work.id_prefix + request_id, int(time.time()), work.model, usage, work.generations)
        headers = {"X-Request-Id": request_id} if self._settings.enable_request_id_headers else {}
        kind = None if fault is None else fault.kind
        outcome = ANSWERED if fault is None else fault.outcome
        status = None if kind is FaultKind.TRUNCATE else 200
        if work.chunks is None:
            body = json_bytes(work.compose(reply))
            self._engine.finish(work, usage)
            self._state.log.finish(record, outcome, status)
            return await send_body(request, body, headers, kind)
        response = await send_stream(
            request,
            work.chunks(reply),
            headers,
            kind,
            step_seconds=self._settings.token_latency,
            step_count=longest(work),
        )
        self._engine.finish(work, usage)
        self._state.log.finish(record, outcome, status)
        return response


async def _read(request: web.Request) -> Body:
    content_type = request.headers.get("Content-Type", "")
    if content_type != "application/json" and content_type.partition(";")[0].lower() != "application/json":
        raise SchemaError("Unsupported Media Type: Only 'application/json' is allowed")
    try:
        body = json.loads(await request.read())
    except web.HTTPRequestEntityTooLarge:
        raise RoutingError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE) from None
    except (ValueError, RecursionError) as error:
        raise SchemaError(f"1 validation error:\n  {{'loc': ('body',), 'msg': 'JSON decode error: {error}'}}") from None
    if not isinstance(body, dict):
        raise SchemaError("1 validation error:\n  {'loc': ('body',), 'msg': 'Input should be a valid object'}")
    return body


def _aborted(work: Work, fault: Fault) -> Work:
    if not work.generations:
        raise FaultError(fault, 500)
    return replace(work, generations=[generation.aborted() for generation in work.generations])
