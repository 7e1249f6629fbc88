"""What Batchyard on one machine consists of: where things are, which processes there are, what they are told."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from ipaddress import ip_address
from pathlib import Path

from batchyard.cli.process import Program
from batchyard.cli.services import GATEWAY, MODULES
from batchyard.cli.supervisor import GRACE

NATS = "nats"
PROGRAMS = (NATS, *MODULES)

_OPERATIONS_PORT = "BATCHYARD_OPERATIONS_PORT"
_OPERATIONS_ORDER = (GATEWAY, "file-store", "batch-runner", "billing")

# Inherited from a shell that also talks to another installation, they would speak against what is set here.
_FOREIGN = frozenset(
    {
        "BATCHYARD_NATS_USER",
        "BATCHYARD_NATS_PASSWORD",
        "BATCHYARD_OBJECT_STORE_ACCESS_KEY",
        "BATCHYARD_OBJECT_STORE_SECRET_KEY",
    }
)


class Stage(IntEnum):
    """The order of starting; stopping goes backwards."""

    MESSAGING = 0
    SERVICE = 1
    EDGE = 2


@dataclass(frozen=True, slots=True)
class Layout:
    """The places below one data directory, whose path is absolute."""

    root: Path

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def nats(self) -> Path:
        return self.root / "nats"

    @property
    def objects(self) -> Path:
        return self.root / "objects"

    @property
    def ledger(self) -> Path:
        return self.root / "billing.db"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def gateway_port(self) -> Path:
        return self.root / "gateway.port"

    def log(self, program: str) -> Path:
        return self.logs / f"{program}.log"


@dataclass(frozen=True, slots=True)
class Address:
    """Where the gateway listens; port 0 is any free one."""

    host: str = "127.0.0.1"
    port: int = 4000

    @property
    def is_loopback(self) -> bool:
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def url(self, port: int) -> str:
        """The root of the API for a client on this machine, once the port is known."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104  compared, not bound
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"


@dataclass(frozen=True, slots=True)
class Nats:
    """The NATS server that the services talk over."""

    url: str
    token: str


def default_data_dir(environ: Mapping[str, str], home: Path) -> Path:
    """`$XDG_DATA_HOME/batchyard`, or where the XDG base directory specification says that this is when unset."""
    base = Path(environ.get("XDG_DATA_HOME", ""))
    return (base if base.is_absolute() else home / ".local" / "share") / "batchyard"


def nats_program(binary: Path, config: Path, layout: Layout) -> Program:
    return Program(
        name=NATS,
        command=(str(binary), "-c", str(config)),
        environment={},
        log=layout.log(NATS),
        stage=Stage.MESSAGING,
    )


def service_programs(
    inherited: Mapping[str, str], layout: Layout, nats: Nats, config: Path | None, address: Address
) -> list[Program]:
    """The four services, in the order of their start."""
    return [_service(name, inherited, layout, nats, config, address) for name in MODULES]


def _service(
    name: str, inherited: Mapping[str, str], layout: Layout, nats: Nats, config: Path | None, address: Address
) -> Program:
    environment = {key: value for key, value in inherited.items() if key not in _FOREIGN}
    environment |= {
        "BATCHYARD_NATS_URL": nats.url,
        "BATCHYARD_NATS_TOKEN": nats.token,
        "BATCHYARD_NATS_REPLICAS": "1",
        "BATCHYARD_OBJECT_STORE": layout.objects.as_uri(),
        "BATCHYARD_DATABASE_URL": f"sqlite+aiosqlite:///{layout.ledger}",
        "BATCHYARD_LOG_FORMAT": "json",
    }
    environment |= _operations_port(name, inherited)
    if config is not None:
        environment["BATCHYARD_CONFIG"] = str(config.expanduser().absolute())
    if name == GATEWAY:
        environment |= {
            "BATCHYARD_HOST": address.host,
            "BATCHYARD_PORT": str(address.port),
            "BATCHYARD_PORT_FILE": str(layout.gateway_port),
            # Running downloads have time to end, but less than the supervisor gives before it kills.
            "BATCHYARD_SHUTDOWN_TIMEOUT": str(int(GRACE) - 2),
        }
    return Program(
        name=name,
        # -P: a file of the user's named like a module of ours, in the folder they are in, must not be imported.
        command=(sys.executable, "-P", "-m", MODULES[name]),
        environment=environment,
        log=layout.log(name),
        stage=Stage.EDGE if name == GATEWAY else Stage.SERVICE,
        module=MODULES[name],
    )


def _operations_port(name: str, inherited: Mapping[str, str]) -> dict[str, str]:
    """One machine has a port for each service: what was named is the gateway's, the next ones are the others'."""
    first = inherited.get(_OPERATIONS_PORT, "")
    if not first.isdecimal() or int(first) == 0:
        return {}
    return {_OPERATIONS_PORT: str(int(first) + _OPERATIONS_ORDER.index(name))}


def with_port(gateway: Program, port: int) -> Program:
    """The gateway on the port that it has got, so that it comes back there."""
    return replace(gateway, environment={**gateway.environment, "BATCHYARD_PORT": str(port)})
