"""Batches through a whole Batchyard whose processes are killed, stopped and terminated all the while.

    make soak ARGS="--kills 100 --batches 20"

Everything is on this machine's loopback and ends within --minutes. What is done is drawn from the seed; when exactly a
blow falls is not. At the end the truth is read from outside, and each invariant gets one line. The exit code is 0 if
all hold; otherwise the data directory is kept.
"""

import argparse
import asyncio
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import httpx
from rich.console import Console
from rich.markup import escape

from batchyard.cli.readiness import Readiness
from batchyard.cli.running import RunningStack, running_stack
from batchyard.cli.stack import Address, service_programs, with_port
from batchyard.cli.supervisor import RestartPolicy, Supervisor
from batchyard.vllm_sim.settings import SimSettings
from batchyard.vllm_sim.testing import running_sim
from soak.administration import Administrator
from soak.chaos import Chaos
from soak.checker import Verdict
from soak.client import Client
from soak.configuration import ENVIRONMENT, FAULTS, KEY, LATENCY, write_config
from soak.diary import Diary
from soak.listener import listening
from soak.plan import MODELS, SECOND_GATEWAY, SECOND_RUNNER, Plan
from soak.progress import Progress, complaints, memory
from soak.run import Soak
from soak.teams import planned_teams
from support.environment import forget_own_settings


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
        http = await exits.enter_async_context(httpx.AsyncClient(timeout=20, trust_env=False))
        urls = (stack.url, await supervisor.guard(start_seconds(stack, config, environment)))
        diary, chaos = Diary(), Chaos(stack, urls[1], plan.strikes)
        teams = planned_teams(plan.batches, len(plan.strikes))
        listener = await exits.enter_async_context(listening())
        master, kills = Client(http, urls, KEY), len(plan.strikes)
        administrator = Administrator(master, teams, kills, chaos, diary, config, sims, listener.url)
        run = Soak(plan, stack, sims, administrator, chaos, listener, diary, deadline)
        async with Progress(console).showing(run.line):
            verdicts = await supervisor.guard(run.run())
        falls = f"{len(run.falls)} times, by {max(run.falls)} at most" if run.falls else "never"
        console.print(f"while batches ran, their count of completed lines fell: {falls}")
        console.print(f"memory at the end, {memory(stack)}")
        console.print(f"errors in the logs: {escape(complaints(stack.layout.logs))}")
    return verdicts


async def start_seconds(stack: RunningStack, config: Path, environment: Mapping[str, str]) -> str:
    """Start a second gateway and a second runner, kept running like the rest; the gateway's URL."""
    address, port_file = Address(port=0), stack.layout.root / f"{SECOND_GATEWAY}.port"
    programs = {
        program.name: program
        for program in service_programs({**os.environ, **environment}, stack.layout, stack.nats, config, address)
    }
    told = {**programs["gateway"].environment, "BATCHYARD_PORT_FILE": str(port_file)}
    gateway = replace(programs["gateway"], name=SECOND_GATEWAY, log=stack.layout.log(SECOND_GATEWAY), environment=told)
    stack.supervisor.start(gateway)
    stack.supervisor.start(replace(programs["batch-runner"], name=SECOND_RUNNER, log=stack.layout.log(SECOND_RUNNER)))
    async with asyncio.timeout(60):
        readiness = Readiness()
        port = await readiness.port(port_file)
        stack.supervisor.replace(with_port(gateway, port))
        await readiness.ready(address.url(port))
    return address.url(port)


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
    forget_own_settings()
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
