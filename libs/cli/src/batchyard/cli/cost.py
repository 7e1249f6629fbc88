"""`batchyard cost` and `batchyard billing correct`: what batches cost, and putting it right, over the HTTP API."""

import sys
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from rich.table import Table
from rich.text import Text

from batchyard.cli import console
from batchyard.cli.api import Api
from batchyard.common.contracts.billing import SpendGroup, SpendReport

_PAGE = 100


@dataclass(frozen=True, slots=True)
class CostOptions:
    """What is asked for: `query` are parameters of `/global/spend/report` or, for single batches, `/spend/logs`."""

    url: str
    key: str | None
    query: dict[str, Any]
    batches: bool = False
    as_csv: bool = False


@dataclass(frozen=True, slots=True)
class Correction:
    """An amount to be added to what a team was charged."""

    team: str
    amount: str
    reason: str
    author: str
    batch_id: str | None


async def cost(options: CostOptions) -> None:
    """Print what was spent."""
    async with Api(options.url, options.key or "") as api:
        path = "/spend/logs" if options.batches else "/global/spend/report"
        if options.as_csv:
            async for chunk in api.stream(path, {**options.query, "format": "csv"}):
                sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
        elif options.batches:
            await _show_batches(api, options.query)
        else:
            await _show_report(api, options.query)


async def correct(url: str, key: str | None, correction: Correction) -> None:
    """Send a correction, and say what became of it."""
    body = {
        "team_id": correction.team,
        "amount": correction.amount,
        "reason": correction.reason,
        "author": correction.author,
        **({} if correction.batch_id is None else {"batch_id": correction.batch_id}),
    }
    async with Api(url, key or "") as api:
        line = await api.adjust(body)
    console.out.print(
        Text(f"{line.id}: {_amount(line.cost)} {line.currency} for team {console.printable(line.tenant)}")
    )


async def _show_report(api: Api, query: dict[str, Any]) -> None:
    number, report = 1, await api.report({**query, "limit": _PAGE})
    table = Table(*_titles(report), title=f"Spend in {report.currency}", title_justify="left")
    while True:
        for group in report.data:
            table.add_row(_label(group), *_numbers(group))
        if not report.has_more:
            break
        number += 1
        report = await api.report({**query, "limit": _PAGE, "page": number})
    table.add_section()
    table.add_row(Text("total"), *_numbers(report.total))
    console.out.print(table)


async def _show_batches(api: Api, query: dict[str, Any]) -> None:
    page = await api.logs({**query, "limit": _PAGE})
    table = Table("batch", "team", "key", "model", "status", "cost", title="The latest entries", title_justify="left")
    for line in page.data:
        named = (line.batch_id or line.id, line.tenant, line.key_alias, line.model, line.status or line.kind)
        table.add_row(*(Text(console.printable(name or "")) for name in named), f"{_amount(line.cost)} {line.currency}")
    console.out.print(table)
    if page.has_more:
        console.notice(f"These are the latest {len(page.data)}; --csv prints all.")


def _titles(report: SpendReport) -> tuple[str, ...]:
    return (report.group_by, "batches", "requests", "input tokens", "cached", "output tokens", "server time", "cost")


def _label(group: SpendGroup) -> Text:
    return Text("(none)", style="dim") if group.group is None else Text(console.printable(group.group))


def _numbers(group: SpendGroup) -> tuple[str, ...]:
    counts = (group.batches, group.requests, group.input_tokens, group.cached_tokens, group.output_tokens)
    return (*(f"{count:,}" for count in counts), f"{group.busy_seconds:,.1f} s", _amount(group.cost))


def _amount(amount: Decimal) -> str:
    """With at least two digits after the point, and none that is not there."""
    text = f"{amount.normalize():f}"
    whole, _, part = text.partition(".")
    return f"{whole}.{part.ljust(2, '0')}"
