"""`batchyard billing rebuild`: the ledger once more, from the events and the price book."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from nats.errors import Error
from pydantic import SecretStr, ValidationError
from rich.text import Text

from batchyard.billing.database import open_database
from batchyard.billing.rebuild import Comparison, Rebuild
from batchyard.billing.settings import BillingSettings
from batchyard.cli import console
from batchyard.cli.failures import EXIT_MISCONFIGURED, Failure
from batchyard.cli.nats_server import NatsServer
from batchyard.cli.stack import Layout
from batchyard.common.clock import SystemClock
from batchyard.common.errors import BatchyardError, ConfigurationError
from batchyard.common.reloading import read_config
from batchyard.common.service import open_messaging


@dataclass(frozen=True, slots=True)
class RebuildOptions:
    """`data_dir` is that of a `batchyard up` that runs; without it the environment says where everything is, as it
    does for billing itself."""

    data_dir: Path | None
    check: bool


async def rebuild(options: RebuildOptions) -> None:
    """Rebuild and say what came out.

    Raises:
        Failure: The ledger is not what the events and the prices come to, or something does not answer.
    """
    try:
        settings = _settings(options.data_dir)
        with console.working("Reading the events again …"):
            async with (
                open_database(settings.database, settings.database_patience) as database,
                open_messaging("billing", settings) as messaging,
            ):
                found = await Rebuild(messaging.js, database, partial(read_config, settings), SystemClock()).run(
                    check=options.check
                )
    except ConfigurationError as error:
        raise Failure(str(error), EXIT_MISCONFIGURED) from error
    except (BatchyardError, Error, OSError) as error:
        raise Failure(f"The ledger could not be rebuilt: {error}") from error
    _show(found)
    if not found.is_equal and (options.check or found.unexplained):
        raise Failure("The ledger is not what the events and the prices of their time come to.")


def _settings(data_dir: Path | None) -> BillingSettings:
    given: dict[str, object] = {}
    if data_dir is not None:
        layout = Layout(data_dir.expanduser().absolute())
        nats = NatsServer(layout.nats).running()
        if nats is None:
            raise Failure(f"No `batchyard up` runs in {layout.root}: the events are asked from its NATS server.")
        given = {
            "nats_url": nats.url,
            "nats_token": SecretStr(nats.token),
            "nats_replicas": 1,
            "database_url": SecretStr(f"sqlite:///{layout.ledger}"),
        }
    try:
        return BillingSettings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        names = ", ".join(str(problem["loc"][0]) for problem in error.errors() if problem["loc"])
        raise Failure(f"The environment says {names} wrongly.", EXIT_MISCONFIGURED) from error


def _show(found: Comparison) -> None:
    rows = (
        ("ends of batches in the stream", found.events),
        ("of those unreadable, and never billed", found.unreadable),
        ("entries that come out as they are", found.equal),
        ("missing", found.missing),
        ("different", found.different),
        ("charged without an event", found.unexplained),
        ("from before the oldest event, not checked", found.older),
        ("sums by day that are not those of the entries", found.sums),
    )
    for name, number in rows:
        console.out.print(Text(f"{number:>10,}  {name}"))
    for sentence in found.examples:
        console.out.print(Text(f"            {console.printable(sentence)}"))
