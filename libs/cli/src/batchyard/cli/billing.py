"""`batchyard cost` and `batchyard billing`: what batches cost, and putting that right."""

from pathlib import Path
from typing import Annotated

import typer

from batchyard.cli.cost import Correction, CostOptions, correct, cost
from batchyard.cli.failures import EXIT_INTERRUPTED
from batchyard.cli.invocation import invoke

COST_EXAMPLES = """\
**This month, by key:** `batchyard cost --by key --from 2026-11-01`

**By what batches say in their metadata:** `batchyard cost --by metadata.project`

**Every batch, for a spreadsheet:** `batchyard cost --batches --csv > spend.csv`

**Exit codes:** 0 shown; 1 it could not be asked; 130 interrupted.
"""
_REBUILD_EXAMPLES = """\
**Is the ledger right?** `batchyard billing rebuild --check --data-dir ~/.local/share/batchyard`

**Beside a billing service of its own:** with the same BATCHYARD_NATS_…, BATCHYARD_DATABASE_URL and BATCHYARD_CONFIG.

**Exit codes:** 0 the ledger is right, or has been put right; 1 it is not; 2 misconfigured; 130 interrupted.
"""
_URL = "http://127.0.0.1:4000"

app = typer.Typer(
    help="Correct the ledger, and compute it again.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def cost_command(
    by: Annotated[
        str, typer.Option(help="`model`, `day`, `key`, `team`, `tag` (each pair of metadata) or `metadata.NAME`.")
    ] = "model",
    start: Annotated[str | None, typer.Option("--from", help="The first day, as 2026-01-31 (UTC).")] = None,
    end: Annotated[str | None, typer.Option("--to", help="The last day.")] = None,
    team: Annotated[str | None, typer.Option(help="Only this team's; the master key sees all.")] = None,
    of_key: Annotated[str | None, typer.Option(help="Only what this key spent: its ID, or its alias.")] = None,
    model: Annotated[str | None, typer.Option(help="Only this model's, by any of its names.")] = None,
    batches: Annotated[bool, typer.Option("--batches", help="Each batch instead of sums, the latest first.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print all of it as CSV.")] = False,
    url: Annotated[str, typer.Option(envvar="BATCHYARD_URL", help="The Batchyard to ask.")] = _URL,
    key: Annotated[
        str | None, typer.Option(envvar=["BATCHYARD_API_KEY", "OPENAI_API_KEY"], help="The API key.")
    ] = None,
) -> None:
    """Show what batches cost."""
    wanted = {"start_date": start, "end_date": end, "team_id": team, "api_key": of_key, "model": model}
    query = {name: value for name, value in wanted.items() if value is not None}
    if not batches:
        query["group_by"] = by
    options = CostOptions(url, key, query, batches, as_csv)
    invoke(lambda _: cost(options), when_interrupted=EXIT_INTERRUPTED)


@app.command("correct")
def correct_command(
    team: Annotated[str, typer.Argument(help="The team's ID.")],
    amount: Annotated[str, typer.Argument(help="What is added, such as 1.50; `-- -1.50` gives money back.")],
    reason: Annotated[str, typer.Option(help="Why; it stands on the ledger.")],
    author: Annotated[str, typer.Option(help="Who decided it.")] = "master",
    batch: Annotated[str | None, typer.Option(help="The batch that it concerns.")] = None,
    url: Annotated[str, typer.Option(envvar="BATCHYARD_URL", help="The Batchyard to tell.")] = _URL,
    key: Annotated[str | None, typer.Option(envvar="BATCHYARD_API_KEY", help="The master key.")] = None,
) -> None:
    """Correct what a team was charged, by an entry of its own."""
    correction = Correction(team, amount, reason, author, batch)
    invoke(lambda _: correct(url, key, correction), when_interrupted=EXIT_INTERRUPTED)


@app.command("rebuild", epilog=_REBUILD_EXAMPLES)
def rebuild_command(
    check: Annotated[bool, typer.Option("--check", help="Only compare, and change nothing.")] = False,
    data_dir: Annotated[
        Path | None, typer.Option(envvar="BATCHYARD_DATA_DIR", help="That of a running `batchyard up`.")
    ] = None,
) -> None:
    """Compute the ledger again, from the events of the last 30 days and the prices of their time.

    What is missing is added; what comes out otherwise is corrected by an entry of its own.
    """
    # The code of billing: no other command needs it, and SQLAlchemy takes half a second to import.
    from batchyard.cli.rebuilding import RebuildOptions, rebuild  # noqa: PLC0415

    options = RebuildOptions(data_dir, check)
    invoke(lambda _: rebuild(options), when_interrupted=EXIT_INTERRUPTED)
