"""The batches in progress as the records tell, kept up to date by whoever watches the records."""

import asyncio
from collections import Counter
from collections.abc import Callable

from batchyard.batch_runner.batch import BatchRecord
from batchyard.batch_runner.batch_store import BatchStore
from batchyard.batch_runner.settings import RunnerSettings
from batchyard.batch_runner.turns import Standing, may_queue, next_in_turn
from batchyard.common.clock import Clock
from batchyard.common.contracts.batches import BatchStatus
from batchyard.common.errors import ServiceUnavailable
from batchyard.common.logs import get_logger
from batchyard.common.messaging.records import Entry
from batchyard.common.tasks import unless

_TOGETHER = 0.02  # seconds in which changes are looked at together
_ASKED_AGAIN_AFTER = 1.0
_log = get_logger(__name__)


class Standings:
    """What turns are judged by. Batches of several models, and those that a server runs whole, stand outside of it.

    Every runner gives turns, each by what it has seen itself: a batch whose turn one of them missed is moved by the
    others, and in the end by the reconciler.

    Args:
        runners: Says how many runners there are.
    """

    def __init__(self, store: BatchStore, settings: RunnerSettings, clock: Clock, runners: Callable[[], int]) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._runners = runners
        self._standings: dict[str, Standing] = {}
        self._asked: dict[str, float] = {}
        self._unconfirmed: set[str] = set()
        self._changed = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Queue a step for each batch that waits for nothing but its turn, once it has it, until `stop` is set."""
        while not stop.is_set():
            await unless(stop, self._changed.wait())
            self._changed.clear()
            try:
                await self._give_turns()
            except ServiceUnavailable as error:
                _log.warning("turns.postponed", reason=str(error))
            await unless(stop, asyncio.sleep(_TOGETHER))

    def renew(self) -> None:
        """All records are about to be told anew: forget those that were not told again since the last time."""
        for key in self._unconfirmed:
            self._standings.pop(key, None)
            self._asked.pop(key, None)
        self._unconfirmed = set(self._standings)

    def note(self, change: Entry[BatchRecord] | str) -> None:
        """A record has changed, or the one of this key is gone."""
        standing = None if isinstance(change, str) else _standing(change.value, change.revision)
        key = change if isinstance(change, str) else change.key
        self._unconfirmed.discard(key)
        if standing is None:
            self._standings.pop(key, None)
            self._asked.pop(key, None)
        else:
            if key not in self._standings:
                self._asked[key] = self._clock.monotonic()  # whoever planned it goes on with it
            self._standings[key] = standing
        self._changed.set()

    def may_queue(self, record: BatchRecord) -> int:
        """How many more shards of a batch may be queued now."""
        before = self._standings.get(record.key)
        standing = _standing(record, before.changed if before else 0)
        if standing is None:
            return record.shards
        return may_queue(standing, self._standings.values(), self._slots, self._clock.now())

    def undispatched(self) -> Counter[str]:
        """The shards that are not queued yet, by pool."""
        counts: Counter[str] = Counter()
        for one in self._standings.values():
            counts[one.pool] += one.unqueued
        return counts

    async def _give_turns(self) -> None:
        standings = list(self._standings.values())
        for pool in dict.fromkeys(one.pool for one in standings):
            for one in next_in_turn(pool, standings, self._slots, self._clock.now()):
                now = self._clock.monotonic()
                if now - self._asked.get(one.key, 0.0) >= _ASKED_AGAIN_AFTER:
                    self._asked[one.key] = now
                    await self._store.queue_step(one.tenant, one.key.rpartition(".")[2])

    @property
    def _slots(self) -> int:
        return self._settings.shards_per_pool * self._runners()


def _standing(record: BatchRecord, changed: int) -> Standing | None:
    if record.status is not BatchStatus.IN_PROGRESS or record.pool is None or record.native is not None:
        return None
    return Standing(
        key=record.key,
        tenant=record.tenant,
        pool=record.pool,
        queued=record.dispatched - record.settled_count,
        unqueued=record.shards - record.dispatched,
        changed=changed,
        expires_at=record.expires_at,
    )
