"""The `batchyard` command."""

import os
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from batchyard.cli import billing, console, keys, teams, webhooks
from batchyard.cli.demo import DemoOptions, demo
from batchyard.cli.failures import EXIT_INTERRUPTED, Failure
from batchyard.cli.invocation import invoke
from batchyard.cli.stack import Address, default_data_dir
from batchyard.cli.up import UpOptions, reload, up
from batchyard.vllm_sim.cli import sim

_EXAMPLES = """\
**Try it:** `batchyard demo` runs a batch of 300 lines against a simulated vLLM server and shows what comes back.

**Check a file:** `batchyard validate requests.jsonl` names every bad line before you upload it.

**Use it:** `HOSTED_VLLM_API_BASE=http://127.0.0.1:8000 batchyard up`, then point any OpenAI client at
http://127.0.0.1:4000/v1.

**Share it:** `batchyard teams create search` and `batchyard keys create --team search` make keys for others.

**Exit codes:** 0 done, or stopped as asked; 1 failed; 2 used or configured wrongly; 130 a demo that was interrupted.
"""
_UP_EXAMPLES = """\
**One server:** `HOSTED_VLLM_API_BASE=http://127.0.0.1:8000 batchyard up`

**Several, with prices and keys:** `batchyard up --config config.yaml`

**A second one beside it:** `batchyard up --data-dir ./other --port 0`

Files, batches and costs are kept in the data directory: stop it, start it, everything is there. A changed config.yaml
takes effect within seconds, or at once after a SIGHUP; running batches go on.

**Exit codes:** 0 stopped with Ctrl-C or SIGTERM; 1 failed, such as a busy port or a directory in use; 2 misconfigured.
"""
_DEMO_EXAMPLES = """\
**The example, longer:** `batchyard demo --lines 5000`

**Your own lines:** `batchyard demo requests.jsonl --keep results`

**Your own server:** `HOSTED_VLLM_API_BASE=http://127.0.0.1:8000 batchyard demo`

**Exit codes:** 0 the batch completed; 1 it did not; 2 used or configured wrongly; 130 interrupted.
"""
_VALIDATE_EXAMPLES = """\
**Before an upload:** `batchyard validate requests.jsonl`

**With the models that there are:** `batchyard validate requests.jsonl --config config.yaml`

**As a running Batchyard sees it:** `batchyard validate requests.jsonl --url http://127.0.0.1:4000`

Each problem is a line `FILE:LINE: code: message` on stdout, at most 100 of them; editors and `grep` can follow it.

**Exit codes:** 0 the file is fine; 1 it has problems; 2 used or configured wrongly; 130 interrupted.
"""

_NATS_CONFIG_EXAMPLES = """\
**For a server's `include`:** `batchyard nats-config /etc/nats/batchyard --tenant reports`

**A new password for one of them:** `batchyard nats-config /etc/nats/batchyard --tenant reports --rotate tenant-reports`

**With passwords from the environment:** `batchyard nats-config --env > users.conf`

Then `nats-server --signal reload`. docs/nats.md says what each user may do.

**Exit codes:** 0 written; 2 used wrongly.
"""
_TOPOLOGY_EXAMPLES = """\
**After an upgrade, before the services:** `BATCHYARD_NATS_USER=topology BATCHYARD_NATS_PASSWORD=… batchyard topology`

What is there is kept and brought up to date. Services with BATCHYARD_DECLARE_TOPOLOGY=false wait for it.

**Exit codes:** 0 everything is there; 1 NATS did not answer; 2 misconfigured.
"""

app = typer.Typer(
    help="The OpenAI Files and Batch API for people who run their own vLLM servers.",
    epilog=_EXAMPLES,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(billing.app, name="billing")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"batchyard {version('batchyard-cli')}")
        raise typer.Exit


@app.callback()
def batchyard(
    _version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command("up", epilog=_UP_EXAMPLES)
def up_command(
    config: Annotated[
        Path | None,
        typer.Option(
            envvar="BATCHYARD_CONFIG",
            help="LiteLLM's config.yaml. Without one, HOSTED_VLLM_API_BASE names the one vLLM server.",
        ),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            envvar="BATCHYARD_DATA_DIR",
            help="Where everything is kept. [default: $XDG_DATA_HOME/batchyard or ~/.local/share/batchyard]",
        ),
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, envvar="BATCHYARD_PORT", help="Port of the API; 0 takes a free one.")
    ] = 4000,
    host: Annotated[
        str, typer.Option(envvar="BATCHYARD_HOST", help="Address to listen on; 0.0.0.0 is every interface.")
    ] = "127.0.0.1",
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the logs of the services.")] = False,
) -> None:
    """Run the whole system on this machine, until Ctrl-C."""
    options = UpOptions(
        data_dir=(data_dir or default_data_dir(os.environ, Path.home())).expanduser().absolute(),
        config=config,
        address=Address(host, port),
        verbose=verbose,
    )
    invoke(
        lambda supervisor: up(options, supervisor),
        when_interrupted=0,
        on_hangup=lambda supervisor: reload(options, supervisor),
    )


