"""The Uploads API over HTTP: what is answered, what is refused and in which words."""

import asyncio
import hashlib
from typing import Any

import pytest
from unit.gateway.rig import FORM, KEY, LINE, Served, Start, chunk_of, error_of, form, raw_request, until

from batchyard.common.contracts.uploads import AddPart, CompleteUpload, OpenPart, PartPlace, Upload, UploadStatus
from batchyard.common.errors import ServiceUnavailable
from batchyard.common.ids import decode_id, new_raw_id
from batchyard.common.messaging.commands import CommandRouter
from batchyard.common.object_keys import part_key
from batchyard.common.service import Messaging

PURPOSES = "['batch', 'assistants', 'fine-tune', 'vision', 'user_data', 'evals']"
MISSING = "missing_required_parameter"
DATA = 'name="data"; filename="upload"'
MIB = 1 << 20


async def upload_of(gateway: Served, *contents: bytes, **more: Any) -> tuple[str, list[str]]:
    """An upload and its parts."""
    upload_id = (await gateway.announce(sum(map(len, contents)), **more)).json()["id"]
    return upload_id, [(await gateway.add_part(upload_id, content)).json()["id"] for content in contents]


@pytest.mark.parametrize("prefix", ["", "/v1"])
async def test_a_file_is_made_of_parts(gateway: Served, prefix: str) -> None:
    body = {"bytes": 6, "filename": "notes.txt", "mime_type": "text/plain", "purpose": "user_data"}
    upload = (await gateway.http.post(f"{prefix}/uploads", json=body)).json()
    assert set(upload) == {
        *("id", "object", "bytes", "created_at", "expires_at", "filename", "purpose", "status", "file")
    }
    assert (upload["object"], upload["status"], upload["file"]) == ("upload", "pending", None)
    assert upload["expires_at"] == upload["created_at"] + 3600
    url = f"{prefix}/uploads/{upload['id']}"
    parts = [(await gateway.http.post(f"{url}/parts", files={"data": content})).json() for content in (b"def", b"abc")]
    assert [(part["object"], part["upload_id"]) for part in parts] == [("upload.part", upload["id"])] * 2
    wanted = {"part_ids": [parts[1]["id"], parts[0]["id"]], "md5": hashlib.md5(b"abcdef").hexdigest()}
    done = (await gateway.http.post(f"{url}/complete", json=wanted)).json()
    assert (done["id"], done["status"], done["file"]["bytes"]) == (upload["id"], "completed", 6)
    assert (await gateway.http.get(f"{prefix}/files/{done['file']['id']}/content")).content == b"abcdef"
    assert (await gateway.http.get(url)).json() == done
    assert (await gateway.http.post(f"{url}/complete", json=wanted)).json() == done


async def test_an_upload_can_be_cancelled_twice(gateway: Served) -> None:
    upload_id, _ = await upload_of(gateway, b"abc")
    for _ in range(2):
        response = await gateway.http.post(f"/v1/uploads/{upload_id}/cancel")
        assert (response.status_code, response.json()["status"]) == (200, "cancelled")


MODEL_CHOICES: list[tuple[dict[str, Any], dict[str, str], dict[str, str], str | None]] = [
    ({}, {}, {}, None),
    ({}, {}, {"x-litellm-model": "header"}, "header"),
    ({}, {"model": "query"}, {"x-litellm-model": "header"}, "query"),
    ({"model": "body"}, {"model": "query"}, {"x-litellm-model": "header"}, "body"),
]


@pytest.mark.parametrize("late", [False, True], ids=["at creation", "at completion"])
async def test_the_model_asked_for_goes_into_the_files_id(
    gateway: Served, late: bool, subtests: pytest.Subtests
) -> None:
    for body, query, headers, model in MODEL_CHOICES:
        if late and body:
            continue
        with subtests.test(body=body, query=query, headers=headers):
            where: dict[str, Any] = {"params": query, "headers": headers}
            early, then = ({}, where) if late else (where, {})
            wanted = {"bytes": 1, "filename": "a", "mime_type": "x", "purpose": "evals", **body}
            upload_id = (await gateway.http.post("/v1/uploads", json=wanted, **early)).json()["id"]
            part_id = (await gateway.add_part(upload_id, b"x")).json()["id"]
            done = await gateway.http.post(
                f"/v1/uploads/{upload_id}/complete",
                json={"part_ids": [part_id]},
                **then,
            )
            assert decode_id(done.json()["file"]["id"]).model == model


