"""The storage quotas of teams: nothing slips through, results are never refused, and what is deleted is free again."""

import asyncio
from itertools import count
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from unit.file_store.rig import TENANT, Rig

from batchyard.common.contracts.access import Limits, Team
from batchyard.common.contracts.files import CreateFile, DeleteFile, File, OpenPlace, Place, Purpose
from batchyard.common.contracts.uploads import CancelUpload
from batchyard.common.errors import QuotaExceeded
from batchyard.common.messaging.records import Entry
from batchyard.common.refusals import STORAGE_REFUSALS
from batchyard.common.subjects import encode_token
from batchyard.file_store.storage import (
    CLAIM_SECONDS,
    Claim,
    StorageRecord,
    changed_by,
    claimed,
    dropped,
    recounted,
    settled,
)

REVISIONS = count(1)


def allow(rig: Rig, max_storage_bytes: int | None) -> None:
    limits = Limits(max_storage_bytes=max_storage_bytes)
    team = Team(team_id=TENANT, limits=limits, created_at=1, updated_at=1)
    rig.teams.learn(Entry(encode_token(TENANT), team, next(REVISIONS)))


async def used(rig: Rig) -> int | None:
    entry = await rig.storage.get(encode_token(TENANT))
    return None if entry is None else entry.value.total


def command(place: Place, purpose: Purpose = Purpose.USER_DATA) -> CreateFile:
    return CreateFile(filename="a.bin", purpose=purpose, object_key=place.object_key)


async def stored(rig: Rig, size: int, purpose: Purpose = Purpose.USER_DATA) -> File:
    return await rig.call(command(await rig.upload(b"x" * size), purpose))


async def test_a_file_that_does_not_fit_is_refused_and_its_bytes_are_removed(rig: Rig) -> None:
    allow(rig, 100)
    await stored(rig, 60)
    place = await rig.upload(b"x" * 41)
    before = STORAGE_REFUSALS._value.get()
    with pytest.raises(QuotaExceeded) as raised:
        await rig.call(command(place))
    assert STORAGE_REFUSALS._value.get() == before + 1
    assert raised.value.code == "storage_quota_exceeded"
    assert "the limit of the team is 100 bytes, 60 are stored" in raised.value.message
    assert not await rig.has_bytes(place.object_key)
    await stored(rig, 40)


async def test_a_place_says_how_much_room_there_is_and_is_refused_when_there_is_none(rig: Rig) -> None:
    assert (await rig.call(OpenPlace())).room is None
    allow(rig, 100)
    await stored(rig, 60)
    assert (await rig.call(OpenPlace())).room == 40
    await stored(rig, 40)
    with pytest.raises(QuotaExceeded):
        await rig.call(OpenPlace())


async def test_uploads_at_once_do_not_slip_through(rig: Rig) -> None:
    allow(rig, 100)
    places = [await rig.upload(b"x" * 30) for _ in range(10)]
    answers = await asyncio.gather(*(rig.call(command(place)) for place in places), return_exceptions=True)
    assert sum(isinstance(answer, File) for answer in answers) == 3
    assert sum(isinstance(answer, QuotaExceeded) for answer in answers) == 7
    assert await used(rig) == 90


async def test_claiming_again_counts_once(rig: Rig) -> None:
    allow(rig, 100)
    place = await rig.upload(b"x" * 60)
    files = [await rig.call(command(place)) for _ in range(3)]
    assert files == files[:1] * 3
    assert await used(rig) == 60


async def test_results_are_never_refused_but_count(rig: Rig) -> None:
    allow(rig, 100)
    await stored(rig, 90)
    await stored(rig, 50, Purpose.BATCH_OUTPUT)
    assert await used(rig) == 140
    with pytest.raises(QuotaExceeded):
        await rig.call(OpenPlace())


async def test_what_is_deleted_or_expires_is_free_again(rig: Rig) -> None:
    allow(rig, 100)
    file = await stored(rig, 60)
    await rig.create(seconds=3600)
    assert await used(rig) == 79
    await rig.call(DeleteFile(file_id=file.id))
    assert await used(rig) == 19
    rig.clock.advance(3601)
    await rig.upkeep.remove_expired()
    assert await used(rig) == 0


