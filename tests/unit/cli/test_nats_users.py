"""`batchyard nats-config`: passwords that stay, passwords that change, and a file that nats-server reads."""

import os
import stat
import subprocess
from pathlib import Path

import bcrypt
import pytest
from typer.testing import CliRunner

from batchyard.cli.failures import Failure
from batchyard.cli.main import app
from batchyard.cli.nats_users import PASSWORDS, USERS_FILE, from_environment, write_users
from support.nats import nats_server_binary
from support.nats_users import DEPLOY

SERVICES = ["gateway", "file-store", "batch-runner", "billing", "topology"]


def password(directory: Path, user: str) -> str:
    return (directory / PASSWORDS / user).read_text()


def hashes(directory: Path) -> dict[str, str]:
    lines = [line.strip() for line in (directory / USERS_FILE).read_text().splitlines()]
    values = [line.split(": ", 1)[1].strip('"') for line in lines if line.startswith(("user: ", "password: "))]
    return dict(zip(values[::2], values[1::2], strict=True))


def test_every_user_gets_a_password_that_only_its_owner_reads(tmp_path: Path) -> None:
    write_users(tmp_path, ["acme"])
    assert list(hashes(tmp_path)) == [*SERVICES, "tenant-acme"]
    for user, hashed in hashes(tmp_path).items():
        assert bcrypt.checkpw(password(tmp_path, user).encode(), hashed.encode())
        assert stat.S_IMODE((tmp_path / PASSWORDS / user).stat().st_mode) == 0o600
    assert len({password(tmp_path, user) for user in hashes(tmp_path)}) == 6


def test_a_tenant_is_added_and_the_others_keep_their_passwords(tmp_path: Path) -> None:
    write_users(tmp_path, ["acme"])
    before = {user: password(tmp_path, user) for user in hashes(tmp_path)}
    written = write_users(tmp_path, ["acme", "zeta"])
    assert [path.name for path in written.new_passwords] == ["tenant-zeta"]
    assert {user: password(tmp_path, user) for user in before} == before


def test_one_password_is_rotated(tmp_path: Path) -> None:
    write_users(tmp_path)
    before = {user: password(tmp_path, user) for user in SERVICES}
    write_users(tmp_path, rotate=["billing"])
    assert [user for user in SERVICES if password(tmp_path, user) != before[user]] == ["billing"]
    assert bcrypt.checkpw(password(tmp_path, "billing").encode(), hashes(tmp_path)["billing"].encode())


def test_a_password_of_the_operators_own_is_taken(tmp_path: Path) -> None:
    (tmp_path / PASSWORDS).mkdir()
    (tmp_path / PASSWORDS / "billing").write_text("correct horse battery staple\n")
    write_users(tmp_path)
    assert bcrypt.checkpw(b"correct horse battery staple", hashes(tmp_path)["billing"].encode())


@pytest.mark.parametrize("weak", ["", "x" * 23, "x" * 73])
def test_a_password_that_cannot_be_used_is_named(tmp_path: Path, weak: str) -> None:
    (tmp_path / PASSWORDS).mkdir()
    (tmp_path / PASSWORDS / "billing").write_text(weak)
    with pytest.raises(Failure, match="passwords/billing: a password has 24 to 72 bytes"):
        write_users(tmp_path)


def test_what_cannot_be_done_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="no such user: nobody"):
        write_users(tmp_path, rotate=["nobody"])
    with pytest.raises(Failure, match="token"):
        write_users(tmp_path, ["x" * 4000])
    with pytest.raises(Failure, match="would share the variable NATS_PASSWORD_TENANT_A_B"):
        from_environment(["a-b", "a_b"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["nats.conf", "cluster.conf"])
def test_nats_server_reads_what_is_deployed(name: str) -> None:
    variables = {
        f"NATS_PASSWORD_{user.upper().replace('-', '_')}": f"p{number}" for number, user in enumerate(SERVICES)
    }
    variables |= {
        "NATS_SERVER_NAME": "nats-0",
        "NATS_ROUTE_PASSWORD": "p",
        "NATS_ROUTES": "[nats://route:p@nats-1:6222]",
    }
    check = [nats_server_binary(), "-c", str(DEPLOY / name), "-t"]
    done = subprocess.run(check, env=os.environ | variables, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr


def test_the_command_says_what_it_wrote(tmp_path: Path) -> None:
    tenants = tmp_path / "tenants"
    tenants.write_text("# internal\nacme\n\nzeta\n")
    done = CliRunner().invoke(app, ["nats-config", str(tmp_path / "out"), "--tenants", str(tenants)])
    assert done.exit_code == 0, done.output
    assert "7 users, 7 with a new password" in done.output
    assert CliRunner().invoke(app, ["nats-config"]).exit_code == 2
    assert "$NATS_PASSWORD_GATEWAY" in CliRunner().invoke(app, ["nats-config", "--env"]).output
