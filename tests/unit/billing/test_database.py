"""The schema comes about safely, and trouble is told as what it is."""

import asyncio
import signal
import sqlite3
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import URL, Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from unit.billing.ends import CONFIG, ended, on_sqlite, spend_of

from batchyard.billing.database import Database, open_database
from batchyard.billing.ledger import Ledger, Outcome
from batchyard.billing.ledger_store import LedgerStore
from batchyard.billing.selection import Selection
from batchyard.billing.spend_days import SpendDays
from batchyard.billing.spend_sums import SpendSums
from batchyard.billing.tables import metadata
from batchyard.common.clock import ManualClock
from batchyard.common.contracts.billing import GetSpend
from batchyard.common.errors import ConfigurationError, ServiceUnavailable

MIGRATE = """
import asyncio, sys
from batchyard.billing.database import open_database
from sqlalchemy import make_url

async def main():
    async with open_database(make_url(sys.argv[1]), patience=30):
        pass

sys.stdin.readline()
asyncio.run(main())
"""


DYING = """
import asyncio, os, signal, sys
from batchyard.billing.database import open_database
from sqlalchemy import Engine, event, make_url

def die(connection, cursor, statement, *_):
    if " ".join(statement.split()).startswith(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

async def main():
    event.listen(Engine, "after_cursor_execute", die)
    async with open_database(make_url(sys.argv[1]), patience=30):
        pass

asyncio.run(main())
"""
"""Dies in the middle of the migration, when a statement that begins like this has just been executed."""

OLD_LEDGER = """
CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY);
INSERT INTO alembic_version VALUES ('0001');
CREATE TABLE ledger_entries (
    tenant TEXT NOT NULL, batch_id TEXT NOT NULL, public_batch_id TEXT NOT NULL, event_id TEXT NOT NULL, key_alias TEXT,
    model TEXT, endpoint TEXT NOT NULL, status TEXT NOT NULL, requests_total BIGINT NOT NULL,
    requests_completed BIGINT NOT NULL, requests_failed BIGINT NOT NULL, input_tokens BIGINT NOT NULL,
    cached_tokens BIGINT NOT NULL, output_tokens BIGINT NOT NULL, reasoning_tokens BIGINT NOT NULL,
    cost BIGINT NOT NULL, currency TEXT NOT NULL, input_price TEXT, cached_price TEXT, output_price TEXT,
    discount TEXT NOT NULL, batch_created_at BIGINT NOT NULL, finished_at BIGINT NOT NULL,
    recorded_at BIGINT NOT NULL, metadata JSON, usage_by_deployment JSON NOT NULL, prices JSON NOT NULL,
    CONSTRAINT pk_ledger_entries PRIMARY KEY (tenant, batch_id)
);
CREATE INDEX ix_ledger_entries_tenant_finished_at_batch_id ON ledger_entries (tenant, finished_at, batch_id);
INSERT INTO ledger_entries VALUES (
    'team-a', 'batch_1', 'batch_1', 'batch_1.completed', 'master', NULL, '/v1/completions', 'completed', 1, 1, 0,
    10, 0, 1, 0, 15000000000, 'USD', NULL, NULL, NULL, '0', 50, 60, 61, '{"a": "b"}', '{}', '{}'
);
"""
"""What the first version of the schema looks like, with an entry."""


async def executed(url: URL, *statements: str) -> None:
    """Do something to a database behind the service's back."""
    if url.database is not None and url.get_backend_name() == "sqlite":
        Path(url.database).parent.mkdir(exist_ok=True)
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        for statement in statements:
            await connection.exec_driver_sql(statement)
    await engine.dispose()


def differences(connection: Connection) -> list[object]:
    """Between the tables that there are and those that the code uses."""
    return list(compare_metadata(MigrationContext.configure(connection), metadata))


async def test_the_migrations_make_the_tables_that_the_code_uses(database: Database) -> None:
    async with database.reading() as connection:
        assert await connection.run_sync(differences) == []


async def test_an_existing_ledger_is_kept(database_url: URL) -> None:
    for expected in (1, 2):
        async with open_database(database_url, patience=0) as database:
            ledger = Ledger(LedgerStore(database), CONFIG, ManualClock())
            await ledger.record(ended())
            assert len((await spend_of(ledger).logs("team-a", GetSpend())).data) == expected


