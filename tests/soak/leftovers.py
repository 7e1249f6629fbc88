"""What lies about in the broker and the object store, read behind the services' backs."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nats
from nats.js import JetStreamContext
from nats.js.errors import NoKeysError

from batchyard.batch_runner.batch import BatchRecord
from batchyard.cli.running import RunningStack
from batchyard.common.messaging.topology import (
    BATCHES_BUCKET,
    FILES_BUCKET,
    PROGRESS_BUCKET,
    SHARDS_BUCKET,
    STEPS,
    WORK,
)


class Leftovers:
    """A look at everything that a batch works with; empty once all are over.

    Attributes:
        found: How much there is, by its place; what is empty is not there.
        unfinished: Records with something left to do.
        file_records: Keys in the bucket of files.
        stored_files: Objects under files/.
    """

    def __init__(self) -> None:
        self.found: dict[str, int] = {}
        self.unfinished: list[str] = []
        self.batch_records = 0
        self.file_records = 0
        self.stored_files = 0

    @classmethod
    async def seen(cls, stack: RunningStack) -> "Leftovers":
        look = cls()
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
        return not self.found and not self.unfinished

    async def _look(self, js: JetStreamContext, objects: Path) -> None:
        for bucket in (SHARDS_BUCKET, PROGRESS_BUCKET):
            self._note(f"KV {bucket}", len(await _keys(js, bucket)))
        for stream in (WORK, STEPS):
            self._note(f"stream {stream}", (await js.stream_info(stream)).state.messages)
        batches = await js.key_value(BATCHES_BUCKET)
        for key in await _keys(js, BATCHES_BUCKET):
            record = BatchRecord.model_validate_json((await batches.get(key)).value or b"")
            self.batch_records += 1
            if record.unfinished_business:
                self.unfinished.append(f"{record.raw_id} {record.status} outbox={record.outbox} swept={record.swept}")
        self.file_records = len(await _keys(js, FILES_BUCKET))
        stored = [path.relative_to(objects).parts for path in objects.rglob("*") if path.is_file()]
        self._note("objects under batches/", _count(stored, "batches"))
        self.stored_files = _count(stored, "files")

    def _note(self, place: str, count: int) -> None:
        if count:
            self.found[place] = count


async def _keys(js: JetStreamContext, bucket: str) -> list[str]:
    store: Any = await js.key_value(bucket)
    try:
        return list(await store.keys())
    except NoKeysError:
        return []


def _count(stored: Iterable[tuple[str, ...]], folder: str) -> int:
    """Objects of a folder; the store keeps them below a folder of its own."""
    return sum(1 for parts in stored if folder in parts[:2])
