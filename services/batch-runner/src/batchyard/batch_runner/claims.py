"""Which batch a wish stands for: the same one, however often the wish is sent.

A claim is written before the batch that it names. Whoever finds a claim without its batch makes the batch, under the
ID that was claimed: so a process may die in between, and two that make it at once make one.
"""

import hashlib
from dataclasses import dataclass

from nats.js import JetStreamContext
from pydantic import BaseModel, ConfigDict

from batchyard.common.contracts.batches import RETRY_WINDOW, Attempt, CreateBatch, OnceOnly
from batchyard.common.errors import Conflict, ServiceUnavailable
from batchyard.common.ids import new_raw_id
from batchyard.common.messaging.records import Records, RevisionConflict
from batchyard.common.messaging.topology import CREATIONS_BUCKET
from batchyard.common.subjects import encode_token

_KEPT_TRIES = 16
_ATTEMPTS = 64


class Claim(BaseModel):
    """The batch that a wish stands for, and where the lines are when no file holds them yet."""

    model_config = ConfigDict(frozen=True)

    raw_id: str
    upload_key: str | None = None


class KeyRecord(BaseModel):
    """What an idempotency key was first sent with. Written once."""

    model_config = ConfigDict(frozen=True)

    fingerprint: str
    claim: Claim


class Try(BaseModel):
    """A try at creating a batch without a key.

    `opened_by_retry`: a retry came, and the try before it has not been seen: it may still come.
    """

    model_config = ConfigDict(frozen=True)

    token: str
    asked_at: float
    opened_by_retry: bool
    claim: Claim


class TriesRecord(BaseModel):
    """The last tries at one and the same wish, in the order they were seen."""

    model_config = ConfigDict(frozen=True)

    tries: tuple[Try, ...] = ()


@dataclass(frozen=True, slots=True)
class Tried:
    """What a try comes to: the record with it, and the claim that it stands for."""

    record: TriesRecord
    claim: Claim


def tried(record: TriesRecord, attempt: Attempt, fresh: Claim) -> Tried:
    """Whether a try repeats an earlier one, or is a wish of its own and gets the `fresh` claim.

    - One that the sender knows by its token stands for what it stood for before.
    - A retry whose first try the sender does not know repeats the last one within `RETRY_WINDOW`.
    - A first try that is overtaken by its own retry, as when both waited in a queue, belongs to it.
    - Any other first try is a new wish: a client may well want the same batch twice.
    """
    recent = tuple(known for known in record.tries if attempt.asked_at - known.asked_at <= RETRY_WINDOW)
    same = next((known for known in recent if known.token == attempt.token), None)
    if same is not None:
        return Tried(record, same.claim)
    joined = _joined(recent, attempt)
    if joined is None:
        mine = Try(token=attempt.token, asked_at=attempt.asked_at, opened_by_retry=attempt.again, claim=fresh)
        return Tried(TriesRecord(tries=(*recent, mine)[-_KEPT_TRIES:]), fresh)
    if attempt.again:
        return Tried(record, joined.claim)
    found = joined.model_copy(update={"opened_by_retry": False})
    tries = tuple(found if known is joined else known for known in recent)
    return Tried(TriesRecord(tries=tries), joined.claim)


def _joined(recent: tuple[Try, ...], attempt: Attempt) -> Try | None:
    if attempt.again:
        return recent[-1] if recent else None
    return next((known for known in recent if known.opened_by_retry and known.asked_at >= attempt.asked_at), None)


class Claims:
    """The claims of all tenants. Every method raises ServiceUnavailable when NATS does not answer."""

    def __init__(self, js: JetStreamContext) -> None:
        self._keys = Records(js, CREATIONS_BUCKET, KeyRecord)
        self._tries = Records(js, CREATIONS_BUCKET, TriesRecord)

    async def known(self, tenant: str, command: OnceOnly) -> Claim | None:
        """What the command's idempotency key stands for already, if it has one and it does.

        Raises:
            Conflict: It stands for another wish.
        """
        if command.idempotency_key is None:
            return None
        entry = await self._keys.get(_key_of(tenant, command.idempotency_key))
        return None if entry is None else _checked(entry.value, command)

    async def claim(self, tenant: str, command: OnceOnly) -> Claim:
        """What the command stands for from now on. Raises Conflict as `known` does."""
        upload_key = command.upload_key if isinstance(command, CreateBatch) else None
        fresh = Claim(raw_id=new_raw_id("batch"), upload_key=upload_key)
        if command.idempotency_key is not None:
            return await self._claim_key(tenant, command, command.idempotency_key, fresh)
        if command.attempt is not None:
            return await self._claim_try(tenant, command, command.attempt, fresh)
        return fresh

    async def _claim_key(self, tenant: str, command: OnceOnly, key: str, fresh: Claim) -> Claim:
        where = _key_of(tenant, key)
        for _ in range(_ATTEMPTS):
            try:
                await self._keys.create(where, KeyRecord(fingerprint=command.fingerprint(), claim=fresh))
            except RevisionConflict:
                entry = await self._keys.get(where)
                if entry is None:
                    continue  # forgotten by its age in this very moment
                return _checked(entry.value, command)
            return fresh
        raise _contended()

    async def _claim_try(self, tenant: str, command: OnceOnly, attempt: Attempt, fresh: Claim) -> Claim:
        where = _tries_of(tenant, command)
        for _ in range(_ATTEMPTS):
            entry = await self._tries.get(where)
            record = entry.value if entry is not None else TriesRecord()
            outcome = tried(record, attempt, fresh)
            try:
                if entry is None:
                    await self._tries.create(where, outcome.record)
                elif outcome.record != record:
                    await self._tries.update(where, outcome.record, entry.revision)
            except RevisionConflict:
                continue
            return outcome.claim
        raise _contended()


def _checked(record: KeyRecord, command: OnceOnly) -> Claim:
    if record.fingerprint != command.fingerprint():
        raise Conflict(
            "This Idempotency-Key was used before to create another batch, with other parameters. Send a new key for "
            "a new batch, or the same parameters to get the batch that was created.",
            param="idempotency_key",
            code="idempotency_key_reused",
        )
    return record.claim


def _contended() -> ServiceUnavailable:
    return ServiceUnavailable("The same batch is being created by too many at once. Please retry shortly.")


def _key_of(tenant: str, key: str) -> str:
    return f"{encode_token(tenant)}.key.{hashlib.sha256(key.encode(errors='surrogatepass')).hexdigest()}"


def _tries_of(tenant: str, command: OnceOnly) -> str:
    who = command.key_id or command.key_alias or ""
    digest = hashlib.sha256(f"{who} {command.fingerprint()}".encode(errors="surrogatepass"))
    return f"{encode_token(tenant)}.try.{digest.hexdigest()}"
