"""The database below the ledger: its engine, its transactions, its schema."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from alembic.util import CommandError
from sqlalchemy import URL, Connection, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_exponential_jitter

from batchyard.billing import migrations
from batchyard.common.errors import ConfigurationError, ServiceUnavailable
from batchyard.common.logs import get_logger

_BUSY_MILLISECONDS = 1500
"""How long SQLite waits for another writer: shorter than the health check, which then tells the reason."""

_MIGRATION_LOCK = 0x62617463
"""PostgreSQL's advisory lock that one migrating replica holds ("batc")."""

_POOL_SECONDS = 5.0
_COMMAND_SECONDS = 120.0
"""How long PostgreSQL may work on one statement."""

_BEGIN = "sqlite_begin"
_log = get_logger(__name__)


class Database:
    """Transactions on the ledger's database.

    Every method raises ServiceUnavailable when the database does not answer or refuses; nothing was written then,
    unless the connection broke during the commit itself.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        return self._engine.dialect.name

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that sees one state of the database and waits for no writer."""
        # PostgreSQL's statements see one state each unless told otherwise.
        options = {"isolation_level": "REPEATABLE READ"} if self.dialect == "postgresql" else {_BEGIN: "BEGIN"}
        async with self._begin(options) as connection:
            yield connection

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that is committed at its end, or rolled back when an exception passes."""
        # A SQLite transaction that begins by reading cannot always be made a writing one later.
        async with self._begin({_BEGIN: "BEGIN IMMEDIATE"}) as connection:
            yield connection

    async def migrate(self) -> None:
        """Bring the schema to the newest version; replicas that start together do it one after the other.

        Raises:
            ConfigurationError: A newer version of the service has made the schema.
        """
        async with self.writing() as connection:
            if self.dialect == "postgresql":
                await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
            try:
                await connection.run_sync(migrations.upgrade)
            except CommandError as error:
                raise ConfigurationError(f"The ledger belongs to a newer version of Batchyard: {error}") from error

    @asynccontextmanager
    async def _begin(self, options: Mapping[str, Any]) -> AsyncIterator[AsyncConnection]:
        try:
            async with self._engine.connect() as plain:
                connection = await plain.execution_options(**options)
                async with connection.begin():
                    yield connection
        except DBAPIError as error:
            # The driver's own words: SQLAlchemy's repeat the statement with its values.
            _log.warning("database.trouble", error=f"{type(error.orig).__name__}: {error.orig}")
            raise ServiceUnavailable("The ledger's database did not answer. Please retry shortly.") from error
        except (PoolTimeout, OSError) as error:
            _log.warning("database.trouble", error=f"{type(error).__name__}: {error}")
            raise ServiceUnavailable("The ledger's database did not answer. Please retry shortly.") from error


@asynccontextmanager
async def open_database(url: URL, patience: float) -> AsyncIterator[Database]:
    """Connect, waiting up to `patience` seconds for the database, and bring its schema up to date.

    Raises:
        ServiceUnavailable: It did not answer in that time.
        ConfigurationError: There is no place for a SQLite file, or the schema is a newer version's.
    """
    engine = _sqlite_engine(url) if url.get_backend_name() == "sqlite" else _postgresql_engine(url)
    database = Database(engine)
    try:
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(ServiceUnavailable),
            wait=wait_exponential_jitter(multiplier=0.1, max=2),
            stop=stop_after_delay(patience),
            reraise=True,
        ):
            with attempt:
                await database.migrate()
        yield database
    finally:
        await engine.dispose()


def _postgresql_engine(url: URL) -> AsyncEngine:
    return create_async_engine(
        url,
        hide_parameters=True,
        pool_timeout=_POOL_SECONDS,
        pool_pre_ping=True,
        connect_args={"timeout": _POOL_SECONDS, "command_timeout": _COMMAND_SECONDS},
    )


def _sqlite_engine(url: URL) -> AsyncEngine:
    assert url.database is not None
    directory = Path(url.database).parent
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"{directory}: the ledger's directory cannot be made: {error.strerror}") from error
    engine = create_async_engine(url, hide_parameters=True, pool_timeout=_POOL_SECONDS)
    event.listen(engine.sync_engine, "connect", _configure_sqlite)
    event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


def _configure_sqlite(connection: Any, _record: object) -> None:
    # pysqlite would begin transactions by itself, and not before DDL: `_begin_sqlite` does it instead.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {_BUSY_MILLISECONDS}")
    cursor.execute("PRAGMA journal_mode = WAL")
    # An event is acknowledged after its commit: the commit must outlive a power cut, which NORMAL does not promise.
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get(_BEGIN, "BEGIN"))
