"""Uploads: from the first byte of a form to a file with an ID, never holding more than a few chunks."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from starlette.requests import Request
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from batchyard.common.contracts.files import CreateFile, File, OpenUpload, Purpose
from batchyard.common.errors import ApiError, InternalError, InvalidRequest, PayloadTooLarge, ServiceUnavailable
from batchyard.common.logs import get_logger
from batchyard.common.objects import ObjectStore, ObjectStoreError, ObjectTooLarge
from batchyard.gateway.bodies import body_chunks, declared_length
from batchyard.gateway.caller import Caller
from batchyard.gateway.first_line import FirstLine
from batchyard.gateway.model_choice import choose_model
from batchyard.gateway.multipart import Event, PartBegan, PartData, PartEnded, boundary_of, decode_form
from batchyard.gateway.settings import MIB, GatewaySettings
from batchyard.gateway.upload_form import UploadForm
from batchyard.gateway.validation import missing

_MAX_FILENAME_CHARACTERS = 1024
_FORM_OVERHEAD_BYTES = MIB
_CLAIM_ATTEMPTS = 3
_log = get_logger(__name__)

Events = AsyncGenerator[Event, None]


async def upload_file(request: Request, caller: Caller) -> File:
    """Store the file in a request's form, and claim it.

    The place is opened first, so that a missing file-store is told before a large body was sent for nothing.

    Raises:
        InvalidRequest, PayloadTooLarge, RequestTimeout: The form is at fault; nothing is left in the store.
        ApiError: What file-store answered.
        ClientDisconnect: The client is gone; nothing is left in the store.
    """
    settings = caller.gateway.settings
    boundary = boundary_of(request.headers.get("content-type"))
    if (declared_length(request) or 0) > settings.max_file_bytes + _FORM_OVERHEAD_BYTES:
        raise _too_large()
    place = await caller.call(OpenUpload())
    intake = _Intake(caller.gateway.objects, place.object_key, settings)
    try:
        async with (
            aclosing(body_chunks(request, settings.read_timeout)) as body,
            aclosing(decode_form(body, boundary)) as events,
        ):
            await intake.read(events)
        claim = intake.claim(request)
    except BaseException:
        await intake.discard()
        raise
    return await _claim(caller, intake, claim)


async def _claim(caller: Caller, intake: "_Intake", claim: CreateFile) -> File:
    # Claiming is idempotent: a second try may answer what a first one did, whose reply was lost.
    attempts = AsyncRetrying(
        retry=retry_if_exception_type(ServiceUnavailable),
        wait=wait_exponential_jitter(multiplier=0.1, max=1),
        stop=stop_after_attempt(_CLAIM_ATTEMPTS),
        reraise=True,
    )
    try:
        return await attempts(caller.call, claim)
    except (ServiceUnavailable, InternalError):
        raise  # the claim may have been made: only the sweep can tell whether the bytes are a file's
    except ApiError:
        await intake.discard()
        raise


@dataclass(frozen=True, slots=True)
class _StoredFile:
    name: str
    size: int
    first_line: FirstLine


class _Intake:
    """One form being read: fields are kept, the file goes to the store as it comes."""

    def __init__(self, objects: ObjectStore, object_key: str, settings: GatewaySettings) -> None:
        self._objects = objects
        self._object_key = object_key
        self._settings = settings
        self._form = UploadForm()
        self._parts = 0
        self._file: _StoredFile | None = None

    async def read(self, events: Events) -> None:
        """Read the whole form. Raises InvalidRequest as soon as it can be known that it will be refused."""
        async for event in events:
            if not isinstance(event, PartBegan):
                continue
            self._parts += 1
            if self._parts > self._settings.max_form_fields:
                raise InvalidRequest(f"The form has more than {self._settings.max_form_fields} fields.")
            if event.name == "file":
                self._file = await self._store(event, events)
            else:
                self._form.add(event.name, await self._read_field(event.name, events))

    def claim(self, request: Request) -> CreateFile:
        """The command that makes the stored bytes a file. Raises InvalidRequest or PayloadTooLarge."""
        if self._file is None:
            raise missing("file")
        purpose = self._form.purpose
        if purpose is Purpose.BATCH:
            _check_batch_name(self._file.name)
            self._file.first_line.check()
        if self._file.size > self._max_bytes:
            raise _too_large()
        return CreateFile(
            filename=self._file.name,
            purpose=purpose,
            object_key=self._object_key,
            model=choose_model(request, self._form.models, self._form.target_model_names),
            expires_after=self._form.expires_after,
        )

    async def discard(self) -> None:
        """Remove what was stored. If the store is away by now, file-store's sweep does it."""
        if self._file is None:
            return
        try:
            await self._objects.delete([self._object_key])
        except ObjectStoreError as error:
            _log.warning("upload.not_discarded", object_key=self._object_key, error=str(error))

    @property
    def _max_bytes(self) -> int:
        if self._form.known_purpose is Purpose.BATCH:
            return min(self._settings.max_batch_file_bytes, self._settings.max_file_bytes)
        return self._settings.max_file_bytes

    async def _store(self, part: PartBegan, events: Events) -> _StoredFile:
        if self._file is not None:
            raise InvalidRequest("The form has more than one file; exactly one is needed.", param="file")
        if not part.filename:
            raise InvalidRequest("'file' must be a file, with a filename.", param="file")
        if len(part.filename) > _MAX_FILENAME_CHARACTERS:
            raise InvalidRequest(f"A filename has at most {_MAX_FILENAME_CHARACTERS} characters.", param="file")
        if self._form.known_purpose is Purpose.BATCH:
            _check_batch_name(part.filename)
        first_line = FirstLine(self._settings.max_first_line_bytes)
        try:
            stored = await self._objects.put(
                self._object_key, self._file_bytes(events, first_line), max_bytes=self._max_bytes
            )
        except ObjectTooLarge as error:
            raise _too_large() from error
        return _StoredFile(part.filename, stored.size, first_line)

    async def _file_bytes(self, events: Events, first_line: FirstLine) -> AsyncGenerator[bytes, None]:
        is_for_batch = self._form.known_purpose is Purpose.BATCH
        async for event in events:
            if not isinstance(event, PartData):
                break
            first_line.feed(event.data)
            if is_for_batch:
                first_line.check()
            yield event.data
        first_line.end()
        if is_for_batch:
            first_line.check()

    async def _read_field(self, name: str, events: Events) -> bytes:
        value = bytearray()
        async for event in events:
            if isinstance(event, PartEnded):
                break
            if isinstance(event, PartData):
                value += event.data
            if len(value) > self._settings.max_form_field_bytes:
                raise InvalidRequest(
                    f"A form field has more than {self._settings.max_form_field_bytes} bytes.", param=name[:64]
                )
        return bytes(value)


def _check_batch_name(filename: str) -> None:
    if not filename.lower().endswith(".jsonl"):
        raise InvalidRequest(
            f"Invalid file format for Batch API: '{filename}'. Must be .jsonl.", param="file", code="invalid_value"
        )


def _too_large() -> PayloadTooLarge:
    return PayloadTooLarge("File is too large.", param="file")
