"""`batchyard webhooks`: make, show, try, rotate and end endpoints of webhooks."""

from typing import Annotated, Any

import typer

from batchyard.cli import admin, console
from batchyard.cli.admin import Administration, gateway_of

_PATH = "/v1/webhook_endpoints"
_PAGE = 100
_EXAMPLES = """\
**Hear of all budgets:** `batchyard webhooks create https://hooks.example.org/budgets --event budget.soft_exceeded`

**Hear of one team's batches:** `batchyard webhooks create https://hooks.example.org/batches --team search`

**Into a variable:** `SECRET=$(batchyard webhooks create …)`: the signing secret alone goes to stdout, once.

**Does it arrive?** `batchyard webhooks test we_0192…`

Without `--team` these are the endpoints of whoever runs Batchyard, which hear of all teams. The master key is taken
from BATCHYARD_MASTER_KEY, or from the config.yaml that BATCHYARD_CONFIG names.

**Exit codes:** 0 done; 1 refused, or no answer; 2 used or configured wrongly.
"""

app = typer.Typer(
    help="Make, show, try, rotate and end endpoints of webhooks.",
    epilog=_EXAMPLES,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    callback=admin.connect,
)

Id = Annotated[str, typer.Argument(metavar="ID", help="The endpoint's ID.")]
Team = Annotated[str | None, typer.Option(help="The team whose endpoint it is. [default: the operator's]")]
Events = Annotated[
    list[str] | None, typer.Option("--event", help="What it hears of; repeatable. [default: all that there is]")
]


@app.command("create")
def create(
    context: typer.Context,
    url: Annotated[str, typer.Argument(help="Where events are sent.")],
    event: Events = None,
    name: Annotated[str | None, typer.Option(help="A name to show. [default: the URL's host]")] = None,
    team: Team = None,
    as_json: admin.AsJson = False,
) -> None:
    """Make an endpoint. Its signing secret is printed to stdout, and cannot be shown again."""
    with admin.failures_told():
        gateway = _acting(context, team)
        types = event or gateway.get("/v1/webhook_event_types")["data"]
        shown = name or url.partition("://")[2].partition("/")[0] or url
        _show_secret(gateway.post(_PATH, {"name": shown, "url": url, "event_types": types}), as_json)


@app.command("list")
def list_endpoints(context: typer.Context, team: Team = None, as_json: admin.AsJson = False) -> None:
    """List the endpoints, newest first."""
    with admin.failures_told():
        found = _acting(context, team).get(_PATH, limit=_PAGE)["data"]
    if as_json:
        admin.show_json(found)
        return
    admin.show_rows(
        ("name", "URL", "events", "secret", "ID"),
        (
            (
                each["name"],
                each["url"] + (" (disabled: it answered 410)" if each["disabled_at"] else ""),
                ", ".join(each["event_types"]),
                each["signing_secret_hint"],
                each["id"],
            )
            for each in found
        ),
    )


@app.command("test")
def send_sample(
    context: typer.Context,
    endpoint: Id,
    event: Annotated[str, typer.Option(help="What to send a sample of.")] = "batch.completed",
    team: Team = None,
    as_json: admin.AsJson = False,
) -> None:
    """Send a sample now, and show the status that the endpoint answers. Fails unless that is a 2xx."""
    with admin.failures_told():
        result = _acting(context, team).post(f"{_PATH}/{endpoint}/test", {"event_type": event})
    admin.show_object(result, as_json)
    if not 200 <= result["status_code"] < 300:
        raise typer.Exit(1)


@app.command("rotate")
def rotate(
    context: typer.Context,
    endpoint: Id,
    now: Annotated[bool, typer.Option("--now", help="End the old secret at once, not after 24 hours.")] = False,
    team: Team = None,
    as_json: admin.AsJson = False,
) -> None:
    """Give an endpoint a new signing secret, printed to stdout."""
    with admin.failures_told():
        wanted = {"keep_old_secret_active_for_24_hours": not now}
        _show_secret(_acting(context, team).post(f"{_PATH}/{endpoint}/rotate_secret", wanted), as_json)


@app.command("delete")
def delete(context: typer.Context, endpoint: Id, team: Team = None, as_json: admin.AsJson = False) -> None:
    """End an endpoint. What waits for it is not sent."""
    with admin.failures_told():
        gone = _acting(context, team).delete(f"{_PATH}/{endpoint}")
    if as_json:
        admin.show_json(gone)
    else:
        console.notice(f"Deleted: {gone['id']}")


def _acting(context: typer.Context, team: str | None) -> Administration:
    return gateway_of(context).acting_for(team)


def _show_secret(made: dict[str, Any], as_json: bool) -> None:
    if as_json:
        admin.show_json(made)
        return
    console.out.print(made["signing_secret"], markup=False)
    console.notice(f"This is the signing secret of endpoint {made['id']} ({made['url']}). It cannot be shown again.")
