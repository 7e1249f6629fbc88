"""Health: alive is one thing, ready another."""

from typing import Any

import pytest
from unit.gateway.rig import Served, Start

from batchyard.common.contracts.health import CheckBilling
from batchyard.common.service import Messaging


async def test_the_gateway_is_alive_whatever_is_behind_it(start: Start) -> None:
    gateway = await start()
    response = await gateway.http.get("/health/liveness")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


async def test_it_is_ready_when_every_service_is(gateway: Served) -> None:
    response = await gateway.http.get("/health/readiness")
    body = response.json()
    assert (response.status_code, body["status"]) == (200, "ok")
    assert set(body["services"]) == {"gateway", "file-store", "batch-runner", "billing"}
    assert body["services"]["gateway"] == {
        "service": "gateway",
        "status": "ok",
        "checks": {"nats": "ok", "object_store": "ok"},
    }


async def test_services_that_are_missing_are_named(start: Start) -> None:
    gateway = await start()
    response = await gateway.http.get("/health/readiness")
    assert (response.status_code, response.json()["status"]) == (503, "unhealthy")
    assert response.json()["services"]["billing"] == {
        "service": "billing",
        "status": "unhealthy",
        "checks": {"reply": "The billing service is not running. Please retry shortly."},
    }


async def test_a_service_that_hangs_is_not_waited_for(messaging: Messaging, start: Start) -> None:
    async def never(_message: Any) -> None:
        pass

    await messaging.connection.subscribe(CheckBilling.subject("*").replace("=2A", "*"), cb=never)
    await messaging.connection.flush()
    gateway = await start(health_timeout=0.2)
    response = await gateway.http.get("/health/readiness", timeout=2)
    assert response.json()["services"]["billing"]["checks"] == {
        "reply": "The billing service did not answer. Please retry shortly."
    }


async def test_a_store_that_cannot_be_written_is_said(services: object, start: Start) -> None:
    gateway = await start(object_store="file:///proc/nowhere")
    response = await gateway.http.get("/health/readiness")
    assert response.status_code == 503
    assert response.json()["services"]["gateway"]["status"] == "unhealthy"


@pytest.mark.parametrize("path", ["/health/liveness", "/health/readiness"])
async def test_health_is_only_read(gateway: Served, path: str) -> None:
    assert (await gateway.http.post(path)).status_code == 405
