"""The main job, and the death of each container in the middle of it, on docker-compose.yml as it stands."""

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI
from openai.types import Batch

from support.compose import SERVICES, STANDS_ON, ComposeProject, run
from support.stack import MODEL
from support.systems import expected_answer, request_line

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1800)]

LINES = 3000
_SECONDS = 240.0
_log = logging.getLogger(__name__)


@pytest.fixture
def client(project: ComposeProject) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{project.url}/v1", api_key=project.secret("master_key"), max_retries=10) as client:
        yield client


def submit(client: OpenAI, lines: int = LINES) -> Batch:
    content = b"\n".join(request_line(f"r{index}", f"question {index}") for index in range(lines))
    file = client.files.create(file=("in.jsonl", content), purpose="batch", extra_headers={"x-litellm-model": MODEL})
    return client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")


def until(client: OpenAI, batch: Batch, condition: Callable[[Batch], bool]) -> Batch:
    """The batch, once it is as wanted; that a service is away meanwhile is waited out."""
    deadline = time.monotonic() + _SECONDS
    while not condition(batch):
        assert time.monotonic() < deadline, batch
        time.sleep(0.2)
        with suppress(openai.APIConnectionError, openai.InternalServerError):
            batch = client.batches.retrieve(batch.id)
    return batch


def in_the_middle(client: OpenAI, batch: Batch) -> Batch:
    batch = until(client, batch, lambda batch: _done(batch) > 0)
    assert _done(batch) < LINES, "the batch was over before anything could go wrong with it"
    return batch


def _done(batch: Batch) -> int:
    return batch.request_counts.completed if batch.request_counts else 0


def answered_once(client: OpenAI, batch: Batch, lines: int = LINES) -> None:
    """Every line has its answer, in order, and none an error."""
    batch = until(client, batch, lambda batch: batch.status in {"completed", "failed", "expired", "cancelled"})
    assert batch.status == "completed", batch
    assert batch.error_file_id is None
    assert batch.output_file_id is not None
    output = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
    assert [line["custom_id"] for line in output] == [f"r{index}" for index in range(lines)]
    answers = [line["response"]["body"]["choices"][0]["message"]["content"] for line in output]
    assert answers == [expected_answer(f"question {index}") for index in range(lines)]


def billed_once(project: ComposeProject, batch: Batch, lines: int = LINES) -> None:
    headers = {"authorization": f"Bearer {project.secret('master_key')}"}
    deadline = time.monotonic() + 60
    entries: list[Any] = []
    while not entries:
        assert time.monotonic() < deadline, "nothing was billed"
        with suppress(httpx.TransportError):
            answer = httpx.get(f"{project.url}/spend/logs", params={"batch_id": batch.id}, headers=headers)
            entries = answer.json()["data"] if answer.status_code == 200 else []
    (entry,) = entries
    assert entry["request_counts"]["completed"] == lines
    assert entry["usage"]["output_tokens"] > 0


def test_the_main_job(project: ComposeProject, client: OpenAI) -> None:
    started = time.monotonic()
    batch = submit(client)
    answered_once(client, batch)
    billed_once(project, batch)
    _log.info("%5.1f s  %d lines, from the upload to the results and the bill", time.monotonic() - started, LINES)


@pytest.mark.parametrize("how", [ComposeProject.restart, ComposeProject.kill], ids=["restarts", "is-killed"])
@pytest.mark.parametrize("service", [*SERVICES, *STANDS_ON])
def test_a_container_that_goes_in_the_middle_of_a_batch_costs_no_line(
    project: ComposeProject, client: OpenAI, service: str, how: Callable[[ComposeProject, str], None]
) -> None:
    batch = in_the_middle(client, submit(client))
    how(project, service)
    answered_once(client, batch)
    billed_once(project, batch)
    project.wait_healthy()


def test_three_runners_share_a_batch_and_may_lose_one(project: ComposeProject, client: OpenAI) -> None:
    project.up("--no-recreate", "--scale", "batch-runner=3")
    assert len(project.containers("batch-runner")) == 3
    batch = in_the_middle(client, submit(client))
    project.kill("batch-runner")
    answered_once(client, batch)
    billed_once(project, batch)
    project.up("--no-recreate", "--scale", "batch-runner=1")


