"""What lies about in the broker and the object store, read behind the services' backs."""

import sqlite3
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import nats
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import NoKeysError

from batchyard.batch_runner.batch import BatchRecord
from batchyard.batch_runner.enqueued import EnqueuedRecord
from batchyard.cli.running import RunningStack
from batchyard.common.contracts.events import BatchEvent, BudgetEvent
from batchyard.common.messaging.topology import (
    BATCHES_BUCKET,
    ENQUEUED_BUCKET,
    EVENTS,
    FILES_BUCKET,
    PROGRESS_BUCKET,
    SHARDS_BUCKET,
    STEPS,
    WEBHOOKS,
    WEBHOOKS_CONSUMER,
    WORK,
)
from soak.client import Client


class Leftovers:
    """A look at everything that a batch works with; empty once all are over.

    Attributes:
        found: How much there is, by its place; what is empty is not there.
        unfinished: Records with something left to do.
        held: What still counts for limits and budgets.
        file_records: Keys in the bucket of files.
        stored_files: Objects under files/.
    """

    def __init__(self) -> None:
        self.found: dict[str, int] = {}
        self.unfinished: list[str] = []
        self.held: list[str] = []
        self.batch_records = 0
        self.file_records = 0
        self.stored_files = 0

    @classmethod
    async def seen(cls, stack: RunningStack, clients: Mapping[str, Client]) -> "Leftovers":
        look = cls()
        for team, client in clients.items():
            look._note_used(team, await client.json("GET", "/v1/limits"))
        look._note_reserved(stack.layout.ledger)
        connection = await nats.connect(
            stack.nats.url, token=stack.nats.token, connect_timeout=5, max_reconnect_attempts=3
        )
        try:
            await look._look(connection.jetstream(timeout=5), stack.layout.objects)
        finally:
            await connection.close()
        return look

    @property
    def is_clean(self) -> bool:
        return not self.found and not self.unfinished and not self.held

    async def _look(self, js: JetStreamContext, objects: Path) -> None:
        for bucket in (SHARDS_BUCKET, PROGRESS_BUCKET):
            self._note(f"KV {bucket}", len(await _keys(js, bucket)))
        # First the events that are to be told, and then what they are told by.
        telling = await js.consumer_info(EVENTS, WEBHOOKS_CONSUMER)
        self._note("events to tell", (telling.num_pending or 0) + (telling.num_ack_pending or 0))
        for stream in (WORK, STEPS, WEBHOOKS):
            self._note(f"stream {stream}", (await js.stream_info(stream)).state.messages)
        batches = await js.key_value(BATCHES_BUCKET)
        for key in await _keys(js, BATCHES_BUCKET):
            record = BatchRecord.model_validate_json((await batches.get(key)).value or b"")
            self.batch_records += 1
            if record.unfinished_business:
                self.unfinished.append(f"{record.raw_id} {record.status} outbox={record.outbox} swept={record.swept}")
        enqueued = await js.key_value(ENQUEUED_BUCKET)
        for key in await _keys(js, ENQUEUED_BUCKET):
            counted = EnqueuedRecord.model_validate_json((await enqueued.get(key)).value or b"").open()
            self.held += [f"{key} has {raw_id} enqueued" for raw_id in counted]
        self.file_records = len(await _keys(js, FILES_BUCKET))
        stored = [path.relative_to(objects).parts for path in objects.rglob("*") if path.is_file()]
        self._note("objects under batches/", _count(stored, "batches"))
        self.stored_files = _count(stored, "files")

    def _note_used(self, team: str, limits: Any) -> None:
        """What `/v1/limits` says is used by what has not ended."""
        for scope in ("team", "key"):
            used = (limits["enqueued"][scope] or {"used": {}})["used"]
            self.held += [
                f"{scope} {team}: {used[what]} {what}" for what in ("batches", "lines", "tokens") if used.get(what)
            ]
            reserved = Decimal((limits["budgets"][scope] or {"reserved": 0})["reserved"])
            if reserved:
                self.held.append(f"{scope} {team}: {reserved} reserved")

    def _note_reserved(self, ledger: Path) -> None:
        connection = sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)
        try:
            rows = connection.execute("SELECT tenant, batch_id FROM budget_reservations").fetchall()
        finally:
            connection.close()
        self.held += [f"{tenant} has {batch_id} reserved" for tenant, batch_id in rows]

    def _note(self, place: str, count: int) -> None:
        if count:
            self.found[place] = count


async def read_events(stack: RunningStack) -> tuple[dict[str, BatchEvent], list[BudgetEvent]]:
    """The ends of batches, by the ID of the event, and what was told of budgets: all that the stream has, each once."""
    connection = await nats.connect(stack.nats.url, token=stack.nats.token, connect_timeout=5, max_reconnect_attempts=3)
    ends: dict[str, BatchEvent] = {}
    budgets: dict[str, BudgetEvent] = {}
    try:
        js = connection.jetstream(timeout=5)
        pending = (await js.stream_info(EVENTS)).state.messages
        messages = await js.pull_subscribe("", stream=EVENTS, config=ConsumerConfig(ack_policy=AckPolicy.NONE))
        while pending:
            for message in await messages.fetch(min(pending, 100), timeout=10):
                pending = message.metadata.num_pending
                if ".budgets." in message.subject:
                    told = BudgetEvent.model_validate_json(message.data)
                    budgets[told.id] = told
                    continue
                event = BatchEvent.model_validate_json(message.data)
                if event.status.is_terminal:
                    ends[event.id] = event
    finally:
        await connection.close()
    return ends, list(budgets.values())


async def _keys(js: JetStreamContext, bucket: str) -> list[str]:
    store: Any = await js.key_value(bucket)
    try:
        return list(await store.keys())
    except NoKeysError:
        return []


def _count(stored: Iterable[tuple[str, ...]], folder: str) -> int:
    """Objects of a folder; the store keeps them below a folder of its own."""
    return sum(1 for parts in stored if folder in parts[:2])
