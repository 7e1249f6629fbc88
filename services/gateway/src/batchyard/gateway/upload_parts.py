"""Parts of an upload on their way in: from the first byte of a form to a part with an ID."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.requests import Request

from batchyard.common.contracts.uploads import AddPart, OpenPart, PartPlace, UploadPart
from batchyard.common.errors import InvalidRequest, PayloadTooLarge
from batchyard.common.objects import ObjectTooLarge
from batchyard.gateway.bodies import body_chunks, check_encoding, declared_length
from batchyard.gateway.caller import Caller
from batchyard.gateway.deposit import Deposit
from batchyard.gateway.line_count import LineCount
from batchyard.gateway.multipart import Events, boundary_of, decode_form, part_data, parts_of, read_field
from batchyard.gateway.settings import FORM_OVERHEAD_BYTES, GatewaySettings
from batchyard.gateway.validation import missing


async def take_part(request: Request, caller: Caller, upload_id: str) -> UploadPart:
    """Store the `data` in a request's form, and claim it as a part.

    Raises:
        InvalidRequest, PayloadTooLarge, RequestTimeout: The form is at fault; nothing is left in the store.
        ApiError: What file-store answered.
        ClientDisconnect: The client is gone; nothing is left in the store.
    """
    settings = caller.gateway.settings
    check_encoding(request)
    boundary = boundary_of(request.headers.get("content-type"))
    place = await caller.call(OpenPart(upload_id=upload_id))
    if (declared_length(request) or 0) > place.max_bytes + FORM_OVERHEAD_BYTES:
        raise _too_large(place)
    deposit = Deposit(caller, place.object_key)
    try:
        async with (
            aclosing(body_chunks(request, settings.read_timeout)) as body,
            aclosing(decode_form(body, boundary)) as events,
        ):
            newlines = await _store_data(events, deposit, place, settings)
    except BaseException:
        await deposit.take_back()
        raise
    return await deposit.claim(AddPart(upload_id=upload_id, object_key=place.object_key, newlines=newlines))


async def _store_data(events: Events, deposit: Deposit, place: PartPlace, settings: GatewaySettings) -> int:
    """Store the part; how many newlines it holds."""
    counted, is_stored = LineCount(), False
    async for part in parts_of(events, settings.max_form_fields):
        if part.name != "data":
            await read_field(part.name, events, settings.max_form_field_bytes)
            continue
        if is_stored:
            raise InvalidRequest("The form has more than one 'data'; exactly one is needed.", param="data")
        try:
            await deposit.put(_counted(part_data(events), counted), max_bytes=place.max_bytes)
        except ObjectTooLarge as error:
            raise _too_large(place) from error
        is_stored = True
    if not is_stored:
        raise missing("data")
    return counted.newlines


async def _counted(chunks: AsyncGenerator[bytes, None], counted: LineCount) -> AsyncGenerator[bytes, None]:
    async for chunk in chunks:
        counted.feed(chunk)
        yield chunk


def _too_large(place: PartPlace) -> PayloadTooLarge:
    return PayloadTooLarge(f"The part is too large: at most {place.max_bytes} bytes are accepted.", param="data")
