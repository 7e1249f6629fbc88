"""How a batch ends well, whatever happened on the way: the same checks after every fault."""

import asyncio
import os
import re
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import nats
from nats.aio.client import Client

from batchyard.cli.running import RunningStack
from batchyard.common import subjects
from batchyard.common.ids import decode_id
from batchyard.common.messaging.topology import EVENTS, PROGRESS_BUCKET, SHARDS_BUCKET, STEPS, WORK
from batchyard.vllm_sim.testing import RunningSim
from support.systems import System, expected_answer, request_line

Fate = Literal["answered", "slow", "refused", "left"]

_MARKERS = {
    "answered": "",
    "slow": " [[fault:delay=600,times=1]]",
    "refused": " [[fault:status=400]]",
    "left": " [[fault:hang]]",
}
_ANSWERED = ("answered", "slow")
_USAGE = {"input_tokens": "prompt_tokens", "output_tokens": "completion_tokens", "total_tokens": "total_tokens"}
_SETTLED_WITHIN = 30.0


@dataclass(frozen=True, slots=True)
class Line:
    """A line of an input, and what is to become of it. The server answers one that is `slow` when it is asked again,
    and one that is `left` never."""

    custom_id: str
    fate: Fate

    @property
    def prompt(self) -> str:
        return f"question of {self.custom_id}{_MARKERS[self.fate]}"


def ordinary(count: int) -> list[Line]:
    """Lines of which every tenth is refused by the server."""
    return [Line(f"r{index}", "refused" if index % 10 == 7 else "answered") for index in range(count)]


def encoded(lines: Sequence[Line]) -> bytes:
    return b"\n".join(request_line(line.custom_id, line.prompt) for line in lines)


async def check_ended_well(system: System, batch: Any, lines: Sequence[Line]) -> None:
    """The batch has ended, each line stands once where it belongs, it is billed once, and nothing is left behind."""
    answered = [line for line in lines if line.fate in _ANSWERED]
    refused = [line for line in lines if line.fate == "refused"]
    left = [line for line in lines if line.fate == "left"]
    ending = "cancelled" if left else "completed"
    assert batch["status"] == ending
    assert batch["request_counts"] == {"total": len(lines), "completed": len(answered), "failed": len(refused)}

    output = await system.lines(batch["output_file_id"])
    assert [line["custom_id"] for line in output] == [line.custom_id for line in answered]
    for line, result in zip(answered, output, strict=True):
        assert result["response"]["body"]["choices"][0]["message"]["content"] == expected_answer(line.prompt)
    errors = await system.lines(batch["error_file_id"])
    assert [line["custom_id"] for line in errors] == [line.custom_id for line in lines if line.fate not in _ANSWERED]
    codes = Counter(line["response"]["status_code"] if line["response"] else line["error"]["code"] for line in errors)
    assert codes == Counter({400: len(refused)}) + Counter({"batch_cancelled": len(left)})
    assert len({line["id"] for line in (*output, *errors)}) == len(lines)
    for ours, theirs in _USAGE.items():
        assert batch["usage"][ours] == sum(line["response"]["body"]["usage"][theirs] for line in output)

    raw_id = decode_id(batch["id"]).raw
    files = (await system.call("GET", "/files", params={"purpose": "batch_output", "limit": 1000}))["data"]
    assert {file["id"] for file in files if file["filename"].startswith(raw_id)} == {
        file_id for file_id in (batch["output_file_id"], batch["error_file_id"]) if file_id
    }

    await nothing_left(system.stack)
    entries = await system.ledger(batch["id"])
    assert [entry["usage"] for entry in entries] == [batch["usage"]]
    middle = "cancelling" if left else "finalizing"
    assert await events_of(system.stack, raw_id) == {"validating": 1, "in_progress": 1, middle: 1, ending: 1}


async def nothing_left(stack: RunningStack) -> None:
    """Wait until no batch has anything queued, and none has working objects or keys."""
    left: list[str] = []
    async with _jetstream(stack) as connection:
        js = connection.jetstream()
        try:
            async with asyncio.timeout(_SETTLED_WITHIN):
                while True:
                    left = working_objects(stack)
                    for name in (STEPS, WORK, f"KV_{SHARDS_BUCKET}", f"KV_{PROGRESS_BUCKET}"):
                        state = (await js.stream_info(name, subjects_filter=">")).state
                        left += [f"{name}: {subject}" for subject in state.subjects or {}]
                    if not left:
                        return
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"left behind: {left}") from None


def working_objects(stack: RunningStack) -> list[str]:
    """What lies under the batches' prefix; unlike pathlib, os.walk does not mind what goes away meanwhile."""
    walk = os.walk(stack.layout.objects / "objects/batches")
    return [str(Path(folder, name)) for folder, _, names in walk for name in names]


async def events_of(stack: RunningStack, raw_id: str) -> dict[str, int]:
    """How often each status of a batch was told, by the messages that the stream keeps."""
    wanted = subjects.event_filter("batches", object_id=raw_id)
    told: dict[str, int] = {}
    async with _jetstream(stack) as connection:
        js = connection.jetstream()
        counts = (await js.stream_info(EVENTS, subjects_filter=wanted)).state.subjects or {}
        for subject, count in counts.items():
            status = subject.rpartition(".")[2]
            told[status] = count
            message = await js.get_last_msg(EVENTS, subject)
            assert (message.headers or {})["Nats-Msg-Id"] == f"{raw_id}.{status}"
    return told


def sent(sim: RunningSim) -> Counter[str]:
    """How often each line was sent: the simulator's requests by the part of their ID that is the line's."""
    return Counter(re.sub(r"-[0-9a-f]+$", "", record.request_id or "") for record in sim.state.log.records())


@asynccontextmanager
async def _jetstream(stack: RunningStack) -> AsyncIterator[Client]:
    connection = await nats.connect(stack.nats.url.split(","), token=stack.nats.token)
    try:
        yield connection
    finally:
        await connection.close()
