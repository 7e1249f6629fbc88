"""Where the ledger lives."""

import pytest
from pydantic import SecretStr, ValidationError

from batchyard.billing.settings import BillingSettings

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("given", "driver"),
    [
        ("sqlite:////tmp/x.db", "sqlite+aiosqlite"),
        ("sqlite+aiosqlite:////tmp/x.db", "sqlite+aiosqlite"),
        ("postgres://u:p@h/d", "postgresql+asyncpg"),
        ("postgresql://u:p@h/d", "postgresql+asyncpg"),
        ("postgresql+psycopg://u:p@h/d", "postgresql+psycopg"),
    ],
)
def test_a_driver_is_chosen_where_none_is_named(given: str, driver: str) -> None:
    assert BillingSettings(database_url=SecretStr(given)).database.drivername == driver


@pytest.mark.parametrize("given", ["", "ledger.db", "mysql://u:hunter2@h/d", "sqlite://", "sqlite:///:memory:"])
def test_anything_else_is_refused_by_the_name_of_its_variable(given: str) -> None:
    with pytest.raises(ValidationError) as caught:
        BillingSettings(database_url=SecretStr(given))
    problem = caught.value.errors()[0]
    assert problem["loc"] == ("database_url",)
    assert SECRET not in problem["msg"]


def test_the_password_is_not_shown() -> None:
    settings = BillingSettings(database_url=SecretStr(f"postgresql://u:{SECRET}@h/d"))
    assert SECRET not in repr(settings)
    assert SECRET not in str(settings.database)
