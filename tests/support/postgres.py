"""A real PostgreSQL server on a socket of its own, from the binaries that the machine has."""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from sqlalchemy import URL

_START_SECONDS = 30.0
_DATABASES = count(1)

# The server dies with the test run, even if that is killed: PR_SET_PDEATHSIG is 1, SIGQUIT (at once) is 3. A change of
# the user forgets that, so it comes first.
_DIE_WITH_PARENT = """
import ctypes, os, sys
user, group = int(sys.argv[1]), int(sys.argv[2])
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(group)
    os.setuid(user)
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 3)
os.execv(sys.argv[3], sys.argv[3:])
"""


def postgresql_missing() -> str | None:
    """Why no server can be started here; None if one can."""
    if _found("initdb") is None:
        return "PostgreSQL's server is not installed (initdb is neither on PATH nor in /usr/lib/postgresql/*/bin)"
    if os.geteuid() == 0 and _account() is None:
        return "PostgreSQL does not run as root, and there is no user 'postgres' or 'nobody' to run it as"
    return None


@dataclass(frozen=True)
class PostgresServer:
    """A running server without data of its own: `database` makes room for a test."""

    directory: Path

    def database(self) -> URL:
        """A new, empty database."""
        name = f"test_{next(_DATABASES)}"
        subprocess.run(
            [
                *(_binary("psql"), "-h", self.directory, "-U", "batchyard", "-d", "postgres"),
                *("-qXc", f"CREATE DATABASE {name} STRATEGY wal_log"),
            ],
            check=True,
            capture_output=True,
        )
        return URL.create(
            "postgresql+asyncpg", username="batchyard", database=name, query={"host": str(self.directory)}
        )


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """Start a server; it and its data are gone at the end of the block."""
    # Not a directory of pytest's: those are closed to other users, and the path of a socket has to be short.
    directory = Path(tempfile.mkdtemp(prefix="batchyard-pg-"))
    user, group = _user()
    os.chown(directory, user, group)
    try:
        data = directory / "data"
        subprocess.run(
            [
                *(_binary("initdb"), "-D", data, "-U", "batchyard", "-A", "trust", "-E", "UTF8"),
                *("--locale=C.UTF-8", "--no-sync"),
            ],
            check=True,
            capture_output=True,
            cwd=directory,
            user=user,
            group=group,
        )
        with (directory / "log").open("wb") as log:
            server = subprocess.Popen(
                [
                    *(sys.executable, "-c", _DIE_WITH_PARENT, str(user), str(group)),
                    *(_binary("postgres"), "-D", data, "-k", directory),
                    *("-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=200"),
                ],
                stdout=log,
                stderr=log,
                cwd=directory,
            )
        try:
            _wait(server, data / "postmaster.pid", directory / "log")
            yield PostgresServer(directory)
        finally:
            server.send_signal(signal.SIGQUIT)
            server.wait(timeout=20)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _wait(server: "subprocess.Popen[bytes]", pid_file: Path, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()
        if pid_file.exists() and pid_file.read_text().rstrip().endswith("ready"):
            return
        time.sleep(0.01)
    raise AssertionError(f"PostgreSQL did not start: {log.read_text()}")


def _binary(name: str) -> str:
    path = _found(name)
    assert path is not None, f"{name} is missing beside initdb"
    return path


def _found(name: str) -> str | None:
    newest_first = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=_major, reverse=True)
    return shutil.which(name) or next((str(path) for path in newest_first), None)


def _major(path: Path) -> int:
    version = path.parts[-3]
    return int(version) if version.isdigit() else 0


def _account() -> pwd.struct_passwd | None:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    return None


def _user() -> tuple[int, int]:
    """As whom to run, user and group: as ourselves, unless that is root, whom PostgreSQL refuses."""
    account = _account() if os.geteuid() == 0 else None
    return (os.geteuid(), os.getegid()) if account is None else (account.pw_uid, account.pw_gid)
