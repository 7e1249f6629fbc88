"""The ledger once more, from the events and the price book: compared with the one that there is, or brought into it.

Everything that can be computed is computed again, into a database of its own, by the prices that were valid then. An
entry that is missing is added; one that cost something else is corrected by an entry of its own, as nothing is ever
changed. Corrections by people are in no event, and stay. Interrupted at any moment, it may be begun again.
"""

import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path

from nats.js import JetStreamContext
from nats.js.errors import NotFoundError
from sqlalchemy import URL

from batchyard.billing.charges import BILLABLE, Unbillable
from batchyard.billing.database import Database, open_database
from batchyard.billing.entry import LedgerEntry
from batchyard.billing.ledger import Ledger
from batchyard.billing.ledger_store import LedgerStore
from batchyard.billing.price_book import config_of
from batchyard.billing.spend_days import SpendDays
from batchyard.billing.subscriber import FromTheFuture, Unreadable, parse
from batchyard.common import subjects
from batchyard.common.clock import Clock
from batchyard.common.config import Config
from batchyard.common.contracts.batches import BatchStatus
from batchyard.common.contracts.billing import LedgerLine
from batchyard.common.contracts.events import BatchEvent
from batchyard.common.crash import crash_point
from batchyard.common.messaging.topology import EVENTS

AUTHOR = "rebuild"
"""Who corrects what came out differently."""

_SHOWN = 20
_ANYWAY = {"recorded_at": 0}


@dataclass(slots=True)
class Comparison:
    """How two ledgers differ.

    Attributes:
        events: Ends of batches that the stream still has.
        unreadable: Of those, the ones that are no events, or cannot be true; billing has refused them as well.
        equal: Entries that came out as they are.
        missing: Entries that the ledger has not.
        different: Entries that came out otherwise, and have not been corrected.
        unexplained: Charges for which the stream has no event, though it should: it is older than they are.
        older: Charges from before the oldest event that the stream still has.
        sums: Sums by day that are not those of the entries, and have not been put right.
        examples: The first few that are missing, different or unexplained, in words.
    """

    events: int = 0
    unreadable: int = 0
    equal: int = 0
    missing: int = 0
    different: int = 0
    unexplained: int = 0
    older: int = 0
    sums: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def is_equal(self) -> bool:
        return not (self.missing or self.different or self.unexplained or self.sums)

    def note(self, sentence: str) -> None:
        if len(self.examples) < _SHOWN:
            self.examples.append(sentence)


