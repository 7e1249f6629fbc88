"""`batchyard nats-config`: the users of a NATS server, with what each may do and a password for each."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import bcrypt

from batchyard.cli.failures import EXIT_MISCONFIGURED, Failure
from batchyard.cli.private_files import write_file
from batchyard.common.messaging.nats_config import password_variable, quoted, users_config
from batchyard.common.messaging.permissions import User, users

_SHORTEST_PASSWORD, _BCRYPT_BYTES = 24, 72
# Slow hashing protects passwords that can be guessed, and these cannot. It would make the server itself slow when all
# its clients come back at once: a tenth of a second of CPU for each at the usual 11, in which they run out of patience.
_ROUNDS = 5
USERS_FILE = "users.conf"
PASSWORDS = "passwords"


@dataclass(frozen=True, slots=True)
class Written:
    """What was written: the configuration, the users in it, and the new passwords."""

    config: Path
    users: list[str]
    new_passwords: list[Path]

    def __str__(self) -> str:
        head = f"{self.config}: {len(self.users)} users, {len(self.new_passwords)} with a new password"
        return "".join(f"{line}\n" for line in (head, *(f"  {path}" for path in self.new_passwords)))


def nats_config(
    directory: Path | None, tenants: Sequence[str], tenants_file: Path | None, rotate: Sequence[str], *, from_env: bool
) -> str:
    """Do what `batchyard nats-config` was asked for; what there is to say. Raises Failure."""
    names = tenant_names(tenants, tenants_file)
    if from_env:
        return from_environment(names)
    if directory is None:
        raise Failure("Say where: `batchyard nats-config DIRECTORY`, or `--env`.", EXIT_MISCONFIGURED)
    return str(write_users(directory, names, rotate))


def tenant_names(given: Sequence[str], file: Path | None) -> list[str]:
    """The tenants named one by one, and those of a file: one a line, `#` begins a comment."""
    lines = file.read_text(encoding="utf-8").splitlines() if file is not None else []
    return [*given, *(name for line in lines if (name := line.strip()) and not name.startswith("#"))]


def users_of(tenants: Sequence[str]) -> list[User]:
    """Raises Failure for a tenant that cannot have a user."""
    try:
        return users(tuple(tenants))
    except ValueError as error:
        raise Failure(f"--tenant: {error}.", EXIT_MISCONFIGURED) from error


def from_environment(tenants: Sequence[str]) -> str:
    """The users with passwords that nats-server takes from its environment. Raises Failure."""
    made = users_of(tenants)
    by_variable: dict[str, str] = {}
    for user in made:
        other = by_variable.setdefault(password_variable(user.name), user.name)
        if other != user.name:
            raise Failure(
                f"{other} and {user.name} would share the variable {password_variable(user.name)}: "
                "write a directory with passwords instead.",
                EXIT_MISCONFIGURED,
            )
    return users_config(made, lambda name: f"${password_variable(name)}")


def write_users(directory: Path, tenants: Sequence[str] = (), rotate: Sequence[str] = ()) -> Written:
    """Write `users.conf` with the passwords' bcrypt hashes, and a password for each user that has none.

    Args:
        directory: Where `users.conf` and the passwords lie.
        tenants: The internal tenants that get a user.
        rotate: The users that get a new password.

    Raises:
        Failure: A tenant cannot have a user, a user to rotate is none, or a password of the caller's cannot be used.
    """
    made = users_of(tenants)
    names = [user.name for user in made]
    if unknown := sorted(set(rotate) - set(names)):
        raise Failure(
            f"--rotate: no such user: {', '.join(unknown)}. There are {', '.join(names)}.", EXIT_MISCONFIGURED
        )
    passwords = directory / PASSWORDS
    passwords.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = [passwords / name for name in names if name in rotate or not (passwords / name).exists()]
    # Before the configuration that asks for them: who dies in between writes it by running again.
    for path in new:
        write_file(path, secrets.token_urlsafe(32))
    config = directory / USERS_FILE
    # Hashes of what nobody can guess: no secret, and nats-server may run as another user.
    write_file(config, users_config(made, lambda name: quoted(_hash(passwords / name))), 0o644)
    return Written(config, names, new)


def _hash(path: Path) -> str:
    password = path.read_text(encoding="utf-8").strip().encode()
    if not _SHORTEST_PASSWORD <= len(password) <= _BCRYPT_BYTES:
        raise Failure(f"{path}: a password has {_SHORTEST_PASSWORD} to {_BCRYPT_BYTES} bytes.", EXIT_MISCONFIGURED)
    # nats-server knows the prefix 2a; for such passwords 2b is the same.
    return bcrypt.hashpw(password, bcrypt.gensalt(_ROUNDS, b"2a")).decode()
