"""Records in a real bucket: what nats-py leaves out is told, and a listing is whole."""

import pytest

from batchyard.common.contracts.files import DeletedFile
from batchyard.common.errors import ServiceUnavailable
from batchyard.common.messaging.records import Records, RevisionConflict
from batchyard.common.messaging.topology import FILES_BUCKET
from batchyard.common.service import Messaging


@pytest.fixture
def records(messaging: Messaging) -> Records[DeletedFile]:
    return Records(messaging.js, FILES_BUCKET, DeletedFile)


async def fill(records: Records[DeletedFile], count: int) -> None:
    for number in range(count):
        await records.create(f"t.{number}", DeletedFile(id=str(number)))


async def listed(records: Records[DeletedFile], prefix: str) -> list[str]:
    return [entry.key async for entry in records.list(prefix)]


async def test_a_listing_sees_what_was_written_just_before_it(records: Records[DeletedFile]) -> None:
    for number in range(100):
        await records.create(f"t.{number}", DeletedFile(id=str(number)))
        assert len(await listed(records, "t")) == number + 1


async def test_a_listing_of_more_than_one_batch_is_whole_and_in_order(records: Records[DeletedFile]) -> None:
    await fill(records, 600)
    assert await listed(records, "t") == [f"t.{number}" for number in range(600)]


async def test_a_listing_is_of_its_prefix_alone(records: Records[DeletedFile]) -> None:
    await fill(records, 1)
    await records.create("tt.1", DeletedFile(id="1"))
    assert await listed(records, "t") == ["t.0"]
    assert await listed(records, "") == ["t.0", "tt.1"]
    assert await listed(records, "none") == []


async def test_removed_records_are_not_listed(records: Records[DeletedFile]) -> None:
    await fill(records, 3)
    await records.delete("t.1")
    assert await listed(records, "t") == ["t.0", "t.2"]


async def test_a_listing_ends_when_the_rest_is_erased_meanwhile(
    records: Records[DeletedFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchyard.common.messaging.records._LISTING_TIMEOUT", 0.5)
    await fill(records, 600)
    seen = 0
    async for _ in records.list("t"):
        seen += 1
        if seen == 1:
            await records.erase("t")
    assert 1 <= seen < 600


async def test_deleting_at_an_old_revision_is_a_conflict(records: Records[DeletedFile]) -> None:
    revision = await records.create("t.1", DeletedFile(id="1"))
    await records.put("t.1", DeletedFile(id="2"))
    with pytest.raises(RevisionConflict):
        await records.delete("t.1", revision)
    assert await listed(records, "t") == ["t.1"]


async def test_a_missing_bucket_is_an_outage_and_not_a_missing_record(
    messaging: Messaging, records: Records[DeletedFile]
) -> None:
    assert await records.get("t.1") is None
    await messaging.js.delete_stream(f"KV_{FILES_BUCKET}")
    with pytest.raises(ServiceUnavailable):
        await records.get("t.1")
    with pytest.raises(ServiceUnavailable):
        await listed(records, "t")
