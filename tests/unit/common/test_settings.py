"""Settings come from `BATCHYARD_*`, and their secrets stay in them."""

import pytest
from pydantic import SecretStr, ValidationError

from batchyard.common.settings import Settings


def test_a_setting_is_read_from_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHYARD_NATS_URL", "nats://n:4222")
    monkeypatch.setenv("BATCHYARD_NATS_PASSWORD", "hidden")
    settings = Settings()
    assert settings.nats_url == "nats://n:4222"
    assert settings.nats_password == SecretStr("hidden")


def test_a_variable_without_the_prefix_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATS_URL", "nats://other:4222")
    assert Settings().nats_url == "nats://127.0.0.1:4222"


def test_several_servers_are_parted_by_commas() -> None:
    assert Settings(nats_url="nats://a:1, nats://b:2,").nats_servers == ["nats://a:1", "nats://b:2"]


def test_secrets_do_not_show() -> None:
    secret = SecretStr("hidden")
    settings = Settings(nats_password=secret, nats_token=secret, object_store_secret_key=secret)
    assert "hidden" not in repr(settings)
    assert "hidden" not in settings.model_dump_json()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NATS_REPLICAS", "0"),
        ("NATS_REPLICAS", "two"),
        ("WORK_ACK_WAIT", "0.5"),
        ("EVENTS_MAX_AGE", "0"),
        ("LOG_LEVEL", "loud"),
        ("LOG_FORMAT", "xml"),
    ],
)
def test_a_value_that_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"BATCHYARD_{name}", value)
    with pytest.raises(ValidationError):
        Settings()
