"""The schema comes about safely, and trouble is told as what it is."""

import asyncio
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import URL, Connection, text
from unit.billing.ends import CONFIG, ended

from batchyard.billing.database import Database, open_database
from batchyard.billing.ledger import Ledger
from batchyard.billing.ledger_store import LedgerStore
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


async def test_the_migrations_make_the_tables_that_the_code_uses(database: Database) -> None:
    def differences(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))

    async with database.reading() as connection:
        assert await connection.run_sync(differences) == []


async def test_an_existing_ledger_is_kept(database_url: URL) -> None:
    for expected in (1, 2):
        async with open_database(database_url, patience=0) as database:
            ledger = Ledger(LedgerStore(database), CONFIG, ManualClock())
            await ledger.record(ended())
            assert len((await ledger.spend("team-a", GetSpend())).data) == expected


async def test_many_connections_may_migrate_at_once(database_url: URL) -> None:
    async def start() -> None:
        async with open_database(database_url, patience=30):
            pass

    await asyncio.gather(*(start() for _ in range(8)))


def test_two_processes_may_migrate_at_once(database_url: URL) -> None:
    replicas = [
        subprocess.Popen([sys.executable, "-c", MIGRATE, str(database_url)], stdin=subprocess.PIPE) for _ in range(2)
    ]
    for replica in replicas:
        assert replica.stdin is not None
        replica.stdin.write(b"\n")
        replica.stdin.flush()
    for replica in replicas:
        assert replica.stdin is not None
        assert replica.wait(timeout=60) == 0
        replica.stdin.close()


async def test_a_commit_outlives_the_process_and_the_power(database: Database) -> None:
    async with database.reading() as connection:
        pragmas = [
            await connection.scalar(text(f"PRAGMA {name}"))
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        ]
    full = 2
    assert pragmas == ["wal", full, 1, 1500]


async def test_a_schema_from_the_future_is_left_alone(database_url: URL, database_file: Path) -> None:
    async with open_database(database_url, patience=0):
        pass
    with sqlite3.connect(database_file) as raw:
        raw.execute("UPDATE alembic_version SET version_num = '9999'")
    raw.close()
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


async def test_the_start_waits_for_a_locked_database(database_url: URL, database_file: Path) -> None:
    database_file.parent.mkdir()
    lock = sqlite3.connect(database_file, check_same_thread=False)
    lock.execute("BEGIN EXCLUSIVE")
    asyncio.get_running_loop().call_later(2.0, lock.close)
    async with open_database(database_url, patience=30) as database:
        await LedgerStore(database).check()
