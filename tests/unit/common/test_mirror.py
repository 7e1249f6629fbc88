"""A bucket in memory: whole when it is opened, current a moment after each change, and again after an outage."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from unit.common.nats_rig import Server, events, until

from batchyard.common.contracts.access import Limits, Team
from batchyard.common.errors import ServiceUnavailable
from batchyard.common.messaging.broker import connection_of, create_broker
from batchyard.common.messaging.mirror import Mirror, mirroring
from batchyard.common.messaging.records import Entry, Records
from batchyard.common.messaging.teams import open_teams
from batchyard.common.messaging.topology import TEAMS_BUCKET, declare_streams
from batchyard.common.service import Messaging
from batchyard.common.settings import Settings
from batchyard.common.tasks import end


def team(number: int = 0) -> Team:
    return Team(team_id="t", limits=Limits(max_batches=number), created_at=1, updated_at=1)


@pytest.fixture
def records(messaging: Messaging) -> Records[Team]:
    return Records(messaging.js, TEAMS_BUCKET, Team)


@pytest.fixture
async def mirror(messaging: Messaging) -> AsyncIterator[Mirror[Team]]:
    async with mirroring(messaging.connection, TEAMS_BUCKET, Team) as mirror:
        yield mirror


def shows(mirror: Mirror[Team], key: str, number: int) -> Callable[[], bool]:
    return lambda: (found := mirror.get(key)) is not None and found.limits.max_batches == number


async def test_it_is_whole_when_it_is_opened(messaging: Messaging, records: Records[Team]) -> None:
    for number in range(600):
        await records.put(f"t{number}", team(number))
    await records.delete("t3")
    async with mirroring(messaging.connection, TEAMS_BUCKET, Team) as mirror:
        assert len(list(mirror.values())) == 599
        assert shows(mirror, "t599", 599)()
        assert mirror.get("t3") is None


async def test_an_empty_bucket_is_whole_at_once(mirror: Mirror[Team]) -> None:
    assert mirror.is_current
    assert list(mirror.values()) == []


async def test_it_follows_what_is_written_and_removed(mirror: Mirror[Team], records: Records[Team]) -> None:
    await records.put("t", team(1))
    await until(shows(mirror, "t", 1))
    await records.put("t", team(2))
    await until(shows(mirror, "t", 2))
    await records.delete("t")
    await until(lambda: mirror.get("t") is None)


async def test_what_was_learned_is_not_undone_by_an_older_message(mirror: Mirror[Team], records: Records[Team]) -> None:
    mirror.learn(Entry("t", team(9), 1_000))
    await records.put("t", team(1))
    await records.put("u", team(2))
    await until(shows(mirror, "u", 2))
    assert shows(mirror, "t", 9)()
    mirror.learn(Entry("t", team(1), 999))
    assert shows(mirror, "t", 9)()
    mirror.forget("t")
    assert mirror.get("t") is None


async def test_a_record_is_found_by_its_names_and_by_those_alone_that_it_has_now(
    messaging: Messaging, records: Records[Team]
) -> None:
    def names_of(team: Team) -> tuple[str, ...]:
        return (str(team.limits.max_batches), team.team_id)

    async with mirroring(messaging.connection, TEAMS_BUCKET, Team, names_of) as mirror:
        await records.put("key", team(1))
        await until(lambda: mirror.find("1"))
        assert mirror.find("t") is mirror.find("1")
        await records.put("key", team(2))
        await until(lambda: mirror.find("2"))
        assert mirror.find("1") is None
        await records.delete("key")
        await until(lambda: mirror.find("2") is None)
        assert mirror.find("t") is None


async def test_a_record_that_cannot_be_read_leaves_the_one_before(
    messaging: Messaging, mirror: Mirror[Team], records: Records[Team]
) -> None:
    await records.put("t", team(1))
    await until(shows(mirror, "t", 1))
    with capture_logs() as logs:
        await messaging.js.publish(f"$KV.{TEAMS_BUCKET}.t", b'{"team_id": 1}')
        await records.put("u", team(2))
        await until(shows(mirror, "u", 2))
    assert shows(mirror, "t", 1)()
    assert "mirror.unreadable" in events(logs)


async def test_a_missing_bucket_is_told(messaging: Messaging) -> None:
    mirror: Mirror[Team] = Mirror("nothing", Team)
    follower = asyncio.create_task(mirror.follow(messaging.connection))
    with pytest.raises(ServiceUnavailable, match="nothing"):
        await mirror.loaded(0.5)
    await end((follower,))


async def test_a_message_that_went_missing_is_noticed(
    messaging: Messaging, mirror: Mirror[Team], records: Records[Team], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one change that is thrown away here is seen all the same, once the next heartbeat tells of it."""
    dropped: list[object] = []
    following = mirror._next

    async def drop_one(*args: object) -> object:
        message = await following(*args)  # type: ignore[arg-type]
        if message is not None and not dropped:
            dropped.append(message)
            return None
        return message

    monkeypatch.setattr(mirror, "_next", drop_one)
    with capture_logs() as logs:
        await records.put("u", team(1))  # what is awaited by now is not dropped
        await records.put("t", team(1))
        await until(lambda: dropped)
        await until(shows(mirror, "t", 1))
    assert "mirror.watch_lost" in events(logs)


async def test_it_is_current_again_after_an_outage(tmp_path: Path) -> None:
    """It shows what it knew while NATS is away, and soon after what was removed and written meanwhile."""
    with Server(tmp_path / "nats") as server:
        server.start()
        settings = Settings(nats_url=server.url)
        broker = create_broker("test", settings)
        connection = await connection_of(broker)
        try:
            js = connection.jetstream(timeout=5)
            await declare_streams(js, settings)
            records = Records(js, TEAMS_BUCKET, Team)
            await records.put("t", team(1))
            await records.put("gone", team(1))
            async with mirroring(connection, TEAMS_BUCKET, Team) as mirror:
                server.stop()
                await until(lambda: not mirror.is_current)
                assert shows(mirror, "t", 1)()
                server.start()
                other = create_broker("other", settings)
                elsewhere = Records((await connection_of(other)).jetstream(timeout=5), TEAMS_BUCKET, Team)
                await elsewhere.put("t", team(2))
                await elsewhere.delete("gone")
                await other.stop()
                await until(lambda: mirror.is_current)
                await until(lambda: shows(mirror, "t", 2)() and mirror.get("gone") is None)
        finally:
            await broker.stop()


async def test_a_connection_that_comes_back_is_read_from_anew(
    messaging: Messaging, mirror: Mirror[Team], records: Records[Team]
) -> None:
    """At once, and whether the server has been silent or not: what it sent meanwhile went nowhere."""
    with capture_logs() as logs:
        await messaging.connection.force_reconnect()
        await until(lambda: "mirror.watch_lost" in events(logs))
    (lost,) = (entry for entry in logs if entry["event"] == "mirror.watch_lost")
    assert "the connection is another one" in lost["reason"]
    await until(lambda: mirror.is_current)
    await records.put("t", team(1))
    await until(shows(mirror, "t", 1))


async def test_the_directory_knows_tenants_by_their_ids(messaging: Messaging, records: Records[Team]) -> None:
    await records.put("team=2Fone", team(7))
    async with open_teams(messaging.connection) as teams:
        found = teams.get("team/one")
        assert found is not None
        assert found.limits.max_batches == 7
        assert teams.get("default") is None
