"""`batchyard teams`: make, show, change and end teams."""

from typing import Annotated, Any

import typer

from batchyard.cli import admin, console
from batchyard.cli.admin import gateway_of

_EXAMPLES = """\
**A team with a budget:** `batchyard teams create search --max-budget 100 --budget-duration 1mo`

**Fewer models:** `batchyard teams update search --model llama --model 'qwen-*'`

**Stop it for now:** `batchyard teams block search`

Files, batches and costs belong to a team, and its keys share them. The master key is taken from BATCHYARD_MASTER_KEY,
or from the config.yaml that BATCHYARD_CONFIG names.

**Exit codes:** 0 done; 1 refused, or no answer; 2 used or configured wrongly.
"""

app = typer.Typer(
    help="Make, show, change and end teams, whose keys share files, batches and limits.",
    epilog=_EXAMPLES,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    callback=admin.connect,
)

Name = Annotated[str, typer.Argument(help="The team's ID.")]
Alias = Annotated[str | None, typer.Option(help="A name to show.")]


@app.command("create")
@admin.limited
def create(
    context: typer.Context,
    name: Name,
    alias: Alias = None,
    model: admin.Models = None,
    pause_over_budget: admin.Pause = None,
    as_json: admin.AsJson = False,
    *,
    limits: dict[str, Any],
) -> None:
    """Make a team. One called `default` bounds those who have no other."""
    wanted = limits | admin.said(team_id=name, team_alias=alias, models=model, pause_over_budget=pause_over_budget)
    _send(context, "/team/new", wanted, as_json)


@app.command("list")
def list_teams(context: typer.Context, as_json: admin.AsJson = False) -> None:
    """List the teams."""
    with admin.failures_told():
        teams = gateway_of(context).get("/team/list")
    if as_json:
        admin.show_json(teams)
        return
    admin.show_rows(
        ("team", "alias", "models", "spent", "budget", "blocked"),
        (
            (
                team["team_id"],
                team["team_alias"] or "",
                ", ".join(team["models"]) or "all",
                "unknown" if team.get("spend") is None else f"{team['spend']:g}",
                "none"
                if team["max_budget"] is None
                else f"{team['max_budget']:g} / {team['budget_duration'] or 'ever'}",
                "blocked" if team["blocked"] else "",
            )
            for team in teams
        ),
    )


@app.command("show")
def show(context: typer.Context, name: Name, as_json: admin.AsJson = False) -> None:
    """Show what a team may do, and its keys."""
    with admin.failures_told():
        info = gateway_of(context).get("/team/info", team_id=name)
    if as_json:
        admin.show_json(info)
        return
    admin.show_members(info["team_info"])
    admin.show_rows(
        ("key", "secret", "status"),
        ((key["key_alias"] or key["token"], key["key_name"], key["status"]) for key in info["keys"]),
    )


@app.command("update")
@admin.limited
def update(
    context: typer.Context,
    name: Name,
    alias: Alias = None,
    model: admin.Models = None,
    pause_over_budget: admin.Pause = None,
    as_json: admin.AsJson = False,
    *,
    limits: dict[str, Any],
) -> None:
    """Change what a team may do. What is not named stays as it is."""
    wanted = limits | admin.said(team_id=name, team_alias=alias, models=model, pause_over_budget=pause_over_budget)
    _send(context, "/team/update", wanted, as_json)


@app.command("block")
def block(context: typer.Context, name: Name, as_json: admin.AsJson = False) -> None:
    """Let the keys of a team open nothing, until it is unblocked. Its running batches run on."""
    _send(context, "/team/block", {"team_id": name}, as_json)


@app.command("unblock")
def unblock(context: typer.Context, name: Name, as_json: admin.AsJson = False) -> None:
    """Let the keys of a blocked team open again what they did."""
    _send(context, "/team/unblock", {"team_id": name}, as_json)


@app.command("delete")
def delete(
    context: typer.Context,
    names: Annotated[list[str], typer.Argument(help="IDs of teams.")],
    as_json: admin.AsJson = False,
) -> None:
    """End teams that have no keys. Their files and batches stay, and are those of a new team of the same ID."""
    with admin.failures_told():
        gone = gateway_of(context).post("/team/delete", {"team_ids": names})
    if as_json:
        admin.show_json(gone)
    else:
        console.notice(f"Deleted: {', '.join(gone['deleted_teams'])}")


def _send(context: typer.Context, route: str, wanted: dict[str, Any], as_json: bool) -> None:
    with admin.failures_told():
        admin.show_object(gateway_of(context).post(route, wanted), as_json)
