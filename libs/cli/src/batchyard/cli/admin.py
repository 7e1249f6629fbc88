"""What `batchyard keys`, `teams` and `webhooks` have in common: whom they ask, and how they show what they are told."""

import inspect
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.table import Table
from rich.text import Text

from batchyard.cli import console
from batchyard.cli.api import refuse_errors, told
from batchyard.cli.failures import EXIT_MISCONFIGURED, Failure
from batchyard.common.config import load_config
from batchyard.common.errors import ConfigurationError

_TIMEOUT = 30.0

AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
Models = Annotated[
    list[str] | None,
    typer.Option("--model", help="A model it may use: a name, an alias or a pattern; repeatable. [default: all]"),
]
Pause = Annotated[
    bool | None,
    typer.Option("--pause-over-budget/--run-over-budget", help="Pause running batches when the budget is spent."),
]
_LIMITS: dict[str, Any] = {
    "max_budget": Annotated[float | None, typer.Option(min=0, help="May be spent, in the currency of the prices.")],
    "soft_budget": Annotated[float | None, typer.Option(min=0, help="May be spent before an event warns.")],
    "budget_duration": Annotated[
        str | None, typer.Option(help="After which spending counts from zero again: 24h, 7d, 1mo. [default: never]")
    ],
    "rpm_limit": Annotated[int | None, typer.Option(min=0, help="Requests per minute, at each gateway.")],
    "tpm_limit": Annotated[int | None, typer.Option(min=0, help="Tokens of new batches per minute.")],
    "max_parallel_requests": Annotated[int | None, typer.Option(min=0, help="Requests at a time, at each gateway.")],
    "max_batches": Annotated[int | None, typer.Option(min=0, help="Batches that have not ended.")],
    "max_enqueued_lines": Annotated[int | None, typer.Option(min=0, help="Lines of such batches.")],
    "max_enqueued_tokens": Annotated[int | None, typer.Option(min=0, help="Estimated tokens of such batches.")],
    "max_storage_bytes": Annotated[int | None, typer.Option(min=0, help="Bytes of all files.")],
    "no": Annotated[
        list[str] | None,
        typer.Option(help="A limit to take away, by its name as above with `_` for `-`; repeatable."),
    ],
}


def limited(command: Callable[..., None]) -> Callable[..., None]:
    """`command`, with the options of limits beside its own: its argument `limits` is what they say, for a request."""

    @wraps(command)
    def with_options(*arguments: Any, **options: Any) -> None:
        limits = said(**{name: options.pop(name) for name in _LIMITS if name != "no"})
        taken_away = dict.fromkeys(options.pop("no") or ())
        command(*arguments, **options, limits={**taken_away, **limits})

    own = inspect.signature(command, eval_str=True).parameters
    kinds = {name: parameter.annotation for name, parameter in own.items() if name != "limits"} | _LIMITS
    with_options.__annotations__ = kinds
    with_options.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=own[name].default if name in own else None,
                annotation=kind,
            )
            for name, kind in kinds.items()
        ]
    )
    return with_options


class Administration:
    """The administrative routes of one gateway. Raises Failure for what it refuses."""

    def __init__(self, url: str, master_key: str) -> None:
        self._http = httpx.Client(
            base_url=url.rstrip("/").removesuffix("/v1"),
            headers={"authorization": f"Bearer {master_key}"},
            timeout=_TIMEOUT,
        )

    def get(self, path: str, **params: object) -> Any:
        return self._call("GET", path, params={name: value for name, value in params.items() if value is not None})

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return self._call("POST", path, json=body)

    def delete(self, path: str) -> Any:
        return self._call("DELETE", path)

    def acting_for(self, team: str | None) -> "Administration":
        """The same, acting for a team from now on; None: for none."""
        if team is not None:
            self._http.headers["x-batchyard-team"] = team
        return self

    def _call(self, method: str, path: str, **content: Any) -> Any:
        with told(method, path):
            answer = self._http.request(method, path, **content)
        refuse_errors(answer)
        return answer.json()


def connect(
    context: typer.Context,
    url: Annotated[str, typer.Option(envvar="BATCHYARD_URL", help="The gateway.")] = "http://127.0.0.1:4000",
    master_key: Annotated[
        str | None,
        typer.Option(
            envvar=["BATCHYARD_MASTER_KEY", "LITELLM_MASTER_KEY"],
            help="The key that administrates. Rather set the variable: others see a command's options.",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(envvar="BATCHYARD_CONFIG", help="config.yaml, to take general_settings.master_key from."),
    ] = None,
) -> None:
    # Only once it is needed: `--help` asks nobody.
    context.obj = cache(lambda: Administration(url, master_key or _configured_key(config)))


def gateway_of(context: typer.Context) -> Administration:
    """The gateway that the command asks. Raises Failure when nothing says what the master key is."""
    found: Administration = context.obj()
    return found


def _configured_key(config: Path | None) -> str:
    try:
        key = None if config is None else load_config(config, os.environ).master_key
    except ConfigurationError as error:
        raise Failure(str(error), EXIT_MISCONFIGURED) from error
    if key is None:
        raise Failure(
            "No master key: set BATCHYARD_MASTER_KEY, or name the config.yaml that has one with --config.",
            EXIT_MISCONFIGURED,
        )
    return key.get_secret_value()


@contextmanager
def failures_told() -> Iterator[None]:
    """End the command with a sentence where a Failure would end it with a traceback."""
    try:
        yield
    except Failure as failure:
        console.fail(failure.message)
        raise typer.Exit(failure.exit_code) from None


def said(**members: Any) -> dict[str, Any]:
    """Those members of a request that the person has given."""
    return {name: value for name, value in members.items() if value is not None}


def show_json(answer: Any) -> None:
    console.out.print(Text(json.dumps(answer, indent=2, ensure_ascii=False)))


def show_rows(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """A table, of text that may come from elsewhere."""
    table = Table(*columns)
    for row in rows:
        table.add_row(*(Text(console.printable(cell)) for cell in row))
    console.out.print(table)


def show_object(members: dict[str, Any], as_json: bool) -> None:
    if as_json:
        show_json(members)
    else:
        show_members(members)


def show_members(members: dict[str, Any]) -> None:
    """One object, a member a line; those without a value are left out."""
    for name, value in members.items():
        if value not in (None, [], {}):
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            console.out.print(Text(console.printable(f"{name:<24}{shown}")))