async def test_what_was_there_before_the_quota_counts(rig: Rig) -> None:
    await stored(rig, 60)
    assert await used(rig) is None
    allow(rig, 100)
    assert (await rig.call(OpenPlace())).room == 40
    with pytest.raises(QuotaExceeded):
        await stored(rig, 41)


async def test_an_upload_in_parts_takes_its_room_when_it_is_announced(rig: Rig) -> None:
    allow(rig, 100)
    upload = await rig.announce(60)
    with pytest.raises(QuotaExceeded):
        await rig.announce(41)
    done = await rig.complete(upload, await rig.add(upload, b"x" * 60))
    assert done.file is not None
    assert await used(rig) == 60
    cancelled = await rig.announce(40)
    await rig.call(CancelUpload(upload_id=cancelled.id))
    assert await used(rig) == 60
    await rig.announce(40)
    rig.clock.advance(3600 + 601)
    await rig.upload_upkeep.settle()
    assert await used(rig) == 60


async def test_a_recount_mends_what_a_crash_left(rig: Rig) -> None:
    allow(rig, 1000)
    await stored(rig, 60)
    now = rig.clock.now()
    lost = {"lost": Claim(bytes=500, at=now - CLAIM_SECONDS - 1), "young": Claim(bytes=7, at=now)}
    await rig.storage.put(encode_token(TENANT), StorageRecord(used=1, claims=lost))
    await rig.quota.recount()
    assert await used(rig) == 67
    allow(rig, None)
    await rig.quota.recount()
    assert await used(rig) is None


class Storage(RuleBasedStateMachine):
    """Files are claimed, recorded, deleted and lost in any order, each step once or twice, with recounts between."""

    LIMIT = 100

    def __init__(self) -> None:
        super().__init__()
        self.record = StorageRecord()
        self.claims: dict[str, int] = {}
        self.files: dict[str, int] = {}
        self.outputs: dict[str, int] = {}
        self.count = 0
        self.now = 1000.0

    def _pick(self, kind: dict[str, int], data: Any) -> str | None:
        return data.draw(st.sampled_from(sorted(kind))) if kind else None

    @rule(size=st.integers(0, 70), twice=st.booleans())
    def claim(self, size: int, twice: bool) -> None:
        self.count += 1
        raw_id = f"f{self.count}"
        for _ in range(1 + twice):
            try:
                self.record = claimed(self.record, raw_id, Claim(bytes=size, at=self.now), self.LIMIT)
            except QuotaExceeded:
                assert self._total() + size > self.LIMIT
                return
        self.claims[raw_id] = size

    @rule(data=st.data(), twice=st.booleans())
    def settle(self, data: Any, twice: bool) -> None:
        raw_id = self._pick(self.claims, data)
        if raw_id is not None:
            self.files[raw_id] = self.claims.pop(raw_id)
            for _ in range(1 + twice):
                self.record = settled(self.record, raw_id)

    @rule(data=st.data())
    def give_up(self, data: Any) -> None:
        raw_id = self._pick(self.claims, data)
        if raw_id is not None:
            del self.claims[raw_id]
            self.record = dropped(self.record, raw_id)

    @rule(data=st.data())
    def delete(self, data: Any) -> None:
        raw_id = self._pick(self.files, data)
        if raw_id is not None:
            self.record = changed_by(self.record, -self.files.pop(raw_id))

    @rule(size=st.integers(0, 50))
    def bring_results(self, size: int) -> None:
        self.count += 1
        self.outputs[f"o{self.count}"] = size
        self.record = changed_by(self.record, size)

    @rule(data=st.data())
    def die_between_record_and_settling(self, data: Any) -> None:
        raw_id = self._pick(self.claims, data)
        if raw_id is not None:
            self.files[raw_id] = self.claims.pop(raw_id)
            self.recount()

    @rule(data=st.data())
    def die_between_claim_and_record(self, data: Any) -> None:
        self.claims.clear()
        self.now += CLAIM_SECONDS + 1
        self.recount()

    @rule()
    def recount(self) -> None:
        self.record = recounted(self.record, {**self.files, **self.outputs}, {}, self.now)

    @invariant()
    def the_total_is_right(self) -> None:
        assert self.record.total == self._total()

    def _total(self) -> int:
        return sum(self.claims.values()) + sum(self.files.values()) + sum(self.outputs.values())


TestStorage = Storage.TestCase
TestStorage.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
