"""The largest batch that OpenAI takes, as it is."""

from pathlib import Path

import pytest

from support.systems import Yard, expected_answer, request_line

LINES = 50_000
_MIB = 1024 * 1024


def prompt(index: int) -> str:
    return f"item {index}: is it a fish" if index % 100 else f"item {index} [[fault:status=400]]"


@pytest.mark.scale
@pytest.mark.timeout(600)
async def test_fifty_thousand_lines_each_once_with_its_own_answer(yard: Yard) -> None:
    sim = await yard.sim()
    system = await yard.system(sim.url.removesuffix("/v1"))
    batch = await system.submit(b"\n".join(request_line(f"r{index}", prompt(index)) for index in range(LINES)))
    batch = await system.ended(batch["id"], within=500)
    failed = LINES // 100
    assert batch["status"] == "completed"
    assert batch["request_counts"] == {"total": LINES, "completed": LINES - failed, "failed": failed}
    output = await system.lines(batch["output_file_id"])
    errors = await system.lines(batch["error_file_id"])
    assert [line["custom_id"] for line in output] == [f"r{index}" for index in range(LINES) if index % 100]
    assert [line["custom_id"] for line in errors] == [f"r{index}" for index in range(0, LINES, 100)]
    for line in output:
        answer = line["response"]["body"]["choices"][0]["message"]["content"]
        assert answer == expected_answer(prompt(int(line["custom_id"][1:])))
    assert len(await system.ledger(batch["id"])) == 1
    for name, pid in system.stack.pids.items():
        assert peak_bytes(pid) < 300 * _MIB, f"{name} holds more than its bounds allow"


def peak_bytes(pid: int) -> int:
    """The most memory that a process has held, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
