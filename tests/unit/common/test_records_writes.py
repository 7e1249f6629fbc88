"""Writing records: nothing is lost between writers, changes are seen, an outage is told in time."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import pytest
from unit.common.nats_rig import WAIT_SECONDS, Server, impatient

from batchyard.common.contracts.base import Contract
from batchyard.common.errors import ServiceUnavailable
from batchyard.common.messaging.records import Entry, Records, RevisionConflict
from batchyard.common.messaging.topology import FILES_BUCKET, SHARDS_BUCKET, declare_streams
from batchyard.common.service import Messaging
from batchyard.common.settings import Settings


class Note(Contract):
    number: int = 0
    names: frozenset[str] = frozenset()


def counted(note: Note) -> Note:
    return note.model_copy(update={"number": note.number + 1})


@pytest.fixture
def records(messaging: Messaging) -> Records[Note]:
    return Records(messaging.js, FILES_BUCKET, Note)


async def keys(records: Records[Note], prefix: str) -> set[str]:
    return {entry.key async for entry in records.list(prefix)}


async def drained(listing: AsyncIterator[Entry[Note]]) -> list[Entry[Note]]:
    return [entry async for entry in listing]


async def test_a_record_is_read_as_it_was_written(records: Records[Note]) -> None:
    revision = await records.create("t.1", Note(number=7, names=frozenset("ab")))
    assert await records.get("t.1") == Entry("t.1", Note(number=7, names=frozenset("ab")), revision)


async def test_a_record_that_was_never_written_is_none(records: Records[Note]) -> None:
    assert await records.get("t.1") is None


async def test_a_record_is_created_once(records: Records[Note]) -> None:
    await records.create("t.1", Note(number=1))
    with pytest.raises(RevisionConflict):
        await records.create("t.1", Note(number=2))
    entry = await records.get("t.1")
    assert entry is not None
    assert entry.value.number == 1


async def test_of_many_creators_one_succeeds(records: Records[Note]) -> None:
    results = await asyncio.gather(
        *(records.create("t.1", Note(number=number)) for number in range(10)), return_exceptions=True
    )
    assert sum(isinstance(result, int) for result in results) == 1
    assert sum(isinstance(result, RevisionConflict) for result in results) == 9


async def test_a_removed_record_can_be_created_again(records: Records[Note]) -> None:
    await records.create("t.1", Note(number=1))
    await records.delete("t.1")
    assert await records.get("t.1") is None
    await records.create("t.1", Note(number=2))
    entry = await records.get("t.1")
    assert entry is not None
    assert entry.value.number == 2


async def test_an_update_gives_the_revision_for_the_next(records: Records[Note]) -> None:
    revision = await records.create("t.1", Note(number=1))
    revision = await records.update("t.1", Note(number=2), revision)
    await records.update("t.1", Note(number=3), revision)
    entry = await records.get("t.1")
    assert entry is not None
    assert entry.value.number == 3


async def test_an_update_of_an_old_revision_changes_nothing(records: Records[Note]) -> None:
    revision = await records.create("t.1", Note(number=1))
    await records.update("t.1", Note(number=2), revision)
    with pytest.raises(RevisionConflict):
        await records.update("t.1", Note(number=3), revision)
    entry = await records.get("t.1")
    assert entry is not None
    assert entry.value.number == 2


async def test_an_update_of_a_removed_record_is_a_conflict(records: Records[Note]) -> None:
    revision = await records.create("t.1", Note(number=1))
    await records.delete("t.1")
    with pytest.raises(RevisionConflict):
        await records.update("t.1", Note(number=2), revision)


async def test_removing_at_the_revision_read_removes(records: Records[Note]) -> None:
    revision = await records.create("t.1", Note())
    await records.delete("t.1", revision)
    assert await records.get("t.1") is None


async def test_twenty_writers_at_once_lose_nothing(records: Records[Note]) -> None:
    await records.create("t.1", Note())

    def named(name: str) -> Callable[[Note], Note]:
        return lambda note: Note(number=note.number + 1, names=note.names | {name})

    await asyncio.gather(*(records.change("t.1", named(f"writer-{number}")) for number in range(20)))
    entry = await records.get("t.1")
    assert entry is not None
    assert entry.value == Note(number=20, names=frozenset(f"writer-{number}" for number in range(20)))


async def test_a_change_answers_the_record_as_it_is_now(records: Records[Note]) -> None:
    await records.create("t.1", Note())
    changed = await records.change("t.1", counted)
    assert changed == await records.get("t.1")
    assert changed is not None
    assert changed.value.number == 1


async def test_a_change_that_changes_nothing_writes_nothing(records: Records[Note]) -> None:
    revision = await records.create("t.1", Note(number=1))
    entry = await records.change("t.1", lambda note: note)
    assert entry is not None
    assert entry.revision == revision


async def test_there_is_nothing_to_change_in_a_record_that_is_not_there(records: Records[Note]) -> None:
    assert await records.change("t.1", counted) is None
    assert await records.get("t.1") is None


async def test_what_a_change_raises_reaches_its_caller_and_writes_nothing(records: Records[Note]) -> None:
    revision = await records.create("t.1", Note(number=1))

    def refuse(note: Note) -> Note:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await records.change("t.1", refuse)
    entry = await records.get("t.1")
    assert entry is not None
    assert entry.revision == revision


async def test_buckets_are_apart(messaging: Messaging, records: Records[Note]) -> None:
    await records.create("t.1", Note())
    assert await Records(messaging.js, SHARDS_BUCKET, Note).get("t.1") is None


async def test_erasing_takes_the_prefix_and_nothing_beside_it(records: Records[Note]) -> None:
    for key in ("t.b1.1", "t.b1.x.2", "t.b10.1", "u.b1.1"):
        await records.create(key, Note())
    await records.erase("t.b1")
    assert await keys(records, "") == {"t.b10.1", "u.b1.1"}
    assert await records.get("t.b1.1") is None


async def test_erasing_leaves_no_trace(messaging: Messaging, records: Records[Note]) -> None:
    await records.create("t.b1.1", Note())
    await records.delete("t.b1.1")
    await records.erase("t.b1")
    assert (await messaging.js.stream_info(f"KV_{FILES_BUCKET}")).state.messages == 0


async def test_erasing_nothing_is_no_error(records: Records[Note]) -> None:
    await records.erase("t.b1")


@pytest.fixture
async def watched(records: Records[Note]) -> AsyncIterator[Callable[[], Awaitable[Entry[Note] | str]]]:
    """What a watch that began after two records were written yields next."""
    await records.create("t.1", Note(number=1))
    await records.create("t.2", Note(number=2))
    async with aclosing(records.watch()) as watch:  # type: ignore[type-var]
        yield lambda: asyncio.wait_for(anext(watch), WAIT_SECONDS)


Watched = Callable[[], Awaitable[Entry[Note] | str]]


async def test_a_watch_begins_with_what_there_is(watched: Watched) -> None:
    seen = [await watched(), await watched()]
    assert [entry.value.number for entry in seen if isinstance(entry, Entry)] == [1, 2]


async def test_a_watch_sees_every_change_after_that(watched: Watched, records: Records[Note]) -> None:
    for _ in range(2):
        await watched()
    changed = await records.change("t.1", counted)
    assert await watched() == changed


async def test_a_watch_names_what_was_removed(watched: Watched, records: Records[Note]) -> None:
    for _ in range(2):
        await watched()
    await records.delete("t.2")
    assert await watched() == "t.2"


async def test_a_watch_of_many_records_yields_them_all(records: Records[Note]) -> None:
    for number in range(400):
        await records.put(f"t.{number}", Note(number=number))
    seen: set[str] = set()
    async with asyncio.timeout(WAIT_SECONDS), aclosing(records.watch()) as watch:  # type: ignore[type-var]
        async for entry in watch:
            assert isinstance(entry, Entry)
            seen.add(entry.key)
            if len(seen) == 400:
                break
    assert len(seen) == 400


OPERATIONS: dict[str, Callable[[Records[Note]], Awaitable[object]]] = {
    "get": lambda records: records.get("t.1"),
    "create": lambda records: records.create("t.2", Note()),
    "update": lambda records: records.update("t.1", Note(), 1),
    "put": lambda records: records.put("t.1", Note()),
    "delete": lambda records: records.delete("t.1"),
    "change": lambda records: records.change("t.1", counted),
    "erase": lambda records: records.erase("t"),
    "list": lambda records: keys(records, "t"),
    "watch": lambda records: anext(records.watch()),
}


async def test_every_operation_tells_an_outage_in_time(tmp_path: Path) -> None:
    with Server(tmp_path / "nats") as server:
        server.start()
        settings = Settings(nats_url=server.url)
        async with impatient(settings) as js:
            await declare_streams(js, settings)
            records = Records(js, FILES_BUCKET, Note)
            await records.create("t.1", Note())
            server.stop()
            outcomes = await asyncio.wait_for(
                asyncio.gather(*(ask(records) for ask in OPERATIONS.values()), return_exceptions=True), 5
            )
    assert {name: type(outcome) for name, outcome in zip(OPERATIONS, outcomes, strict=True)} == dict.fromkeys(
        OPERATIONS, ServiceUnavailable
    )


async def test_an_outage_in_the_middle_of_a_listing_is_not_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchyard.common.messaging.records._LISTING_TIMEOUT", 0.5)
    with Server(tmp_path / "nats") as server:
        server.start()
        settings = Settings(nats_url=server.url)
        async with impatient(settings) as js:
            await declare_streams(js, settings)
            records = Records(js, FILES_BUCKET, Note)
            for number in range(600):
                await records.put(f"t.{number}", Note())
            listing = records.list("t")
            await anext(listing)
            server.stop()
            with pytest.raises(ServiceUnavailable):
                await asyncio.wait_for(drained(listing), WAIT_SECONDS)


async def test_records_work_again_after_the_outage(tmp_path: Path) -> None:
    with Server(tmp_path / "nats") as server:
        server.start()
        settings = Settings(nats_url=server.url)
        async with impatient(settings) as js:
            await declare_streams(js, settings)
            records = Records(js, FILES_BUCKET, Note)
            revision = await records.create("t.1", Note(number=1))
            server.stop()
            with pytest.raises(ServiceUnavailable):
                await records.get("t.1")
            server.start()
            async with asyncio.timeout(WAIT_SECONDS):
                while True:
                    try:
                        entry = await records.get("t.1")
                        break
                    except ServiceUnavailable:
                        continue
    assert entry == Entry("t.1", Note(number=1), revision)
