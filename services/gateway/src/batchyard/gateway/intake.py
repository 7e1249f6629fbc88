"""Files on their way in: from the first byte of a form to a file with an ID, never holding more than a few chunks."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from starlette.requests import Request

from batchyard.common.contracts.files import CreateFile, File, OpenPlace, Purpose
from batchyard.common.errors import InvalidRequest, PayloadTooLarge, QuotaExceeded
from batchyard.common.first_line import FirstLine
from batchyard.common.objects import ObjectTooLarge
from batchyard.common.refusals import STORAGE_REFUSALS
from batchyard.gateway.bodies import body_chunks, check_encoding, declared_length
from batchyard.gateway.caller import Caller
from batchyard.gateway.deposit import Deposit
from batchyard.gateway.file_form import FileForm
from batchyard.gateway.line_count import LineCount
from batchyard.gateway.model_choice import choose_model
from batchyard.gateway.multipart import Events, PartBegan, boundary_of, decode_form, part_data, parts_of, read_field
from batchyard.gateway.settings import FORM_OVERHEAD_BYTES, GatewaySettings
from batchyard.gateway.validation import missing

MAX_FILENAME_CHARACTERS = 1024


async def take_file(request: Request, caller: Caller) -> File:
    """Store the file in a request's form, and claim it.

    The place is opened first, so that a missing file-store is told before a large body was sent for nothing.

    Raises:
        InvalidRequest, PayloadTooLarge, RequestTimeout: The form is at fault; nothing is left in the store.
        PermissionDenied: The caller may not use the model.
        ApiError: What file-store answered.
        ClientDisconnect: The client is gone; nothing is left in the store.
    """
    settings = caller.gateway.settings
    check_encoding(request)
    boundary = boundary_of(request.headers.get("content-type"))
    if (declared_length(request) or 0) > settings.max_file_bytes + FORM_OVERHEAD_BYTES:
        raise too_large()
    caller.check_model(choose_model(request))
    place = await caller.call(OpenPlace())
    if place.room is not None and (declared_length(request) or 0) > place.room + FORM_OVERHEAD_BYTES:
        raise no_room(place.room)
    deposit = Deposit(caller, place.object_key)
    intake = _Intake(deposit, settings, place.room)
    try:
        async with (
            aclosing(body_chunks(request, settings.read_timeout)) as body,
            aclosing(decode_form(body, boundary)) as events,
        ):
            await intake.read(events)
        claim = intake.claim(request)
        caller.check_model(claim.model)
    except BaseException:
        await deposit.take_back()
        raise
    return await deposit.claim(claim)


@dataclass(frozen=True, slots=True)
class _StoredFile:
    name: str
    size: int
    first_line: FirstLine
    lines: int


class _Intake:
    """One form being read: fields are kept, the file goes to the store as it comes."""

    def __init__(self, deposit: Deposit, settings: GatewaySettings, room: int | None) -> None:
        self._deposit = deposit
        self._room = room
        self._settings = settings
        self._form = FileForm()
        self._file: _StoredFile | None = None

    async def read(self, events: Events) -> None:
        """Read the whole form. Raises InvalidRequest as soon as it can be known that it will be refused."""
        async for part in parts_of(events, self._settings.max_form_fields):
            if part.name == "file":
                self._file = await self._store(part, events)
            else:
                self._form.add(part.name, await read_field(part.name, events, self._settings.max_form_field_bytes))

    def claim(self, request: Request) -> CreateFile:
        """The command that makes the stored bytes a file. Raises InvalidRequest or PayloadTooLarge."""
        if self._file is None:
            raise missing("file")
        purpose = self._form.purpose
        if purpose is Purpose.BATCH:
            _check_batch_name(self._file.name)
            self._file.first_line.check()
        if self._file.size > max_bytes_of(purpose, self._settings):
            raise too_large()
        return CreateFile(
            filename=self._file.name,
            purpose=purpose,
            object_key=self._deposit.object_key,
            model=choose_model(request, self._form.models, self._form.target_model_names),
            expires_after=self._form.expires_after,
            lines=self._file.lines if purpose is Purpose.BATCH else None,
        )

    async def _store(self, part: PartBegan, events: Events) -> _StoredFile:
        if self._file is not None:
            raise InvalidRequest("The form has more than one file; exactly one is needed.", param="file")
        if not part.filename:
            raise InvalidRequest("'file' must be a file, with a filename.", param="file")
        if len(part.filename) > MAX_FILENAME_CHARACTERS:
            raise InvalidRequest(f"A filename has at most {MAX_FILENAME_CHARACTERS} characters.", param="file")
        purpose = self._form.known_purpose
        if purpose is Purpose.BATCH:
            _check_batch_name(part.filename)
        first_line, counted = FirstLine(self._settings.max_first_line_bytes), LineCount()
        most = max_bytes_of(purpose, self._settings)
        room = most if self._room is None else self._room
        try:
            stored = await self._deposit.put(self._file_bytes(events, first_line, counted), max_bytes=min(most, room))
        except ObjectTooLarge as error:
            raise (no_room(room) if room < most else too_large()) from error
        return _StoredFile(part.filename, stored.size, first_line, counted.lines)

    async def _file_bytes(
        self, events: Events, first_line: FirstLine, counted: LineCount
    ) -> AsyncGenerator[bytes, None]:
        is_for_batch = self._form.known_purpose is Purpose.BATCH
        async for data in part_data(events):
            first_line.feed(data)
            counted.feed(data)
            if is_for_batch:
                first_line.check()
            yield data
        first_line.end()
        if is_for_batch:
            first_line.check()


def max_bytes_of(purpose: Purpose | None, settings: GatewaySettings) -> int:
    """How large a file of a purpose may be; of none that is known yet, as large as any."""
    if purpose is Purpose.BATCH:
        return min(settings.max_batch_file_bytes, settings.max_file_bytes)
    return settings.max_file_bytes


def no_room(room: int) -> QuotaExceeded:
    """A refusal that file-store does not hear of."""
    STORAGE_REFUSALS.inc()
    return QuotaExceeded(
        f"Storage quota exceeded: the team has room for {room:,} more bytes. Please delete files that you no longer "
        "need, or ask for a higher limit.",
        param="file",
        code="storage_quota_exceeded",
        retry_after=3600,
    )


def too_large(param: str = "file") -> PayloadTooLarge:
    return PayloadTooLarge("File is too large.", param=param)


def _check_batch_name(filename: str) -> None:
    if not filename.lower().endswith(".jsonl"):
        raise InvalidRequest(
            f"Invalid file format for Batch API: '{filename}'. Must be .jsonl.", param="file", code="invalid_value"
        )
