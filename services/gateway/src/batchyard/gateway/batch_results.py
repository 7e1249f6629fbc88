"""The results of a batch as one file: its output and its error file, merged in the order of the input while read."""

from typing import Literal

from starlette.requests import Request
from starlette.responses import Response

from batchyard.common.contracts.batches import Batch, BatchStatus, GetBatch
from batchyard.common.contracts.files import Download, OpenDownload
from batchyard.common.errors import Conflict, NotFound
from batchyard.common.objects import ObjectNotFound, read_lines
from batchyard.common.result_lines import merged_results
from batchyard.gateway.caller import Caller
from batchyard.gateway.downloads import ContentResponse, content_disposition

MEDIA_TYPE = "application/x-ndjson"

Wanted = Literal["completed", "failed"]


async def stream_results(request: Request, caller: Caller, batch_id: str, wanted: Wanted | None) -> Response:
    """A line for each request of an ended batch; with `wanted` those alone that succeeded, or that did not.

    Raises:
        NotFound: There is no such batch, it never had results, or one of its files is gone.
        Conflict: It has not ended.
    """
    batch = await caller.call(GetBatch(batch_id=batch_id))
    check_has_results(batch)
    files = result_files(batch, wanted)
    downloads = [await _open(caller, batch, what, file_id) for what, file_id in files.items()]
    headers = {
        "content-disposition": content_disposition(f"{batch.id}_results.jsonl"),
        "content-length": str(sum(download.file.bytes for download in downloads)),
        "x-content-type-options": "nosniff",
    }
    if request.method == "HEAD":
        return Response(headers=headers, media_type=MEDIA_TYPE)
    chunks = merged_results([read_lines(caller.gateway.objects, download.object_key) for download in downloads])
    try:
        # Before the status line is sent, so that bytes that are gone are an error and not a broken download.
        first = await anext(chunks, b"")
    except ObjectNotFound as error:
        what = next(what for what, found in zip(files, downloads, strict=True) if found.object_key == error.key)
        raise _gone(batch, what, files[what]) from error
    return ContentResponse(first, chunks, 200, headers, MEDIA_TYPE)


def check_has_results(batch: Batch) -> None:
    """Raise Conflict for a batch that has no results yet, NotFound for one that never will."""
    if not batch.status.is_terminal:
        raise Conflict(
            f"The batch '{batch.id}' has the status '{batch.status}'. Its results can be read once it has ended."
        )
    if batch.status is BatchStatus.FAILED:
        raise NotFound(
            f"The batch '{batch.id}' has no results: its input was refused, for the reasons in 'errors'.", param="id"
        )
    if batch.output_file_id is None and batch.error_file_id is None:
        raise NotFound(f"The batch '{batch.id}' has no results: it was {batch.status} before it began.", param="id")


def result_files(batch: Batch, wanted: Wanted | None) -> dict[str, str]:
    """The IDs of the files that hold the lines asked for, by what they are; one that would be empty does not exist."""
    files = {"output": batch.output_file_id, "error": batch.error_file_id}
    if wanted is not None:
        del files["error" if wanted == "completed" else "output"]
    return {what: file_id for what, file_id in files.items() if file_id is not None}


async def _open(caller: Caller, batch: Batch, what: str, file_id: str) -> Download:
    try:
        return await caller.call(OpenDownload(file_id=file_id))
    except NotFound as error:
        raise _gone(batch, what, file_id) from error


def _gone(batch: Batch, what: str, file_id: str) -> NotFound:
    return NotFound(
        f"The {what} file '{file_id}' of batch '{batch.id}' was deleted or has expired.", param=f"{what}_file_id"
    )
