"""NATS as `deploy/nats` sets it up: everything works with least privilege, and nobody reaches what is another's."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
import trustme
from nats.errors import TimeoutError as NatsTimeoutError
from pydantic import SecretStr

from batchyard.common import subjects
from batchyard.common.client import ClientSettings, connect
from batchyard.common.contracts.batches import CreateBatch
from batchyard.common.contracts.files import CreateFile, GetFile, ListFiles, Purpose
from batchyard.common.declare import declare
from batchyard.common.errors import ApiError, ConfigurationError, ServiceUnavailable
from batchyard.common.messaging.commands import CommandClient
from batchyard.common.messaging.permissions import SERVICES, TOPOLOGY, tenant_user_name
from batchyard.common.messaging.topology import BUCKETS, EVENTS, OWNED_BUCKETS, STEPS, WORK, billing_consumer
from batchyard.common.service import open_messaging
from batchyard.common.settings import Settings
from batchyard.vllm_sim.settings import SimSettings
from batchyard.vllm_sim.testing import running_sim
from support.guarded_system import guarded_system
from support.nats_users import GuardedNats, UserConnection, connected, guarded_nats
from support.receiver import LOOPBACK, receiving
from support.services import Caller
from support.stack import MASTER_KEY

TENANT = "reports"
OTHER = "billing team/é*>"
MODELS = ("org/model.v1", "ünï code >", "m" * 400)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedNats]:
    with guarded_nats(tmp_path_factory.mktemp("nats"), (TENANT, OTHER)) as server:
        yield server


@pytest.fixture
async def tenant(server: GuardedNats) -> AsyncIterator[UserConnection]:
    async with connected(server, tenant_user_name(TENANT)) as connection:
        yield connection


@pytest.fixture
async def other(server: GuardedNats) -> AsyncIterator[UserConnection]:
    async with connected(server, tenant_user_name(OTHER)) as connection:
        yield connection


@pytest.fixture
async def topology(server: GuardedNats) -> None:
    await declare(Settings(**server.settings(TOPOLOGY)), asyncio.Event())


def config(path: Path, api_base: str, models: tuple[str, ...]) -> Path:
    entries = [
        {"model_name": name, "litellm_params": {"model": "hosted_vllm/my-vllm-model", "api_base": api_base}}
        for name in models
    ]
    document = {"model_list": entries, "general_settings": {"master_key": MASTER_KEY}}
    unfinished = path.with_suffix(".new")
    unfinished.write_text(json.dumps(document))
    unfinished.replace(path)
    return path


def lines(model: str, count: int = 20) -> bytes:
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}]}
    return b"\n".join(
        json.dumps({"custom_id": f"r{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}).encode()
        for number in range(count)
    )


async def run_over_http(http: httpx.AsyncClient, model: str) -> Any:
    """A batch from its file to its end, and its entry on the ledger."""
    upload = await http.post(
        "/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", lines(model), "application/jsonl")}
    )
    assert upload.status_code == 200, upload.text
    wish = {"input_file_id": upload.json()["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    created = await http.post("/v1/batches", json=wish)
    assert created.status_code == 200, created.text
    async with asyncio.timeout(60):
        while (batch := (await http.get(f"/v1/batches/{created.json()['id']}")).json())["status"] != "completed":
            assert batch["status"] in {"validating", "in_progress", "finalizing"}, batch["errors"]
            await asyncio.sleep(0.05)
        while not (await http.get("/spend/logs", params={"batch_id": batch["id"]})).json()["data"]:
            await asyncio.sleep(0.05)
    return batch


async def test_the_main_job_runs_with_least_privilege(server: GuardedNats, tmp_path: Path) -> None:
    refused_before = len(server.violations)
    with structlog.testing.capture_logs() as logs:
        async with running_sim(SimSettings()) as sim, receiving() as receiver:
            path = config(tmp_path / "config.yaml", sim.url, MODELS[:2])
            async with guarded_system(server, tmp_path, path, webhook_allowed_networks=LOOPBACK) as system:
                hook = {"name": "n", "url": receiver.url, "event_types": ["batch.completed"]}
                assert (await system.http.post("/v1/webhook_endpoints", json=hook)).status_code == 200
                for model in MODELS[:2]:
                    assert (await run_over_http(system.http, model))["request_counts"]["completed"] == 20
                config(path, sim.url, MODELS)  # a pool that was not there when the permissions were written
                async with asyncio.timeout(20):
                    while MODELS[2] not in (await system.http.get("/v1/models")).text:
                        await asyncio.sleep(0.05)
                batch = await run_over_http(system.http, MODELS[2])
                assert (await system.http.delete(f"/v1/files/{batch['output_file_id']}")).status_code == 200
                assert len((await system.http.get("/v1/files")).json()["data"]) == 5
                assert len((await system.http.get("/v1/batches")).json()["data"]) == 3
                assert (await system.http.get("/v1/fleet")).status_code == 200
                await run_over_nats(server, system.object_store)
                await receiver.until(lambda received: len({r.id for r in received}) == len(MODELS) + 1)
    assert server.violations[refused_before:] == []
    assert [entry for entry in logs if entry["event"] in {"nats.permission_denied", "nats.error"}] == []


async def run_over_nats(server: GuardedNats, object_store: str) -> None:
    """The same by an internal tenant, whose objects nobody else sees."""
    from batchyard.common.objects import open_object_store  # noqa: PLC0415

    objects = open_object_store(object_store, access_key=None, secret_key=None)
    async with (
        connected(server, tenant_user_name(OTHER)) as mine,
        connected(server, tenant_user_name(TENANT)) as foreign,
    ):
        caller = Caller(CommandClient(mine.client), objects, OTHER)
        events = await mine.client.subscribe(subjects.event_filter(tenant=OTHER))
        content = lines(MODELS[1]).decode()
        file = await caller(CreateFile(filename="in.jsonl", purpose=Purpose.BATCH, content=content))
        batch = await caller(CreateBatch(input_file_id=file.id, endpoint="/v1/chat/completions"))
        async with asyncio.timeout(60):
            async for message in events.messages:
                if json.loads(message.data)["status"] == "completed":
                    break
        ended = await caller.ended(batch.id)
        assert len(await caller.content(ended.output_file_id)) == 20
        stranger = Caller(CommandClient(foreign.client), objects, TENANT)
        with pytest.raises(ApiError, match="No such File"):
            await stranger(GetFile(file_id=file.id))
        assert (await stranger(ListFiles())).data == []
    await objects.close()


@pytest.mark.parametrize("noun", ["files", "uploads", "batches", "billing", "models", "fleet", "health", "*"])
async def test_a_tenant_sends_no_command_as_another(tenant: UserConnection, noun: str) -> None:
    for name in (OTHER, "default", "=", "*", ">", f"{TENANT} "):
        token = name if name in "*>=" else subjects.encode_token(name)
        assert await tenant.refuses_publish(f"{subjects.ROOT}.cmd.{token}.{noun}.list")


async def test_a_tenant_sends_its_own_commands_and_no_others(tenant: UserConnection) -> None:
    for noun in ("files", "uploads", "batches", "billing", "models"):
        assert not await tenant.refuses_publish(subjects.command(TENANT, noun, "list"))
    for subject in (
        subjects.command(TENANT, "fleet", "get"),
        subjects.command(TENANT, "health", "billing"),
        f"{subjects.ROOT}.cmd.{TENANT}",
        f"{subjects.ROOT}.cmd.{TENANT}.files",
        f"{subjects.ROOT}.cmd.{TENANT}.files.list.more",
        f"{subjects.ROOT}.cmd.{TENANT.upper()}.files.list",
    ):
        assert await tenant.refuses_publish(subject), subject


@pytest.mark.parametrize(
    "subject",
    [
        subjects.event(TENANT, "batches", "b", "completed"),
        subjects.event(OTHER, "batches", "b", "completed"),
        subjects.live(TENANT, "b"),
        subjects.live(OTHER, "b"),
        subjects.control("b"),
        subjects.step(TENANT, "b"),
        subjects.work("m", "b", 0),
        subjects.native_work("m", "b"),
        "_INBOX.gateway.x",
        "_INBOX.x",
        "$SYS.REQ.SERVER.PING",
    ],
)
async def test_a_tenant_publishes_nothing_but_commands(tenant: UserConnection, subject: str) -> None:
    assert await tenant.refuses_publish(subject)


@pytest.mark.parametrize(
    "subject",
    [
        ">",
        "*",
        "batchyard.>",
        f"{subjects.ROOT}.*.*.>",
        f"{subjects.ROOT}.cmd.{TENANT}.>",
        subjects.ALL_EVENTS,
        subjects.event_filter(),
        subjects.event_filter(tenant=OTHER),
        f"{subjects.ROOT}.evt.{TENANT}.>",
        subjects.ALL_LIVE,
        subjects.live_filter(OTHER),
        subjects.ALL_WORK,
        subjects.ALL_STEPS,
        subjects.ALL_CONTROL,
        "_INBOX.>",
        "_INBOX.*",
        "_INBOX.*.>",
        "_INBOX.gateway.>",
        f"_INBOX.{tenant_user_name(OTHER)}.>",
        "$KV.>",
        "$JS.>",
        "$JS.ACK.>",
        "$JS.EVENT.ADVISORY.>",
        "$SYS.>",
    ],
)
async def test_a_tenant_listens_to_nothing_of_others(tenant: UserConnection, subject: str) -> None:
    assert await tenant.refuses_subscribe(subject)
    assert await tenant.refuses_subscribe(subject, queue="batch-runner")


async def test_a_tenant_hears_its_own_events_and_progress_alone(
    server: GuardedNats, tenant: UserConnection, other: UserConnection, topology: None
) -> None:
    heard = {}
    for name, connection in ((TENANT, tenant), (OTHER, other)):
        heard[name] = [
            await connection.client.subscribe(subject)
            for subject in (subjects.event_filter(tenant=name), subjects.live_filter(name))
        ]
        await connection.client.flush()
    async with connected(server, "batch-runner") as runner:
        for name in (TENANT, OTHER):
            await runner.client.publish(subjects.event(name, "batches", "b", "completed"), name.encode())
            await runner.client.publish(subjects.live(name, "b"), name.encode())
        await runner.client.flush()
    for name, subscriptions in heard.items():
        for subscription in subscriptions:
            assert (await subscription.next_msg(timeout=5)).data == name.encode()
            assert subscription.pending_msgs == 0


JETSTREAM = [
    "INFO",
    "STREAM.NAMES",
    "STREAM.LIST",
    *(
        f"STREAM.{verb}.{stream}"
        for verb in ("CREATE", "UPDATE", "INFO", "DELETE", "PURGE", "MSG.GET", "MSG.DELETE", "SNAPSHOT", "RESTORE")
        for stream in (EVENTS, WORK, STEPS, "KV_batches", "MINE")
    ),
    # Every way there is to make a consumer, pinned to the tenant's own events or not.
    f"CONSUMER.CREATE.{EVENTS}",
    f"CONSUMER.CREATE.{EVENTS}.mine",
    f"CONSUMER.CREATE.{EVENTS}.mine.{subjects.event_filter(tenant=TENANT)}",
    f"CONSUMER.CREATE.{EVENTS}.mine.{subjects.event_filter(tenant=OTHER)}",
    f"CONSUMER.DURABLE.CREATE.{EVENTS}.mine",
    f"CONSUMER.INFO.{EVENTS}.billing",
    f"CONSUMER.LIST.{EVENTS}",
    f"CONSUMER.NAMES.{EVENTS}",
    f"CONSUMER.DELETE.{EVENTS}.billing",
    f"CONSUMER.PAUSE.{EVENTS}.billing",
    f"CONSUMER.MSG.NEXT.{EVENTS}.billing",
    f"CONSUMER.MSG.NEXT.{WORK}.pool-m",
    f"DIRECT.GET.{EVENTS}",
    f"DIRECT.GET.{EVENTS}.{subjects.event(TENANT, 'batches', 'b', 'completed')}",
    "DIRECT.GET.KV_files",
]


async def test_a_tenant_has_nothing_of_jetstream(tenant: UserConnection) -> None:
    for call in JETSTREAM:
        assert await tenant.refuses_publish(f"$JS.API.{call}"), call
    for subject in ("$JS.ACK.EVENTS.billing.1.1.1.1.1", "$JS.FC.KV_files.x", "$KV.files.x", "$KV.batches.reports.x"):
        assert await tenant.refuses_publish(subject), subject


async def test_no_service_sends_its_answer_to_jetstream_for_a_tenant(
    server: GuardedNats, tenant: UserConnection, tmp_path: Path
) -> None:
    """NATS lets a request name any subject for its answer, also one that only the service may publish to."""
    async with running_sim(SimSettings()) as sim, connected(server, "operator") as operator:
        path = config(tmp_path / "config.yaml", sim.url, MODELS[:1])
        async with guarded_system(server, tmp_path, path):
            js = operator.client.jetstream()
            await js.publish("$KV.progress.probe.x", b"{}")
            await js.publish("$KV.uploads.probe.x", b"{}")
            heard = await operator.client.subscribe("$JS.API.STREAM.PURGE.>")
            await operator.client.flush()
            for noun, bucket in (("batches", "progress"), ("files", "uploads")):
                for subject in (f"$JS.API.STREAM.PURGE.KV_{bucket}", f"$KV.{bucket}.probe.x", "_INBOX"):
                    for body in (b"{}", b"not json"):
                        await tenant.client.publish(subjects.command(TENANT, noun, "list"), body, reply=subject)
                # The same services answer this one after those.
                await tenant.client.request(subjects.command(TENANT, noun, "list"), b"{}", timeout=10)
            with pytest.raises(NatsTimeoutError):
                await heard.next_msg(timeout=0.2)
            for bucket in ("progress", "uploads"):
                assert (await js.get_last_msg(f"KV_{bucket}", f"$KV.{bucket}.probe.x")).data == b"{}"
                await js.purge_stream(f"KV_{bucket}")


async def test_whoever_may_ask_jetstream_may_write_anywhere(server: GuardedNats, topology: None) -> None:
    """Why a tenant has nothing of it: the answer goes where the request says, with the server's own rights."""
    async with connected(server, "billing") as billing, connected(server, "operator") as operator:
        assert await billing.refuses_publish("$KV.progress.probe.y")
        ask = f"$JS.API.CONSUMER.INFO.{EVENTS}.{billing_consumer().name}"
        await billing.client.publish(ask, b"", reply="$KV.progress.probe.y")
        await billing.client.flush()
        js = operator.client.jetstream()
        async with asyncio.timeout(10):
            while not (await js.stream_info("KV_progress")).state.messages:
                await asyncio.sleep(0.02)
        await js.purge_stream("KV_progress")