WRONG_UPLOADS: list[tuple[dict[str, Any], int, str, str | None, str | None]] = [
    ({"bytes": ...}, 400, "Missing required parameter: 'bytes'.", "bytes", MISSING),
    ({"filename": ...}, 400, "Missing required parameter: 'filename'.", "filename", MISSING),
    ({"mime_type": ...}, 400, "Missing required parameter: 'mime_type'.", "mime_type", MISSING),
    ({"purpose": ...}, 400, "Missing required parameter: 'purpose'.", "purpose", MISSING),
    (
        {"bytes": 0},
        400,
        "Invalid 'bytes': integer below minimum value. Expected a value >= 1, but got 0 instead.",
        "bytes",
        "integer_below_min_value",
    ),
    (
        {"bytes": "many"},
        400,
        "Invalid type for 'bytes': expected an integer, but got a string instead.",
        "bytes",
        "invalid_type",
    ),
    (
        {"bytes": 8192 * MIB + 1},
        413,
        "File is too large: an upload has at most 8589934592 bytes.",
        "bytes",
        None,
    ),
    ({"bytes": 10**30}, 413, "File is too large: an upload has at most 8589934592 bytes.", "bytes", None),
    ({"bytes": 200 * MIB + 1, "purpose": "batch", "filename": "a.jsonl"}, 413, "File is too large.", "bytes", None),
    (
        {"purpose": "batch"},
        400,
        "Invalid file format for Batch API: 'notes.txt'. Must be .jsonl.",
        "filename",
        "invalid_value",
    ),
    ({"purpose": "batch_output"}, 400, f"'batch_output' is not one of {PURPOSES} - 'purpose'", "purpose", None),
    ({"filename": "../\r\n"}, 400, "'filename' must name a file.", "filename", "invalid_value"),
    (
        {"filename": "x" * 1025},
        400,
        (
            "Invalid 'filename': string too long. Expected a string with maximum length 1024, "
            "but got a string with length 1025 instead."
        ),
        "filename",
        "string_above_max_length",
    ),
    (
        {"expires_after": {"anchor": "created_at", "seconds": 2_592_001}},
        400,
        (
            "Invalid 'expires_after.seconds': integer above maximum value. "
            "Expected a value <= 2592000, but got 2592001 instead."
        ),
        "expires_after.seconds",
        "integer_above_max_value",
    ),
    (
        {"expires_after": {"seconds": 3600}},
        400,
        "Missing required parameter: 'expires_after.anchor'.",
        "expires_after.anchor",
        MISSING,
    ),
]


async def test_a_wrong_announcement_is_refused_in_openais_words(gateway: Served, subtests: pytest.Subtests) -> None:
    for wrong, status, message, param, code in WRONG_UPLOADS:
        with subtests.test(message):
            response = await gateway.announce(**({"size": 1} | wrong))
            assert response.status_code == status
            error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
            assert error_of(response) == error


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"\xff", b'{"filename": "\\ud800"}'])
async def test_a_body_that_is_no_object_is_a_400(gateway: Served, body: bytes) -> None:
    for path in ("/v1/uploads", f"/v1/uploads/{new_raw_id('upload')}/complete"):
        response = await gateway.http.post(path, content=body)
        assert response.status_code == 400
        assert error_of(response)["message"]


async def test_a_wrong_completion_is_refused(gateway: Served, subtests: pytest.Subtests) -> None:
    upload_id, (part_id,) = await upload_of(gateway, b"abc")
    _, (another,) = await upload_of(gateway, b"abc")
    wrong: list[tuple[dict[str, Any], str, str, str]] = [
        ({}, "Missing required parameter: 'part_ids'.", "part_ids", MISSING),
        (
            {"part_ids": []},
            "Invalid 'part_ids': empty array. Expected an array with minimum length 1, but got an empty array instead.",
            "part_ids",
            "empty_array",
        ),
        (
            {"part_ids": [part_id] * 10_001},
            (
                "Invalid 'part_ids': array too long. "
                "Expected an array with maximum length 10000, but got an array with length 10001 instead."
            ),
            "part_ids",
            "array_above_max_length",
        ),
        (
            {"part_ids": part_id},
            "Invalid type for 'part_ids': expected an array, but got a string instead.",
            "part_ids",
            "invalid_type",
        ),
        (
            {"part_ids": [part_id, 1]},
            "Invalid type for 'part_ids[1]': expected a string, but got an integer instead.",
            "part_ids[1]",
            "invalid_type",
        ),
        ({"part_ids": [part_id, "x"]}, "No such Part object: x", "part_ids[1]", "invalid_value"),
        ({"part_ids": [another]}, f"No such Part object: {another}", "part_ids[0]", "invalid_value"),
        ({"part_ids": [part_id, part_id]}, "A part was named twice.", "part_ids", "invalid_value"),
        (
            {"part_ids": [part_id], "md5": "rubbish"},
            "Invalid 'md5': expected 32 hexadecimal digits.",
            "md5",
            "invalid_value",
        ),
        (
            {"part_ids": [part_id], "md5": "0" * 32},
            f"The MD5 of the uploaded bytes is '{hashlib.md5(b'abc').hexdigest()}', not '{'0' * 32}'.",
            "md5",
            "md5_mismatch",
        ),
    ]
    for body, message, param, code in wrong:
        with subtests.test(message):
            response = await gateway.http.post(f"/v1/uploads/{upload_id}/complete", json=body)
            assert response.status_code == 400
            error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
            assert error_of(response) == error
    assert (await gateway.http.get(f"/v1/uploads/{upload_id}")).json()["status"] == "pending"


