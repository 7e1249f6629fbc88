"""Settings of the billing process, on top of those every service has."""

from pydantic import Field, SecretStr, field_validator
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from batchyard.common.settings import Settings

_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}


class BillingSettings(Settings):
    """Where the ledger lives."""

    database_url: SecretStr = Field(
        default=SecretStr("sqlite:////var/lib/batchyard/billing.db"),
        description="sqlite:////path or postgresql://user:password@host/database, as SQLAlchemy reads it",
    )
    database_patience: float = Field(
        default=60.0, ge=0, description="seconds for which the start waits for a database that does not answer"
    )

    budget_interval: float = Field(
        default=5.0, gt=0, description="seconds after which an event about a budget is published at the latest"
    )
    assumed_tokens_per_second: float = Field(
        default=1000.0,
        ge=0.001,
        le=1e9,
        description="tokens of answers, four of input counting as one, for which a server that is priced by time is "
        "taken to need a second, while little is known of its model",
    )
    reservation_audit_interval: float = Field(
        default=300.0, gt=0, description="seconds between two looks for money set aside for batches that are gone"
    )
    command_timeout: float = Field(default=10.0, gt=0, description="seconds for another service to answer")

    @field_validator("database_url")
    @classmethod
    def _names_a_ledger(cls, value: SecretStr) -> SecretStr:
        _database(value)
        return value

    @property
    def database(self) -> URL:
        """The ledger's database, with an asynchronous driver. It holds the password: for the engine, not for logs."""
        return _database(self.database_url)


def _database(secret: SecretStr) -> URL:
    # The messages do not repeat the URL, which may hold a password.
    try:
        url = make_url(secret.get_secret_value())
    except ArgumentError:
        raise ValueError("not a database URL") from None
    url = url.set(drivername=_DRIVERS.get(url.drivername, url.drivername))
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise ValueError("must name a SQLite or PostgreSQL database")
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        raise ValueError("must name a file: a ledger in memory would be lost")
    return url
