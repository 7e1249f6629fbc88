"""Uploads that are refused: in which words, and that nothing is left of them."""

import asyncio

import pytest
from unit.gateway.rig import (
    CHUNKED_UPLOAD_HEAD,
    LINE,
    UPLOAD_HEAD,
    Served,
    Start,
    chunk_of,
    error_of,
    form,
    raw_request,
    until,
)

from batchyard.common.contracts.files import CreateFile, OpenPlace, Place
from batchyard.common.errors import ApiError, InvalidRequest, ServiceUnavailable
from batchyard.common.messaging.commands import CommandRouter
from batchyard.common.object_keys import file_key
from batchyard.common.service import Messaging

FILE = ('name="file"; filename="in.jsonl"', LINE)
PURPOSE = ('name="purpose"', b"batch")
ANCHOR = ('name="expires_after[anchor]"', b"created_at")
PURPOSES = "['batch', 'assistants', 'fine-tune', 'vision', 'user_data', 'evals']"
NOT_JSON = (
    "Invalid file format for the Batch API: line {} is not valid JSON. Every line must be one JSON object (JSONL)."
)
EMPTY = "The input file is empty. Please ensure that the batch contains at least one request."
SECOND_FILE = "The form has more than one file; exactly one is needed."


WRONG_FORMS: list[tuple[list[tuple[str, bytes]], str, str | None, str | None]] = [
    ([FILE], "Missing required parameter: 'purpose'.", "purpose", "missing_required_parameter"),
    ([PURPOSE], "Missing required parameter: 'file'.", "file", "missing_required_parameter"),
    ([], "Missing required parameter: 'file'.", "file", "missing_required_parameter"),
    ([FILE, ('name="purpose"', b"x")], f"'x' is not one of {PURPOSES} - 'purpose'", "purpose", None),
    (
        [('name="purpose"', b"batch_output"), FILE],
        f"'batch_output' is not one of {PURPOSES} - 'purpose'",
        "purpose",
        None,
    ),
    ([PURPOSE, FILE, FILE], SECOND_FILE, "file", None),
    ([PURPOSE, ('name="file"', LINE)], "'file' must be a file, with a filename.", "file", None),
    ([PURPOSE, ('name="file"; filename=""', b"")], "'file' must be a file, with a filename.", "file", None),
    (
        [FILE, PURPOSE, ('name="purpose"', b"evals")],
        "'purpose' was given several times with different values.",
        "purpose",
        None,
    ),
    (
        [FILE, PURPOSE, ('name="model"', b"a"), ('name="model"', b"b")],
        "'model' was given several times with different values.",
        "model",
        None,
    ),
    (
        [FILE, PURPOSE, ('name="target_model_names"', b"a,b")],
        "'target_model_names' may name only one model for now.",
        "target_model_names",
        None,
    ),
    (
        [FILE, PURPOSE, ('name="model"', b"a"), ('name="target_model_names"', b"b")],
        "'model' and 'target_model_names' name different models.",
        "target_model_names",
        None,
    ),
    ([FILE, PURPOSE, ('name="model"', b"\xff")], "The form field 'model' is not valid UTF-8.", "model", None),
    (
        [FILE, PURPOSE, ANCHOR, ('name="expires_after[seconds]"', b"3599")],
        (
            "Invalid 'expires_after.seconds': integer below minimum value. "
            "Expected a value >= 3600, but got 3599 instead."
        ),
        "expires_after.seconds",
        "integer_below_min_value",
    ),
    (
        [FILE, PURPOSE, ANCHOR, ('name="expires_after[seconds]"', b"soon")],
        "Invalid type for 'expires_after.seconds': expected an integer, but got a string instead.",
        "expires_after.seconds",
        "invalid_type",
    ),
    (
        [FILE, PURPOSE, ANCHOR, ('name="expires_after[seconds]"', b"2592001")],
        (
            "Invalid 'expires_after.seconds': integer above maximum value. "
            "Expected a value <= 2592000, but got 2592001 instead."
        ),
        "expires_after.seconds",
        "integer_above_max_value",
    ),
    (
        [FILE, PURPOSE, ANCHOR, ('name="expires_after[seconds]"', b"3600.5")],
        "Invalid type for 'expires_after.seconds': expected an integer, but got a string instead.",
        "expires_after.seconds",
        "invalid_type",
    ),
    (
        [FILE, PURPOSE, ('name="expires_after[seconds]"', b"3600")],
        "Missing required parameter: 'expires_after.anchor'.",
        "expires_after.anchor",
        "missing_required_parameter",
    ),
    (
        [FILE, PURPOSE, ANCHOR],
        "Missing required parameter: 'expires_after.seconds'.",
        "expires_after.seconds",
        "missing_required_parameter",
    ),
    (
        [FILE, PURPOSE, ('name="expires_after[anchor]"', b"x"), ('name="expires_after[seconds]"', b"3600")],
        "Invalid value: 'x'. Supported values are: 'created_at'.",
        "expires_after.anchor",
        "invalid_value",
    ),
    ([(f'name="file"; filename="{"x" * 1025}"', LINE)], "A filename has at most 1024 characters.", "file", None),
    ([("filename=x", b"")], "A part of the form has no name in its Content-Disposition header.", None, None),
]
WRONG_FILES = [
    ("in.json", LINE, "Invalid file format for Batch API: 'in.json'. Must be .jsonl.", "invalid_value"),
    ("upload", LINE, "Invalid file format for Batch API: 'upload'. Must be .jsonl.", "invalid_value"),
    ("in.jsonl", b"", EMPTY, "empty_file"),
    ("in.jsonl", b"\xef\xbb\xbf\r\n \n", EMPTY, "empty_file"),
    ("in.jsonl", b"custom_id,method\n1,2\n", NOT_JSON.format(1), "invalid_json_line"),
    ("in.jsonl", b"\n\n{'a': 1}\n" + LINE, NOT_JSON.format(3), "invalid_json_line"),
    ("in.jsonl", b"[" * 100_000, NOT_JSON.format(1), "invalid_json_line"),
    ("in.jsonl", b"PK\x03\x04\xff\xff", NOT_JSON.format(1), "invalid_json_line"),
]
WRONG_CONTENT_TYPES = [
    ("application/json", "Invalid Content-Type header (application/json), expected 'multipart/form-data'."),
    ("", "Invalid Content-Type header (none), expected 'multipart/form-data'."),
    ("multipart/form-data", "The Content-Type header names no boundary"),
    (f"multipart/form-data; boundary={'b' * 300}", "The boundary in the Content-Type header is too long."),
    ("multipart/form-data; boundary=other", "The request body is not valid multipart/form-data"),
]


