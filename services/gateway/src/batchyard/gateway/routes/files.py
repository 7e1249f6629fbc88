"""Files: https://platform.openai.com/docs/api-reference/files"""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response

from batchyard.common.contracts.files import (
    FILE_LIST_MAX,
    DeletedFile,
    DeleteFile,
    File,
    FilePage,
    GetFile,
    ListFiles,
    Purpose,
)
from batchyard.gateway.caller import TheCaller
from batchyard.gateway.document import refusals
from batchyard.gateway.downloads import download_file
from batchyard.gateway.file_form import parse_purpose
from batchyard.gateway.intake import take_file
from batchyard.gateway.request_bodies import file_body

router = APIRouter(tags=["Files"])

_TEXT = {"type": "string"}
_BYTES = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_ABOUT_CONTENT = {
    name: {"required": True, "schema": _TEXT}
    for name in ("accept-ranges", "content-disposition", "content-length", "etag")
}
_CONTENT: dict[int | str, dict[str, Any]] = {
    200: {"description": "The content", "content": _BYTES, "headers": _ABOUT_CONTENT},
    206: {
        "description": "The part of it that `Range` asked for",
        "content": _BYTES,
        "headers": {**_ABOUT_CONTENT, "content-range": {"required": True, "schema": _TEXT}},
    },
    304: {"description": "It is what `If-None-Match` names", "headers": {"etag": _ABOUT_CONTENT["etag"]}},
    **refusals(416),
}


@router.post("/files", openapi_extra=file_body())
async def create_file(request: Request, caller: TheCaller) -> File:
    """Upload a file. The bytes go to the object store while they arrive."""
    return await take_file(request, caller)


@router.get("/files")
async def list_files(
    caller: TheCaller,
    purpose: Annotated[
        str | None, Query(description="Only files of this purpose", json_schema_extra={"enum": [None, *Purpose]})
    ] = None,
    limit: Annotated[int, Query(ge=1, le=FILE_LIST_MAX)] = FILE_LIST_MAX,
    order: Annotated[Literal["asc", "desc"], Query(description="By creation")] = "desc",
    after: Annotated[str | None, Query(description="The ID after which the page begins")] = None,
) -> FilePage:
    """The files, newest first."""
    wanted = parse_purpose(purpose, tuple(Purpose)) if purpose else None
    return await caller.call(ListFiles(purpose=wanted, limit=limit, order=order, after=after or None))


@router.head("/files/{file_id}", include_in_schema=False)
@router.get("/files/{file_id}")
async def get_file(file_id: str, caller: TheCaller) -> File:
    """One file."""
    return await caller.call(GetFile(file_id=file_id))


@router.delete("/files/{file_id}")
async def delete_file(file_id: str, caller: TheCaller) -> DeletedFile:
    """Delete a file and its bytes. Sent again within 15 minutes it is answered as the first time."""
    return await caller.insist(DeleteFile(file_id=file_id))


@router.head("/files/{file_id}/content", include_in_schema=False)
@router.get("/files/{file_id}/content", response_class=Response, responses=_CONTENT)
async def get_file_content(file_id: str, request: Request, caller: TheCaller) -> Response:
    """The bytes of a file; `Range` and `If-None-Match` are honoured."""
    return await download_file(request, caller, file_id)