@pytest.mark.parametrize("service", SERVICES)
async def test_no_service_writes_what_is_anothers(server: GuardedNats, service: str) -> None:
    async with connected(server, service) as connection:
        for bucket in BUCKETS:
            owns = bucket in OWNED_BUCKETS.get(service, ())
            assert await connection.refuses_publish(f"$KV.{bucket}.{service}.x") is not owns
            assert await connection.refuses_publish(f"$JS.API.STREAM.DELETE.KV_{bucket}")
            assert await connection.refuses_publish(f"$JS.API.STREAM.UPDATE.KV_{bucket}")
        for stream in (EVENTS, WORK, STEPS):
            assert await connection.refuses_publish(f"$JS.API.STREAM.DELETE.{stream}")
        runs = service == "batch-runner"
        for subject in (
            subjects.event("t", "batches", "b", "failed"),
            subjects.work("m", "b", 0),
            subjects.step("t", "b"),
        ):
            assert await connection.refuses_publish(subject) is not runs
        assert await connection.refuses_subscribe("_INBOX.>")
        assert await connection.refuses_subscribe(subjects.command_filter())
        assert await connection.refuses_subscribe(subjects.command_filter("files"))
        async with connected(server, "operator") as operator:
            js = operator.client.jetstream()
            for stream in [config.name async for config in _streams(js)]:
                await js.purge_stream(stream)


