"""`batchyard cost` and `batchyard billing`, before a whole system whose batches are told to have ended."""

import asyncio
import csv
import io
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import nats
import pytest
from nats.aio.client import Client
from unit.billing.ends import ended, eventually, publish

from batchyard.cli.nats_server import NatsServer
from batchyard.cli.stack import Layout
from batchyard.common.contracts.events import BatchEvent
from batchyard.common.messaging.topology import EVENTS
from support.stack import BATCHYARD, MASTER_KEY, command

CONFIG = f"""
model_list:
  - model_name: llama
    litellm_params:
      model: hosted_vllm/llama
      api_base: http://127.0.0.1:9
      input_cost_per_token: 0.001
      output_cost_per_token: 0.002
    model_info: {{id: one}}
general_settings: {{master_key: {MASTER_KEY}}}
"""
REBUILD = ("billing", "rebuild", "--check", "--data-dir")
pytestmark = pytest.mark.timeout(180)
COST = "1.10"  # of the 1000 tokens in and 50 out that `ended` says


@dataclass(frozen=True)
class Office:
    """A system that runs, whose batches end when a test says so."""

    url: str
    data_dir: Path
    config: Path

    def run(self, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        """Run `batchyard …`, as the one who has the master key."""
        known = {"BATCHYARD_URL": self.url, "BATCHYARD_API_KEY": MASTER_KEY, "BATCHYARD_CONFIG": str(self.config)}
        return subprocess.run(
            [*BATCHYARD, *arguments],
            env=os.environ | known | {"COLUMNS": "250"} | environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def rebuild(self) -> "subprocess.CompletedProcess[str]":
        return self.run(*REBUILD, str(self.data_dir))

    def end(self, *events: BatchEvent) -> None:
        """Tell that batches have ended, and wait until all are billed."""

        async def tell() -> None:
            async with await self._connected() as connection:
                for event in events:
                    await publish(connection.jetstream(), event, message_id=uuid4().hex)
                await eventually(lambda: self._is_billed(connection))

        asyncio.run(tell())

    def lose_the_last_event(self) -> None:
        async def lose() -> None:
            async with await self._connected() as connection:
                js = connection.jetstream()
                await js.delete_msg(EVENTS, (await js.stream_info(EVENTS)).state.last_seq)

        asyncio.run(lose())

    async def _connected(self) -> Client:
        found = NatsServer(Layout(self.data_dir).nats).running()
        assert found is not None
        return await nats.connect(found.url, token=found.token)

    async def _is_billed(self, connection: Client) -> bool:
        info = await connection.jetstream().consumer_info(EVENTS, "billing")
        return (info.num_pending, info.num_ack_pending) == (0, 0)


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    directory = tmp_path_factory.mktemp("office")
    config = directory / "config.yaml"
    config.write_text(CONFIG)
    arguments = ["up", "--config", str(config), "--data-dir", str(directory / "data"), "--port", "0"]
    with command(arguments, r"(http://[\d.:]+)/v1", log=directory / "up.log") as url:
        yield Office(url, directory / "data", config)


@pytest.fixture
def team() -> str:
    """One that no other test charges."""
    return f"team-{uuid4().hex}"


def rows(table: str) -> dict[str, list[str]]:
    """The rows of a table by their first cell."""
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in table.splitlines() if "│" in line]
    return {first: rest for first, *rest in cells}


def test_a_table_shows_sums_and_their_total(office: Office, team: str) -> None:
    office.end(ended(team, key="nightly"), ended(team, key="nightly"), ended(team, key="[b]daily"))
    result = office.run("cost", "--by", "key", "--team", team)
    assert (result.returncode, result.stderr) == (0, "")
    assert "Spend in USD" in result.stdout
    shown = rows(result.stdout)
    assert shown["nightly"] == ["2", "6", "2,000", "400", "100", "0.0 s", "2.20"]
    assert shown["[b]daily"][-1] == COST
    assert shown["total"] == ["3", "9", "3,000", "600", "150", "0.0 s", "3.30"]


def test_csv_has_every_batch(office: Office, team: str) -> None:
    events = [ended(team, metadata={"project": project}) for project in ("x", "=1+1")]
    office.end(*events)
    result = office.run("cost", "--batches", "--csv", "--team", team)
    assert (result.returncode, result.stderr) == (0, "")
    found = {row["batch_id"]: row for row in csv.DictReader(io.StringIO(result.stdout))}
    assert set(found) == {event.batch.id for event in events}
    assert {(row["team"], row["cost"], row["input_tokens"]) for row in found.values()} == {(team, "1.1", "1000")}
    summed = office.run("cost", "--by", "metadata.project", "--csv", "--team", team)
    assert [line.partition(",")[0] for line in summed.stdout.splitlines()[1:]] == ["'=1+1", "x"]


def test_only_the_days_that_are_asked_for_are_shown(office: Office, team: str) -> None:
    office.end(ended(team))
    assert rows(office.run("cost", "--team", team, "--to", "2026-01-01").stdout)["total"][-1] == COST
    assert rows(office.run("cost", "--team", team, "--from", "2026-01-02").stdout)["total"][-1] == "0.00"


def test_a_correction_counts_and_stays_when_the_ledger_is_computed_again(office: Office, team: str) -> None:
    event = ended(team)
    office.end(event)
    said = ("--reason", "outage", "--author", "anna", "--batch", event.batch.id)
    corrected = office.run("billing", "correct", team, *said, "--", "-0.35")
    assert (corrected.returncode, corrected.stderr) == (0, "")
    assert f"-0.35 USD for team {team}" in corrected.stdout
    assert rows(office.run("cost", "--team", team).stdout)["total"][-1] == "0.75"
    assert office.rebuild().returncode == 0


def test_an_event_that_is_lost_is_noticed(office: Office, team: str) -> None:
    first, last = ended(team), ended(team)
    office.end(first, last)
    whole = office.rebuild()
    assert (whole.returncode, whole.stderr) == (0, "")
    office.lose_the_last_event()
    lacking = office.rebuild()
    assert lacking.returncode == 1
    assert f"{last.batch.id} of team {team}: charged 1.1" in lacking.stdout
    assert "not what the events and the prices" in lacking.stderr
    office.end(last)
    assert office.rebuild().returncode == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("cost", "--by", "colour"), "'colour'. Supported values"),
        (("cost", "--batches", "--csv", "--from", "yesterday"), "start_date"),
        (("cost", "--key", "sk-wrong"), "401"),
        (("billing", "correct", "team-a", "much", "--reason", "r"), "amount"),
    ],
)
def test_what_is_refused_ends_with_the_gateways_words(office: Office, arguments: tuple[str, ...], said: str) -> None:
    result = office.run(*arguments)
    assert (result.returncode, result.stdout) == (1, "")
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_a_ledger_that_cannot_be_read_is_told(office: Office, tmp_path: Path) -> None:
    nowhere = office.run(*REBUILD, str(tmp_path))
    assert nowhere.returncode == 1
    assert "No `batchyard up` runs in" in nowhere.stderr


def test_a_price_book_needs_no_configuration_beside_it(office: Office, tmp_path: Path) -> None:
    office.end(ended())
    missing = str(tmp_path / "missing.yaml")
    assert office.run(*REBUILD, str(office.data_dir), BATCHYARD_CONFIG=missing).returncode == 0
