"""A ledger on a real SQLite file of the test's own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import URL, make_url
from unit.billing.ends import CONFIG

from batchyard.billing.database import Database, open_database
from batchyard.billing.ledger import Ledger
from batchyard.billing.ledger_store import LedgerStore
from batchyard.common.clock import ManualClock


@pytest.fixture
def database_file(tmp_path: Path) -> Path:
    return tmp_path / "ledger" / "billing.db"


@pytest.fixture
def database_url(database_file: Path) -> URL:
    return make_url(f"sqlite+aiosqlite:///{database_file}")


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
