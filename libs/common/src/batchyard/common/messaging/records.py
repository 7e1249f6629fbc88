"""Records in a JetStream KV bucket: typed values, read with their revision, changed by compare-and-set."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from nats.aio.msg import Msg
from nats.errors import Error
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import APIError, KeyNotFoundError, KeyWrongLastSequenceError, NotFoundError
from nats.js.kv import KV_DEL, KV_OP, KV_PURGE, KeyValue
from pydantic import BaseModel

from batchyard.common.errors import InternalError, ServiceUnavailable

M = TypeVar("M", bound=BaseModel)

MAX_MESSAGE_BYTES = 1_000_000
"""What a message may hold: NATS' own limit of 1 MiB counts headers too."""

_CHANGE_ATTEMPTS = 64
_ASK_AGAIN_AFTER = (1.0,) * 7
_LAST_ANSWER = 3.0
_WRONG_LAST_SEQUENCE = (10071, 10164)
_STREAM_NOT_FOUND = 10059
_LISTING_BATCH = 256
_LISTING_TIMEOUT = 5.0


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
        self._stream = f"KV_{bucket}"
        self._prefix = f"$KV.{bucket}."
        self._kv = KeyValue(name=bucket, stream=self._stream, pre=self._prefix, js=js, direct=False)
        self._model = model

    async def get(self, key: str) -> Entry[M] | None:
        """The record under `key`, or None."""
        with _outage_told():
            try:
                entry = await self._ask(key)
            except KeyNotFoundError as error:
                # nats-py tells a missing bucket as a missing key; whoever deletes by that answer would delete all.
                if getattr(error.__context__, "err_code", None) == _STREAM_NOT_FOUND:
                    raise ServiceUnavailable("The record store is missing. Please retry shortly.") from error
                return None
        return self._entry(entry)

    async def _ask(self, key: str) -> KeyValue.Entry:
        """Ask for a record, and again before long: what a server was asked that dies no other one ever hears of, and in
        a cluster another one soon leads. Writes are not repeated so: the first one may have taken place."""
        for seconds in _ASK_AGAIN_AFTER:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    return await self._kv.get(key)
        async with asyncio.timeout(_LAST_ANSWER):
            return await self._kv.get(key)

    async def removed_at(self, key: str) -> float | None:
        """When the record was removed, by NATS' clock in Unix seconds; None if there is one, or never was."""
        with _outage_told():
            try:
                message = await self._js.get_last_msg(self._stream, f"{self._prefix}{key}")
            except NotFoundError:
                return None
        if KV_OP not in (message.headers or {}):
            return None
        assert message.time is not None
        return message.time.timestamp()

    async def create(self, key: str, value: M) -> int:
        """Write a record that must not exist yet; its revision. Raises RevisionConflict when it does."""
        with _outage_told():
            try:
                return await self._kv.create(key, _encode(value))
            except KeyWrongLastSequenceError as error:
                raise RevisionConflict(key) from error

    async def update(self, key: str, value: M, revision: int) -> int:
        """Replace the record read at `revision` (0: there never was one); the new revision. Raises RevisionConflict."""
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

    async def purge(self, key: str) -> None:
        """Remove a record and every trace of it. Who watches is not told."""
        with _outage_told():
            await self._js.purge_stream(self._stream, subject=f"{self._prefix}{key}")

    async def erase(self, prefix: str) -> None:
        """The same for every record whose key begins with the tokens of `prefix`."""
        await self.purge(f"{prefix}.>")

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
        async with aclosing(self._messages(prefix)) as messages:
            async for message in messages:
                if KV_OP not in (message.headers or {}):
                    yield self._listed(message)

    async def forget_removed(self, before: float) -> None:
        """Erase the mark that NATS keeps of each record that was removed before a moment, in Unix seconds.

        There is one for every record that ever was, and each listing reads them. After that their keys are new ones.
        """
        async with aclosing(self._messages("")) as messages:
            async for message in messages:
                seen = message.metadata
                if KV_OP in (message.headers or {}) and seen.timestamp.timestamp() < before:
                    with _outage_told():  # up to the mark: what was written over it stays
                        await self._js.purge_stream(self._stream, seen.sequence.stream + 1, message.subject)

    async def _messages(self, prefix: str) -> AsyncGenerator[Msg, None]:
        """The last message of each key that begins with the tokens of `prefix`, marks of removals included.

        Not by nats-py's `watch`: it takes a snapshot whose messages are still under way for an empty one.
        """
        with _outage_told():
            pending, messages = await self._snapshot(f"{prefix}.>" if prefix else ">")
        try:
            while pending:
                with _outage_told():
                    batch, pending = await _pull(messages, pending)
                for message in batch:
                    yield message
        finally:
            with suppress(Error):
                await messages.unsubscribe()

    async def _snapshot(self, keys: str) -> tuple[int, JetStreamContext.PullSubscription]:
        """The number of messages that lie under `keys` now, removals included, and a subscription to pull them."""
        config = ConsumerConfig(
            filter_subject=f"{self._prefix}{keys}",
            deliver_policy=DeliverPolicy.LAST_PER_SUBJECT,
            ack_policy=AckPolicy.NONE,
            mem_storage=True,
            num_replicas=1,
            inactive_threshold=_LISTING_TIMEOUT * 2,
        )
        consumer = await self._js.add_consumer(self._stream, config)
        return consumer.num_pending or 0, await self._js.pull_subscribe_bind(consumer.name, self._stream)

    def _listed(self, message: Msg) -> Entry[M]:
        key = message.subject.removeprefix(self._prefix)
        return Entry(key, self._model.model_validate_json(message.data), message.metadata.sequence.stream)

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


async def _pull(messages: JetStreamContext.PullSubscription, pending: int) -> tuple[list[Msg], int]:
    """The next of `pending` messages, and how many are left then."""
    try:
        # Never more than there are: the server would wait for them.
        batch = await messages.fetch(min(pending, _LISTING_BATCH), timeout=_LISTING_TIMEOUT)
    except TimeoutError:
        batch = []
    if batch:
        return batch, batch[-1].metadata.num_pending
    # Either a purge removed what was left, or the server was restarted and has forgotten the consumer.
    if (await messages.consumer_info()).num_pending:
        raise ServiceUnavailable("The record store did not answer. Please retry shortly.")
    return [], 0


def _encode(value: BaseModel) -> bytes:
    """Raises InternalError for what does not fit into a message: the server would close the connection for it."""
    data = value.model_dump_json(exclude_defaults=True).encode()
    if len(data) > MAX_MESSAGE_BYTES:
        raise InternalError(f"A record of {len(data)} bytes is too large for NATS.")
    return data


@contextmanager
def _outage_told() -> Iterator[None]:
    try:
        yield
    except (KeyNotFoundError, KeyWrongLastSequenceError):
        raise
    except (Error, OSError) as error:
        raise ServiceUnavailable("The record store did not answer. Please retry shortly.") from error