async def test_entries_from_before_are_the_first_of_their_batch(database_url: URL) -> None:
    await executed(database_url, *OLD_LEDGER.split(";\n"))
    async with open_database(database_url, patience=0) as database:
        ledger = Ledger(LedgerStore(database), CONFIG, ManualClock())
        [line] = (await spend_of(ledger).logs("team-a", GetSpend())).data
        assert (line.batch_id, line.cost, line.key_id, line.metadata) == ("batch_1", Decimal("1.5"), None, {"a": "b"})
        assert await ledger.record(ended(raw_id="batch_1", model=None)) is Outcome.DUPLICATE


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO ledger_entries (",  # all rows are copied
        "DROP TABLE ledger_entries_0001",  # nothing is left of the old table
        "INSERT INTO spend_by_day",  # all is summed up
        "UPDATE alembic_version SET version_num='0004'",  # all is done, and not committed
    ],
)
async def test_a_migration_that_is_killed_loses_nothing(database_url: URL, statement: str) -> None:
    *schema, row, _ = OLD_LEDGER.split(";\n")
    rows = [row.replace("batch_1", f"batch_{number}").replace("15000000000", str(number)) for number in range(300)]
    await executed(database_url, *schema, *rows)
    url = database_url.render_as_string(hide_password=False)
    killed = await asyncio.create_subprocess_exec(sys.executable, "-c", DYING, url, statement)
    assert await asyncio.wait_for(killed.wait(), 60) == -signal.SIGKILL

    async with open_database(database_url, patience=30) as database:
        async with database.reading() as connection:
            assert await connection.run_sync(differences) == []
        assert await SpendDays(database).wrong() == 0
        assert (await SpendSums(database).sums(Selection("team-a"), "USD", "day", 1, 1))[1].batches == 300
        kept = {entry.line.batch_id: entry.line.cost async for entry in LedgerStore(database).all()}
    assert kept == {f"batch_{number}": Decimal(number).scaleb(-10) for number in range(300)}


@pytest.mark.parametrize("change", ["UPDATE ledger_entries SET cost = 0", "DELETE FROM ledger_entries"])
async def test_no_entry_is_changed_or_deleted(database: Database, change: str) -> None:
    ledger = Ledger(LedgerStore(database), CONFIG, ManualClock())
    await ledger.record(ended())
    with pytest.raises(ServiceUnavailable):
        async with database.writing() as connection:
            await connection.execute(text(change))
    assert (await spend_of(ledger).logs("team-a", GetSpend())).data[0].cost == Decimal("0.00078")


async def test_many_connections_may_migrate_at_once(database_url: URL) -> None:
    async def start() -> None:
        async with open_database(database_url, patience=30):
            pass

    await asyncio.gather(*(start() for _ in range(8)))


def test_two_processes_may_migrate_at_once(database_url: URL) -> None:
    url = database_url.render_as_string(hide_password=False)
    replicas = [subprocess.Popen([sys.executable, "-c", MIGRATE, url], stdin=subprocess.PIPE) for _ in range(2)]
    for replica in replicas:
        assert replica.stdin is not None
        replica.stdin.write(b"\n")
        replica.stdin.flush()
    for replica in replicas:
        assert replica.stdin is not None
        assert replica.wait(timeout=60) == 0
        replica.stdin.close()


@on_sqlite
async def test_a_commit_outlives_the_process_and_the_power(database: Database) -> None:
    async with database.reading() as connection:
        pragmas = [
            await connection.scalar(text(f"PRAGMA {name}"))
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        ]
    full = 2
    assert pragmas == ["wal", full, 1, 1500]


async def test_a_schema_from_the_future_is_left_alone(database_url: URL) -> None:
    async with open_database(database_url, patience=0):
        pass
    await executed(database_url, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(ConfigurationError, match="newer version of Batchyard"):
        async with open_database(database_url, patience=0):
            pass


async def test_a_directory_that_cannot_be_made_is_a_misconfiguration(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    url = URL.create("sqlite+aiosqlite", database=str(tmp_path / "file" / "sub" / "billing.db"))
    with pytest.raises(ConfigurationError, match="cannot be made"):
        async with open_database(url, patience=0):
            pass


async def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    path = tmp_path / "billing.db"
    path.write_text("no database " * 1000)
    with pytest.raises(ServiceUnavailable, match="did not answer"):
        async with open_database(URL.create("sqlite+aiosqlite", database=str(path)), patience=0):
            pass


@on_sqlite
async def test_the_start_waits_for_a_locked_database(database_url: URL, database_file: Path) -> None:
    database_file.parent.mkdir()
    lock = sqlite3.connect(database_file, check_same_thread=False)
    lock.execute("BEGIN EXCLUSIVE")
    asyncio.get_running_loop().call_later(2.0, lock.close)
    async with open_database(database_url, patience=30) as database:
        await LedgerStore(database).check()