async def test_a_wrong_form_is_a_400_that_says_what_is_wrong(gateway: Served, subtests: pytest.Subtests) -> None:
    for parts, message, param, code in WRONG_FORMS:
        with subtests.test(message):
            response = await gateway.send_form(form(*parts))
            assert response.status_code == 400
            assert error_of(response) == {
                "message": message,
                "type": "invalid_request_error",
                "param": param,
                "code": code,
            }
            assert await gateway.keys() == []


@pytest.mark.parametrize("purpose_first", [True, False])
async def test_what_no_batch_could_run_is_refused(
    gateway: Served, purpose_first: bool, subtests: pytest.Subtests
) -> None:
    for name, content, message, code in WRONG_FILES:
        parts = [(f'name="file"; filename="{name}"', content), PURPOSE]
        with subtests.test(message):
            response = await gateway.send_form(form(*(reversed(parts) if purpose_first else parts)))
            assert response.status_code == 400
            assert error_of(response) == {
                "message": message,
                "type": "invalid_request_error",
                "param": "file",
                "code": code,
            }
            assert await gateway.keys() == []


async def test_a_wrong_content_type_is_a_400(gateway: Served, subtests: pytest.Subtests) -> None:
    for content_type, message in WRONG_CONTENT_TYPES:
        with subtests.test(message):
            response = await gateway.send_form(form(PURPOSE, FILE), **{"content-type": content_type})
            assert response.status_code == 400
            assert error_of(response)["message"].startswith(message)


async def test_a_truncated_form_is_a_400(gateway: Served, subtests: pytest.Subtests) -> None:
    for cut in (5, 30, 60, 150, 220):
        with subtests.test(cut=cut):
            response = await gateway.send_form(form(PURPOSE, FILE)[:-cut])
            assert response.status_code == 400
            assert error_of(response)["message"] == "The request body ended before the form was complete."
            assert await gateway.keys() == []


async def test_too_many_fields_are_refused(services: object, start: Start) -> None:
    gateway = await start(max_form_fields=5)
    response = await gateway.send_form(form(FILE, *[('name="x"', b"")] * 5, PURPOSE))
    assert error_of(response)["message"] == "The form has more than 5 fields."
    assert await gateway.keys() == []


async def test_a_large_field_is_refused(services: object, start: Start) -> None:
    gateway = await start(max_form_field_bytes=1000)
    response = await gateway.send_form(form(FILE, ('name="x"', b"x" * 1001), PURPOSE))
    assert error_of(response)["message"] == "A form field has more than 1000 bytes."
    assert error_of(response)["param"] == "x"
    assert await gateway.keys() == []


@pytest.mark.parametrize("purpose_first", [True, False])
async def test_a_file_too_large_for_a_batch_is_a_413(services: object, start: Start, purpose_first: bool) -> None:
    gateway = await start(max_batch_file_bytes=1000)
    parts = [PURPOSE, ('name="file"; filename="in.jsonl"', LINE.ljust(1001))]
    response = await gateway.send_form(form(*(parts if purpose_first else reversed(parts))))
    assert response.status_code == 413
    assert error_of(response)["message"] == "File is too large."
    assert await gateway.keys() == []


