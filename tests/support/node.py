"""Node.js with the packages that tests/contract/node/package-lock.json has, or the reason why there is none."""

import fcntl
import re
import shutil
import subprocess
from pathlib import Path

import pytest

PACKAGES = Path(__file__).parents[1] / "contract" / "node"
_UNREACHABLE = re.compile(
    r"\b(E(NOTFOUND|AI_AGAIN|CONN[A-Z]+|TIMEDOUT|HOSTUNREACH|NETUNREACH|PROTO)|E40[1347]|[A-Z_]*CERT[A-Z_]*)\b"
)


def node_with_packages() -> str:
    """The path of `node`, with the packages installed in `PACKAGES`. Skips the test where that cannot be."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("this needs node and npm, and they are not installed")
    with (PACKAGES / "package-lock.json").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests of several processes want them
        wanted = lock.read()
        stamp = PACKAGES / "node_modules" / ".installed-from"
        if not stamp.exists() or stamp.read_bytes() != wanted:
            _install(npm)
            stamp.write_bytes(wanted)
    return node


def _install(npm: str) -> None:
    arguments = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1", "--fetch-timeout=20000"]
    done = subprocess.run([npm, *arguments], cwd=PACKAGES, capture_output=True, text=True, timeout=90, check=False)
    unreachable = _UNREACHABLE.search(done.stderr)
    if done.returncode and unreachable:
        pytest.skip(f"npm cannot get the packages for Node.js from its registry: {unreachable[0]}")
    assert done.returncode == 0, done.stderr
