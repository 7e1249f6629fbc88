"""Services that are forked from a process which has imported them are what `python -m` would have made of them."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from batchyard.cli.forking import forks, is_forked
from batchyard.cli.process import Process, Program
from batchyard.cli.waiting import until_found

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a fork without exec is not safe")

Make = Callable[..., Program]
NOBODY = "nats://127.0.0.1:9"


@pytest.fixture
def service(tmp_path: Path) -> Make:
    """Makes the program of a real service that waits for NATS, which is not there."""

    def make(name: str = "billing", **environment: str) -> Program:
        module = f"batchyard.{name}"
        return Program(
            name=name,
            command=(sys.executable, "-P", "-m", module),
            environment=os.environ
            | {
                "BATCHYARD_NATS_URL": NOBODY,
                "BATCHYARD_OBJECT_STORE": (tmp_path / "objects").as_uri(),
                "BATCHYARD_DATABASE_URL": f"sqlite+aiosqlite:///{tmp_path}/{name}.db",
                "HOSTED_VLLM_API_BASE": "http://127.0.0.1:9",
            }
            | environment,
            log=tmp_path / f"{name}.log",
            module=module,
        )

    return make


def nursery_of(process: Process) -> int:
    """The parent of a process."""
    return int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[1])


async def waits_for_nats(process: Process) -> None:
    async with asyncio.timeout(30):
        await until_found(lambda: True if "nats" in "".join(process.last_lines()) else None)


async def test_it_looks_like_a_process_of_its_own_and_stops_when_told(service: Make) -> None:
    process = await Process.start(service())
    await waits_for_nats(process)
    place = Path(f"/proc/{process.pid}")
    assert place.joinpath("cmdline").read_bytes().rstrip(b"\0 ").decode() == " ".join(service().command)
    assert place.joinpath("comm").read_text() == "billing\n"
    assert os.getsid(process.pid) == process.pid
    assert nursery_of(process) != os.getpid()
    assert await process.stop(20) == 0


async def test_four_at_once_come_from_one_nursery(service: Make) -> None:
    names = ("file_store", "billing", "batch_runner", "gateway")
    processes = await asyncio.gather(*(Process.start(service(name)) for name in names))
    parents = {nursery_of(process) for process in processes}
    for process in processes:
        process.send(signal.SIGKILL)
    assert [await process.wait() for process in processes] == [-signal.SIGKILL] * 4
    assert len(parents) == 1


async def test_it_is_told_its_own_environment_and_its_exit_code_is_known(service: Make) -> None:
    wrong = await Process.start(service(BATCHYARD_NATS_REPLICAS="few"))
    assert await wrong.wait() == 2
    assert "BATCHYARD_NATS_REPLICAS" in "".join(wrong.last_lines())
    right = await Process.start(service())
    await waits_for_nats(right)
    assert await right.stop(20) == 0


async def test_a_nursery_that_was_killed_takes_its_children_along_and_another_one_follows(service: Make) -> None:
    process = await Process.start(service())
    await waits_for_nats(process)
    killed = nursery_of(process)
    os.kill(killed, signal.SIGKILL)
    assert await asyncio.wait_for(process.wait(), 20) == -signal.SIGKILL
    again = await Process.start(service())
    assert nursery_of(again) != killed
    await waits_for_nats(again)
    assert await again.stop(20) == 0


async def test_all_that_a_nursery_took_along_come_back_at_once(service: Make) -> None:
    names = ("file_store", "billing", "batch_runner", "gateway")
    before = await asyncio.gather(*(Process.start(service(name)) for name in names))
    os.kill(nursery_of(before[0]), signal.SIGKILL)
    after = await asyncio.gather(*(Process.start(service(name)) for name in names))
    assert len({nursery_of(process) for process in after}) == 1
    for process in (*before, *after):
        process.send(signal.SIGKILL)
        await asyncio.wait_for(process.wait(), 20)


async def test_a_nursery_that_is_stopped_leaves_nothing_behind(service: Make) -> None:
    process = await Process.start(service())
    forks.stop()
    assert await asyncio.wait_for(process.wait(), 20) == -signal.SIGKILL


def test_another_python_than_this_one_is_not_forked() -> None:
    assert is_forked("batchyard.billing", os.environ)
    assert not is_forked("batchyard.billing", {**os.environ, "PYTHONPATH": "/elsewhere"})
    assert not is_forked("batchyard.cli", os.environ)
