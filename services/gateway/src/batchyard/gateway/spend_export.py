"""Spend as CSV: a page at a time from billing to the client, however many there are.

A spreadsheet takes a cell that begins with `=`, `+`, `-` or `@` for a formula, and names come from whoever made a
batch: such a text gets an apostrophe before it, which spreadsheets do not show. Numbers stay as they are.
"""

import csv
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import StreamingResponse

from batchyard.common.contracts.billing import LedgerLine, LedgerPage, SpendGroup, SpendReport

MEDIA_TYPE = "text/csv"
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")

Cell = str | int | None
P = TypeVar("P", LedgerPage, SpendReport)
NextPage = Callable[[P | None], Awaitable[P]]
"""The page that follows one; the first one after None."""

_LOG_COLUMNS = (
    *("id", "kind", "batch_id", "team", "key_id", "key_alias", "model", "endpoint", "status", "finished_at"),
    *("requests", "completed", "failed", "input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens"),
    *("busy_seconds", "cost", "currency", "price_version", "recorded_at", "metadata", "reason", "author"),
)
_SUM_COLUMNS = ("batches", "requests", "input_tokens", "cached_tokens", "output_tokens", "busy_seconds", "cost")


def wants_csv(request: Request, wanted: str | None) -> bool:
    """Whether the client asks for CSV: by `format`, or by `Accept` alone."""
    if wanted is not None:
        return wanted == "csv"
    return request.headers.get("accept", "").partition(";")[0].strip() == MEDIA_TYPE


async def logs_as_csv(next_page: NextPage[LedgerPage]) -> StreamingResponse:
    """All entries from the first page on. The first page is there before the answer begins, so that what is wrong with
    the question is an answer of its own."""
    first = await next_page(None)
    return _response(_rows(_LOG_COLUMNS, first, next_page, lambda page: map(_line_cells, page.data)), "spend-logs.csv")


async def report_as_csv(next_page: NextPage[SpendReport]) -> StreamingResponse:
    """All groups from the first page on."""
    first = await next_page(None)
    columns = (first.group_by, *(("key_id",) if first.group_by == "key" else ()), *_SUM_COLUMNS, "currency")
    return _response(
        _rows(columns, first, next_page, lambda page: (_group_cells(group, page) for group in page.data)),
        "spend-report.csv",
    )


def text_cell(value: str | None) -> str:
    """A text that no spreadsheet takes for a formula."""
    if value is None:
        return ""
    return f"'{value}" if value.startswith(_FORMULA) else value


async def _rows(
    columns: Sequence[str], page: P, next_page: NextPage[P], cells: Callable[[P], Iterable[Sequence[Cell]]]
) -> AsyncIterator[bytes]:
    yield _written([[text_cell(column) for column in columns]])
    while True:
        yield _written(cells(page))
        if not page.has_more:
            return
        page = await next_page(page)


def _written(rows: Iterable[Sequence[Cell]]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer).writerows(rows)
    return buffer.getvalue().encode()


def _response(rows: AsyncIterator[bytes], name: str) -> StreamingResponse:
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(rows, media_type=f"{MEDIA_TYPE}; charset=utf-8", headers=headers)


def _line_cells(line: LedgerLine) -> list[Cell]:
    usage, counts = line.usage, line.request_counts
    return [
        *map(text_cell, (line.id, line.kind, line.batch_id, line.tenant, line.key_id, line.key_alias, line.model)),
        *map(text_cell, (line.endpoint, line.status)),
        _moment(line.finished_at),
        *(counts.total, counts.completed, counts.failed),
        *(usage.input_tokens, usage.input_tokens_details.cached_tokens),
        *(usage.output_tokens, usage.output_tokens_details.reasoning_tokens),
        *(f"{line.busy_seconds:f}", f"{line.cost:f}", text_cell(line.currency), text_cell(line.price_version)),
        _moment(line.recorded_at),
        "" if line.metadata is None else json.dumps(line.metadata, ensure_ascii=False),
        *map(text_cell, (line.reason, line.author)),
    ]


def _group_cells(group: SpendGroup, report: SpendReport) -> list[Cell]:
    return [
        text_cell(group.group),
        *([text_cell(group.key_id)] if report.group_by == "key" else []),
        *(group.batches, group.requests, group.input_tokens, group.cached_tokens, group.output_tokens),
        *(f"{group.busy_seconds:f}", f"{group.cost:f}", text_cell(report.currency)),
    ]


def _moment(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).isoformat().replace("+00:00", "Z")
