"""`batchyard keys`: make, show, change, rotate and end API keys."""

import hashlib
from typing import Annotated, Any

import typer

from batchyard.cli import admin, console
from batchyard.cli.admin import Administration, gateway_of

_PAGE = 100
_EXAMPLES = """\
**A key for a team:** `batchyard teams create search`, then `batchyard keys create --team search --alias nightly`

**Into a variable:** `KEY=$(batchyard keys create --alias nightly)`: the secret alone goes to stdout, once.

**A new secret, the old one good for a day:** `batchyard keys rotate nightly --grace-period 24h`

**At once, after a leak:** `batchyard keys rotate nightly --now`, or `batchyard keys block nightly`

A key is named by its alias, its ID, or a secret of it. Every gateway knows of a change within a second. The master key
is taken from BATCHYARD_MASTER_KEY, or from the config.yaml that BATCHYARD_CONFIG names.

**Exit codes:** 0 done; 1 refused, or no answer; 2 used or configured wrongly.
"""

app = typer.Typer(
    help="Make, show, change, rotate and end API keys.",
    epilog=_EXAMPLES,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    callback=admin.connect,
)

Name = Annotated[str, typer.Argument(help="The key's alias, its ID, or a secret of it.")]
Alias = Annotated[str | None, typer.Option(help="A name for it that no other key has.")]
Duration = Annotated[str | None, typer.Option(help="How long it lives: 12h, 30d, 6mo. [default: for ever]")]


@app.command("create")
@admin.limited
def create(
    context: typer.Context,
    team: Annotated[str, typer.Option(help="Whose files and batches it sees.")] = "default",
    alias: Alias = None,
    model: admin.Models = None,
    duration: Duration = None,
    pause_over_budget: admin.Pause = None,
    as_json: admin.AsJson = False,
    *,
    limits: dict[str, Any],
) -> None:
    """Make a key. Its secret is printed to stdout, and can never be shown again."""
    wanted = limits | admin.said(
        team_id=team, key_alias=alias, models=model, duration=duration, pause_over_budget=pause_over_budget
    )
    with admin.failures_told():
        _show_secret(gateway_of(context).post("/key/generate", wanted), as_json)


@app.command("list")
def list_keys(
    context: typer.Context,
    team: Annotated[str | None, typer.Option(help="Only those of a team.")] = None,
    as_json: admin.AsJson = False,
) -> None:
    """List the keys, newest first."""
    with admin.failures_told():
        keys = _all(gateway_of(context), team_id=team)
    if as_json:
        admin.show_json(keys)
        return
    admin.show_rows(
        ("alias", "secret", "team", "models", "status", "expires", "ID"),
        (
            (
                key["key_alias"] or "",
                key["key_name"],
                key["team_id"],
                ", ".join(key["models"]) or "all",
                key["status"],
                key["expires"] or "never",
                key["token"],
            )
            for key in keys
        ),
    )


@app.command("show")
def show(context: typer.Context, name: Name, as_json: admin.AsJson = False) -> None:
    """Show what a key may do."""
    with admin.failures_told():
        info = gateway_of(context).get("/key/info", key=_id_of(gateway_of(context), name))["info"]
        admin.show_object(info, as_json)


@app.command("update")
@admin.limited
def update(
    context: typer.Context,
    name: Name,
    alias: Alias = None,
    model: admin.Models = None,
    duration: Annotated[str | None, typer.Option(help="How long it lives from now on: 12h, 30d, 6mo.")] = None,
    pause_over_budget: admin.Pause = None,
    as_json: admin.AsJson = False,
    *,
    limits: dict[str, Any],
) -> None:
    """Change what a key may do. What is not named stays as it is."""
    wanted = limits | admin.said(key_alias=alias, models=model, duration=duration, pause_over_budget=pause_over_budget)
    _send(context, "/key/update", name, as_json, **wanted)


@app.command("rotate")
def rotate(
    context: typer.Context,
    name: Name,
    grace_period: Annotated[str, typer.Option(help="How long the old secret works on: 1h, 24h, 7d.")] = "24h",
    now: Annotated[bool, typer.Option("--now", help="End the old secret at once.")] = False,
    as_json: admin.AsJson = False,
) -> None:
    """Give a key a new secret, printed to stdout. It keeps its ID, its limits and what it has spent."""
    with admin.failures_told():
        wanted = {"key": _id_of(gateway_of(context), name), "grace_period": None if now else grace_period}
        _show_secret(gateway_of(context).post("/key/regenerate", wanted), as_json)


@app.command("block")
def block(context: typer.Context, name: Name, as_json: admin.AsJson = False) -> None:
    """Let a key open nothing, until it is unblocked. Its running batches run on."""
    _send(context, "/key/block", name, as_json)


@app.command("unblock")
def unblock(context: typer.Context, name: Name, as_json: admin.AsJson = False) -> None:
    """Let a blocked key open again what it did."""
    _send(context, "/key/unblock", name, as_json)


@app.command("delete")
def delete(
    context: typer.Context,
    names: Annotated[list[str], typer.Argument(help="Aliases, IDs or secrets.")],
    as_json: admin.AsJson = False,
) -> None:
    """End keys for good. Files and batches made with them are their team's, and stay."""
    with admin.failures_told():
        gone = gateway_of(context).post("/key/delete", {"keys": [_id_of(gateway_of(context), name) for name in names]})
    if as_json:
        admin.show_json(gone)
    else:
        console.notice(f"Deleted: {', '.join(gone['deleted_keys'])}")


def _all(gateway: Administration, **filters: str | None) -> list[dict[str, Any]]:
    keys: list[dict[str, Any]] = []
    page, pages = 1, 1
    while page <= pages:
        answer = gateway.get("/key/list", page=page, size=_PAGE, return_full_object="true", **filters)
        keys += answer["keys"]
        page, pages = page + 1, answer["total_pages"]
    return keys


def _id_of(gateway: Administration, name: str) -> str:
    """The ID of the key with an alias, or else what was said: never a secret in a URL."""
    aliased = gateway.get("/key/list", key_alias=name)["keys"] if not name.startswith("sk-") else []
    if aliased:
        return str(aliased[0])
    return hashlib.sha256(name.encode()).hexdigest() if name.startswith("sk-") else name


def _send(context: typer.Context, route: str, name: str, as_json: bool, **wanted: object) -> None:
    with admin.failures_told():
        gateway = gateway_of(context)
        admin.show_object(gateway.post(route, {"key": _id_of(gateway, name), **wanted}), as_json)


def _show_secret(made: dict[str, Any], as_json: bool) -> None:
    if as_json:
        admin.show_json(made)
        return
    console.out.print(made["key"], markup=False)
    console.notice(
        f"This is the secret of key {made['key_alias'] or made['token']} for team {made['team_id']}. Keep it now: it "
        "is not stored, and cannot be shown again."
    )
