"""Batches through a whole Batchyard whose processes are killed, stopped and terminated all the while.

    make soak ARGS="--kills 100 --batches 20"

Everything is on this machine's loopback and ends within --minutes. What is done is drawn from the seed; when exactly a
blow falls is not. At the end the truth is read from outside, and each invariant gets one line. The exit code is 0 if
all hold; otherwise the data directory is kept.
"""

import argparse
import asyncio
import json
import math
import secrets
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from nats.errors import Error as NatsError
from rich.console import Console
from rich.markup import escape
from rich.status import Status

from batchyard.cli.running import RunningStack, running_stack
from batchyard.cli.supervisor import RestartPolicy, Supervisor
from batchyard.vllm_sim.request_log import Record
from batchyard.vllm_sim.settings import SimSettings
from batchyard.vllm_sim.testing import RunningSim, running_sim
from soak.chaos import Chaos
from soak.checker import ENDED, Seen, Verdict, check_batches, check_leftovers, check_sends
from soak.client import Client, Refused
from soak.leftovers import Leftovers
from soak.plan import IN_FLIGHT, MODELS, Plan, PlannedBatch
from soak.rebuilding import check_rebuild

FAULTS = ("status=503:0.01", "reset:0.005", "truncate:0.005", "abort:0.005", "bad-json:0.003", "status=429:0.005")
LATENCY = 0.2
FLUSH_INTERVAL = 0.3
KEY = "sk-soak"
CHAOS_SHARE = 0.8
"""Of all the time: then chaos ends, done or not."""
REST_WITHIN = 150.0
LEDGER_WITHIN = 60.0
ENVIRONMENT = {
    "BATCHYARD_MAX_PARALLEL_REQUESTS": IN_FLIGHT,
    "BATCHYARD_SHARD_LINES": 100,
    "BATCHYARD_WORK_ACK_WAIT": 2,
    "BATCHYARD_FLUSH_INTERVAL": FLUSH_INTERVAL,
    "BATCHYARD_RECONCILE_INTERVAL": 1,
    "BATCHYARD_STALE_AFTER": 3,
    "BATCHYARD_PROBE_INTERVAL": 0.3,
    "BATCHYARD_RETRY_BASE": 0.05,
    "BATCHYARD_RETRY_CAP": 0.5,
    "BATCHYARD_REQUEST_TIMEOUT": 10,
    "BATCHYARD_SETTLE_PATIENCE": 3,
    "BATCHYARD_CANCEL_GRACE": 1,
    "BATCHYARD_SHUTDOWN_GRACE": 2,
    "BATCHYARD_ORPHAN_SWEEP_INTERVAL": 5,
    "BATCHYARD_ORPHAN_MIN_AGE": 20,
}


def sendings_per_strike() -> int:
    """What a runner's death may cost: all that is in flight, and what was answered since the last checkpoint.

    A checkpoint is taken every interval, and takes as long again at most.
    """
    in_flight = IN_FLIGHT * sum(len(model.servers) for model in MODELS)
    return in_flight + in_flight * math.ceil(2 * FLUSH_INTERVAL / LATENCY)


class Progress:
    """What a person sees meanwhile: one line that changes on a terminal, a line now and then elsewhere."""

    def __init__(self, console: Console, every: float = 5.0) -> None:
        self._console = console
        self._every = every
        self._status: Status | None = console.status("starting") if console.is_terminal else None

    @asynccontextmanager
    async def showing(self, text: Callable[[], str]) -> AsyncIterator[None]:
        task = asyncio.create_task(self._show(text))
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _show(self, text: Callable[[], str]) -> None:
        if self._status is None:
            while True:
                self._console.print(escape(text()))
                await asyncio.sleep(self._every)
        with self._status:
            while True:
                self._status.update(escape(text()))
                await asyncio.sleep(0.2)


