"""Stand-ins for the four services, put before the real ones on PYTHONPATH: real processes, small enough to steer."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from batchyard.cli.process import Program

_WORKER = """
import json, os, signal, sys, time
name = {name!r}

def note(what):
    with open(os.path.join(os.environ["FAKE_RECORD"], what), "a") as file:
        file.write(name + "\\n")

def stop(*_):
    note("stopped")
    sys.exit(0)

signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGHUP, lambda *_: note("reloaded"))
if os.environ.get("FAKE_MISCONFIGURED") == name:
    print(json.dumps({{"event": "service.misconfigured", "error": "the price is negative"}}), file=sys.stderr)
    sys.exit(2)
print(json.dumps({{"event": "service.started", "level": "info", "tenant": "t"}}), file=sys.stderr, flush=True)
"""
_SLEEP = "\nwhile True: signal.pause()\n"
_SERVE = """
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        unready = os.environ.get("FAKE_UNREADY") or os.environ.get("FAKE_MISCONFIGURED")
        health = {"service": unready or "billing", "status": "ok", "checks": {"nats": "ok"}}
        if unready:
            health |= {"status": "unhealthy", "checks": {"nats": "ok", "database": "no answer"}}
        body = json.dumps({"status": health["status"], "services": {health["service"]: health}}).encode()
        self.send_response(503 if unready else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

server = HTTPServer((os.environ["BATCHYARD_HOST"], int(os.environ["BATCHYARD_PORT"])), Handler)
with open(os.environ["BATCHYARD_PORT_FILE"], "w") as file:
    file.write(str(server.server_address[1]))
server.serve_forever()
"""


@dataclass(frozen=True)
class FakeServices:
    """The environment that makes `python -m batchyard.gateway` a stand-in, and what the stand-ins leave behind."""

    environment: dict[str, str]
    record: Path

    @property
    def stopped(self) -> list[str]:
        """The services that were asked to stop, in that order."""
        return self._noted("stopped")

    @property
    def reloaded(self) -> list[str]:
        """The services that were asked to read the configuration again."""
        return self._noted("reloaded")

    def _noted(self, what: str) -> list[str]:
        file = self.record / what
        return file.read_text().split() if file.exists() else []


@pytest.fixture
def services(tmp_path: Path) -> FakeServices:
    folder = tmp_path / "fakes"
    for name in ("file-store", "billing", "batch-runner", "gateway"):
        package = folder / "batchyard" / name.replace("-", "_")
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        body = _SERVE if name == "gateway" else _SLEEP
        (package / "__main__.py").write_text(_WORKER.format(name=name) + body)
    environment = {
        "PYTHONPATH": str(folder),
        "FAKE_RECORD": str(tmp_path),
        "HOSTED_VLLM_API_BASE": "http://127.0.0.1:9",
    }
    return FakeServices(environment, tmp_path)


@pytest.fixture
def program(tmp_path: Path) -> Callable[..., Program]:
    """Makes a program of a Python script."""

    def make(script: str, name: str = "worker", stage: int = 0, **environment: str) -> Program:
        return Program(
            name=name,
            command=(sys.executable, "-c", script),
            environment={**os.environ, **environment},
            log=tmp_path / f"{name}.log",
            stage=stage,
        )

    return make
