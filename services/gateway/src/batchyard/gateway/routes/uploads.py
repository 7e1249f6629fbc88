"""Uploads, files that come in parts: https://platform.openai.com/docs/api-reference/uploads"""

from fastapi import APIRouter, Request

from batchyard.common.contracts.files import ExpiresAfter, Purpose
from batchyard.common.contracts.uploads import (
    CancelUpload,
    CompleteUpload,
    CreateUpload,
    GetUpload,
    Upload,
    UploadPart,
)
from batchyard.gateway.bodies import read_json
from batchyard.gateway.caller import TheCaller
from batchyard.gateway.completion import complete_upload as complete
from batchyard.gateway.intake import too_large
from batchyard.gateway.model_choice import choose_model
from batchyard.gateway.request_bodies import json_body, part_body
from batchyard.gateway.upload_parts import take_part
from batchyard.gateway.upload_request import (
    CompletionRequest,
    UploadRequest,
    parse_completion_request,
    parse_upload_request,
)

router = APIRouter(tags=["Uploads"])


@router.post("/uploads", openapi_extra=json_body(UploadRequest))
async def create_upload(request: Request, caller: TheCaller) -> Upload:
    """Announce a file that will come in parts. The upload expires after an hour."""
    wanted = parse_upload_request(await read_json(request, caller.gateway.settings))
    if wanted.kind is Purpose.BATCH and wanted.bytes > caller.gateway.settings.max_batch_file_bytes:
        raise too_large("bytes")
    model = choose_model(request, [wanted.model] if wanted.model else [])
    caller.check_model(model)
    expiry = wanted.expires_after
    return await caller.call(
        CreateUpload(
            filename=wanted.filename,
            purpose=wanted.kind,
            bytes=wanted.bytes,
            model=model,
            expires_after=None if expiry is None else ExpiresAfter(seconds=expiry.seconds),
        )
    )


@router.get("/uploads/{upload_id}")
async def get_upload(upload_id: str, caller: TheCaller) -> Upload:
    """One upload, with its file once it is completed. Not a part of OpenAI's API."""
    return await caller.call(GetUpload(upload_id=upload_id))


@router.post("/uploads/{upload_id}/parts", openapi_extra=part_body())
async def add_upload_part(upload_id: str, request: Request, caller: TheCaller) -> UploadPart:
    """Send a part. Parts may come at the same time and in any order."""
    return await take_part(request, caller, upload_id)


@router.post("/uploads/{upload_id}/complete", openapi_extra=json_body(CompletionRequest))
async def complete_upload(upload_id: str, request: Request, caller: TheCaller) -> Upload:
    """Join the parts into a file. The same request again has the same answer."""
    wanted = parse_completion_request(await read_json(request, caller.gateway.settings))
    model = choose_model(request)
    caller.check_model(model)
    return await complete(
        caller,
        CompleteUpload(upload_id=upload_id, part_ids=tuple(wanted.part_ids), md5=wanted.md5, model=model),
    )


@router.post("/uploads/{upload_id}/cancel")
async def cancel_upload(upload_id: str, caller: TheCaller) -> Upload:
    """End an upload without a file."""
    return await caller.call(CancelUpload(upload_id=upload_id))
