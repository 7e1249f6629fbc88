"""Permissions, as lists: what the server makes of them is tested in tests/e2e/test_nats_permissions.py."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batchyard.common.messaging.async_api import all_commands
from batchyard.common.messaging.commands import owner_of
from batchyard.common.messaging.nats_config import users_config
from batchyard.common.messaging.permissions import (
    SERVICES,
    User,
    inbox_prefix,
    tenant_permissions,
    tenant_user,
    tenant_user_name,
    users,
)
from batchyard.common.messaging.topology import BUCKETS, CREATIONS_BUCKET, OWNED_BUCKETS, OWNED_STREAMS, streams
from batchyard.common.settings import Settings


def matches(pattern: str, subject: str) -> bool:
    """Whether NATS' `pattern` covers `subject`; `>` at its end covers one token or more."""
    wanted, given = pattern.split(" ", maxsplit=1)[0].split("."), subject.split(".")
    if wanted[-1] == ">":
        wanted, given = wanted[:-1], given[: len(wanted) - 1] if len(given) >= len(wanted) else []
    return len(wanted) == len(given) and all(w in ("*", g) for w, g in zip(wanted, given, strict=True))


def named(name: str) -> User:
    return next(user for user in users() if user.name == name)


def test_every_bucket_and_stream_has_one_owner() -> None:
    owned = [f"KV_{bucket}" for buckets in OWNED_BUCKETS.values() for bucket in buckets]
    owned += [stream for names in OWNED_STREAMS.values() for stream in names]
    assert sorted(owned) == sorted(str(config.name) for config in streams(Settings()))
    assert set(BUCKETS) | {CREATIONS_BUCKET} == {bucket for buckets in OWNED_BUCKETS.values() for bucket in buckets}


def test_every_command_reaches_its_owner_and_no_other_service_hears_it() -> None:
    for command in all_commands():
        subject = command.subject("some tenant")
        for name in SERVICES:
            hears = any(matches(pattern, subject) for pattern in named(name).permissions.subscribe)
            assert hears is (name == owner_of(command)), (name, subject)
        assert any(matches(pattern, subject) for pattern in named("gateway").permissions.publish)


def test_nobody_may_do_what_no_service_does() -> None:
    for user in users(("a",)):
        for subject in (
            "$JS.API.STREAM.DELETE.EVENTS",
            "$JS.API.STREAM.RESTORE.X",
            "$SYS.REQ.SERVER.PING",
            "other.subject",
        ):
            assert not any(matches(pattern, subject) for pattern in user.permissions.publish), (user.name, subject)


@given(st.text(min_size=1, max_size=200), st.text(min_size=1, max_size=200))
@example("a", "a.b")
@example("*", ">")
@example("a", "A")
@example("é", "e=CC=81")
def test_what_one_tenant_may_no_other_may(mine: str, theirs: str) -> None:
    try:
        allowed, others = tenant_permissions(mine), tenant_permissions(theirs)
    except (ValueError, UnicodeEncodeError):
        return
    if mine == theirs:
        return
    for patterns, foreign in ((allowed.publish, others.publish), (allowed.subscribe, others.subscribe)):
        for subject in foreign:
            concrete = subject.replace("*", "x").replace(">", "x.y")
            assert not any(matches(pattern, concrete) for pattern in patterns)


def test_a_tenant_cannot_be_a_service() -> None:
    for name in SERVICES:
        assert inbox_prefix(tenant_user_name(name)) != inbox_prefix(name)


def test_a_long_name_leaves_room_for_an_inbox() -> None:
    name = tenant_user_name("é" * 400)
    assert len(name) < 100
    assert name != tenant_user_name("é" * 399)
    assert inbox_prefix(name) == f"_INBOX.{name}"


@pytest.mark.parametrize("name", ["", "é" * 2000])
def test_a_tenant_without_a_token_has_no_user(name: str) -> None:
    with pytest.raises(ValueError, match="token"):
        tenant_user(name)


def test_a_name_cannot_break_out_of_the_file() -> None:
    name = 'a" }\n user: "b'
    text = users_config([tenant_user(name)], lambda _: '"p"')
    assert [line for line in text.splitlines() if line.strip().startswith("user:")] == [
        '      user: "tenant-a=22=20=7D=0A=20user=3A=20=22b"'
    ]


def test_a_connection_without_a_user_has_the_usual_inbox() -> None:
    assert inbox_prefix(None) == "_INBOX"
    assert inbox_prefix("alice@example.org") == "_INBOX.alice=40example=2Eorg"
