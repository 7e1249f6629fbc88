"""More than one process of each service on one NATS, as several machines would have it."""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from batchyard.cli.data_dir import held
from batchyard.cli.process import Program
from batchyard.cli.readiness import Readiness
from batchyard.cli.running import RunningStack
from batchyard.cli.services import GATEWAY, MODULES
from batchyard.cli.stack import Address, Nats, service_programs, with_port
from batchyard.cli.supervisor import Supervisor

_READY_WITHIN = 120.0


@dataclass(frozen=True, slots=True)
class Processes:
    """Services that are ready, one or more processes of each.

    Attributes:
        stacks: The same system through each of its gateways.
        names: What runs, by service: `batch-runner`, `batch-runner-2` …
    """

    stacks: list[RunningStack]
    names: Mapping[str, list[str]]

    @property
    def stack(self) -> RunningStack:
        return self.stacks[0]

    async def ready(self) -> None:
        for stack in self.stacks:
            await stack.ready()


@asynccontextmanager
async def running_many(
    data_dir: Path,
    nats: Nats,
    config: Path,
    *,
    counts: Mapping[str, int],
    environment: Mapping[str, str],
    supervisor: Supervisor,
) -> AsyncIterator[Processes]:
    """Run `counts[service]` processes of each service, by default one, on a NATS that is there."""
    with held(data_dir) as layout:
        started: dict[str, list[str]] = {}
        gateways: list[tuple[Program, Path]] = []
        try:
            for program in service_programs(os.environ, layout, nats, config, Address(port=0)):
                for number in range(1, counts.get(program.name, 1) + 1):
                    name = program.name if number == 1 else f"{program.name}-{number}"
                    port_file = layout.root / f"{name}.port"
                    port_file.unlink(missing_ok=True)
                    own = {"BATCHYARD_PORT_FILE": str(port_file)} if program.name == GATEWAY else {}
                    one = replace(
                        program,
                        name=name,
                        environment={**program.environment, **environment, **own},
                        log=layout.log(name),
                    )
                    supervisor.start(one)
                    started.setdefault(program.name, []).append(name)
                    if program.name == GATEWAY:
                        gateways.append((one, port_file))
            assert started.keys() == MODULES.keys()
            stacks = []
            async with asyncio.timeout(_READY_WITHIN):
                for one, port_file in gateways:
                    port = await Readiness().port(port_file)
                    supervisor.replace(with_port(one, port))
                    stacks.append(RunningStack(Address().url(port), layout, nats, supervisor))
            processes = Processes(stacks, started)
            await processes.ready()
            yield processes
        finally:
            await supervisor.stop()
