"""How much a team with a quota has stored: pure functions over one record per tenant.

What comes in is claimed by its ID before it is recorded, and settled after: so of uploads at the same time no more are
kept than fit. What dies in between stays claimed until a recount, which takes the records for the truth.
"""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from batchyard.common.errors import QuotaExceeded

CLAIM_SECONDS = 300.0
"""For a claim to become a record, before a recount takes it for lost."""


class Claim(BaseModel):
    """Bytes on their way in; `is_upload`: announced for a file in parts, and claimed until that has ended."""

    model_config = ConfigDict(frozen=True)

    bytes: int
    at: float
    is_upload: bool = False


class StorageRecord(BaseModel):
    """`used` bytes are in recorded files; `claims`, by raw ID, are not recorded yet."""

    model_config = ConfigDict(frozen=True)

    used: int = 0
    claims: dict[str, Claim] = {}

    @property
    def total(self) -> int:
        return self.used + sum(claim.bytes for claim in self.claims.values())


def claimed(record: StorageRecord, raw_id: str, claim: Claim, limit: int) -> StorageRecord:
    """The record with one more claim, unless there is one of that ID. Raises QuotaExceeded when it does not fit."""
    if raw_id in record.claims:
        return record
    if record.total + claim.bytes > limit:
        raise exceeded(limit, record.total, claim.bytes)
    return StorageRecord(used=record.used, claims={**record.claims, raw_id: claim})


def settled(record: StorageRecord, raw_id: str) -> StorageRecord:
    """The claim has become a recorded file."""
    claim = record.claims.get(raw_id)
    if claim is None:
        return record
    return StorageRecord(used=record.used + claim.bytes, claims=_without(record, raw_id))


def dropped(record: StorageRecord, raw_id: str) -> StorageRecord:
    """The claim has come to nothing."""
    return record.model_copy(update={"claims": _without(record, raw_id)})


def changed_by(record: StorageRecord, size: int) -> StorageRecord:
    """Bytes that came without a claim, as the results of batches do, or went (negative)."""
    return record.model_copy(update={"used": max(0, record.used + size)})


def recounted(record: StorageRecord, files: Mapping[str, int], pending: Mapping[str, int], now: float) -> StorageRecord:
    """The record as the files and the pending uploads (bytes by raw ID) say it is; claims that are young are kept."""
    kept = {
        raw_id: claim
        for raw_id, claim in record.claims.items()
        if raw_id not in files and (raw_id in pending if claim.is_upload else claim.at > now - CLAIM_SECONDS)
    }
    missing = {
        raw_id: Claim(bytes=size, at=now, is_upload=True) for raw_id, size in pending.items() if raw_id not in kept
    }
    return StorageRecord(used=sum(files.values()), claims={**kept, **missing})


def exceeded(limit: int, used: int, wanted: int | None) -> QuotaExceeded:
    """The refusal of bytes."""
    this = "" if wanted is None else f" and this file has {wanted:,}"
    return QuotaExceeded(
        f"Storage quota exceeded: the limit of the team is {limit:,} bytes, {used:,} are stored or on their way"
        f"{this}. Please delete files that you no longer need, or ask for a higher limit.",
        code="storage_quota_exceeded",
        param="file",
        retry_after=3600,
    )


def _without(record: StorageRecord, raw_id: str) -> dict[str, Claim]:
    return {other: claim for other, claim in record.claims.items() if other != raw_id}