async def test_an_upload_that_never_was_is_a_404(gateway: Served, subtests: pytest.Subtests) -> None:
    for upload_id in (new_raw_id("upload"), "upload_x", "%2E%2E", "a%0Ab"):
        url = f"/v1/uploads/{upload_id}"
        responses = [
            await gateway.http.get(url),
            await gateway.add_part(upload_id, b"x"),
            await gateway.http.post(f"{url}/complete", json={"part_ids": [new_raw_id("part")]}),
            await gateway.http.post(f"{url}/cancel"),
        ]
        for response in responses:
            with subtests.test(upload_id=upload_id, path=response.request.url.path):
                assert response.status_code == 404
                assert error_of(response)["param"] == "id"
                assert error_of(response)["message"].startswith("No such Upload object: ")


async def test_a_part_may_be_a_plain_field_and_come_in_the_smallest_chunks(gateway: Served) -> None:
    upload_id, _ = await upload_of(gateway, b"abc")
    body = form(('name="other"', b"ignored"), ('name="data"', b"abc"), ('name="after"', b"ignored"))
    path = f"/v1/uploads/{upload_id}/parts"
    part = (await gateway.send_form(*(body[i : i + 1] for i in range(len(body))), path=path)).json()
    done = await gateway.http.post(f"/v1/uploads/{upload_id}/complete", json={"part_ids": [part["id"]]})
    assert done.json()["status"] == "completed"


WRONG_PARTS: list[tuple[list[tuple[str, bytes]], str, str | None, str | None]] = [
    ([], "Missing required parameter: 'data'.", "data", MISSING),
    ([('name="file"; filename="x"', b"abc")], "Missing required parameter: 'data'.", "data", MISSING),
    ([(DATA, b"")], "The part is empty.", "data", "empty_part"),
    ([(DATA, b"a"), (DATA, b"b")], "The form has more than one 'data'; exactly one is needed.", "data", None),
    ([("filename=x", b"")], "A part of the form has no name in its Content-Disposition header.", None, None),
    ([(DATA, b"a"), *[('name="x"', b"")] * 64], "The form has more than 64 fields.", None, None),
    ([(DATA, b"a"), ('name="x"', b"x" * 65_537)], "A form field has more than 65536 bytes.", "x", None),
]


async def test_a_wrong_part_is_refused_and_leaves_nothing(gateway: Served, subtests: pytest.Subtests) -> None:
    upload_id = (await gateway.announce(1)).json()["id"]
    path = f"/v1/uploads/{upload_id}/parts"
    for parts, message, param, code in WRONG_PARTS:
        with subtests.test(message):
            response = await gateway.send_form(form(*parts), path=path)
            assert response.status_code == 400
            error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
            assert error_of(response) == error
            assert await gateway.keys() == []
    for cut in (5, 30, 70):
        response = await gateway.send_form(form((DATA, b"abc"))[:-cut], path=path)
        assert error_of(response)["message"] == "The request body ended before the form was complete."
    response = await gateway.http.post(path, content=b"abc", headers={"content-type": "application/octet-stream"})
    assert error_of(response)["message"].startswith("Invalid Content-Type header (application/octet-stream)")
    assert await gateway.keys() == []


async def test_a_part_too_large_is_a_413(messaging: Messaging, start: Start) -> None:
    await _FileStore().answer(messaging)
    gateway = await start()
    response = await gateway.add_part("upload_1", b"x" * 1001)
    assert response.status_code == 413
    assert error_of(response) == {
        "message": "The part is too large: at most 1000 bytes are accepted.",
        "type": "invalid_request_error",
        "param": "data",
        "code": None,
    }
    assert await gateway.keys() == []


async def test_a_part_that_says_it_is_too_large_is_refused_unread(gateway: Served) -> None:
    upload_id = (await gateway.announce(1)).json()["id"]
    async with raw_request(gateway.port, head_of(upload_id, f"content-length: {70 * MIB}")) as reader:
        assert (await reader.readline()).startswith(b"HTTP/1.1 413")


