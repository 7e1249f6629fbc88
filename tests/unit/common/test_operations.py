"""The port for those who run a service, over real HTTP."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from prometheus_client import Counter
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from batchyard.common.errors import ConfigurationError
from batchyard.common.health import HealthChecks
from batchyard.common.operations import Operations, expose, open_operations, ready_when
from batchyard.common.operations_port import listening

COUNTED = Counter("batchyard_test_things", "Things that this module counts")


@pytest.fixture
async def operations() -> AsyncIterator[Operations]:
    operations = Operations("billing", asyncio.Event())
    token = open_operations.set(operations)
    yield operations
    open_operations.reset(token)


@pytest.fixture
async def http(operations: Operations) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        listening(operations, "127.0.0.1", 0) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        yield client


class Depth(Collector):
    """A gauge that is known after it was asked for."""

    def __init__(self) -> None:
        self.depth: float | None = None

    async def refresh(self) -> None:
        self.depth = 3

    def collect(self) -> Iterator[Metric]:
        if self.depth is not None:
            yield GaugeMetricFamily("batchyard_test_depth", "How deep", self.depth)


async def fine() -> None: ...


async def broken() -> None:
    raise OSError("disk full")


def families(text: str) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(text)}


async def test_a_process_is_alive_before_it_is_ready(http: httpx.AsyncClient) -> None:
    assert (await http.get("/health/liveness")).json() == {"status": "ok"}
    answer = await http.get("/health/readiness")
    assert answer.status_code == 503
    assert answer.json() == {"service": "billing", "status": "unhealthy", "checks": {"service": "starting"}}


async def test_it_is_ready_when_its_checks_are(http: httpx.AsyncClient) -> None:
    async with HealthChecks("billing", {"nats": fine}) as health:
        ready_when(health)
        answer = await http.get("/health/readiness")
    assert answer.status_code == 200
    assert answer.json() == {"service": "billing", "status": "ok", "checks": {"nats": "ok"}}


async def test_what_is_wrong_is_said(http: httpx.AsyncClient) -> None:
    async with HealthChecks("billing", {"nats": fine, "database": broken}) as health:
        ready_when(health)
        answer = await http.get("/health/readiness")
    assert answer.status_code == 503
    assert answer.json()["checks"] == {"nats": "ok", "database": "disk full"}


async def test_one_that_is_told_to_stop_is_alive_but_not_ready() -> None:
    stop = asyncio.Event()
    operations = Operations("billing", stop)
    async with HealthChecks("billing", {"nats": fine}) as health:
        operations.health = health
        assert (await operations.readiness()).status == "ok"
        stop.set()
        assert (await operations.readiness()).checks == {"service": "stopping"}


async def test_metrics_tell_of_the_process_its_version_and_what_modules_count(http: httpx.AsyncClient) -> None:
    COUNTED.inc(2)
    answer = await http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    found = families(answer.text)
    assert found["process_resident_memory_bytes"].samples[0].value > 0
    assert found["batchyard_test_things"].samples[0].value == 2
    (build,) = found["batchyard_build_info"].samples
    assert build.labels["service"] == "billing"
    assert build.labels["version"] != "unknown"


async def test_a_collector_is_refreshed_before_it_is_read(http: httpx.AsyncClient) -> None:
    depth = Depth()
    expose(depth, depth.refresh)
    assert families((await http.get("/metrics")).text)["batchyard_test_depth"].samples[0].value == 3


async def test_what_cannot_be_refreshed_keeps_nothing_else_back(http: httpx.AsyncClient) -> None:
    expose(Depth(), broken)
    found = families((await http.get("/metrics")).text)
    assert "batchyard_test_depth" not in found
    assert "batchyard_build_info" in found


async def test_open_metrics_for_those_who_ask_for_it(http: httpx.AsyncClient) -> None:
    answer = await http.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


async def test_nothing_else_is_there(http: httpx.AsyncClient) -> None:
    assert (await http.get("/v1/files")).status_code == 404
    assert (await http.post("/metrics")).status_code == 405


async def test_a_port_that_is_taken_is_a_configuration_error(operations: Operations) -> None:
    async with listening(operations, "127.0.0.1", 0) as port:
        with pytest.raises(ConfigurationError, match=f"port {port}"):
            async with listening(operations, "127.0.0.1", port):
                pass


async def test_without_a_port_nothing_is_kept() -> None:
    async with HealthChecks("billing", {"nats": fine}) as health:
        ready_when(health)
        expose(Depth())
    assert open_operations.get() is None