@pytest.mark.parametrize("service", [*SERVICES, "sim"])
def test_a_service_is_nobody_and_can_write_nothing_but_its_tmp(project: ComposeProject, service: str) -> None:
    script = "id -u; grep CapEff /proc/self/status; touch /opt/x || echo read-only; touch /tmp/x && echo tmp"
    told = project("exec", "--no-TTY", service, "sh", "-c", script).split("\n")
    assert told[:4] == ["10001", "CapEff:\t0000000000000000", "read-only", "tmp"]
    (container,) = project.containers(service)
    environment = " ".join(container["Config"]["Env"])
    for secret in ("master_key", "nats_gateway", "s3_gateway", "s3_batch_runner", "database_url"):
        assert project.secret(secret) not in environment


def test_only_the_gateway_has_a_port_and_on_the_loopback_interface_alone(project: ComposeProject) -> None:
    published = {}
    for service in (*SERVICES, *STANDS_ON):
        (container,) = project.containers(service)
        bindings = [one for ports in container["NetworkSettings"]["Ports"].values() for one in ports or []]
        if bindings:
            published[service] = [(one["HostIp"], one["HostPort"]) for one in bindings]
    assert published == {"gateway": [("127.0.0.1", str(project.port))]}


@pytest.mark.parametrize(
    ("service", "host", "port"), [("gateway", "postgres", 5432), ("billing", "minio", 9000), ("sim", "nats", 4222)]
)
def test_who_needs_no_other_cannot_reach_it(project: ComposeProject, service: str, host: str, port: int) -> None:
    script = f"import socket\ntry: socket.create_connection(({host!r}, {port}), 3)\nexcept OSError: print('no way')"
    assert project("exec", "--no-TTY", service, "python", "-c", script).strip() == "no way"


_ATTEMPT = """
import asyncio, os
from batchyard.common.objects import ObjectStoreUnavailable, open_object_store, read
from batchyard.common.secret_files import adopt_secret_files

async def main():
    adopt_secret_files(os.environ)
    store = open_object_store(
        os.environ["BATCHYARD_OBJECT_STORE"],
        access_key=os.environ["BATCHYARD_OBJECT_STORE_ACCESS_KEY"],
        secret_key=os.environ["BATCHYARD_OBJECT_STORE_SECRET_KEY"],
    )
    await store.check()
    for key in ("files/t/x", "uploads/t/x", "batches/t/x"):
        for name, call in (("put", store.put(key, b"1")), ("get", read(store, key, max_bytes=1))):
            try:
                await call
                print(name, key)
            except ObjectStoreUnavailable:
                pass
    await store.delete(["files/t/x", "uploads/t/x"])
    await store.close()

asyncio.run(main())
"""


def test_the_gateways_user_of_the_store_reaches_no_batchs_working_files(project: ComposeProject) -> None:
    allowed = project("exec", "--no-TTY", "gateway", "python", "-c", _ATTEMPT).split("\n")
    assert [line for line in allowed if line] == ["put files/t/x", "get files/t/x", "put uploads/t/x"]


def test_every_service_stops_in_good_order(project: ComposeProject) -> None:
    project("stop", *SERVICES)
    assert {service: project.containers(service)[0]["State"]["ExitCode"] for service in SERVICES} == dict.fromkeys(
        SERVICES, 0
    )
    project.wait_healthy()


def test_what_was_kept_is_there_after_everything_was_taken_down(project: ComposeProject, client: OpenAI) -> None:
    batch = submit(client, 20)
    answered_once(client, batch, 20)
    billed_once(project, batch, 20)
    project("down", "--timeout", "20")
    project.introduce_users()
    project.up()
    answered_once(client, batch, 20)
    billed_once(project, batch, 20)
    assert not run(
        [
            "docker",
            "ps",
            "--quiet",
            "--filter",
            f"label=com.docker.compose.project={project.name}",
            "--filter",
            "health=unhealthy",
        ]
    )
