"""`batchyard demo`: one batch from upload to cost, with everything that it needs started and stopped."""

import asyncio
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from batchyard.cli import console, report
from batchyard.cli.api import Api
from batchyard.cli.demo_server import ModelServer, model_server
from batchyard.cli.failures import Failure
from batchyard.cli.requests_file import RequestsFile, prepare
from batchyard.cli.running import running_stack
from batchyard.cli.supervisor import Supervisor
from batchyard.common.contracts.batches import Batch, BatchStatus
from batchyard.common.contracts.billing import LedgerLine

_POLL = 0.25
_LEDGER_PATIENCE = 15.0


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What `batchyard demo` was asked for."""

    file: Path | None = None
    keep: Path | None = None
    lines: int | None = None


@dataclass(frozen=True, slots=True)
class Results:
    """Where the batch's files are left."""

    directory: Path

    @classmethod
    def made(cls, keep: Path | None) -> "Results":
        """In `keep`, without those of an earlier demo, or in a new temporary directory."""
        results = cls(keep.absolute() if keep is not None else Path(tempfile.mkdtemp(prefix="batchyard-results-")))
        for stale in (results.output, results.errors):
            stale.unlink(missing_ok=True)
        return results

    @property
    def output(self) -> Path:
        return self.directory / "demo-output.jsonl"

    @property
    def errors(self) -> Path:
        return self.directory / "demo-errors.jsonl"


class NotCompleted(Failure):
    """The batch ended, and not well."""


async def demo(options: DemoOptions, supervisor: Supervisor) -> None:
    """Run one batch and show what comes back.

    Raises:
        Failure: Something could not be started, or the batch did not complete.
    """
    if options.keep is not None:
        _make(options.keep)
    with _workplace() as place:
        requests = prepare(options.file, options.lines, place)
        async with model_server(requests.model, requests.lines, os.environ) as server:
            _announce(server, requests)
            key = f"sk-demo-{secrets.token_hex(16)}"
            config = server.write_config(place / "config.yaml", requests.model, key)
            with console.working("Starting Batchyard …") as done:
                async with running_stack(place / "data", config=config, supervisor=supervisor) as stack:
                    done()
                    async with Api(stack.url, key) as api:
                        await supervisor.guard(_run_batch(api, requests, options.keep))
    console.out.print(f"Next: HOSTED_VLLM_API_BASE=http://your-vllm:8000 {_command()} up   (or --config config.yaml)")
    console.out.print("Then point any OpenAI client at http://127.0.0.1:4000/v1 and use its files and batches.")


def _command() -> str:
    """How to call this program again: by its name if the shell finds it, else by its path from here."""
    if shutil.which("batchyard"):
        return "batchyard"
    program = Path(sys.executable).with_name("batchyard")
    return str(program.relative_to(Path.cwd()) if program.is_relative_to(Path.cwd()) else program)


async def _run_batch(api: Api, requests: RequestsFile, keep: Path | None) -> None:
    started = time.monotonic()
    uploaded = await api.upload(requests.path, requests.name)
    created = await api.create_batch(uploaded.id, requests.endpoint)
    batch = await _watched(api, created, requests.lines)
    seconds = time.monotonic() - started
    if batch.status is BatchStatus.FAILED:
        report.show_problems(batch)
        raise NotCompleted("The batch failed because of its input; nothing was run.")
    results = Results.made(keep)
    if batch.output_file_id is not None:
        await api.download(batch.output_file_id, results.output)
        report.show_answers(results.output, requests.path)
    if batch.error_file_id is not None:
        await api.download(batch.error_file_id, results.errors)
    report.show_totals(batch, seconds, await _ledger_line(api, batch.id))
    for what, path in (("output", results.output), ("errors", results.errors)):
        if path.exists():
            console.out.print(f"The {what} file is {path}", markup=False)
    if batch.status is not BatchStatus.COMPLETED:
        raise NotCompleted(f"The batch did not complete: its status is {batch.status.value}.")


async def _watched(api: Api, batch: Batch, lines: int) -> Batch:
    with report.watching(lines) as watch:
        while not batch.status.is_terminal:
            watch.show(batch)
            await asyncio.sleep(_POLL)
            batch = await api.batch(batch.id)
        watch.show(batch)
    return batch


async def _ledger_line(api: Api, batch_id: str) -> LedgerLine | None:
    """Billing hears of the batch's end as an event: its line follows a moment later."""
    deadline = time.monotonic() + _LEDGER_PATIENCE
    while True:
        line = await api.spend(batch_id)
        if line is not None or time.monotonic() > deadline:
            return line
        await asyncio.sleep(_POLL)


def _announce(server: ModelServer, requests: RequestsFile) -> None:
    said = console.out.print
    said(f"A batch of {requests.lines:,} lines for model {requests.model}, endpoint {requests.endpoint}.", markup=False)
    if server.is_simulator:
        said("A simulator stands in for vLLM: its answers repeat the question's last words and come from no model.")
    else:
        said(f"Answers come from {server.url}, model {server.model}.", markup=False)


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Failure(f"{directory}: cannot be used for the results: {error.strerror}.") from error


@contextmanager
def _workplace() -> Iterator[Path]:
    """A temporary directory, left behind with its logs when the system failed."""
    place = Path(tempfile.mkdtemp(prefix="batchyard-demo-"))
    keep = False
    try:
        yield place
    except asyncio.CancelledError:
        console.err.print("The demo has been stopped before its end.")
        raise
    except NotCompleted:
        raise
    except Failure:
        keep = (place / "data").exists()
        raise
    finally:
        if keep:
            console.err.print(f"The logs of this run are left in {place / 'data' / 'logs'}", markup=False)
        else:
            shutil.rmtree(place)
