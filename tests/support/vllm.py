"""Real vLLM servers: those that run already (VLLM_URL, VLLM_EMBED_URL), or those that the tests start, kill and start
again (VLLM_SERVE, VLLM_EMBED_SERVE)."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest


@dataclass(frozen=True)
class Choice:
    """The variables that say which server to take for one kind of model, and an example of such a model."""

    url: str
    serve: str
    model: str

    @property
    def missing(self) -> str:
        """What to do where none is chosen."""
        return (
            f"no vLLM: set {self.url}=http://host:port of one that runs, "
            f"or {self.serve}='vllm serve {self.model} --port {{port}}' for one that the tests may start and kill"
        )


CHAT = Choice("VLLM_URL", "VLLM_SERVE", "MODEL")
EMBEDDING = Choice("VLLM_EMBED_URL", "VLLM_EMBED_SERVE", "EMBEDDING-MODEL --runner pooling")
_START_SECONDS = 300.0
_STOP_SECONDS = 60.0


class VllmServer:
    """A server of this test run's own, on one port of loopback, as a process group.

    Args:
        command: What a shell starts it with; `{port}` stands for its port. It must stay in the foreground.
        log: Where its output goes.
    """

    def __init__(self, command: str, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._command = command.replace("{port}", str(port))
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it is healthy."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, shell=True, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        deadline = time.monotonic() + _START_SECONDS
        while not _is_healthy(self.url):
            assert self._process.poll() is None, f"vLLM ended before it was ready: {self._tail()}"
            assert time.monotonic() < deadline, f"vLLM was not ready in time: {self._tail()}"
            time.sleep(0.25)

    def end(self, number: signal.Signals) -> None:
        """Send all its processes a signal, and return once the server is gone."""
        assert self._process is not None
        group = self._process.pid
        os.killpg(group, number)
        try:
            self._process.wait(_STOP_SECONDS)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def close(self) -> None:
        if self._process is not None:
            self.end(signal.SIGKILL)

    def _tail(self) -> str:
        return self._log.read_text(errors="replace")[-3000:]


@contextmanager
def chosen_vllm(choice: Choice, directory: Path) -> Iterator[tuple[str, VllmServer | None]]:
    """The root of a server, and the server itself if it was started here. Skips the tests where none is chosen."""
    if command := os.environ.get(choice.serve):
        server = VllmServer(command, directory / "vllm.log")
        try:
            server.start()
            yield server.url, server
        finally:
            server.close()
    elif url := os.environ.get(choice.url):
        yield url.rstrip("/").removesuffix("/v1"), None
    else:
        pytest.skip(choice.missing)


def served_model(url: str) -> tuple[str, int]:
    """The name of the model that a server serves, and the most tokens that it takes."""
    (first, *_) = httpx.get(f"{url}/v1/models", trust_env=False).json()["data"]
    return first["id"], first["max_model_len"]


def metrics(url: str) -> dict[str, float]:
    """A server's metrics by name; series of one name are added up."""
    found: dict[str, float] = {}
    for line in httpx.get(f"{url}/metrics", trust_env=False).text.splitlines():
        if line and not line.startswith("#"):
            name = line.partition("{")[0].partition(" ")[0]
            found[name] = found.get(name, 0.0) + float(line.rpartition(" ")[2])
    return found


def _is_healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
