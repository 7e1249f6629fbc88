"""A real vLLM that goes away in the middle of a batch, and comes back."""

import asyncio
import signal
from collections import Counter

import pytest

from support.vllm import CHAT

from .conftest import Office, Vllm
from .test_flows import line, said

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]
LINES = 400


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "kill -9"])
async def test_no_line_is_lost_when_the_server_goes(office: Office, vllm: Vllm, number: signal.Signals) -> None:
    server = vllm.own
    if server is None:
        pytest.skip(f"only a server that the tests have started ({CHAT.serve}) may be killed")
    lines = [
        line(f"r{index}", messages=said(f"{number.name} tell me {index}"), max_tokens=48, ignore_eos=True)
        for index in range(LINES)
    ]
    batch = await office.run(lines)
    await office.until(batch["id"], lambda batch: batch["request_counts"]["completed"] >= 40, 120)
    await asyncio.to_thread(server.end, number)
    away = await office.until(batch["id"], lambda batch: bool(batch["status_reason"]), 60)
    assert away["status"] == "in_progress"
    assert away["request_counts"]["failed"] == 0
    await asyncio.to_thread(server.start)
    batch = await office.ended(batch["id"], 300)
    assert (batch["status"], batch["error_file_id"]) == ("completed", None)
    output = await office.lines(batch["output_file_id"])
    assert [result["custom_id"] for result in output] == [f"r{index}" for index in range(LINES)]
    reasons = Counter(result["response"]["body"]["choices"][0]["finish_reason"] for result in output)
    assert reasons == {"length": LINES}, "an answer that the server gave up is no answer"
    assert {result["response"]["body"]["usage"]["completion_tokens"] for result in output} == {48}
