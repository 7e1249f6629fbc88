"""`batchyard validate`: what a batch would say of a file, before anybody has to wait for it."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import ValidationError
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from batchyard.batch_runner.plan import Plan, Planner, Rejection
from batchyard.batch_runner.routing import NameOf, PoolOf
from batchyard.batch_runner.settings import RunnerSettings
from batchyard.batch_runner.validate import MAX_PROBLEMS, LineRules, normal_path
from batchyard.cli import console
from batchyard.cli.api import Api
from batchyard.cli.failures import EXIT_MISCONFIGURED, Failure
from batchyard.common.config import bare, load_config
from batchyard.common.contracts.batches import (
    ENDPOINTS,
    BatchErrors,
    BatchProblem,
    BatchValidation,
    RequestCounts,
)
from batchyard.common.errors import ConfigurationError
from batchyard.gateway.settings import GatewaySettings

_CHUNK = 1 << 20
_LONGEST_FIRST_LINE = 1 << 20
_SHOW_FROM_BYTES = 8 << 20

Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class ValidateOptions:
    """What `batchyard validate` was asked for. None: as the file, or the environment, says."""

    file: Path
    endpoint: str | None = None
    model: str | None = None
    config: Path | None = None
    url: str | None = None
    key: str | None = None
    as_json: bool = False


class Invalid(Failure):
    """The file has problems, and they have been shown."""


async def validate(options: ValidateOptions) -> None:
    """Check a file and show what is wrong with it.

    Raises:
        Invalid: Something is.
        Failure: It could not be checked.
    """
    with _opened(options.file) as file:
        endpoint = _endpoint(options, file)
        verdict = await (_asked(options, endpoint) if options.url is not None else _planned(options, endpoint, file))
    _show(options, verdict)
    if not verdict.valid:
        count = len(verdict.errors.data) if verdict.errors else 0
        said = f"more than {MAX_PROBLEMS} problems" if verdict.truncated else f"{count} problem{'s' * (count != 1)}"
        raise Invalid(f"{options.file}: {said}.")


async def _planned(options: ValidateOptions, endpoint: str, file: BinaryIO) -> BatchValidation:
    """The verdict of the code that plans batches, in this process."""
    settings, limit = _limits()
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    rules = LineRules(endpoint=endpoint, max_line_bytes=settings.max_line_bytes)
    pool_of, name_of = _names(options.config)
    planner = Planner(settings, rules, options.model, pool_of, name_of)
    with _progress(size) as advance:
        verdict = await planner.plan_chunks(_chunks(file, advance))
    problems = verdict.problems if isinstance(verdict, Rejection) else ()
    if size > limit:
        message = f"The file has {size:,} bytes; an input has at most {limit:,}. Split the file."
        problems = (BatchProblem(code="file_too_large", message=message), *problems)
    return BatchValidation(
        valid=not problems,
        endpoint=endpoint,
        model=verdict.model if isinstance(verdict, Plan) else options.model,
        request_counts=RequestCounts(total=planner.requests),
        errors=BatchErrors(data=list(problems)) if problems else None,
        truncated=len(problems) > MAX_PROBLEMS,
    )


async def _asked(options: ValidateOptions, endpoint: str) -> BatchValidation:
    """The verdict of a running Batchyard, which knows its models and limits."""
    assert options.url is not None
    async with Api(options.url.rstrip("/").removesuffix("/v1"), options.key or "none") as api:
        uploaded = await api.upload(options.file, f"{options.file.name.removesuffix('.jsonl')}.jsonl")
        try:
            return await api.validate(uploaded.id, endpoint, options.model)
        finally:
            await api.delete(uploaded.id)


def _limits() -> tuple[RunnerSettings, int]:
    try:
        return RunnerSettings(), GatewaySettings().max_batch_file_bytes
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        name = "_".join(("BATCHYARD", *map(str, first["loc"]))).upper()
        raise Failure(f"{name}: {first['msg']}", EXIT_MISCONFIGURED) from error


def _names(config: Path | None) -> tuple[PoolOf, NameOf]:
    """Which models there are, and what each is shown as: those of a configuration; without one, every name is taken to
    be served."""
    if config is None:

        async def any_model(model: str) -> str | None:
            return bare(model)

        return any_model, bare
    try:
        fleet = load_config(config, os.environ)
    except ConfigurationError as error:
        raise Failure(str(error), EXIT_MISCONFIGURED) from error

    async def configured(model: str) -> str | None:
        return fleet.pool_for(model)

    return configured, fleet.public_name


def _endpoint(options: ValidateOptions, file: BinaryIO) -> str:
    """The endpoint asked for, else the one that the first request names."""
    wanted = options.endpoint or _first_url(file)
    path = normal_path(wanted)
    if path not in ENDPOINTS:
        if options.endpoint is None:
            return ENDPOINTS[0]  # the first line's url is reported as every other that does not fit
        raise Failure(f"No batch can be for '{wanted}'. Possible are: {', '.join(ENDPOINTS)}.", EXIT_MISCONFIGURED)
    return path


def _first_url(file: BinaryIO) -> str:
    for line in iter(lambda: file.readline(_LONGEST_FIRST_LINE), b""):
        if not line.strip():
            continue
        try:
            request: Any = json.loads(line.decode("utf-8-sig"))
            return str(request["url"])
        except (ValueError, LookupError, TypeError):
            break
    return ENDPOINTS[0]


async def _chunks(file: BinaryIO, advance: Advance) -> AsyncIterator[bytes]:
    while chunk := file.read(_CHUNK):
        yield chunk
        advance(len(chunk))
        await asyncio.sleep(0)  # so that Ctrl-C is heard


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise Failure(f"{path}: cannot be read: {error.strerror}.", EXIT_MISCONFIGURED) from error


@contextmanager
def _progress(size: int) -> Iterator[Advance]:
    """A bar for a file that takes a while, on a terminal alone."""
    if size < _SHOW_FROM_BYTES or not console.err.is_terminal:
        yield lambda _: None
        return
    columns = (TextColumn("checking"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console.err, transient=True) as progress:
        task = progress.add_task("", total=size)
        yield lambda count: progress.advance(task, count)


def _show(options: ValidateOptions, verdict: BatchValidation) -> None:
    if options.as_json:
        console.out.print(verdict.model_dump_json(indent=2), markup=False)
        return
    for problem in verdict.errors.data if verdict.errors else ():
        where = f"{options.file}:{problem.line}" if problem.line is not None else str(options.file)
        console.out.print(console.printable(f"{where}: {problem.code}: {problem.message}"), markup=False)
    if verdict.valid:
        count = verdict.request_counts.total
        requests = f"{count:,} {'request' if count == 1 else 'requests'}"
        models = f"model {verdict.model}" if verdict.model is not None else "several models"
        said = f"{options.file}: {requests} for {models}, endpoint {verdict.endpoint}: fine."
        console.out.print(console.printable(said), markup=False)
