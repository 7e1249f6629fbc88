"""The users of NATS as nats-server reads them: the block `authorization` of its configuration."""

import json
import re
from collections.abc import Callable, Iterable, Iterator

from batchyard.common.messaging.permissions import User

_HEAD = """\
# Written by `batchyard nats-config`: what each user of NATS may do. Do not edit, write it anew.
authorization {
  timeout: 5
  users: [
"""
_TAIL = "  ]\n}\n"


def users_config(users: Iterable[User], password: Callable[[str], str]) -> str:
    """The block for `users`; `password` gives, for a user's name, the value as it stands in the file."""
    return _HEAD + "".join(f"{line}\n" for user in users for line in _user(user, password(user.name))) + _TAIL


def password_variable(user: str) -> str:
    """The environment variable that holds a user's password when the file names no other: `NATS_PASSWORD_BILLING`."""
    return f"NATS_PASSWORD_{re.sub('[^A-Za-z0-9]', '_', user).upper()}"


def quoted(text: str) -> str:
    """A string of nats-server's configuration."""
    return json.dumps(text)


def _user(user: User, password: str) -> Iterator[str]:
    yield f"    # {user.purpose}" if user.purpose.isprintable() else f"    # {user.purpose!r}"
    yield "    {"
    yield f"      user: {quoted(user.name)}"
    yield f"      password: {password}"
    yield "      permissions: {"
    for direction, allowed in (("publish", user.permissions.publish), ("subscribe", user.permissions.subscribe)):
        yield f"        {direction}: {{ allow: ["
        yield from (f"          {quoted(subject)}" for subject in allowed)
        yield "        ] }"
    yield "      }"
    yield "    }"