@app.command("demo", epilog=_DEMO_EXAMPLES)
def demo_command(
    file: Annotated[
        Path | None, typer.Argument(help="Requests as JSON lines. [default: 300 shipped examples]", show_default=False)
    ] = None,
    keep: Annotated[
        Path | None, typer.Option(help="Where to leave the results. [default: a new temporary directory]")
    ] = None,
    lines: Annotated[
        int | None,
        typer.Option(min=1, help="How many lines to run: the first ones; the shipped examples are repeated."),
    ] = None,
) -> None:
    """Run a batch from upload to cost, and show what comes back.

    A simulated vLLM server answers, unless HOSTED_VLLM_API_BASE names a real one.
    """
    options = DemoOptions(file=file, keep=keep, lines=lines)
    invoke(lambda supervisor: demo(options, supervisor), when_interrupted=EXIT_INTERRUPTED)


@app.command("validate", epilog=_VALIDATE_EXAMPLES)
def validate_command(
    file: Annotated[Path, typer.Argument(help="Requests as JSON lines.")],
    endpoint: Annotated[
        str | None, typer.Option(help="The batch's endpoint. [default: the one that the first line names]")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The model that the batch is for, where lines name none.")] = None,
    config: Annotated[
        Path | None,
        typer.Option(envvar="BATCHYARD_CONFIG", help="config.yaml, to know the models. Without one, any name will do."),
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="Ask this Batchyard instead: the file is uploaded, checked and deleted.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(envvar=["BATCHYARD_API_KEY", "OPENAI_API_KEY"], help="The API key for --url.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdict as one JSON object.")] = False,
) -> None:
    """Check the input of a batch, line by line, and create nothing.

    The same code as in a running Batchyard finds what is wrong: JSON, custom_ids, URLs, models, sizes.
    """
    # The code of the services: no other command needs it, and it takes half a second to import.
    from batchyard.cli.validating import ValidateOptions, validate  # noqa: PLC0415

    options = ValidateOptions(file, endpoint, model, config, url, key, as_json)
    invoke(lambda _: validate(options), when_interrupted=EXIT_INTERRUPTED)


@app.command("nats-config", epilog=_NATS_CONFIG_EXAMPLES)
def nats_config_command(
    directory: Annotated[
        Path | None,
        typer.Argument(help="Where users.conf and a file for each password are written.", show_default=False),
    ] = None,
    tenant: Annotated[
        list[str] | None, typer.Option(help="An internal tenant that gets a user of its own; repeatable.")
    ] = None,
    tenants: Annotated[
        Path | None, typer.Option(help="A file with one internal tenant a line.", exists=True, dir_okay=False)
    ] = None,
    rotate: Annotated[
        list[str] | None, typer.Option(help="A user that gets a new password, such as billing; repeatable.")
    ] = None,
    env: Annotated[
        bool, typer.Option("--env", help="Print users.conf with passwords from nats-server's environment instead.")
    ] = False,
) -> None:
    """Write the users of a NATS server: one for each service and internal tenant, with what it may do.

    Passwords that are there already are kept.
    """
    # No other command needs bcrypt.
    from batchyard.cli.nats_users import nats_config  # noqa: PLC0415

    try:
        said = nats_config(directory, tenant or (), tenants, rotate or (), from_env=env)
    except Failure as failure:
        console.fail(failure.message)
        raise typer.Exit(failure.exit_code) from None
    typer.echo(said, nl=False)


@app.command("topology", epilog=_TOPOLOGY_EXAMPLES)
def topology_command() -> None:
    """Make the streams and buckets in NATS, once, for services that may not do so themselves.

    Where NATS is, and as whom, is said by BATCHYARD_NATS_URL, BATCHYARD_NATS_USER and BATCHYARD_NATS_PASSWORD.
    """
    from batchyard.common.declare import main  # noqa: PLC0415  it takes the process over

    main()


app.add_typer(keys.app, name="keys")
app.add_typer(teams.app, name="teams")
app.add_typer(webhooks.app, name="webhooks")


app.command("cost", epilog=billing.COST_EXAMPLES)(billing.cost_command)
app.command("sim", help="Run a simulated vLLM server: no model, deterministic answers, faults on demand.")(sim)
