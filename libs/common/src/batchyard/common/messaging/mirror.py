"""A whole bucket in memory, kept as it is in NATS: for records that every request asks for.

The server is asked for a heartbeat, and numbers what it sends: a watch that was lost, or a message of it, is noticed
within seconds, and the bucket is then read anew. nats-py's own watch notices it after some fifteen. A connection that
comes back is taken for a watch that was lost at once: whatever was changed meanwhile must be known before it is relied
on.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Generic, TypeVar

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.kv import KV_OP
from pydantic import BaseModel, ValidationError

from batchyard.common.errors import ServiceUnavailable
from batchyard.common.logs import get_logger
from batchyard.common.messaging.connection import Connection
from batchyard.common.messaging.records import Entry
from batchyard.common.tasks import end

M = TypeVar("M", bound=BaseModel)
NamesOf = Callable[[M], Iterable[str]]

_HEARTBEAT_SECONDS = 0.5
_SILENCE_SECONDS = 4 * _HEARTBEAT_SECONDS
_REPLY_SECONDS = 2.0
_PAUSE_SECONDS = 0.25
_LOAD_SECONDS = 30.0
_HEARTBEAT = "100"
_LAST_SENT = "Nats-Last-Consumer"
_log = get_logger(__name__)


class _WatchLost(Exception):
    """The watch has gone silent, or a message of it went missing."""


class _Entries(Generic[M]):
    """Records by their key, and by what they are also found by."""

    def __init__(self, names_of: NamesOf[M]) -> None:
        self._names_of = names_of
        self._keys: dict[str, str] = {}
        self.by_key: dict[str, Entry[M]] = {}

    def put(self, entry: Entry[M]) -> None:
        self.drop(entry.key)
        self.by_key[entry.key] = entry
        self._keys.update(dict.fromkeys(self._names_of(entry.value), entry.key))

    def drop(self, key: str) -> None:
        entry = self.by_key.pop(key, None)
        for name in () if entry is None else self._names_of(entry.value):
            self._keys.pop(name, None)

    def find(self, name: str) -> Entry[M] | None:
        key = self._keys.get(name)
        return None if key is None else self.by_key[key]


class Mirror(Generic[M]):
    """The records of one bucket whose keys are one token, or one more than `under`. Reading it asks nobody;
    made current by `mirroring`.

    While NATS is away it shows what was there before.

    Args:
        bucket: Whose records.
        model: What they are.
        names_of: What a record is found by beside its key; no two have a name in common.
        under: The first token of the keys, which is no part of them here.
    """

    def __init__(
        self, bucket: str, model: type[M], names_of: NamesOf[M] = lambda _: (), under: str | None = None
    ) -> None:
        self._bucket = bucket
        self._prefix = f"$KV.{bucket}." if under is None else f"$KV.{bucket}.{under}."
        self._model = model
        self._names_of = names_of
        self._entries = _Entries(names_of)
        self._loaded = asyncio.Event()
        self.is_current = False

    def get(self, key: str) -> M | None:
        """The record under `key`."""
        entry = self._entries.by_key.get(key)
        return None if entry is None else entry.value

    def find(self, name: str) -> M | None:
        """The record that has `name` among its names."""
        entry = self._entries.find(name)
        return None if entry is None else entry.value

    def values(self) -> Iterator[M]:
        """Every record, in no order."""
        return (entry.value for entry in self._entries.by_key.values())

    def learn(self, entry: Entry[M]) -> None:
        """Take over a record that this process has just written, before the watch brings it back."""
        known = self._entries.by_key.get(entry.key)
        if known is None or known.revision < entry.revision:
            self._entries.put(entry)

    def forget(self, key: str) -> None:
        """Take over that this process has just removed a record."""
        self._entries.drop(key)

    async def loaded(self, timeout: float = _LOAD_SECONDS) -> None:
        """Wait until every record is there. Raises ServiceUnavailable after `timeout` seconds."""
        try:
            await asyncio.wait_for(self._loaded.wait(), timeout)
        except TimeoutError as error:
            raise ServiceUnavailable(f"The records of '{self._bucket}' could not be read.") from error

    async def follow(self, connection: Connection) -> None:
        """Read the bucket and follow its changes, over and over, until cancelled."""
        was_told = False
        while True:
            try:
                await self._watch_over(connection)
            except Exception as error:  # noqa: BLE001  whatever it was: what stands still here keeps revoked keys alive
                if self.is_current or not was_told:
                    was_told = True
                    _log.warning("mirror.watch_lost", bucket=self._bucket, reason=repr(error))
                self.is_current = False
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _watch_over(self, connection: Connection) -> None:
        """Watch as long as the connection is the same one."""
        try:
            async with asyncio.timeout(None) as watching:

                def end_now() -> None:
                    if not watching.expired():
                        watching.reschedule(0)

                with connection.telling(end_now):
                    await self._watch(connection)
        except TimeoutError as error:
            if watching.expired():
                raise _WatchLost("the connection is another one") from error
            raise

    async def _watch(self, connection: Connection) -> None:
        inbox = connection.new_inbox()
        subscription = await connection.subscribe(inbox)
        try:
            pending = await self._open(connection, inbox)
            expected = await self._read_all(subscription, pending)
            if not self.is_current:
                _log.info("mirror.current", bucket=self._bucket, records=len(self._entries.by_key))
            self.is_current = True
            self._loaded.set()
            while True:
                message = await self._next(subscription, expected)
                if message is not None:
                    expected += 1
                    self._note(self._entries, message)
        finally:
            with suppress(Error, OSError):
                await subscription.unsubscribe()

    async def _open(self, connection: Connection, inbox: str) -> int:
        """Let the server send the last state of every key, then all changes, to `inbox`; how many there are now."""
        config = ConsumerConfig(
            deliver_subject=inbox,
            filter_subject=f"{self._prefix}*",
            deliver_policy=DeliverPolicy.LAST_PER_SUBJECT,
            ack_policy=AckPolicy.NONE,
            max_deliver=1,
            idle_heartbeat=_HEARTBEAT_SECONDS,
            mem_storage=True,
            num_replicas=1,
        )
        js = connection.jetstream(timeout=_REPLY_SECONDS)
        return (await js.add_consumer(f"KV_{self._bucket}", config)).num_pending or 0

    async def _read_all(self, messages: Subscription, pending: int) -> int:
        """Go over to what is there now, whole; the number of the next message."""
        entries = _Entries(self._names_of)
        expected = 1
        while pending:
            message = await self._next(messages, expected)
            if message is not None:
                expected += 1
                pending = message.metadata.num_pending
                self._note(entries, message)
        self._entries = entries
        return expected

    async def _next(self, messages: Subscription, expected: int) -> Msg | None:
        """The next message, None for a heartbeat. Raises _WatchLost when there is neither, or the number is wrong."""
        try:
            message = await messages.next_msg(_SILENCE_SECONDS)
        except TimeoutError as error:
            raise _WatchLost("the server is silent") from error
        headers = message.headers or {}
        is_heartbeat = headers.get("Status") == _HEARTBEAT
        number = int(headers[_LAST_SENT]) + 1 if is_heartbeat else message.metadata.sequence.consumer
        if number != expected:
            raise _WatchLost(f"message {number} came when {expected} was due")
        return None if is_heartbeat else message

    def _note(self, entries: _Entries[M], message: Msg) -> None:
        key = message.subject.removeprefix(self._prefix)
        if KV_OP in (message.headers or {}):
            entries.drop(key)
            return
        revision = message.metadata.sequence.stream
        entry = self._entries.by_key.get(key)
        if entry is None or entry.revision < revision:
            try:
                entry = Entry(key, self._model.model_validate_json(message.data), revision)
            except ValidationError as error:  # written by a newer release: what was known of it stays
                _log.error("mirror.unreadable", bucket=self._bucket, key=key, errors=error.error_count())
        if entry is not None:
            entries.put(entry)


@asynccontextmanager
async def mirroring(
    connection: Connection, bucket: str, model: type[M], names_of: NamesOf[M] = lambda _: (), under: str | None = None
) -> AsyncIterator[Mirror[M]]:
    """A mirror that is loaded, and kept current while the context is open.

    Raises:
        ServiceUnavailable: The bucket could not be read.
    """
    mirror = Mirror(bucket, model, names_of, under)
    follower = asyncio.create_task(mirror.follow(connection))
    try:
        await mirror.loaded()
        yield mirror
    finally:
        await end((follower,))
