"""Batchyard as docker-compose.yml brings it up, under a project name of the test run's own."""

import json
import logging
import os
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
COMPOSE_FILE = ROOT / "docker-compose.yml"
SERVICES = ("gateway", "file-store", "batch-runner", "billing")
STANDS_ON = ("nats", "minio", "postgres", "sim")

_BUILD_SECONDS = 1200.0
_UP_SECONDS = 300.0
_COMMAND_SECONDS = 180.0
_log = logging.getLogger(__name__)


def why_not() -> str | None:
    """What a machine lacks to bring the file up; None if nothing."""
    for command, reason in (
        (["docker", "info"], "no Docker engine answers"),
        (["docker", "compose", "version"], "the compose plugin of Docker is missing"),
    ):
        try:
            done = subprocess.run(command, capture_output=True, timeout=30, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return reason
        if done.returncode:
            return reason
    return None


class ComposeProject:
    """One project. Commands raise `CalledProcessError`, and log what they wrote."""

    def __init__(self, directory: Path) -> None:
        self.name = f"batchyard-test-{secrets.token_hex(4)}"
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._secrets = directory / "secrets"
        run([str(ROOT / "deploy" / "make-secrets"), str(self._secrets)])
        self._environment = os.environ | {
            "BATCHYARD_SECRETS": str(self._secrets),
            "BATCHYARD_LISTEN": f"127.0.0.1:{self.port}",
            "COMPOSE_PROJECT_NAME": self.name,
            "COMPOSE_PROFILES": "sim",
        }

    def secret(self, name: str) -> str:
        return (self._secrets / name).read_text()

    def __call__(self, *arguments: str, timeout: float = _COMMAND_SECONDS, told: str | None = None) -> str:
        """`docker compose …`, with `told` on its standard input; what it wrote to standard output."""
        command = ["docker", "compose", "--file", str(COMPOSE_FILE), *arguments]
        return run(command, timeout=timeout, told=told, environment=self._environment)

    def build(self) -> None:
        self("build", timeout=_BUILD_SECONDS)

    def up(self, *arguments: str) -> None:
        """Start everything, and wait until it is healthy."""
        self("up", "--detach", "--no-build", "--wait", "--wait-timeout", f"{_UP_SECONDS:.0f}", *arguments, timeout=400)

    def introduce_users(self) -> None:
        """Tell an S3 server that is no MinIO, and knows no `mc admin`, of the services' users: SeaweedFS, by its shell.

        What they may do is read from the policies that MinIO gets. MinIO itself is left alone.
        """
        self.up("minio")
        if not self("exec", "minio", "sh", "-c", "command -v weed || true").strip():
            return
        everything = [("batchyard-root", self.secret("s3_root"), ["Admin"])]
        for service in ("gateway", "file-store", "batch-runner"):
            policy = json.loads((ROOT / "deploy" / "minio" / f"{service}.json").read_text())
            secret = self.secret(f"s3_{service.replace('-', '_')}")
            everything.append((f"batchyard-{service}", secret, list(_seaweedfs_actions(policy))))
        commands = "".join(
            f"s3.configure -user={user} -access_key={user} -secret_key={secret} -actions={','.join(actions)} -apply\n"
            for user, secret, actions in everything
        )
        self("exec", "--no-TTY", "minio", "weed", "shell", "-master=127.0.0.1:9333", told=commands)

    def containers(self, service: str) -> list[Any]:
        """What `docker inspect` says of a service's containers, those that have ended too."""
        ids = self("ps", "--all", "--quiet", service).split()
        found: list[Any] = json.loads(run(["docker", "inspect", *ids])) if ids else []
        return found

    def restart(self, service: str) -> None:
        """Stop it in good order, and start it again."""
        self("restart", service)

    def kill(self, service: str) -> None:
        """SIGKILL to one of a service's containers, and a start, which Docker leaves to whoever kills."""
        container = self.containers(service)[0]["Id"]
        run(["docker", "kill", "--signal", "KILL", container])
        run(["docker", "start", container])

    def wait_healthy(self) -> None:
        self.up("--no-recreate")


def run(
    command: list[str],
    *,
    timeout: float = _COMMAND_SECONDS,
    told: str | None = None,
    environment: dict[str, str] | None = None,
) -> str:
    started = time.monotonic()
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, check=False, input=told or "", env=environment
    )
    shown = " ".join(word for word in command if word not in ("--file", str(COMPOSE_FILE)))
    _log.info("%5.1f s  %s", time.monotonic() - started, shown[:110])
    if done.returncode:
        _log.error("%s", (done.stdout + done.stderr)[-6000:])
        done.check_returncode()
    return done.stdout


@contextmanager
def compose_project(directory: Path) -> Iterator[ComposeProject]:
    """The whole file, built, up and healthy; taken down with its volumes at the end."""
    project = ComposeProject(directory)
    project.build()
    try:
        project.introduce_users()
        project.up()
        yield project
    finally:
        (directory / "compose.log").write_text(project("logs", "--no-color", "--timestamps"))
        project("down", "--volumes", "--remove-orphans", "--timeout", "20")


def _seaweedfs_actions(policy: Any) -> Iterator[str]:
    """The same in SeaweedFS' words: Read, Write (which is also to delete) and List, below a prefix."""
    words = {"s3:GetObject": "Read", "s3:PutObject": "Write", "s3:DeleteObject": "Write", "s3:ListBucket": "List"}
    seen = set()
    for statement in policy["Statement"]:
        for resource in statement["Resource"]:
            where = resource.removeprefix("arn:aws:s3:::")
            for action in statement["Action"]:
                if (word := words.get(action)) and (known := f"{word}:{where}") not in seen:
                    seen.add(known)
                    yield known


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
