"""The servers that run batches of their own: which ones do, which one takes the next batch, and tidying up there."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from batchyard.batch_runner.batch import BatchRecord
from batchyard.batch_runner.batch_store import BatchStore
from batchyard.batch_runner.fleet import Fleet
from batchyard.batch_runner.native.api import NativeApi, NotAnswering, Refused
from batchyard.batch_runner.native.run import NativeRun
from batchyard.batch_runner.native.start import upload_name
from batchyard.batch_runner.native.tools import NativeTools
from batchyard.batch_runner.native_note import NativeNote
from batchyard.batch_runner.pauses import Pause
from batchyard.batch_runner.settings import RunnerSettings
from batchyard.batch_runner.shard_input import ShardInput
from batchyard.batch_runner.tally import ShardProgress
from batchyard.common.clock import Clock
from batchyard.common.config import BatchMode, Deployment
from batchyard.common.contracts.batches import BatchProblem
from batchyard.common.logs import get_logger

_ASK_AGAIN = 60.0
_log = get_logger(__name__)


class Undecided(Exception):
    """A server that might run batches of its own has never answered yet."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What a server said when it was last asked, and when that was."""

    is_native: bool
    asked_at: float


class NativeServers:
    """The servers of this process' pools that run whole batches."""

    def __init__(
        self,
        store: BatchStore,
        fleet: Fleet,
        api: NativeApi,
        settings: RunnerSettings,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._fleet = fleet
        self._api = api
        self._settings = settings
        self._clock = clock
        self._rng = rng
        uploads, fetches = (asyncio.Semaphore(settings.native_transfers) for _ in range(2))
        self._tools = NativeTools(store, api, settings, rng, uploads, fetches)
        self._known: dict[str, _Known] = {}
        self._running: Counter[str] = Counter()

    @property
    def pools(self) -> list[str]:
        """The pools that have such a server, or one that may be such."""
        return [
            name
            for name, pool in self._fleet.pools.items()
            if any(member.deployment.batch_mode is not BatchMode.REQUESTS for member in pool.members)
        ]

    async def choose(self, pool: str) -> NativeNote | None:
        """The server that is to run a batch of the pool whole, the least busy first; None when its lines are to be
        sent one by one.

        Raises:
            Undecided: That depends on a server which does not answer, or the configuration has just lost the pool.
        """
        found = self._fleet.pools.get(pool)
        if found is None:
            raise Undecided(pool)
        candidates: list[Deployment] = []
        takes_lines = undecided = False
        for member in found.members:
            is_native = await self._is_native(member.deployment)
            if is_native:
                candidates.append(member.deployment)
            takes_lines |= is_native is False
            undecided |= is_native is None
        if candidates:
            return NativeNote(deployment=min(candidates, key=self._load).id)
        if undecided and not takes_lines:
            raise Undecided(pool)
        return None

    async def check_mixed(self, pools: Iterable[str | None]) -> BatchProblem | None:
        """What speaks against a batch whose lines are for several pools: none of it goes to a server that runs whole
        batches, and the lines for such a server would not do there one by one.

        Raises:
            Undecided: See `choose`.
        """
        for pool in pools:
            if pool is not None and await self.choose(pool) is not None:
                return BatchProblem(
                    code="mismatched_model",
                    message=f"The model '{pool}' is served by a server that runs whole batches: it needs a batch of "
                    "its own.",
                    param="body.model",
                )
        return None

    def run(
        self,
        record: BatchRecord,
        shard: ShardInput,
        on_checkpoint: Callable[[ShardProgress], Awaitable[None]],
        pause: Pause | None = None,
    ) -> NativeRun:
        """A run of a batch on the server that was chosen for it."""
        return NativeRun(self._tools, record, shard, lambda: self._deployment(record), on_checkpoint, pause)

    @contextmanager
    def counted(self, record: BatchRecord) -> Iterator[None]:
        """While a batch runs on its server, the server is that much busier."""
        assert record.native is not None
        self._running[record.native.deployment] += 1
        try:
            yield
        finally:
            self._running[record.native.deployment] -= 1

    async def clean(self, record: BatchRecord) -> None:
        """Remove from the server what it still has of a batch that is over. It may run twice; that it fails is only
        logged."""
        deployment, note = self._deployment(record), record.native
        if note is None or note.uploads == 0:
            return
        reason = "it is not configured any more"
        if deployment is not None:
            try:
                async with asyncio.timeout(self._settings.native_cancel_grace):
                    await self._clean(record.raw_id, deployment, note)
            except (NotAnswering, Refused, TimeoutError) as error:
                reason = str(error) or "it took too long"
            else:
                return
        _log.warning(
            "native.not_cleaned",
            batch=record.raw_id,
            deployment=note.deployment,
            upstream=note.batch_id,
            file=note.file_id,
            reason=reason,
        )

    async def _clean(self, raw_id: str, deployment: Deployment, note: NativeNote) -> None:
        files = [note.file_id] if note.file_id else []
        batch_id = note.batch_id
        if batch_id is None and note.file_id is not None:
            found = await self._api.find(deployment, raw_id, note.file_created_at)
            batch_id = found.id if found else None
        if batch_id is not None:
            batch = (await self._api.batch(deployment, batch_id)).batch
            if not batch.is_over:
                await self._api.cancel(deployment, batch_id)
            files += [file_id for file_id in (batch.output_file_id, batch.error_file_id) if file_id]
        if note.uploads > 1 or note.file_id is None:
            named = await self._api.files_named(deployment, upload_name(raw_id))
            files += [file_id for file_id in named if file_id not in files]
        for file_id in files:
            await self._api.delete_file(deployment, file_id)

    async def _is_native(self, deployment: Deployment) -> bool | None:
        """Whether a server runs batches of its own; one that is to be asked is asked again every now and then, and
        while it does not answer, what it said last holds."""
        if deployment.batch_mode is not BatchMode.AUTO:
            return deployment.batch_mode is BatchMode.NATIVE
        known, now = self._known.get(deployment.id), self._clock.monotonic()
        if known is None or now - known.asked_at > _ASK_AGAIN:
            try:
                known = _Known(await self._api.has_batches(deployment), now)
            except NotAnswering as error:
                _log.info("native.not_answering", deployment=deployment.id, reason=str(error))
            else:
                self._known[deployment.id] = known
        return known.is_native if known else None

    def _load(self, deployment: Deployment) -> tuple[float, float]:
        """Those with the fewest batches for their weight come first; among equals, a heavier one more often."""
        weight = deployment.weight
        return self._running[deployment.id] / weight, -(self._rng.random() ** (1 / weight))

    def _deployment(self, record: BatchRecord) -> Deployment | None:
        pool = self._fleet.pools.get(record.pool or "")
        for member in pool.members if pool and record.native else ():
            if record.native and member.deployment.id == record.native.deployment:
                return member.deployment
        return None
