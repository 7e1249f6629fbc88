"""One run of a soak: its clients, its chaos, its rest, and what is read of it at the end."""

import asyncio
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from nats.errors import Error as NatsError

from batchyard.cli.running import RunningStack
from batchyard.vllm_sim.request_log import Record
from batchyard.vllm_sim.testing import RunningSim
from soak.administration import Administrator
from soak.chaos import Chaos
from soak.check_access import check_access
from soak.check_limits import check_limits
from soak.check_money import check_money
from soak.check_webhooks import check_webhooks
from soak.checker import ENDED, Seen, Verdict, check_batches, check_leftovers, check_sends
from soak.client import Client
from soak.configuration import sendings_per_strike
from soak.diary import Diary, Refusal, Refused, Wish
from soak.leftovers import Leftovers
from soak.listener import Listener
from soak.money import Books
from soak.plan import Plan
from soak.rebuilding import check_rebuild
from soak.strangers import Strangers

CHAOS_SHARE = 0.8
"""Of all the time: then chaos ends, done or not."""
REST_WITHIN = 150.0
LEDGER_WITHIN = 60.0
CLEAN_WITHIN = 150.0
"""What a crash left counted is given back by then: room is kept for two minutes for a batch that is being made."""
_NEXT_TRY = 1.0
_LIMITED = 429