class Rebuild:
    """One rebuild of a ledger.

    Args:
        database: That of the ledger.
        today: Reads the prices of today: asked only if the ledger has no price book yet.
    """

    def __init__(self, js: JetStreamContext, database: Database, today: Callable[[], Config], clock: Clock) -> None:
        self._js = js
        self._store = LedgerStore(database)
        self._days = SpendDays(database)
        self._today = today
        self._clock = clock

    async def run(self, *, check: bool) -> Comparison:
        """Compare, and unless it is a `check` bring into the ledger what it lacks.

        Raises:
            ServiceUnavailable: The database does not answer.
            ConfigurationError: There is no price book, and no configuration to begin one with.
            nats.errors.Error: NATS does not.
        """
        found = Comparison()
        async with _scratch() as scratch:
            rebuilt = LedgerStore(scratch)
            config = await self._copy_prices(rebuilt)
            oldest = await self._replay(Ledger(rebuilt, config, self._clock, keeps_prices=False), found)
            async for entry in rebuilt.all():
                await self._compare(entry, rebuilt, found, check=check)
            async for entry in self._store.all():
                if entry.line.kind == "charge" and await rebuilt.entry(entry.line.tenant, entry.line.id) is None:
                    self._judge_unexplained(entry.line, oldest, found)
        found.sums = await self._days.wrong()
        if found.sums:
            found.note(f"{found.sums} sums by day are not those of the entries")
            if not check:
                await self._days.recompute()
                found.sums = await self._days.wrong()
        return found

    async def _copy_prices(self, rebuilt: LedgerStore) -> Config:
        """Take the price book over; its last version, as a configuration."""
        versions = await self._store.all_prices()
        if not versions:
            await Ledger(self._store, self._today(), self._clock).write_prices()
            versions = await self._store.all_prices()
        await rebuilt.copy_prices(versions)
        return config_of(versions[-1].prices)

    async def _replay(self, ledger: Ledger, found: Comparison) -> float | None:
        """Bill every end of a batch again; the second from which on the stream has all events, None if it has none."""
        for status in BatchStatus:
            if status in BILLABLE:
                async for event in self._events(status, found):
                    try:
                        await ledger.record(event)
                    except Unbillable:
                        found.unreadable += 1
        return await self._oldest()

    async def _events(self, status: BatchStatus, found: Comparison) -> AsyncIterator[BatchEvent]:
        sequence = 1
        while True:
            try:
                message = await self._js.get_msg(
                    EVENTS, seq=sequence, subject=subjects.event_filter("batches", status), next=True
                )
            except NotFoundError:
                return
            assert message.seq is not None
            assert message.subject is not None
            sequence = message.seq + 1
            found.events += 1
            try:
                yield parse(message.subject, message.data or b"")
            except (Unreadable, FromTheFuture):
                found.unreadable += 1

    async def _oldest(self) -> float | None:
        """From when on the stream has everything: 0 while nothing has left it."""
        info = await self._js.stream_info(EVENTS)
        if info.state.messages == 0:
            return None
        if info.state.first_seq <= 1:
            return 0.0
        first = await self._js.get_msg(EVENTS, seq=info.state.first_seq)
        return first.time.timestamp() if first.time is not None else None

    async def _compare(self, rebuilt: LedgerEntry, source: LedgerStore, found: Comparison, *, check: bool) -> None:
        mine = await self._store.entry(rebuilt.line.tenant, rebuilt.line.id)
        name = f"{rebuilt.line.batch_id} of team {rebuilt.line.tenant}, model {rebuilt.line.model}"
        if mine is None:
            found.missing += 1
            found.note(f"{name}: missing, {rebuilt.line.cost} {rebuilt.line.currency}")
            if not check and rebuilt.position == 0:
                await self._add_batch(rebuilt, source)
            return
        if _same(mine, rebuilt):
            found.equal += 1
            return
        corrections = await self._corrections(rebuilt)
        lack = rebuilt.line.cost - mine.line.cost - sum((one.line.cost for one in corrections), Decimal(0))
        if corrections and lack == 0:
            found.equal += 1
            return
        found.different += 1
        found.note(f"{name}: {mine.line.cost} on the ledger, {rebuilt.line.cost} by the events")
        if not check and lack != 0 and mine.line.currency == rebuilt.line.currency:
            await self._store.add([self._correction(mine, lack, len(corrections))])
            crash_point("rebuild.corrected")

    async def _add_batch(self, first: LedgerEntry, source: LedgerStore) -> None:
        """Add all entries of a batch at once, so that it never has only some of them."""
        assert first.raw_batch_id is not None
        entries = await source.of_batch(first.line.tenant, first.raw_batch_id)
        await self._store.add(sorted(entries, key=lambda entry: entry.position))
        crash_point("rebuild.added")

    async def _corrections(self, rebuilt: LedgerEntry) -> list[LedgerEntry]:
        assert rebuilt.raw_batch_id is not None
        about = await self._store.of_batch(rebuilt.line.tenant, rebuilt.raw_batch_id)
        return [one for one in about if one.line.author == AUTHOR and one.line.model == rebuilt.line.model]

    def _correction(self, mine: LedgerEntry, amount: Decimal, number: int) -> LedgerEntry:
        now = int(self._clock.now())
        said = ("batch_id", "tenant", "key_id", "key_alias", "model", "endpoint", "status", "batch_created_at")
        line = LedgerLine(
            **{name: getattr(mine.line, name) for name in (*said, "metadata", "currency")},
            id=f"fix_{mine.line.id}.{number}",
            kind="adjustment",
            cost=amount,
            finished_at=now,
            recorded_at=now,
            reason="The events and the prices of the time come to another amount.",
            author=AUTHOR,
        )
        return LedgerEntry(line=line, position=-1, raw_batch_id=mine.raw_batch_id)

    def _judge_unexplained(self, line: LedgerLine, oldest: float | None, found: Comparison) -> None:
        if oldest is None or line.finished_at <= oldest:
            found.older += 1
            return
        found.unexplained += 1
        found.note(f"{line.batch_id} of team {line.tenant}: charged {line.cost} {line.currency}, and there is no event")


def _same(mine: LedgerEntry, rebuilt: LedgerEntry) -> bool:
    """Whether an entry came out as it is. One from before there were versions of the prices has its own prices."""
    if mine.line.price_version is None:
        known = ("usage", "request_counts", "model", "status", "finished_at")
        return all(getattr(mine.line, name) == getattr(rebuilt.line, name) for name in known)
    return _plain(mine) == _plain(rebuilt)


def _plain(entry: LedgerEntry) -> LedgerEntry:
    return replace(entry, line=entry.line.model_copy(update=_ANYWAY), event_id=None)


@asynccontextmanager
async def _scratch() -> AsyncIterator[Database]:
    with tempfile.TemporaryDirectory(prefix="batchyard-rebuild-") as directory:
        url = URL.create("sqlite+aiosqlite", database=str(Path(directory) / "ledger.db"))
        async with open_database(url, patience=10) as database:
            yield database
