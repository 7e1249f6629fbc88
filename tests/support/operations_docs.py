"""The tables of metrics in docs/operations.md, made from the collectors.

`make docs` writes them anew; a test holds that they are as the code has it.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from prometheus_client.core import Metric

from batchyard.batch_runner import admission
from batchyard.batch_runner.fleet import Fleet
from batchyard.batch_runner.metrics import FleetMetrics
from batchyard.batch_runner.open_shards import OpenShards
from batchyard.batch_runner.settings import RunnerSettings
from batchyard.batch_runner.standings import Standings
from batchyard.batch_runner.upstream import HttpUpstream
from batchyard.billing import budgets
from batchyard.common.clock import SystemClock
from batchyard.common.config import Config
from batchyard.common.refusals import STORAGE_REFUSALS

DOCUMENT = Path(__file__).parents[2] / "docs" / "operations.md"
_TABLE = re.compile(r"<!-- table: (batch-runner's metrics|refusals) -->\n.*?<!-- end -->", re.DOTALL)
_REFUSALS: dict[str, Any] = {
    "batch-runner": admission.REFUSALS,
    "billing": budgets.REFUSALS,
    "file-store, gateway": STORAGE_REFUSALS,
}
"""By the services that count them."""


def written(document: str) -> str:
    """`document` with the tables as the code has them."""
    return _TABLE.sub(_table, document)


def _table(match: re.Match[str]) -> str:
    if match[1] == "refusals":
        rows = ["| metric | of | labels | |", "|---|---|---|---|", *_refusals()]
    else:
        rows = ["| metric | labels | |", "|---|---|---|", *_rows()]
    return "".join(f"{row}\n" for row in (f"<!-- table: {match[1]} -->", *rows)) + "<!-- end -->"


def families() -> list[Metric]:
    """What a runner without servers shows: every family, none with a sample."""
    settings, clock = RunnerSettings(), SystemClock()
    fleet = Fleet(Config(deployments=()), settings, HttpUpstream(1.0, 1), clock)
    nats = cast("Any", None)  # it is not asked
    standings = Standings(nats, settings, clock, lambda: 1)
    return list(FleetMetrics(fleet, OpenShards(settings), standings, nats, settings, clock).collect())


def _rows() -> Iterator[str]:
    for family in families():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = ", ".join(f"`{label}`" for label in cast("Any", family)._labelnames)
        yield f"| `{name}` | {labels} | {family.documentation} |"


def _refusals() -> Iterator[str]:
    for services, counter in _REFUSALS.items():
        labels = ", ".join(f"`{label}`" for label in counter._labelnames)
        yield f"| `{counter._name}_total` | {services} | {labels} | {counter._documentation} |"


if __name__ == "__main__":
    DOCUMENT.write_text(written(DOCUMENT.read_text()))
