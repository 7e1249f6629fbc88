"""Programs are kept running, and stopped in order."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchyard.cli import tether
from batchyard.cli.process import LOG_LIMIT, Process, Program, last_lines
from batchyard.cli.supervisor import Misconfigured, Restart, RestartPolicy, Supervisor
from batchyard.cli.waiting import until_found

Make = Callable[..., Program]

AWAKE = "import signal, sys; print('awake', flush=True); signal.pause()"
DEAF = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("awake", flush=True)
while True:
    signal.pause()
"""


class Observed:
    """A supervisor without patience, and the restarts that it tells of."""

    def __init__(self) -> None:
        self.restarts: list[Restart] = []
        self.supervisor = Supervisor(RestartPolicy(first=0.01, longest=0.05), grace=5.0, notify=self.restarts.append)

    async def pid(self, name: str, other_than: int = 0) -> int:
        """The process of a program that has begun to work."""
        async with asyncio.timeout(20):
            return await until_found(
                lambda: pid if (pid := self.supervisor.pids.get(name)) not in (None, other_than) else None
            )

    async def restarted(self, times: int) -> None:
        async with asyncio.timeout(20):
            await until_found(lambda: True if len(self.restarts) >= times else None)


@pytest.fixture
async def observed() -> AsyncIterator[Observed]:
    observed = Observed()
    try:
        yield observed
    finally:
        observed.supervisor.kill()
        await observed.supervisor.stop()


async def says(program: Program, word: str = "awake") -> None:
    async with asyncio.timeout(20):
        await until_found(lambda: True if word in "".join(last_lines(program.log)) else None)


def is_alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def test_a_wait_grows_with_every_quick_death_up_to_a_limit() -> None:
    policy = RestartPolicy(first=0.5, factor=2.0, longest=3.0, stable_after=30.0)
    deaths, delays = 0, []
    for _ in range(5):
        deaths, delay = policy.after(deaths, ran_for=1.0)
        delays.append(delay)
    assert delays == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_a_stable_run_clears_the_record() -> None:
    policy = RestartPolicy(first=0.5, stable_after=30.0)
    assert policy.after(7, ran_for=30.0) == (1, 0.5)


@given(st.integers(0, 10_000), st.floats(0, 1e9))
def test_a_wait_is_never_out_of_bounds(deaths: int, ran_for: float) -> None:
    policy = RestartPolicy()
    _, delay = policy.after(deaths, ran_for)
    assert policy.first <= delay <= policy.longest


async def test_a_program_that_is_killed_runs_again(observed: Observed, program: Make) -> None:
    observed.supervisor.start(program(AWAKE))
    first = await observed.pid("worker")
    observed.supervisor.signal("worker", signal.SIGKILL)
    second = await observed.pid("worker", other_than=first)
    assert is_alive(second)
    assert observed.restarts == [Restart("worker", -signal.SIGKILL, 0.01)]
    assert str(observed.restarts[0]) == "worker was killed by SIGKILL; starting it again in 0.01 s"


async def test_a_program_that_keeps_dying_is_started_ever_more_slowly(observed: Observed, program: Make) -> None:
    observed.supervisor.start(program("raise SystemExit(3)"))
    await observed.restarted(times=4)
    assert [restart.delay for restart in observed.restarts[:4]] == [0.01, 0.02, 0.04, 0.05]
    assert {restart.exit_code for restart in observed.restarts} == {3}


async def test_another_program_takes_over_at_the_next_start(observed: Observed, program: Make) -> None:
    observed.supervisor.start(program(AWAKE))
    await says(program(AWAKE))
    changed = program("import signal; print('changed', flush=True); signal.pause()")
    observed.supervisor.replace(changed)
    observed.supervisor.signal("worker", signal.SIGKILL)
    await says(changed, "changed")


async def test_exit_code_2_ends_what_depends_on_it(observed: Observed, program: Make) -> None:
    observed.supervisor.start(program(AWAKE, name="healthy"))
    observed.supervisor.start(program("import sys; sys.stderr.write('no such key: modle\\n'); sys.exit(2)"))
    with pytest.raises(Misconfigured, match=r"worker cannot work with this configuration:\n  no such key: modle"):
        await observed.supervisor.guard(asyncio.Event().wait())
    assert observed.restarts == []


async def test_a_guard_sees_a_program_that_was_started_under_it(observed: Observed, program: Make) -> None:
    async def start() -> None:
        observed.supervisor.start(program("raise SystemExit(2)"))
        await asyncio.Event().wait()

    with pytest.raises(Misconfigured):
        await observed.supervisor.guard(start())


