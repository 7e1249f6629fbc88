"""Records in a JetStream KV bucket: typed values, read with their revision, changed by compare-and-set."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from batchyard.common.errors import ServiceUnavailable
from nats.errors import Error
from nats.js import JetStreamContext
from nats.js.errors import APIError, KeyNotFoundError, KeyWrongLastSequenceError
from nats.js.kv import KV_DEL, KV_PURGE, KeyValue
from pydantic import BaseModel

M = TypeVar("M", bound=BaseModel)

_CHANGE_ATTEMPTS = 64
_WRONG_LAST_SEQUENCE = (10071, 10164)
_STREAM_NOT_FOUND = 10059
# A listing's consumer lives on in the server for this long (seconds); the default of 5 minutes piles them up.
_LISTING_CONSUMER_LINGERS = 30.0


class RevisionConflict(Exception):
    """The record was changed, made or removed by someone else since it was read."""


@dataclass(frozen=True, slots=True)
class Entry(Generic[M]):
    """A record and the revision under which it may be replaced."""

    key: str
    value: M
    revision: int


class Records(Generic[M]):
    """One bucket of one kind of record.

    Every method raises ServiceUnavailable when NATS does not answer; whether a write took place is then unknown.
    """

    def __init__(self, js: JetStreamContext, bucket: str, model: type[M]) -> None:
        # The bucket is declared by `topology`: binding without a round trip keeps start-up order free.
        self._js = js
        self._bucket = bucket
        self._stream = f"KV_{bucket}"
        self._kv = KeyValue(name=bucket, stream=self._stream, pre=f"$KV.{bucket}.", js=js, direct=False)
        self._model = model

    async def get(self, key: str) -> Entry[M] | None:
        """The record under `key`, or None."""
        with _outage_told():
            try:
                entry = await self._kv.get(key)
            except KeyNotFoundError as error:
                # nats-py tells a missing bucket as a missing key; whoever deletes by that answer would delete all.
                if getattr(error.__context__, "err_code", None) == _STREAM_NOT_FOUND:
                    raise ServiceUnavailable("The record store is missing. Please retry shortly.") from error
                return None
        return self._entry(entry)

    async def create(self, key: str, value: M) -> int:
        """Write a record that must not exist yet; its revision. Raises RevisionConflict when it does."""
        with _outage_told():
            try:
                return await self._kv.create(key, _encode(value))
            except KeyWrongLastSequenceError as error:
                raise RevisionConflict(key) from error

    async def update(self, key: str, value: M, revision: int) -> int:
        """Replace the record read at `revision`; the new revision. Raises RevisionConflict."""
        with _outage_told():
            try:
                return await self._kv.update(key, _encode(value), last=revision)
            except KeyWrongLastSequenceError as error:
                raise RevisionConflict(key) from error

    async def put(self, key: str, value: M) -> int:
        """Write whatever was there before: for values of which only the last one counts."""
        with _outage_told():
            return await self._kv.put(key, _encode(value))

    async def delete(self, key: str, revision: int | None = None) -> None:
        """Remove a record, if given only at `revision`. Raises RevisionConflict."""
        with _outage_told():
            try:
                await self._kv.delete(key, last=revision)
            except APIError as error:  # unlike `update`, nats-py's `delete` does not name this one
                if error.err_code not in _WRONG_LAST_SEQUENCE:
                    raise
                raise RevisionConflict(key) from error

    async def erase(self, prefix: str) -> None:
        """Remove every record whose key begins with the tokens of `prefix`, and every trace of it."""
        with _outage_told():
            await self._js.purge_stream(self._stream, subject=f"$KV.{self._bucket}.{prefix}.>")

    async def change(self, key: str, change: Callable[[M], M]) -> Entry[M] | None:
        """Apply a pure function to the record until no one else wrote in between; None when there is no record.

        Writes nothing when `change` returns an equal value. What `change` raises is raised.
        """
        for _ in range(_CHANGE_ATTEMPTS):
            entry = await self.get(key)
            if entry is None:
                return None
            value = change(entry.value)
            if value == entry.value:
                return entry
            try:
                return Entry(key, value, await self.update(key, value, entry.revision))
            except RevisionConflict:
                continue
        raise ServiceUnavailable("The record is being changed by too many at once. Please retry shortly.")

    async def list(self, prefix: str) -> AsyncGenerator[Entry[M], None]:
        """Every record whose key begins with the tokens of `prefix` (`a.b`), in the order of their last change."""
        with _outage_told():
            watcher: Any = await self._kv.watch(
                f"{prefix}.>" if prefix else ">",
                ignore_deletes=True,
                inactive_threshold=_LISTING_CONSUMER_LINGERS,
            )
        try:
            while True:
                with _outage_told():
                    entry = await watcher.updates(timeout=10.0)
                if entry is None:
                    return
                yield self._entry(entry)
        finally:
            await watcher.stop()

    async def watch(self) -> AsyncIterator[Entry[M] | str]:
        """Every record there is, then every change: the entry, or the key of a record that was removed."""
        with _outage_told():
            watcher: Any = await self._kv.watchall()
        try:
            async for entry in watcher:
                if entry is None:
                    continue
                if entry.operation in (KV_DEL, KV_PURGE):
                    yield entry.key
                else:
                    yield self._entry(entry)
        finally:
            await watcher.stop()

    def _entry(self, entry: KeyValue.Entry) -> Entry[M]:
        assert entry.value is not None
        assert entry.revision is not None
        return Entry(entry.key, self._model.model_validate_json(entry.value), entry.revision)


def _encode(value: BaseModel) -> bytes:
    return value.model_dump_json(exclude_defaults=True).encode()


@contextmanager
def _outage_told() -> Iterator[None]:
    try:
        yield
    except (KeyNotFoundError, KeyWrongLastSequenceError):
        raise
    except (Error, OSError) as error:
        raise ServiceUnavailable("The record store did not answer. Please retry shortly.") from error
