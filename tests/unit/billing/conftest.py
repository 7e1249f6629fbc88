"""A ledger on a real database of the test's own: a SQLite file, and a database of a PostgreSQL server."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy import URL, make_url
from unit.billing.ends import CONFIG

from batchyard.billing.budget_store import BudgetStore
from batchyard.billing.budgets import Budgets
from batchyard.billing.database import Database, open_database
from batchyard.billing.ledger import Ledger
from batchyard.billing.ledger_store import LedgerStore
from batchyard.billing.server_time_store import ServerTimeStore
from batchyard.common.clock import ManualClock
from batchyard.common.contracts.access import Team
from batchyard.common.messaging.mirror import Mirror
from batchyard.common.messaging.teams import Teams
from batchyard.common.messaging.topology import TEAMS_BUCKET
from support.postgres import PostgresServer, postgresql_missing, running_postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One server for all tests; each has a database of its own."""
    if reason := postgresql_missing():
        pytest.skip(reason)
    with running_postgres() as server:
        yield server


@pytest.fixture
def database_file(tmp_path: Path) -> Path:
    return tmp_path / "ledger" / "billing.db"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, database_file: Path) -> URL:
    if request.param == "sqlite":
        return make_url(f"sqlite+aiosqlite:///{database_file}")
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.database()


@pytest.fixture
async def database(database_url: URL) -> AsyncIterator[Database]:
    async with open_database(database_url, patience=0) as database:
        yield database


@pytest.fixture
def store(database: Database) -> LedgerStore:
    return LedgerStore(database)


@pytest.fixture
def ledger(store: LedgerStore) -> Ledger:
    return Ledger(store, CONFIG, ManualClock())


@pytest.fixture
def budgets(database: Database) -> Budgets:
    """Budgets of teams of which none is known."""
    teams = Teams(Mirror(TEAMS_BUCKET, Team))
    return Budgets(BudgetStore(database), ServerTimeStore(database), teams, CONFIG, ManualClock(), 1000)