async def test_stages_stop_from_the_last_to_the_first(observed: Observed, program: Make, tmp_path: Path) -> None:
    script = (
        "import os, signal, sys, time\n"
        "def stop(*_):\n"
        f"    open({str(tmp_path / 'order')!r}, 'a').write(sys.argv[1])\n"
        "    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, stop); print('awake', flush=True); signal.pause()"
    )
    for stage, name in enumerate("abc"):
        made = program(script, name=name, stage=stage)
        named = Program(name, (*made.command, name), made.environment, made.log, stage)
        observed.supervisor.start(named)
        await says(named)
    await observed.supervisor.stop()
    assert (tmp_path / "order").read_text() == "cba"
    assert observed.supervisor.pids == {}
    assert observed.restarts == []


async def test_who_does_not_heed_sigterm_is_killed_after_the_grace(program: Make) -> None:
    supervisor = Supervisor(grace=0.1)
    deaf = program(DEAF)
    supervisor.start(deaf)
    await says(deaf)
    pid = supervisor.pids["worker"]
    await supervisor.stop()
    assert not is_alive(pid)


async def test_a_kill_does_not_wait_for_the_grace(observed: Observed, program: Make) -> None:
    supervisor = Supervisor(grace=3600.0)
    deaf = program(DEAF)
    supervisor.start(deaf)
    await says(deaf)
    stopping = asyncio.create_task(supervisor.stop())
    await asyncio.sleep(0)
    supervisor.kill()
    await asyncio.wait_for(stopping, 20)


async def test_a_stop_that_is_cancelled_kills(program: Make) -> None:
    supervisor = Supervisor(grace=3600.0)
    deaf = program(DEAF)
    supervisor.start(deaf)
    await says(deaf)
    pid = supervisor.pids["worker"]
    stopping = asyncio.create_task(supervisor.stop())
    await asyncio.sleep(0)
    stopping.cancel()
    await asyncio.wait({stopping}, timeout=20)
    assert stopping.cancelled()
    assert not is_alive(pid)


async def test_a_stop_interrupts_the_wait_before_a_restart(program: Make) -> None:
    died = asyncio.Event()
    supervisor = Supervisor(RestartPolicy(first=3600.0, longest=3600.0), notify=lambda _: died.set())
    supervisor.start(program("raise SystemExit(1)"))
    await asyncio.wait_for(died.wait(), 20)
    await asyncio.wait_for(supervisor.stop(), 20)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
async def test_children_do_not_outlive_a_killed_supervisor(program: Make, tmp_path: Path) -> None:
    child = program(AWAKE, name="child")
    script = f"""
import asyncio
from pathlib import Path
from batchyard.cli.process import Program
from batchyard.cli.supervisor import Supervisor

async def main():
    supervisor = Supervisor()
    supervisor.start(Program("child", {child.command!r}, {{}}, Path({str(child.log)!r})))
    while not supervisor.pids:
        await asyncio.sleep(0.01)
    Path({str(tmp_path / "new")!r}).write_text(str(supervisor.pids["child"]))
    Path({str(tmp_path / "new")!r}).rename({str(tmp_path / "pid")!r})
    await asyncio.Event().wait()

asyncio.run(main())
"""
    parent = await Process.start(program(script, name="parent"))
    async with asyncio.timeout(20):
        await until_found(lambda: True if (tmp_path / "pid").exists() else None)
        await says(child)
        pid = int((tmp_path / "pid").read_text())
        assert is_alive(pid)
        parent.send(signal.SIGKILL)
        await parent.wait()
        await until_found(lambda: None if is_alive(pid) else True)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
async def test_a_child_whose_parent_died_before_it_was_tethered_does_not_start(tmp_path: Path) -> None:
    never = tmp_path / "never"
    started = await asyncio.create_subprocess_exec(
        *(sys.executable, tether.__file__, "1", "/usr/bin/touch", str(never))
    )
    assert await started.wait() == 1
    assert not never.exists()


async def test_a_program_is_the_leader_of_its_own_session(observed: Observed, program: Make) -> None:
    observed.supervisor.start(program(AWAKE))
    pid = await observed.pid("worker")
    assert os.getsid(pid) == pid
    assert os.getpgid(pid) == pid != os.getpgid(0)


async def test_a_log_that_has_grown_is_set_aside_at_the_next_start(observed: Observed, program: Make) -> None:
    made = program(AWAKE)
    with made.log.open("wb") as file:
        file.truncate(LOG_LIMIT + 1)
    observed.supervisor.start(made)
    await says(made)
    assert made.log.stat().st_size < 100
    assert made.log.stat().st_mode & 0o777 == 0o600
    assert made.log.with_name("worker.log.1").stat().st_size == LOG_LIMIT + 1


async def test_the_last_lines_are_those_of_the_present_run(program: Make) -> None:
    made = program("print('new')")
    made.log.write_text("old\n")
    process = await Process.start(made)
    await process.wait()
    assert process.last_lines() == ["new"]
    assert last_lines(made.log) == ["old", "new"]
    assert last_lines(made.log, 1) == ["new"]
    assert last_lines(made.log.with_name("none")) == []
