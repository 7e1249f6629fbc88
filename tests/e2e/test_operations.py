"""The operations ports of a whole system: every service answers on its own."""

import asyncio
import socket
from contextlib import ExitStack

import httpx
import pytest

from support.systems import Yard, request_line

SERVICES = ("gateway", "file-store", "batch-runner", "billing")


def four_free_ports() -> int:
    """The first of four ports in a row that nobody listens on."""
    for first in range(21_000, 31_000, 4):
        with ExitStack() as taken:
            try:
                for port in range(first, first + 4):
                    taken.enter_context(socket.create_server(("127.0.0.1", port)))
            except OSError:
                continue
            return first
    raise AssertionError("all ports are taken")


@pytest.mark.timeout(120)
async def test_every_service_is_probed_and_measured_on_a_port_of_its_own(yard: Yard) -> None:
    sim = await yard.sim()
    first = four_free_ports()
    system = await yard.system(sim.url.removesuffix("/v1"), operations_port=first)
    batch = await system.submit(b"\n".join(request_line(f"r{index}", f"hello {index}") for index in range(20)))
    await system.ended(batch["id"])
    async with httpx.AsyncClient(timeout=20, trust_env=False) as http:
        urls = {name: f"http://127.0.0.1:{first + index}" for index, name in enumerate(SERVICES)}
        for name, url in urls.items():
            assert (await http.get(f"{url}/health/liveness")).status_code == 200
            ready = await http.get(f"{url}/health/readiness")
            assert (ready.status_code, ready.json()["service"]) == (200, name)
        metrics = await asyncio.gather(*(http.get(f"{url}/metrics") for url in urls.values()))
    assert all("process_resident_memory_bytes" in answer.text for answer in metrics)
    lines = metrics[2].text.splitlines()
    assert any(line.startswith("batchyard_pool_lines_total{") and line.endswith(" 20.0") for line in lines)
    assert (await system.http.get(f"{system.stack.url}/metrics")).status_code == 404, "not on the API port"
