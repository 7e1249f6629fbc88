"""What the demo shows: progress while the batch runs, then answers, counts and cost."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from batchyard.cli import console
from batchyard.cli.requests_file import questions
from batchyard.common.contracts.batches import Batch
from batchyard.common.contracts.billing import LedgerLine

_SHOWN_ANSWERS = 3
_SHOWN_PROBLEMS = 5
_SHOWN_CHARACTERS = 90
_PLAIN_STEP = 0.05


class Watch:
    """Shows how far a batch has come: a bar on a terminal, a line every few percent elsewhere."""

    def __init__(self, progress: Progress | None, lines: int) -> None:
        self._progress = progress
        self._lines = lines
        self._task = TaskID(0)
        if progress is not None:
            self._task = progress.add_task("validating", total=None, failed=0, tokens=0)
        self._started = time.monotonic()
        self._told: tuple[str, int] | None = None

    def show(self, batch: Batch) -> None:
        counts = batch.request_counts
        done = counts.completed + counts.failed
        tokens = batch.usage.total_tokens if batch.usage else 0
        if self._progress is not None:
            self._progress.update(
                self._task,
                description=batch.status.value,
                total=counts.total or None,
                completed=done,
                failed=counts.failed,
                tokens=tokens,
            )
            return
        step = int(done / (counts.total or self._lines) / _PLAIN_STEP)
        if (batch.status.value, step) != self._told:
            self._told = (batch.status.value, step)
            console.out.print(
                f"{time.monotonic() - self._started:6.1f} s  {batch.status.value:<12} {done:>6,} of "
                f"{counts.total or self._lines:,} lines, {counts.failed:,} failed, {tokens:,} tokens"
            )


@contextmanager
def watching(lines: int) -> Iterator[Watch]:
    """Show the progress of a batch while the context is open."""
    if not console.out.is_terminal:
        yield Watch(None, lines)
        return
    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        TextColumn(f"{{task.completed:>{len(f'{lines:,}')},.0f}} of {lines:,} lines"),
        TextColumn("{task.fields[failed]:,} failed"),
        TextColumn("{task.fields[tokens]:>9,} tokens"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console.out) as progress:
        yield Watch(progress, lines)


def show_problems(batch: Batch) -> None:
    """Why a batch was refused."""
    problems = batch.errors.data if batch.errors else []
    for problem in problems[:_SHOWN_PROBLEMS]:
        where = f"line {problem.line}: " if problem.line else ""
        console.err.print(f"  {where}{console.printable(problem.message)}", markup=False)
    if len(problems) > _SHOWN_PROBLEMS:
        console.err.print(f"  … and {len(problems) - _SHOWN_PROBLEMS} more")


def show_answers(output: Path, requests: Path) -> None:
    """The first answers, beside what was asked."""
    with output.open("rb") as lines:
        first = [json.loads(line) for line in islice(lines, _SHOWN_ANSWERS)]
    asked = questions(requests, [line["custom_id"] for line in first])
    table = Table(title=f"The first {len(first)} results", title_justify="left", title_style="bold", expand=True)
    table.add_column("custom_id", style="cyan", no_wrap=True)
    table.add_column("question", ratio=1)
    table.add_column("answer", ratio=1)
    for line in first:
        answer = _answer(line["response"]["body"])
        table.add_row(line["custom_id"], _shortened(asked.get(line["custom_id"], "")), _shortened(answer))
    console.out.print(table, markup=False)


def show_totals(batch: Batch, seconds: float, spend: LedgerLine | None) -> None:
    """Counts, tokens, time and cost."""
    counts, usage = batch.request_counts, batch.usage
    rows = Table.grid(padding=(0, 2))
    rows.add_row("lines", f"{counts.total:,}: {counts.completed:,} answered, {counts.failed:,} failed")
    if usage is not None:
        cached = usage.input_tokens_details.cached_tokens
        rows.add_row("tokens", f"{usage.input_tokens:,} in ({cached:,} cached), {usage.output_tokens:,} out")
    rows.add_row("time", f"{seconds:.1f} s, {(counts.completed + counts.failed) / max(seconds, 0.001):,.0f} lines/s")
    rows.add_row("cost", _cost(spend))
    console.out.print(rows)


def _cost(spend: LedgerLine | None) -> str:
    if spend is None:
        return "not in the ledger yet"
    if spend.input_price is None and spend.output_price is None:
        return f"{spend.cost.normalize():f} {spend.currency}: no price is configured for this server"
    prices = f"{_per_million(spend.input_price)} in, {_per_million(spend.output_price)} out"
    return f"{spend.cost.normalize():f} {spend.currency} ({prices} per million tokens: made-up prices)"


def _per_million(price: Any) -> str:
    return f"{(price or 0) * 1_000_000:.2f}"


def _answer(body: dict[str, Any]) -> str:
    choices = body.get("choices")
    if choices:
        choice = choices[0]
        return str(choice["message"]["content"] if "message" in choice else choice.get("text", ""))
    data = body.get("data")
    if data and isinstance(data[0].get("embedding"), list):
        return f"a vector of {len(data[0]['embedding'])} numbers"
    return json.dumps(body, ensure_ascii=False)


def _shortened(text: str) -> str:
    line = console.printable(" ".join(text.split()))
    return line if len(line) <= _SHOWN_CHARACTERS else f"{line[: _SHOWN_CHARACTERS - 1]}…"
