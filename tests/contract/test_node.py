"""The unchanged `openai` SDK for Node.js; its own tests are in node/client.test.js."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from support.stack import MASTER_KEY, MODEL

_HERE = Path(__file__).parent / "node"
_UNREACHABLE = re.compile(
    r"\b(E(NOTFOUND|AI_AGAIN|CONN[A-Z]+|TIMEDOUT|HOSTUNREACH|NETUNREACH|PROTO)|E40[1347]|[A-Z_]*CERT[A-Z_]*)\b"
)


@pytest.fixture(scope="module")
def node() -> str:
    """The path of `node`, with the SDK installed as package-lock.json has it."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("the SDK for Node.js needs node and npm, and they are not installed")
    lock = (_HERE / "package-lock.json").read_bytes()
    stamp = _HERE / "node_modules" / ".installed-from"
    if not stamp.exists() or stamp.read_bytes() != lock:
        _install(npm)
        stamp.write_bytes(lock)
    return node


def _install(npm: str) -> None:
    arguments = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1", "--fetch-timeout=20000"]
    done = subprocess.run([npm, *arguments], cwd=_HERE, capture_output=True, text=True, timeout=90, check=False)
    unreachable = _UNREACHABLE.search(done.stderr)
    if done.returncode and unreachable:
        pytest.skip(f"npm cannot get the SDK for Node.js from its registry: {unreachable[0]}")
    assert done.returncode == 0, done.stderr


def test_the_sdk_for_node_works(node: str, base_url: str) -> None:
    environment = {
        **os.environ,
        "BATCHYARD_URL": base_url,
        "BATCHYARD_KEY": MASTER_KEY,
        "BATCHYARD_MODEL": MODEL,
    }
    done = subprocess.run(
        [node, "--test", "--test-reporter=tap"],
        cwd=_HERE,
        env=environment,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"^# pass (\d+)$", done.stdout, re.MULTILINE)
    assert passed, done.stdout
    assert int(passed[1]) >= 15