async def _streams(js: Any) -> AsyncIterator[Any]:
    for info in await js.streams_info():
        yield info.config


async def test_a_wrong_password_is_refused_with_a_clear_word(server: GuardedNats) -> None:
    settings = Settings(**{**server.settings("billing"), "nats_password": "wrong"})
    with pytest.raises(ConfigurationError, match="BATCHYARD_NATS_USER"):
        async with open_messaging("billing", settings):
            pass


async def test_services_and_clients_speak_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.crt")
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(tmp_path / "tls.key")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "tls.crt")
    options = ("--tls", "--tlscert", str(tmp_path / "tls.crt"), "--tlskey", str(tmp_path / "tls.key"))
    with guarded_nats(tmp_path / "nats", (TENANT,), options) as server:
        url = "tls://" + server.url.partition("://")[2]
        settings = Settings(**{**server.settings("topology"), "nats_url": url})
        user = tenant_user_name(TENANT)
        client = ClientSettings(
            nats_url=url,
            nats_user=user,
            nats_password=SecretStr(server.password(user)),
            tenant=TENANT,
            connect_timeout=2,
        )
        with pytest.raises(ServiceUnavailable):  # an authority that nobody has vouched for
            async with connect(client):
                pass
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.crt"))
        await declare(settings, asyncio.Event())
        async with connect(client) as batchyard:
            with pytest.raises(ServiceUnavailable, match="is not running"):
                await batchyard.batches.list()