@dataclass
class Soak:
    """One run, and what it has come to so far."""

    plan: Plan
    stack: RunningStack
    sims: list[RunningSim]
    administrator: Administrator
    chaos: Chaos
    listener: Listener
    diary: Diary
    deadline: float
    began: float = field(default_factory=time.monotonic)
    batches: dict[str, Any] = field(default_factory=dict)
    falls: list[int] = field(default_factory=list)
    surprises: list[str] = field(default_factory=list)
    phase: str = "chaos"

    async def run(self) -> list[Verdict]:
        """Chaos, then rest, then the verdicts."""
        self.diary.wishes = {batch.number: Wish(batch) for batch in self.plan.batches}
        workers = [asyncio.create_task(self.administrator.run(), name="administrator")]
        workers += [asyncio.create_task(self._drive(wish)) for wish in self.diary.wishes.values()]
        strangers = asyncio.create_task(
            Strangers(self.administrator, self.diary, self.plan.rng("strangers")).run(), name="strangers"
        )
        suffering = asyncio.create_task(self.listener.suffer(self.plan.moods, self.chaos.over), name="listener")
        try:
            await self._chaos()
            self.phase = "coming to rest"
            rested = time.monotonic()
            within = min(REST_WITHIN, self.deadline - time.monotonic() - 20)
            _, late = await asyncio.wait(workers, timeout=max(1.0, within))
            done = [task for task in (*workers, strangers, suffering) if task.done()]
            problems = [repr(task.exception()) for task in done if task.exception()]
        finally:
            for task in (*workers, strangers, suffering):
                task.cancel()
            await asyncio.gather(*workers, strangers, suffering, return_exceptions=True)
        verdicts = [self._survived()]
        async with asyncio.timeout_at(asyncio.get_running_loop().time() + max(20.0, self.deadline - time.monotonic())):
            listed = await self._all_ended()
            seconds = time.monotonic() - rested
            stuck = [
                f"{one['metadata']} {one['status']} {one['id']}" for _, one in listed if one["status"] not in ENDED
            ]
            wrong = [*stuck, *problems, *self.surprises]
            verdicts.append(
                Verdict(
                    "at rest within the bound, no surprise on the way",
                    not (late or wrong),
                    f"{seconds:.1f} s after the last strike (bound {REST_WITHIN:g}); {self._retries} retries of "
                    f"the clients; {wrong[:5] or 'nothing stuck'}" + (f"; {len(late)} not done" if late else ""),
                )
            )
            self.phase = "checking"
            if len(self.administrator.clients) > len(self.administrator.teams):  # otherwise the verdict before says why
                verdicts += await self._verdicts(listed)
        return verdicts

    def line(self) -> str:
        """How far it is."""
        counts = Counter(batch["status"] for batch in self.batches.values())
        lines = sum(batch["request_counts"]["completed"] for batch in self.batches.values())
        said = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
        refused = sum(len(wish.refusals) for wish in self.diary.wishes.values())
        return (
            f"{time.monotonic() - self.began:5.0f} s  {self.phase}: {len(self.chaos.struck)}/{len(self.plan.strikes)} "
            f"strikes (now {self.chaos.doing}); batches: {said or 'none yet'}; {lines} lines completed; "
            f"{refused} refusals; {self._retries} retries"
        )

    @property
    def _retries(self) -> int:
        return sum(client.retries for client in self.administrator.clients.values())

    async def _chaos(self) -> None:
        seconds = (self.deadline - time.monotonic()) * CHAOS_SHARE
        with suppress(TimeoutError):
            await asyncio.wait_for(self.chaos.run(), seconds)
        self.chaos.doing = "none"

    async def _drive(self, wish: Wish) -> None:
        """One batch's client."""
        planned = wish.planned
        await self.chaos.until(planned.starts_after)
        client = await self._client(planned.team)
        wish.file_id = (await client.upload(planned))["id"]
        batch = await self._made(client, wish)
        cancel_at = None if planned.cancel_after is None else time.monotonic() + planned.cancel_after
        while batch["status"] not in ENDED:
            if cancel_at is not None and time.monotonic() >= cancel_at:
                cancel_at = None
                await client.cancel(batch["id"])
            await asyncio.sleep(0.25 if cancel_at is None else 0.05)
            before, looked = batch, time.time()
            batch = await client.batch(batch["id"])
            if batch["status"] in {"validating", "in_progress"}:
                wish.open_at = looked
            self._compare(before, batch)
            self.batches[batch["id"]] = batch
        wish.ended_seen = time.time()

    async def _made(self, client: Client, wish: Wish) -> Any:
        """The wish's batch, asked for again while there is no room for it."""
        while True:
            sent = time.time()
            wish.first_sent = wish.first_sent or sent
            try:
                batch = await client.create(wish)
            except Refused as refused:
                if refused.status != _LIMITED:
                    raise
                said = (refused.status, refused.code, refused.message, refused.retry_after)
                wish.refusals.append(Refusal(sent, time.time(), *said))
                await asyncio.sleep(_NEXT_TRY)
                continue
            wish.sent, wish.answered, wish.batch_id = sent, time.time(), batch["id"]
            self.batches[batch["id"]] = batch
            return batch

    async def _client(self, team: str) -> Client:
        while team not in self.administrator.clients:
            await asyncio.sleep(0.1)
        return self.administrator.clients[team]

    def _compare(self, before: Any, batch: Any) -> None:
        """Nothing that a client has been told is taken back."""
        known = {name: value for name, value in before.items() if name.endswith("_at") and value is not None}
        for name, value in known.items():
            if batch[name] != value:
                self.surprises.append(f"{name} went from {value} to {batch[name]}")
        done, now = before["request_counts"]["completed"], batch["request_counts"]["completed"]
        if now < done:
            self.falls.append(done - now)
        if batch["status"] in ENDED and now < done:
            self.surprises.append(f"{now} completed at the end, {done} before: {batch['id']}")

    async def _all_ended(self) -> list[tuple[str, Any]]:
        """Every batch with its team. Those that a client's second try made have no one who waits for them."""
        until = min(time.monotonic() + 30.0, self.deadline - 15)
        while True:
            listed = [
                (team, batch)
                for team, client in self.administrator.clients.items()
                async for batch in client.pages("/v1/batches", 50)
            ]
            if all(one["status"] in ENDED for _, one in listed) or time.monotonic() > until:
                return listed
            await asyncio.sleep(0.5)

    def _survived(self) -> Verdict:
        struck, planned = len(self.chaos.struck), len(self.plan.strikes)
        return Verdict(
            "every process came back",
            not self.chaos.not_back and struck > 0,
            f"{struck} of {planned} strikes: "
            + ", ".join(f"{count} {what}" for what, count in sorted(self.chaos.counts().items()))
            + (f"; not back: {self.chaos.not_back}" if self.chaos.not_back else ""),
        )

    async def _verdicts(self, listed: list[tuple[str, Any]]) -> list[Verdict]:
        ended = [(team, batch) for team, batch in listed if batch["status"] in ENDED]
        billed = sum(batch["status"] != "failed" for _, batch in ended)
        clients = self.administrator.clients
        books = await Books.read(self.stack, clients, billed, min(LEDGER_WITHIN, self._left(10)))
        seen = []
        for team, batch in ended:
            client = clients[team]
            output = await client.lines(batch["output_file_id"])
            errors = await client.lines(batch["error_file_id"])
            entries = [entry for entry in books.logs[team] if entry["batch_id"] == batch["id"]]
            planned = self.plan.batches[int(batch["metadata"]["soak"])]
            seen.append(Seen(planned, batch, output, errors, entries, books.prices))
        verdicts = check_batches(seen)
        data, config = self.stack.layout.root, self.administrator.config
        verdicts.append(await check_rebuild(data, config, books.count, min(LEDGER_WITHIN, max(10.0, self._left(10)))))
        teams = self.administrator.teams
        verdicts += check_money(seen, books, self.diary, teams)
        records: list[Record] = [record for sim in self.sims for record in sim.state.log.records()]
        verdicts += check_sends(seen, records, self.chaos.struck, sendings_per_strike())
        look, seconds = await self._clean()
        verdicts += check_limits(self.diary, listed, teams, look, seconds)
        heard, moods = self.listener.heard, self.listener.moods
        verdicts += check_webhooks(self.diary.endpoints, heard, listed, books.budget_events, moods)
        files = {team: [file async for file in client.pages("/v1/files", 1000)] for team, client in clients.items()}
        gateways = dict(zip(clients["default"].urls, ("gateway", "gateway-2"), strict=True))
        verdicts += check_access(self.diary, self.chaos.struck, gateways, listed, files)
        verdicts += check_leftovers(look, sum(map(len, files.values())), await self._unreadable(files), len(listed))
        return verdicts

    def _left(self, spare: float) -> float:
        return self.deadline - time.monotonic() - spare

    async def _clean(self) -> tuple[Leftovers, float]:
        """A look once nothing is left, or the time for it is over; and how long that took, in seconds."""
        began = time.monotonic()
        until = began + min(CLEAN_WITHIN, self._left(5))
        while True:
            look = None
            with suppress(NatsError, TimeoutError):
                look = await Leftovers.seen(self.stack, self.administrator.clients)
            if look is not None and (look.is_clean or time.monotonic() > until):
                return look, time.monotonic() - began
            await asyncio.sleep(0.5)

    async def _unreadable(self, files: dict[str, list[Any]]) -> list[str]:
        wrong = []
        for team, client in self.administrator.clients.items():
            for file in files[team]:
                try:
                    content = (await client.request("GET", f"/v1/files/{file['id']}/content")).content
                except Refused as refused:
                    wrong.append(str(refused))
                    continue
                if len(content) != file["bytes"]:
                    wrong.append(f"{file['filename']}: {len(content)} of {file['bytes']} bytes")
        return wrong
