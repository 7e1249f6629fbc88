"""Secrets that come as files."""

from pathlib import Path

import pytest

from batchyard.common.errors import ConfigurationError
from batchyard.common.secret_files import adopt_secret_files


def adopted(directory: Path, **environ: str) -> dict[str, str]:
    environ["BATCHYARD_SECRETS_DIR"] = str(directory)
    adopt_secret_files(environ)
    return environ


def test_a_file_is_the_value_of_the_variable_it_is_named_for(tmp_path: Path) -> None:
    (tmp_path / "BATCHYARD_NATS_PASSWORD").write_text("hunter22\n")
    (tmp_path / "VLLM_KEY").write_text(" a b ")
    environ = adopted(tmp_path)
    assert environ["BATCHYARD_NATS_PASSWORD"] == "hunter22"
    assert environ["VLLM_KEY"] == " a b "


def test_a_variable_that_is_set_keeps_its_value_and_an_empty_one_does_not(tmp_path: Path) -> None:
    (tmp_path / "BATCHYARD_NATS_PASSWORD").write_text("from the file")
    (tmp_path / "BATCHYARD_NATS_TOKEN").write_text("from the file")
    environ = adopted(tmp_path, BATCHYARD_NATS_PASSWORD="set", BATCHYARD_NATS_TOKEN="")
    assert environ["BATCHYARD_NATS_PASSWORD"] == "set"
    assert environ["BATCHYARD_NATS_TOKEN"] == "from the file"


def test_what_is_no_variable_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "EMPTY").write_text("\n")
    (tmp_path / "notes.txt").write_bytes(b"\xff")
    (tmp_path / "FOLDER").mkdir()
    (tmp_path / "..data").mkdir()  # as Kubernetes keeps beside them
    assert adopted(tmp_path).keys() == {"BATCHYARD_SECRETS_DIR"}


def test_without_a_directory_nothing_is_read() -> None:
    environ = {"BATCHYARD_SECRETS_DIR": ""}
    adopt_secret_files(environ)
    assert environ == {"BATCHYARD_SECRETS_DIR": ""}


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="BATCHYARD_SECRETS_DIR: .*/missing cannot be read"):
        adopted(tmp_path / "missing")


@pytest.mark.parametrize("content", [b"hunter22\xff", b"hunter22\0", b"hunter22" * 10_000])
def test_a_file_that_can_be_no_value_is_named_and_not_shown(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "SECRET").write_bytes(content)
    with pytest.raises(ConfigurationError, match="SECRET") as caught:
        adopted(tmp_path)
    assert "hunter22" not in str(caught.value)
