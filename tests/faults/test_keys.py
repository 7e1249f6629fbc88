"""The gateway dies in the middle of an act of administration: nobody is locked out, and nothing is half done."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from .conftest import FaultYard, PatientSystem, armed

pytestmark = [pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="module")]

GATEWAY = "gateway"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PatientSystem]:
    async with AsyncExitStack() as exits:
        yard = FaultYard(exits, tmp_path_factory.mktemp("keys"))
        yield await yard.system("http://127.0.0.1:9")


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