@dataclass
class Soak:
    """One run, and what it has come to so far."""

    plan: Plan
    stack: RunningStack
    config: Path
    sims: list[RunningSim]
    client: Client
    chaos: Chaos
    deadline: float
    began: float = field(default_factory=time.monotonic)
    batches: dict[str, Any] = field(default_factory=dict)
    falls: list[int] = field(default_factory=list)
    phase: str = "chaos"

    async def run(self) -> list[Verdict]:
        """Chaos, then rest, then the verdicts."""
        drivers = [asyncio.create_task(self._drive(batch)) for batch in self.plan.batches]
        try:
            await self._chaos()
            self.phase = "coming to rest"
            rested = time.monotonic()
            within = min(REST_WITHIN, self.deadline - time.monotonic() - 20)
            _, late = await asyncio.wait(drivers, timeout=max(1.0, within))
            problems = [repr(task.exception()) for task in drivers if task.done() and task.exception()]
        finally:
            for driver in drivers:
                driver.cancel()
            await asyncio.gather(*drivers, return_exceptions=True)
        verdicts = [self._survived()]
        async with asyncio.timeout_at(asyncio.get_running_loop().time() + max(20.0, self.deadline - time.monotonic())):
            listed = [batch async for batch in self.client.pages("/v1/batches", 50)]
            listed = await self._all_ended(listed)
            seconds = time.monotonic() - rested
            stuck = [f"{one['metadata']} {one['status']} {one['id']}" for one in listed if one["status"] not in ENDED]
            verdicts.append(
                Verdict(
                    "at rest within the bound, no surprise on the way",
                    not (late or problems or stuck or self.client.surprises),
                    f"{seconds:.1f} s after the last strike (bound {REST_WITHIN:g}); {self.client.retries} retries of "
                    f"the client; {[*stuck, *problems, *self.client.surprises][:5] or 'nothing stuck'}",
                )
            )
            self.phase = "checking"
            verdicts += await self._verdicts(listed)
        return verdicts

    def line(self) -> str:
        """How far it is."""
        counts = Counter(batch["status"] for batch in self.batches.values())
        lines = sum(batch["request_counts"]["completed"] for batch in self.batches.values())
        said = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
        return (
            f"{time.monotonic() - self.began:5.0f} s  {self.phase}: {len(self.chaos.struck)}/{len(self.plan.strikes)} "
            f"strikes (now {self.chaos.doing}); batches: {said or 'none yet'}; {lines} lines completed; "
            f"{self.client.retries} retries"
        )

    async def _chaos(self) -> None:
        seconds = (self.deadline - time.monotonic()) * CHAOS_SHARE
        with suppress(TimeoutError):
            await asyncio.wait_for(self.chaos.run(), seconds)
        self.chaos.doing = "none"

    async def _drive(self, planned: PlannedBatch) -> None:
        """One batch's client."""
        await self.chaos.until(planned.starts_after)
        batch = await self.client.submit(planned)
        self.batches[batch["id"]] = batch
        cancel_at = None if planned.cancel_after is None else time.monotonic() + planned.cancel_after
        while batch["status"] not in ENDED:
            if cancel_at is not None and time.monotonic() >= cancel_at:
                cancel_at = None
                await self.client.cancel(batch["id"])
            await asyncio.sleep(0.25 if cancel_at is None else 0.05)
            before, batch = batch, await self.client.batch(batch["id"])
            self._compare(before, batch)
            self.batches[batch["id"]] = batch

    def _compare(self, before: Any, batch: Any) -> None:
        """Nothing that a client has been told is taken back."""
        known = {name: value for name, value in before.items() if name.endswith("_at") and value is not None}
        for name, value in known.items():
            if batch[name] != value:
                self.client.surprises.append(f"{name} went from {value} to {batch[name]}")
        done, now = before["request_counts"]["completed"], batch["request_counts"]["completed"]
        if now < done:
            self.falls.append(done - now)
        if batch["status"] in ENDED and now < done:
            self.client.surprises.append(f"{now} completed at the end, {done} before: {batch['id']}")

    async def _all_ended(self, listed: list[Any]) -> list[Any]:
        """Batches that a client's second try made have no one who waits for them."""
        until = min(time.monotonic() + 30.0, self.deadline - 15)
        while any(one["status"] not in ENDED for one in listed) and time.monotonic() < until:
            await asyncio.sleep(0.5)
            listed = [batch async for batch in self.client.pages("/v1/batches", 50)]
        return listed

    def _survived(self) -> Verdict:
        struck, planned = len(self.chaos.struck), len(self.plan.strikes)
        return Verdict(
            "every process came back",
            not self.chaos.not_back and struck > 0,
            f"{struck} of {planned} strikes: "
            + ", ".join(f"{count} {what}" for what, count in sorted(self.chaos.counts().items()))
            + (f"; not back: {self.chaos.not_back}" if self.chaos.not_back else ""),
        )

    async def _verdicts(self, listed: list[Any]) -> list[Verdict]:
        ended = [batch for batch in listed if batch["status"] in ENDED]
        ledger = await self._ledger(len(ended))
        seen = []
        for batch in ended:
            planned = self.plan.batches[int(batch["metadata"]["soak"])]
            entries = [entry for entry in ledger if entry["batch_id"] == batch["id"]]
            output = await self.client.lines(batch["output_file_id"])
            errors = await self.client.lines(batch["error_file_id"])
            seen.append(Seen(planned, batch, output, errors, entries))
        verdicts = check_batches(seen)
        within = min(LEDGER_WITHIN, max(10.0, self.deadline - time.monotonic() - 10))
        verdicts.append(await check_rebuild(self.stack.layout.root, self.config, len(ledger), within))
        records: list[Record] = [record for sim in self.sims for record in sim.state.log.records()]
        verdicts += check_sends(seen, records, self.chaos.struck, sendings_per_strike())
        look = await self._clean()
        files = [file async for file in self.client.pages("/v1/files", 1000)]
        verdicts += check_leftovers(look, len(files), await self._unreadable(files), len(listed))
        return verdicts

    async def _ledger(self, expected: int) -> list[Any]:
        """All entries, once there are as many as there should be, or the time for it is over."""
        until = min(time.monotonic() + LEDGER_WITHIN, self.deadline - 10)
        while True:
            entries = [entry async for entry in self.client.pages("/spend/logs", 1000)]
            if len(entries) >= expected or time.monotonic() > until:
                return entries
            await asyncio.sleep(0.5)

    async def _clean(self) -> Leftovers:
        until = min(time.monotonic() + 60.0, self.deadline - 5)
        while True:
            look = None
            with suppress(NatsError, TimeoutError):
                look = await Leftovers.seen(self.stack)
            if look is not None and (look.is_clean or time.monotonic() > until):
                return look
            await asyncio.sleep(0.5)

    async def _unreadable(self, files: list[Any]) -> list[str]:
        wrong = []
        for file in files:
            try:
                content = (await self.client.request("GET", f"/v1/files/{file['id']}/content")).content
            except Refused as refused:
                wrong.append(str(refused))
                continue
            if len(content) != file["bytes"]:
                wrong.append(f"{file['filename']}: {len(content)} of {file['bytes']} bytes")
        return wrong


