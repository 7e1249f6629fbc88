"""The whole system as a context: started on entering, ready inside, stopped on leaving."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from batchyard.cli.data_dir import held
from batchyard.cli.failures import Failure
from batchyard.cli.nats_server import NatsServer, nats_server_binary
from batchyard.cli.process import last_lines
from batchyard.cli.readiness import Readiness
from batchyard.cli.services import GATEWAY
from batchyard.cli.stack import NATS, Address, Layout, Nats, nats_program, service_programs, with_port
from batchyard.cli.supervisor import Supervisor
from batchyard.cli.waiting import until_found

READY_WITHIN = 60.0


@dataclass(frozen=True, slots=True)
class RunningStack:
    """A system that is ready.

    Attributes:
        url: The root of the API, without /v1.
        layout: Where its files are.
        nats: The NATS server behind it.
        supervisor: What keeps it running.
    """

    url: str
    layout: Layout
    nats: Nats
    supervisor: Supervisor

    @property
    def pids(self) -> Mapping[str, int]:
        """The process of each program that runs now: nats, file-store, billing, batch-runner, gateway."""
        return self.supervisor.pids

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal to a program, as someone outside might; the process that got it."""
        pid = self.pids[name]
        self.supervisor.signal(name, number)
        return pid

    async def restarted(self, name: str, after: int, within: float = 30.0) -> int:
        """Wait until a program runs as another process than `after`; its process ID."""
        async with asyncio.timeout(within):
            return await until_found(lambda: pid if (pid := self.pids.get(name)) != after else None)

    async def ready(self, within: float = READY_WITHIN) -> None:
        """Wait until every service says that it is ready, such as after a restart."""
        readiness = Readiness()
        try:
            async with asyncio.timeout(within):
                await readiness.ready(self.url)
        except TimeoutError as error:
            raise _not_ready(readiness, self.layout, within) from error


@asynccontextmanager
async def running_stack(
    data_dir: Path,
    *,
    config: Path | None = None,
    address: Address | None = None,
    environment: Mapping[str, str] | None = None,
    supervisor: Supervisor | None = None,
    ready_within: float = READY_WITHIN,
) -> AsyncIterator[RunningStack]:
    """Run NATS and the four services on this machine while the context is open.

    Args:
        data_dir: Where everything is kept; the same directory gives the same files and batches again.
        config: LiteLLM's config.yaml; without one HOSTED_VLLM_API_BASE names the server.
        address: Where the gateway listens, by default on any free port of loopback.
        environment: Variables for the services besides this process' own.
        supervisor: A supervisor with a policy and a listener of the caller's.
        ready_within: Seconds that everything may take to become ready.

    Raises:
        Failure: The data directory is in use, a service is misconfigured, or the system is not ready in time.
    """
    supervisor = supervisor or Supervisor()
    with held(data_dir) as layout:
        try:
            start = _start(
                layout,
                supervisor,
                {**os.environ, **(environment or {})},
                config,
                address or Address(port=0),
                ready_within,
            )
            yield await supervisor.guard(start)
        finally:
            await supervisor.stop()


async def _start(
    layout: Layout,
    supervisor: Supervisor,
    environment: Mapping[str, str],
    config: Path | None,
    address: Address,
    within: float,
) -> RunningStack:
    readiness = Readiness()
    nats_server = NatsServer(layout.nats)
    nats_server.prepare()
    layout.gateway_port.unlink(missing_ok=True)
    supervisor.start(nats_program(nats_server_binary(), nats_server.config, layout))
    try:
        async with asyncio.timeout(within):
            readiness.problems = {NATS: "has not said yet where it listens"}
            nats = await nats_server.listening()
            readiness.problems = {GATEWAY: "has not said yet where it listens"}
            programs = service_programs(environment, layout, nats, config, address)
            for program in programs:
                supervisor.start(program)
            port = await readiness.port(layout.gateway_port)
            supervisor.replace(with_port(programs[-1], port))
            url = address.url(port)
            await readiness.ready(url)
    except TimeoutError as error:
        raise _not_ready(readiness, layout, within) from error
    return RunningStack(url, layout, nats, supervisor)


def _not_ready(readiness: Readiness, layout: Layout, within: float) -> Failure:
    """What stood in the way, and the last words of those who stood there."""
    lines = [f"Batchyard was not ready after {within:g} s:"]
    for name, problem in readiness.problems.items():
        lines.append(f"  {name}: {problem}")
        lines += [f"    {line}" for line in last_lines(layout.log(name), 10)]
    lines.append(f"The logs are in {layout.logs}.")
    return Failure("\n".join(lines))
