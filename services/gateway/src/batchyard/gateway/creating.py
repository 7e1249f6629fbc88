"""A new batch, from the body that asks for it to the answer; or only the check of one."""

import hashlib
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from batchyard.common.contracts.batches import Batch, BatchValidation, CreateBatch, ValidateBatch
from batchyard.common.contracts.files import ExpiresAfter, OpenPlace, Place
from batchyard.common.errors import ApiError, InternalError, InvalidRequest, PayloadTooLarge, ServiceUnavailable
from batchyard.common.ids import decode_id
from batchyard.common.inline_requests import request_lines
from batchyard.common.logs import get_logger
from batchyard.common.objects import ObjectStoreError
from batchyard.gateway.batch_request import BatchRequest, parse_batch_request
from batchyard.gateway.bodies import read_body
from batchyard.gateway.caller import Caller
from batchyard.gateway.model_choice import choose_model
from batchyard.gateway.once import call_once
from batchyard.gateway.retry_headers import idempotency_key, retries_of

_ANSWER_MARGIN = 5.0
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Order:
    """What a request asks for. `lines` are those that it brought along."""

    members: dict[str, Any]
    lines: bytes | None
    dry_run: bool


async def create_batch(request: Request, caller: Caller) -> Batch | BatchValidation:
    """Do what the body asks for.

    Raises:
        InvalidRequest, PayloadTooLarge, RequestTimeout: The request is at fault.
        ApiError: What the services answered.
    """
    key = idempotency_key(request)
    order = await _read(request, caller)
    place = None
    size: dict[str, int] = {}
    if order.lines is not None:
        place = await _put(caller, order.lines)
        digest = hashlib.sha256(order.lines).hexdigest()
        size = {"input_bytes": len(order.lines), "input_lines": order.lines.count(b"\n")}
        order = _Order({**order.members, "upload_key": place.object_key, "input_digest": digest}, None, order.dry_run)
    if order.dry_run:
        return await _validate(order, place, caller)
    command = CreateBatch(
        **order.members,
        **size,
        key_id=caller.identity.key_id,
        key_alias=caller.identity.key_alias,
        key_limits=caller.key_limits,
        idempotency_key=key,
    )
    return await _create(command, place, retries_of(request), caller)


async def _read(request: Request, caller: Caller) -> _Order:
    """The request, with its model chosen. A large body is taken apart in one of a few slots: it grows in memory."""
    settings = caller.gateway.settings
    limit = max(settings.max_body_bytes, settings.max_inline_body_bytes)
    body = await read_body(request, max_bytes=limit, read_timeout=settings.read_timeout)
    if len(body) <= settings.max_body_bytes:
        return _parsed(body, request, caller)
    async with caller.gateway.inline_slots:
        order = _parsed(body, request, caller)
    if order.lines is None:
        raise PayloadTooLarge(f"The request body is too large: at most {settings.max_body_bytes} bytes are accepted.")
    return order


def _parsed(body: bytes, request: Request, caller: Caller) -> _Order:
    wanted = parse_batch_request(body)
    expiry = wanted.output_expires_after
    members = {
        "input_file_id": wanted.input_file_id,
        "endpoint": wanted.endpoint,
        "completion_window": wanted.completion_window,
        "metadata": wanted.metadata,
        "output_expires_after": None if expiry is None else ExpiresAfter(seconds=expiry.seconds),
        "model": choose_model(request, [wanted.model] if wanted.model else []),
        "key_models": caller.key_models,
    }
    return _Order(members, _lines_of(wanted), bool(wanted.dry_run))


def _lines_of(wanted: BatchRequest) -> bytes | None:
    if wanted.requests is None:
        return None
    try:
        return request_lines(wanted.requests, wanted.endpoint)
    except ValueError as error:
        raise InvalidRequest(f"Invalid 'requests': {error}.", param="requests", code="invalid_value") from error


async def _put(caller: Caller, lines: bytes) -> Place:
    place = await caller.call(OpenPlace())
    await caller.gateway.objects.put(place.object_key, lines)
    return place


async def _validate(order: _Order, place: Place | None, caller: Caller) -> BatchValidation:
    patience = caller.gateway.settings.validation_timeout + _ANSWER_MARGIN  # the runner is to give up first
    try:
        return await caller.call(ValidateBatch(**order.members), patience)
    finally:
        await _discard(place, caller)


async def _create(command: CreateBatch, place: Place | None, retries: int | None, caller: Caller) -> Batch:
    try:
        batch = await call_once(command, retries, caller)
    except (ServiceUnavailable, InternalError):
        raise  # the batch may be there, and its lines with it
    except ApiError:
        await _discard(place, caller)
        raise
    if place is not None and decode_id(batch.input_file_id).raw != place.file_id:
        await _discard(place, caller)  # an earlier request has made the batch, from lines of its own
    return batch


async def _discard(place: Place | None, caller: Caller) -> None:
    """Remove lines that became no file. If the store is away by now, file-store's sweep does it."""
    if place is None:
        return
    try:
        await caller.gateway.objects.delete([place.object_key])
    except ObjectStoreError as error:
        _log.warning("inline.not_discarded", object_key=place.object_key, error=str(error))