async def test_a_file_as_large_as_allowed_is_taken(services: object, start: Start) -> None:
    gateway = await start(max_batch_file_bytes=1000, max_file_bytes=2000)
    assert (await gateway.upload(LINE.ljust(1000))).status_code == 200
    assert (await gateway.upload(b"x" * 2000, purpose="evals")).status_code == 200


async def test_a_body_that_says_it_is_too_large_is_refused_unread(services: object, start: Start) -> None:
    gateway = await start(max_file_bytes=1000)
    head = UPLOAD_HEAD.replace("1000000", "9000000000")
    async with raw_request(gateway.port, head) as reader:
        assert (await reader.readline()).startswith(b"HTTP/1.1 413")


async def test_a_file_is_refused_while_it_streams(services: object, start: Start) -> None:
    gateway = await start(max_file_bytes=100_000)
    beginning = form(('name="file"; filename="x"', b"")).partition(b"\r\n--b0undary--")[0]
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        status = tasks.create_task(reader.readline())
        writer.write(CHUNKED_UPLOAD_HEAD + chunk_of(beginning))
        while not status.done():
            writer.write(chunk_of(b"x" * 50_000))
            await writer.drain()
            await asyncio.sleep(0)
    writer.close()
    await writer.wait_closed()
    assert status.result().startswith(b"HTTP/1.1 413")
    assert await gateway.keys() == []


async def test_a_body_that_stops_is_a_408(services: object, start: Start) -> None:
    gateway = await start(read_timeout=0.1)
    async with raw_request(gateway.port, UPLOAD_HEAD, form(PURPOSE, FILE)[:-30]) as reader:
        answer = await asyncio.wait_for(reader.read(), timeout=10)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"connection: close" in answer
    assert b'"code":"request_timeout"' in answer
    assert await gateway.keys() == []


async def test_a_client_that_goes_away_leaves_nothing(gateway: Served) -> None:
    beginning = form(PURPOSE, ('name="file"; filename="in.jsonl"', LINE * 20_000))[:-30]
    head = UPLOAD_HEAD.replace("1000000", "9000000")
    async with raw_request(gateway.port, head, beginning):
        await until(lambda: len(gateway.unpublished()) == 1)
    await until(lambda: gateway.unpublished() == [])
    assert await gateway.keys() == []


async def test_a_gateway_that_is_stopped_leaves_nothing(services: object, start: Start) -> None:
    gateway = await start(shutdown_timeout=0)
    beginning = form(PURPOSE, ('name="file"; filename="in.jsonl"', LINE * 20_000))[:-30]
    async with raw_request(gateway.port, UPLOAD_HEAD.replace("1000000", "9000000"), beginning):
        await until(lambda: len(gateway.unpublished()) == 1)
        await gateway.stop()
        assert gateway.unpublished() == []


async def test_without_file_store_the_body_is_not_read(start: Start) -> None:
    gateway = await start()
    async with asyncio.timeout(2), raw_request(gateway.port, UPLOAD_HEAD) as reader:
        answer = await reader.readuntil(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"retry-after: 2" in answer


class _FileStore:
    """A file-store whose claims end as a test wants them to."""

    def __init__(self, *claims: ApiError) -> None:
        self.claims = list(claims)
        self.claimed = 0

    async def open_place(self, tenant: str, command: OpenPlace) -> Place:
        return Place(object_key=file_key(tenant, "0" * 32), file_id="file-" + "0" * 32)

    async def create(self, tenant: str, command: CreateFile) -> object:
        self.claimed += 1
        raise self.claims.pop(0)

    async def answer(self, messaging: Messaging) -> "_FileStore":
        router = CommandRouter("file-store")
        router.on(OpenPlace, self.open_place)
        router.on(CreateFile, self.create)  # type: ignore[arg-type]
        messaging.broker.include_router(router)
        await messaging.broker.start()
        return self


async def test_bytes_whose_claim_is_refused_are_deleted(messaging: Messaging, start: Start) -> None:
    await _FileStore(InvalidRequest("no", param="purpose", code="why")).answer(messaging)
    gateway = await start()
    response = await gateway.upload()
    assert error_of(response) == {
        "message": "no",
        "type": "invalid_request_error",
        "param": "purpose",
        "code": "why",
    }
    assert await gateway.keys() == []


async def test_bytes_whose_claim_may_have_succeeded_are_kept(messaging: Messaging, start: Start) -> None:
    away = [ServiceUnavailable("away")] * 3
    file_store = await _FileStore(*away).answer(messaging)
    gateway = await start()
    response = await gateway.upload()
    assert response.status_code == 503
    assert file_store.claimed == 3
    assert len(await gateway.keys()) == 1


async def test_an_object_store_that_is_away_is_a_503(services: object, start: Start) -> None:
    gateway = await start(object_store="file:///proc/nowhere")
    response = await gateway.upload()
    assert response.status_code == 503
    assert error_of(response)["message"] == "The object store did not answer. Please retry shortly."