def write_config(path: Path, sims: list[RunningSim]) -> Path:
    """One deployment for every pair of a model and a simulator that serves it."""
    entries = []
    for model in MODELS:
        for server in model.servers:
            params = {
                "model": f"hosted_vllm/{model.name}",
                "api_base": f"{sims[server].url}/v1",
                "input_cost_per_token": float(model.input),
                "output_cost_per_token": float(model.output),
            }
            if model.cached is not None:
                params["cache_read_input_token_cost"] = float(model.cached)
            entries.append({"model_name": model.name, "litellm_params": params})
    path.write_text(json.dumps({"model_list": entries, "general_settings": {"master_key": KEY}}))
    return path


def memory(stack: RunningStack) -> str:
    """Resident memory of every process, now and at most since its last start."""
    said = []
    for name, pid in stack.pids.items():
        status = Path(f"/proc/{pid}/status").read_text()
        now, peak = (int(status.partition(f"{what}:")[2].split()[0]) / 1024 for what in ("VmRSS", "VmHWM"))
        said.append(f"{name} {now:.0f} (peak {peak:.0f})")
    return f"MiB: {', '.join(said)}"


def complaints(logs: Path) -> str:
    """What the services logged as errors, by event: for a person to judge."""
    counts: Counter[str] = Counter()
    for log in logs.glob("*.log"):
        for line in log.read_text(errors="replace").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                if "Traceback" in line:
                    counts[f"{log.stem}: Traceback"] += 1
                continue
            if isinstance(entry, dict) and entry.get("level") in {"error", "critical"}:
                counts[f"{log.stem}: {entry.get('event')}"] += 1
    return ", ".join(f"{count} × {what}" for what, count in counts.most_common()) or "none"