def head_of(upload_id: str, length: str) -> str:
    return f"""POST /v1/uploads/{upload_id}/parts HTTP/1.1
host: gateway
authorization: Bearer {KEY}
content-type: {FORM}
{length}

"""


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_client_that_goes_away_leaves_no_part(gateway: Served, chunked: bool) -> None:
    upload_id = (await gateway.announce(1)).json()["id"]
    beginning = form((DATA, b"x" * 2 * MIB))[:-30]
    head = head_of(upload_id, "transfer-encoding: chunked" if chunked else "content-length: 9000000")
    async with raw_request(gateway.port, head, chunk_of(beginning) if chunked else beginning):
        await until(lambda: len(gateway.unpublished()) == 1)
    await until(lambda: gateway.unpublished() == [])
    assert await gateway.keys() == []


async def test_a_part_of_an_upload_that_ended_while_it_came_is_taken_back(gateway: Served) -> None:
    upload_id = (await gateway.announce(1)).json()["id"]
    body = form((DATA, b"x" * 2 * MIB))
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(head_of(upload_id, f"content-length: {len(body)}").replace("\n", "\r\n").encode() + body[:-10])
    await until(lambda: len(gateway.unpublished()) == 1)
    await gateway.http.post(f"/v1/uploads/{upload_id}/cancel")
    writer.write(body[-10:])
    assert (await asyncio.wait_for(reader.readline(), 10)).startswith(b"HTTP/1.1 400")
    writer.close()
    await writer.wait_closed()
    assert await gateway.keys() == []


class _FileStore:
    """A file-store whose uploads take as long as a test wants them to."""

    def __init__(self, *answers: UploadStatus | ServiceUnavailable) -> None:
        self.answers = list(answers)
        self.asked: list[CompleteUpload] = []

    async def open_part(self, tenant: str, command: OpenPart) -> PartPlace:
        key = part_key(tenant, "0" * 32, "1" * 32)
        return PartPlace(object_key=key, part_id="part_1", max_bytes=1000)

    async def add_part(self, tenant: str, command: AddPart) -> object:
        raise ServiceUnavailable("away")

    async def complete(self, tenant: str, command: CompleteUpload) -> Upload:
        self.asked.append(command)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, ServiceUnavailable):
            raise answer
        await asyncio.sleep(0.01)
        return Upload(id="upload_1", bytes=1, created_at=1, expires_at=2, filename="a", purpose="evals", status=answer)

    async def answer(self, messaging: Messaging) -> "_FileStore":
        router = CommandRouter("file-store")
        router.on(OpenPart, self.open_part)
        router.on(AddPart, self.add_part)  # type: ignore[arg-type]
        router.on(CompleteUpload, self.complete)
        messaging.broker.include_router(router)
        await messaging.broker.start()
        return self


async def test_a_completion_is_asked_for_until_it_is_done(messaging: Messaging, start: Start) -> None:
    pending = UploadStatus.PENDING
    lost = ServiceUnavailable("restarting")
    file_store = await _FileStore(pending, pending, lost, lost, pending, UploadStatus.COMPLETED).answer(messaging)
    gateway = await start(command_timeout=4)
    response = await gateway.http.post("/v1/uploads/upload_1/complete", json={"part_ids": [new_raw_id("part")]})
    assert response.json()["status"] == "completed"
    assert len(file_store.asked) == 6
    assert {command.wait for command in file_store.asked} == {2.0}


async def test_a_completion_that_takes_too_long_is_a_503(messaging: Messaging, start: Start) -> None:
    await _FileStore(UploadStatus.PENDING).answer(messaging)
    gateway = await start(completion_timeout=0.1)
    response = await gateway.http.post("/v1/uploads/upload_1/complete", json={"part_ids": [new_raw_id("part")]})
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")
    assert "still being joined" in error_of(response)["message"]


async def test_a_part_whose_claim_may_have_succeeded_is_kept(messaging: Messaging, start: Start) -> None:
    await _FileStore().answer(messaging)
    gateway = await start()
    assert (await gateway.add_part("upload_1", b"x")).status_code == 503
    assert len(await gateway.keys()) == 1


async def test_a_batch_input_is_refused_as_in_a_direct_upload(gateway: Served) -> None:
    for content, code in ((b"custom_id\n", "invalid_json_line"), (b"\n\n", "empty_file"), (LINE, None)):
        upload_id, part_ids = await upload_of(gateway, content, filename="in.jsonl", purpose="batch")
        response = await gateway.http.post(f"/v1/uploads/{upload_id}/complete", json={"part_ids": part_ids})
        if code is None:
            assert response.json()["file"]["purpose"] == "batch"
        else:
            direct = await gateway.upload(content)
            assert (response.status_code, error_of(response)) == (400, error_of(direct))
            assert error_of(response)["code"] == code
