"""The gateway dies in the middle of what it does: nobody is locked out, nothing half done, no webhook lost."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from batchyard.cli.waiting import until_found
from batchyard.common.crash import POINTS
from support.receiver import LOOPBACK, receiving

from .conftest import FaultYard, PatientSystem, armed

pytestmark = [pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="module")]

GATEWAY = "gateway"
DELIVERING = ("webhook.queued", "webhook.event_queued", "webhook.answered")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PatientSystem]:
    async with AsyncExitStack() as exits:
        yard = FaultYard(exits, tmp_path_factory.mktemp("keys"))
        yield await yard.system(
            "http://127.0.0.1:9", webhook_allowed_networks=LOOPBACK, webhook_first_retry=0.2, work_ack_wait=1
        )


async def dies(system: PatientSystem, point: str, marker: Path, path: str, body: dict[str, Any]) -> None:
    """Ask for an act that the gateway does not survive, and wait until it is back."""
    async with armed(system.stack, GATEWAY, point, marker):
        with pytest.raises(httpx.TransportError):
            await system.http.post(f"{system.stack.url}{path}", json=body)
        assert marker.exists()
        await system.stack.ready()


async def opens(system: PatientSystem, secret: str) -> bool:
    headers = {"authorization": f"Bearer {secret}"}
    return (await system.ask("GET", "/files", headers=headers)).status_code == 200


async def test_a_key_whose_secret_was_lost_opens_nothing_and_is_given_another(
    system: PatientSystem, tmp_path: Path
) -> None:
    await dies(system, "key.written", tmp_path / "marker", "/key/generate", {"key_alias": "nightly"})
    again = await system.ask("POST", "/key/generate", json={"key_alias": "nightly"})
    assert (again.status_code, again.json()["error"]["param"]) == (409, "key_alias")
    (token,) = (await system.call("GET", "/key/list", params={"key_alias": "nightly"}))["keys"]
    made = await system.call("POST", "/key/regenerate", json={"key": token})
    assert made["old_secret_expires"] is None
    assert await opens(system, made["key"])


async def test_a_rotation_whose_answer_was_lost_leaves_the_old_secret_its_grace_period(
    system: PatientSystem, tmp_path: Path
) -> None:
    made = await system.call("POST", "/key/generate", json={})
    wish = {"key": made["token"], "grace_period": "1h"}
    await dies(system, "key.rotated", tmp_path / "marker", "/key/regenerate", wish)
    assert await opens(system, made["key"])
    newest = await system.call("POST", "/key/regenerate", json=wish)
    assert await opens(system, newest["key"])
    assert await opens(system, made["key"])


async def test_every_point_is_reached() -> None:
    points = {"key.written", "key.rotated", "webhook.endpoint_written", *DELIVERING}
    assert points == {point for point in POINTS if point.startswith(("key.", "webhook."))}


async def test_an_endpoint_whose_secret_was_lost_is_given_another(system: PatientSystem, tmp_path: Path) -> None:
    wish = {"name": "lost", "url": "http://127.0.0.1:9", "event_types": ["batch.expired"]}
    await dies(system, "webhook.endpoint_written", tmp_path / "marker", "/v1/webhook_endpoints", wish)
    (found,) = (await system.call("GET", "/webhook_endpoints"))["data"]
    rotated = await system.call("POST", f"/webhook_endpoints/{found['id']}/rotate_secret")
    assert rotated["signing_secret"].endswith(rotated["signing_secret_hint"][-4:])


@pytest.mark.parametrize("point", DELIVERING)
async def test_no_webhook_is_lost_nor_queued_twice(system: PatientSystem, point: str, tmp_path: Path) -> None:
    """A batch that fails at its first line, and two endpoints that hear of it."""
    async with receiving() as receiver, armed(system.stack, GATEWAY, point, tmp_path / "marker"):
        endpoints = [
            await system.call(
                "POST",
                "/webhook_endpoints",
                json={"name": "n", "url": f"{receiver.url}/{name}", "event_types": ["batch.failed"]},
            )
            for name in ("a", "b")
        ]
        form = {"data": {"purpose": "batch"}, "files": {"file": ("in.jsonl", b"{}")}}
        file_id = (await system.call("POST", "/files", **form))["id"]
        wish = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        batch = await system.call("POST", "/batches", json=wish)
        received = await receiver.until(lambda received: {r.path for r in received} == {"/a", "/b"})
        await until_found(lambda: (tmp_path / "marker").exists() or None)
        if point == "webhook.answered":  # what was answered as it died comes once more
            received = await receiver.until(lambda received: len(received) > 2)
        for endpoint in endpoints:
            await system.call("DELETE", f"/webhook_endpoints/{endpoint['id']}")
    assert len({r.id for r in received}) == 1
    assert len(received) <= (2 if point != "webhook.answered" else 4)
    for r in received:
        secret = endpoints[0 if r.path == "/a" else 1]["signing_secret"]
        assert r.unwrapped(secret).data.id == batch["id"]
