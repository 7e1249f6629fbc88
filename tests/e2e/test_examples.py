"""The examples, run as their README says, before a real system."""

import asyncio
import json
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import nats
import pytest

from batchyard.vllm_sim.settings import SimSettings
from batchyard.vllm_sim.testing import running_sim
from support.guarded_system import GuardedSystem, guarded_system
from support.nats import running_nats
from support.nats_users import guarded_nats
from support.stack import MODEL, config_for
from support.systems import expected_answer

EXAMPLE = Path(__file__).parents[2] / "examples" / "watch_subject" / "watch_subject.py"
TENANT = "reviews"


class Example:
    """The example as a process."""

    def __init__(self, system: GuardedSystem, bus: str, folder: Path) -> None:
        told = system.nats.settings(f"tenant-{TENANT}")
        self._environment = {
            "BATCHYARD_NATS_URL": told["nats_url"],
            "BATCHYARD_NATS_USER": told["nats_user"],
            "BATCHYARD_NATS_PASSWORD": told["nats_password"],
            "BATCHYARD_TENANT": TENANT,
            "BATCHYARD_OBJECT_STORE": system.object_store,
        }
        self._arguments = ["--bus", bus, "--folder", str(folder), "--model", MODEL, "--seconds", "0.3"]
        self.folder = folder
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Return once it listens."""
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, str(EXAMPLE), *self._arguments, stderr=asyncio.subprocess.PIPE, env=self._environment
        )
        await self.said("listening on")

    async def said(self, words: str) -> None:
        """Wait until it has logged `words`."""
        assert self.process is not None
        assert self.process.stderr is not None
        lines = []
        async with asyncio.timeout(60):
            while words not in (line := (await self.process.stderr.readline()).decode()):
                lines.append(line)
                assert line, "".join(lines)  # it has ended

    async def end(self, *, kill: bool) -> None:
        assert self.process is not None
        if kill:
            self.process.kill()
        else:
            self.process.terminate()
        await self.process.communicate()
        assert kill or self.process.returncode == 0


@pytest.mark.parametrize("kill", [True, False])
async def test_watching_a_subject_loses_no_request(tmp_path: Path, kill: bool) -> None:
    async with AsyncExitStack() as exits:
        server = exits.enter_context(guarded_nats(tmp_path / "nats", (TENANT,)))
        bus = exits.enter_context(running_nats(tmp_path / "bus"))
        sim = await exits.enter_async_context(running_sim(SimSettings()))
        config = config_for(sim.url, tmp_path / "config.yaml")
        system = await exits.enter_async_context(guarded_system(server, tmp_path, config))
        mine = await nats.connect(bus)
        exits.push_async_callback(mine.close)
        answers = await mine.subscribe("reviews.out")
        example = Example(system, bus, tmp_path / "pending")

        async def ask(**prompts: str) -> None:
            for request_id, prompt in prompts.items():
                await mine.publish("reviews.in", json.dumps({"id": request_id, "prompt": prompt}).encode())
            await mine.flush()

        async def heard(count: int) -> dict[str, Any]:
            said: dict[str, Any] = {}
            while len(said) < count:
                message = json.loads((await answers.next_msg(timeout=60)).data)
                said[message.pop("id")] = message
            return said

        await example.start()
        await mine.publish("reviews.in", b"not a request")
        await ask(a="one", b="two", c="[[fault:status=400]] three")
        said = await heard(3)
        assert said["a"] == {"answer": expected_answer("one")}
        assert said["b"] == {"answer": expected_answer("two")}
        assert "error" in said["c"]

        # It goes in the middle of a batch, and the next one ends what it has begun: one batch, with all answers.
        await ask(d="[[fault:delay=2]] four", e="five")
        await example.said("is batch")
        await sim.until(lambda state: state.capacity.running > 0, 30)
        await example.end(kill=kill)
        await example.start()
        await example.said("is answered")
        assert set(await heard(2)) == {"d", "e"}
        await example.end(kill=False)
        assert list(example.folder.iterdir()) == []
        assert server.violations == []