async def soak(plan: Plan, minutes: float, place: Path, console: Console) -> list[Verdict]:
    """Start everything, run the plan, say how it went."""
    deadline = time.monotonic() + minutes * 60
    async with AsyncExitStack() as exits:
        sims = [await exits.enter_async_context(running_sim(_sim_settings(plan, number))) for number in range(2)]
        config = write_config(place / "config.yaml", sims)
        supervisor = Supervisor(RestartPolicy(first=0.1, factor=1.5, longest=1.0, stable_after=5.0))
        environment = {name: str(value) for name, value in ENVIRONMENT.items()}
        stack = await exits.enter_async_context(
            running_stack(place / "data", config=config, environment=environment, supervisor=supervisor)
        )
        http = await exits.enter_async_context(
            httpx.AsyncClient(headers={"authorization": f"Bearer {KEY}"}, timeout=20, trust_env=False)
        )
        run = Soak(plan, stack, config, sims, Client(http, stack.url), Chaos(stack, plan.strikes), deadline)
        async with Progress(console).showing(run.line):
            verdicts = await supervisor.guard(run.run())
        falls = f"{len(run.falls)} times, by {max(run.falls)} at most" if run.falls else "never"
        console.print(f"while batches ran, their count of completed lines fell: {falls}")
        console.print(f"memory at the end, {memory(stack)}")
        console.print(f"errors in the logs: {escape(complaints(stack.layout.logs))}")
    return verdicts


def _sim_settings(plan: Plan, number: int) -> SimSettings:
    served = tuple(model.name for model in MODELS if number in model.servers)
    lines = sum(batch.lines for batch in plan.batches)
    return SimSettings(
        port=0,
        models=served,
        base_latency=LATENCY,
        faults=FAULTS,
        seed=plan.seed,
        log_size=max(100_000, lines * 10),
        remembered_prompts=max(200_000, lines * 2),
    )


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=30, help="strikes against processes (default: 30)")
    parser.add_argument("--batches", type=int, default=6, help="batches to run (default: 6)")
    parser.add_argument("--lines", type=int, default=1500, help="lines of a batch, about (default: 1500)")
    parser.add_argument("--seed", type=int, help="draws the plan; without one, any")
    parser.add_argument("--minutes", type=float, default=10.0, help="the end of it all, done or not (default: 10)")
    parser.add_argument("--keep", action="store_true", help="keep the data directory also if all is well")
    return parser.parse_args()


def main() -> int:
    """Run a soak; the exit code."""
    chosen = options()
    seed = secrets.randbelow(1_000_000) if chosen.seed is None else chosen.seed
    console = Console(highlight=False, soft_wrap=True)
    plan = Plan.drawn(seed, chosen.kills, chosen.batches, chosen.lines)
    console.print(
        f"seed {seed}, plan {plan.digest}: {len(plan.batches)} batches, {sum(b.lines for b in plan.batches)} lines, "
        f"{sum(len(b.bad) for b in plan.batches)} bad, {sum(b.cancel_after is not None for b in plan.batches)} to "
        f"cancel, {len(plan.strikes)} strikes, at most {chosen.minutes:g} minutes"
    )
    place = Path(tempfile.mkdtemp(prefix="batchyard-soak-"))
    passed = False
    try:
        verdicts = asyncio.run(soak(plan, chosen.minutes, place, console))
        for verdict in verdicts:
            mark = "[green]PASS[/]" if verdict.passed else "[red]FAIL[/]"
            console.print(f"{mark}  {escape(verdict.name)}: {escape(verdict.numbers)}")
        passed = all(verdict.passed for verdict in verdicts)
    except TimeoutError:
        console.print("[red]FAIL[/]  over within its time: it was not")
    except KeyboardInterrupt:
        console.print("stopped before its end")
    finally:
        if passed and not chosen.keep:
            shutil.rmtree(place)
        else:
            console.print(f"the data is in {place}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
