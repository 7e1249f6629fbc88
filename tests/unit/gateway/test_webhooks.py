"""Webhooks between a real NATS and a real receiver: who is told of what, how often, and in whose name."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openai
import pytest
import trustme
from prometheus_client import REGISTRY
from structlog.testing import capture_logs
from unit.gateway.peers import BATCH
from unit.gateway.rig import Served, Start, error_of

from batchyard.common.clock import SystemClock
from batchyard.common.contracts.batches import BatchStatus
from batchyard.common.contracts.events import BatchEvent, BudgetEvent
from batchyard.common.errors import InvalidRequest
from batchyard.common.ids import new_raw_id
from batchyard.common.messaging.topology import EVENTS, WEBHOOKS, Consumer, deliveries_consumer, webhooks_consumer
from batchyard.common.messaging.work_loop import Done, Later
from batchyard.common.service import Messaging
from batchyard.gateway.settings import GatewaySettings
from batchyard.gateway.webhooks.addresses import Addresses
from batchyard.gateway.webhooks.backlog import Backlog
from batchyard.gateway.webhooks.delivery import Patience
from batchyard.gateway.webhooks.endpoint import WebhookEndpoint, new_secret
from batchyard.gateway.webhooks.fan_out import FanOut
from batchyard.gateway.webhooks.message import EventType, sample_of
from batchyard.gateway.webhooks.sender import Sender, Unreachable
from support.receiver import LOOPBACK, Receiver, receiving

BATCH_TYPES = ["batch.completed", "batch.failed", "batch.expired", "batch.cancelled"]
TYPES = [*BATCH_TYPES, "budget.soft_exceeded"]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


class Hooks:
    """A gateway that delivers, and what its tests do with it."""

    def __init__(self, gateway: Served, messaging: Messaging) -> None:
        self.gateway = gateway
        self.js = messaging.js
        self._last = 0  # of the events that were published, by its place in the stream

    async def post(self, path: str = "", team: str | None = None, **body: Any) -> httpx.Response:
        headers = {} if team is None else {"x-batchyard-team": team}
        return await self.gateway.http.post(f"/v1/webhook_endpoints{path}", json=body, headers=headers)

    async def endpoint(self, url: str, team: str | None = "default", **more: Any) -> Any:
        """A new endpoint; the default team's, unless `team` says otherwise, None being the operator's."""
        response = await self.post(team=team, **({"name": "n", "url": url, "event_types": TYPES} | more))
        assert response.status_code == 200, response.text
        return response.json()

    async def shown(self, endpoint: Any) -> Any:
        path, headers = f"/v1/webhook_endpoints/{endpoint['id']}", {"x-batchyard-team": "default"}
        return (await self.gateway.http.get(path, headers=headers)).json()

    async def ends(self, team: str = "default", status: BatchStatus = BatchStatus.COMPLETED, ago: float = 0) -> str:
        """Tell of the end of a batch; its ID."""
        raw = new_raw_id("batch")
        event = BatchEvent(
            id=f"{raw}.{status}",
            occurred_at=SystemClock().now() - ago,
            tenant=team,
            raw_batch_id=raw,
            status=status,
            batch=BATCH.model_copy(update={"id": raw}),
        )
        await self.happens(event)
        return raw

    async def happens(self, event: BatchEvent | BudgetEvent) -> None:
        self._last = (await self.js.publish(event.subject, event.model_dump_json().encode(), stream=EVENTS)).seq

    async def is_done(self) -> None:
        """Wait until every event is told and every delivery at its end. A consumer hears of a message only after who
        has published it, so what it says of what is pending tells neither."""
        consumer = webhooks_consumer(self.gateway.parts.settings)
        async with asyncio.timeout(30):
            while await self._told(consumer) < self._last or (await self.js.stream_info(WEBHOOKS)).state.messages:
                await asyncio.sleep(0.02)

    async def _told(self, consumer: Consumer) -> int:
        """The place of the last event up to which all are acknowledged."""
        floor = (await self.js.consumer_info(consumer.stream, consumer.name)).ack_floor
        return 0 if floor is None else floor.stream_seq


@asynccontextmanager
async def delivering(messaging: Messaging, start: Start, **settings: Any) -> AsyncIterator[Hooks]:
    patient: dict[str, Any] = {"webhook_allowed_networks": LOOPBACK, "webhook_first_retry": 0.1}
    gateway, stop = await start(**(patient | settings)), asyncio.Event()
    task = asyncio.create_task(gateway.parts.webhooks.run(stop))
    try:
        yield Hooks(gateway, messaging)
    finally:
        stop.set()
        await asyncio.wait_for(task, 15)


@pytest.fixture
async def hooks(messaging: Messaging, start: Start) -> AsyncIterator[Hooks]:
    async with delivering(messaging, start) as hooks:
        yield hooks


async def test_a_secret_is_told_twice_at_most(hooks: Hooks, receiver: Receiver) -> None:
    with capture_logs() as logs:
        made = await hooks.endpoint(receiver.url)
        path = f"/{made['id']}"
        rotated = (await hooks.post(f"{path}/rotate_secret", "default")).json()
        secrets = {made["signing_secret"], rotated["signing_secret"]}
        assert len(secrets) == 2
        told = [await hooks.shown(made), (await hooks.post(path, "default", name="other")).json()]
        await hooks.ends()
        await hooks.is_done()
    assert told[0]["signing_secret_hint"] == f"whsec_...{rotated['signing_secret'][-4:]}"
    for text in (json.dumps(told), json.dumps(logs)):
        assert not any(secret.removeprefix("whsec_") in text for secret in secrets)
    assert [entry["event"] for entry in logs if entry.get("audit")] == [
        "webhook_endpoint.created",
        "webhook_endpoint.rotated",
        "webhook_endpoint.updated",
    ]


async def test_each_end_of_a_batch_is_told_once_to_whoever_hears_of_it(hooks: Hooks, receiver: Receiver) -> None:
    made = await hooks.endpoint(f"{receiver.url}/all?of=them", event_types=BATCH_TYPES)
    await hooks.endpoint(f"{receiver.url}/failures", event_types=["batch.failed", "batch.failed"])
    batches = {}
    for status in (BatchStatus.COMPLETED, BatchStatus.FAILED, BatchStatus.EXPIRED, BatchStatus.CANCELLED):
        batches[f"batch.{status}"] = await hooks.ends(status=status)
    await hooks.is_done()
    events = {r.id: r.unwrapped(made["signing_secret"]) for r in receiver.received if r.path == "/all"}
    assert {event.type: event.data.id for event in events.values()} == batches
    assert all(event_id == event.id and event.object == "event" for event_id, event in events.items())
    assert [json.loads(r.body)["type"] for r in receiver.received if r.path == "/failures"] == ["batch.failed"]
    assert len(receiver.received) == 5
    assert (await hooks.js.stream_info(WEBHOOKS)).state.messages == 0


async def test_a_passed_soft_budget_is_told_with_its_amounts(hooks: Hooks, receiver: Receiver) -> None:
    made = await hooks.endpoint(receiver.url)
    event = BudgetEvent(
        id="budget.default.team.0.soft_exceeded",
        occurred_at=SystemClock().now(),
        tenant="default",
        currency="EUR",
        spent="8.20",
        soft_budget="8",
        max_budget="10",
        period_start=1,
        resets_at=2,
    )
    await hooks.happens(event)
    (received,) = await receiver.until(lambda received: len(received) == 1)
    received.unwrapped(made["signing_secret"])
    assert json.loads(received.body)["data"] == {
        "team_id": "default",
        "key_id": None,
        "currency": "EUR",
        "spent": "8.20",
        "soft_budget": "8",
        "max_budget": "10",
        "period_start": 1,
        "resets_at": 2,
    }


async def test_a_team_hears_of_its_own_and_the_operator_of_all(hooks: Hooks, receiver: Receiver) -> None:
    for team in ("red", "blue"):
        assert (await hooks.gateway.http.post("/team/new", json={"team_id": team})).status_code == 200
    await hooks.endpoint(f"{receiver.url}/red", "red")
    await hooks.endpoint(f"{receiver.url}/operator", None)
    batches = {team: await hooks.ends(team) for team in ("red", "blue")}
    await hooks.is_done()
    told = sorted((r.path, json.loads(r.body)["data"]["id"]) for r in receiver.received)
    assert told == sorted([("/red", batches["red"]), *(("/operator", batch) for batch in batches.values())])
    teams = {json.loads(r.body)["data"].get("team_id") for r in receiver.received if r.path == "/operator"}
    assert teams == {"red", "blue"}


async def test_what_is_not_taken_over_comes_again_under_the_same_id(hooks: Hooks, receiver: Receiver) -> None:
    """Also after a redirect, which is not followed."""
    receiver.answers = [500, 302, 429, 204]
    made = await hooks.endpoint(receiver.url, event_types=["batch.completed"])
    await hooks.ends()
    await hooks.is_done()
    assert len(receiver.received) == 4
    assert len({(r.id, r.body) for r in receiver.received}) == 1
    assert {r.path for r in receiver.received} == {"/"}
    for received in receiver.received:
        received.unwrapped(made["signing_secret"])


async def test_an_endpoint_that_is_gone_is_left_alone_until_it_is_given_a_url(hooks: Hooks, receiver: Receiver) -> None:
    receiver.answers = [410, 200]
    made = await hooks.endpoint(receiver.url)
    await hooks.ends()
    await hooks.is_done()
    assert (await hooks.shown(made))["disabled_at"] is not None
    await hooks.ends()
    await hooks.is_done()
    assert len(receiver.received) == 1
    response = await hooks.post(f"/{made['id']}", "default", url=receiver.url)
    assert response.json()["disabled_at"] is None
    batch = await hooks.ends()
    await receiver.until(lambda received: batch in received[-1].body)


async def test_both_secrets_sign_while_they_overlap(hooks: Hooks, receiver: Receiver) -> None:
    made = await hooks.endpoint(receiver.url)
    path = f"/{made['id']}/rotate_secret"
    kept = (await hooks.post(path, "default", keep_old_secret_active_for_24_hours=True)).json()
    await hooks.ends()
    (first,) = await receiver.until(lambda received: len(received) == 1)
    for secret in (made["signing_secret"], kept["signing_secret"]):
        first.unwrapped(secret)
    last = (await hooks.post(path, "default")).json()
    await hooks.ends()
    second = (await receiver.until(lambda received: len(received) == 2))[1]
    second.unwrapped(last["signing_secret"])
    with pytest.raises(openai.InvalidWebhookSignatureError):
        second.unwrapped(kept["signing_secret"])


async def test_a_slow_endpoint_holds_up_no_other(messaging: Messaging, start: Start) -> None:
    """Not even of its own team, with more waiting for it than may be sent at a time."""
    async with (
        receiving() as slow,
        receiving() as quick,
        delivering(messaging, start, webhook_slots=16, webhook_timeout=60) as hooks,
    ):
        slow.gate.clear()
        await hooks.endpoint(slow.url, event_types=["batch.failed"])
        await hooks.endpoint(quick.url, event_types=["batch.completed"])
        for _ in range(20):
            await hooks.ends(status=BatchStatus.FAILED)
        await slow.until(lambda received: len(received) == 1)
        for _ in range(5):
            await hooks.ends()
        await quick.until(lambda received: len(received) == 5)
        assert len(slow.received) == 1
        backlog = Backlog(messaging.js, deliveries_consumer(hooks.gateway.parts.settings))
        async with asyncio.timeout(10):  # what was delivered is acknowledged a moment later
            while [sample.value for family in backlog.collect() for sample in family.samples] != [20]:
                await backlog.refresh()
        slow.gate.set()
        await slow.until(lambda received: len({r.id for r in received}) == 20)


async def test_a_stop_waits_for_no_endpoint_for_long(messaging: Messaging, start: Start, receiver: Receiver) -> None:
    """What had no answer by then is sent again by who comes after."""
    receiver.gate.clear()
    async with delivering(messaging, start, webhook_timeout=60, shutdown_timeout=0) as hooks:
        await hooks.endpoint(receiver.url)
        await hooks.ends()
        await receiver.until(lambda received: len(received) == 1)
    assert (await messaging.js.stream_info(WEBHOOKS)).state.messages == 1
    receiver.gate.set()
    async with delivering(messaging, start) as hooks:
        await hooks.is_done()
    assert len({r.id for r in receiver.received}) == 1 < len(receiver.received)


def counted(outcome: str) -> float:
    return REGISTRY.get_sample_value("batchyard_webhook_deliveries_total", {"outcome": outcome}) or 0


async def test_what_nobody_takes_over_is_given_up_in_the_end(
    messaging: Messaging, start: Start, receiver: Receiver
) -> None:
    receiver.answers = [503]
    before = {outcome: counted(outcome) for outcome in ("failed", "given_up")}
    with capture_logs() as logs:
        async with delivering(messaging, start, webhook_max_age=0.5) as hooks:
            made = await hooks.endpoint(receiver.url)
            await hooks.ends(ago=10)  # older than anything is sent
            await hooks.ends()
            await hooks.is_done()
    (given_up,) = [entry for entry in logs if entry["event"] == "webhook.given_up"]
    assert (given_up["endpoint"], given_up["reason"]) == (made["id"], "it answered 503")
    assert len({r.id for r in receiver.received}) == 1
    assert len(receiver.received) > 2
    assert counted("failed") - before["failed"] == len(receiver.received) - 1
    assert counted("given_up") - before["given_up"] == 1


async def test_what_happened_before_an_endpoint_was_made_is_not_told(hooks: Hooks, receiver: Receiver) -> None:
    await hooks.endpoint(receiver.url)
    await hooks.ends(ago=120)
    await hooks.is_done()
    assert receiver.received == []


async def test_a_sample_is_sent_at_once_and_its_answer_told(hooks: Hooks, receiver: Receiver) -> None:
    made = await hooks.endpoint(receiver.url)
    receiver.answers = [418]
    for kind in TYPES:
        response = await hooks.post(f"/{made['id']}/test", "default", event_type=kind)
        assert response.json() == {
            "object": "webhook_endpoint.test",
            "webhook_endpoint_id": made["id"],
            "event_type": kind,
            "success": True,
            "status_code": 418,
        }
        assert receiver.received[-1].unwrapped(made["signing_secret"]).type == kind
    await hooks.post(f"/{made['id']}", "default", url="http://127.0.0.1:9/")
    error = error_of(response := await hooks.post(f"/{made['id']}/test", "default", event_type=kind))
    assert (response.status_code, error["code"]) == (400, "webhook_endpoint_unreachable")


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"url": "ftp://example.org"}, "url", "invalid_url"),
    ({"url": "https:///path"}, "url", "invalid_url"),
    ({"url": "https://me:secret@example.org"}, "url", "invalid_url"),
    ({"url": "https://example.org/#there"}, "url", "invalid_url"),
    ({"url": "https://exa mple.org"}, "url", "invalid_url"),
    ({"url": "https://" + "a" * 2048}, "url", "string_above_max_length"),
    ({"url": 1}, "url", "invalid_type"),
    ({"url": "http://10.0.0.1/"}, "url", "invalid_url"),
    ({"url": "http://[::ffff:10.0.0.1]/"}, "url", "invalid_url"),
    ({"name": ""}, "name", "string_below_min_length"),
    ({"event_types": []}, "event_types", "empty_array"),
    ({"event_types": ["response.completed"]}, "event_types[0]", "invalid_value"),
    ({"active": True}, "active", "unknown_parameter"),
    ({"name": ...}, "name", "missing_required_parameter"),
]


async def test_what_is_no_endpoint_is_refused(start: Start, messaging: Messaging, subtests: pytest.Subtests) -> None:
    gateway = await start()
    for body, param, code in WRONG:
        with subtests.test(body=body):
            wanted = {"name": "n", "url": "https://example.org", "event_types": ["batch.failed"]} | body
            response = await gateway.http.post(
                "/v1/webhook_endpoints", json={name: value for name, value in wanted.items() if value is not ...}
            )
            assert response.status_code == 400, response.text
            error = error_of(response)
            assert (error["param"], error["code"]) == (param, code)


async def test_no_more_endpoints_are_made_than_a_team_may_have(messaging: Messaging, start: Start) -> None:
    gateway = await start(max_webhook_endpoints=3)
    wanted = {"name": "n", "url": "https://example.org", "event_types": ["batch.failed"]}
    answers = await asyncio.gather(*(gateway.http.post("/v1/webhook_endpoints", json=wanted) for _ in range(6)))
    assert sorted(answer.status_code for answer in answers) == [200] * 3 + [400] * 3
    assert {error_of(a)["code"] for a in answers if a.status_code == 400} == {"too_many_webhook_endpoints"}
    page = (await gateway.http.get("/v1/webhook_endpoints")).json()
    assert [entry["id"] for entry in page["data"]] == sorted((e["id"] for e in page["data"]), reverse=True)
    assert len(page["data"]) == 3


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"),
        *("224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1%eth0", "fc00::1", "ff02::1", "fd00:ec2::254"),
        *("::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:0:1::"),
    ],
)
def test_an_address_that_is_not_public_is_not_called(address: str) -> None:
    assert not Addresses().allow(address)


def test_public_and_allowed_addresses_are_called() -> None:
    addresses = Addresses(GatewaySettings(webhook_allowed_networks="10.0.0.0/8, fd00::/8").webhook_networks)
    for address in ("93.184.215.14", "2606:2800:21f::1", "10.1.2.3", "::ffff:10.1.2.3", "fd00::1"):
        assert addresses.allow(address)
    assert not addresses.allow("192.168.0.1")
    addresses.check_url("http://10.1.2.3:8080/hook?a=b")
    with pytest.raises(InvalidRequest):
        addresses.check_url("http://localhost/")


def endpoint_at(url: str) -> WebhookEndpoint:
    return WebhookEndpoint(
        id="we_1", name="n", url=url, event_types=(), signing_secret=new_secret(), created_at=0, updated_at=0
    )


async def test_a_certificate_has_to_be_for_the_name_and_not_for_the_address() -> None:
    authority, server, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("hooks.example").configure_cert(server)
    authority.configure_trust(context)
    now = SystemClock().now()

    async def resolve(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    addresses = Addresses(GatewaySettings(webhook_allowed_networks=LOOPBACK).webhook_networks)
    async with receiving(server) as receiver, httpx.AsyncClient(verify=context, trust_env=False) as client:
        sender, port = Sender(client, resolve, addresses, 5), httpx.URL(receiver.url).port
        sample = sample_of(EventType.BATCH_FAILED, "default", now)
        assert await sender.send(endpoint_at(f"https://hooks.example:{port}/"), sample, now) == 200
        with pytest.raises(Unreachable, match="certificate"):
            await sender.send(endpoint_at(f"https://others.example:{port}/"), sample, now)


async def test_a_name_counts_as_the_address_it_stands_for_now(receiver: Receiver) -> None:
    """Whatever it stood for when the endpoint was made."""
    port, answers = httpx.URL(receiver.url).port, [["127.0.0.1"], ["10.0.0.1", "127.0.0.1"], ["169.254.169.254"]]

    async def resolve(host: str, asked: int) -> list[str]:
        assert (host, asked) == ("hooks.example", port)
        return answers.pop(0)

    endpoint = endpoint_at(f"http://hooks.example:{port}/")
    sample, now = sample_of(EventType.BATCH_FAILED, "default", SystemClock().now()), SystemClock().now()
    addresses = Addresses(GatewaySettings(webhook_allowed_networks=LOOPBACK).webhook_networks)
    async with httpx.AsyncClient(trust_env=False) as client:
        sender = Sender(client, resolve, addresses, 5)
        for _ in range(2):
            assert await sender.send(endpoint, sample, now) == 200
        with pytest.raises(Unreachable, match="no public address"):
            await sender.send(endpoint, sample, now)
    assert {r.headers["host"] for r in receiver.received} == {f"hooks.example:{port}"}


def test_the_waits_double_from_seconds_to_hours_for_three_days() -> None:
    patience, age, waits = Patience(first_retry=5, max_age=72 * 3600), 0.0, []
    while (wait := patience.delay(age)) is not None:
        waits.append(wait)
        age += wait
    assert 4 <= waits[0] <= 6
    assert all(later <= 1.2 * max(5, sum(waits[:n])) for n, later in enumerate(waits))
    assert max(waits) <= 1.2 * 4 * 3600
    assert 20 < len(waits) < 60
    assert 72 * 3600 <= age < 73 * 3600


async def test_an_event_of_a_newer_release_waits_and_nonsense_does_not(messaging: Messaging, start: Start) -> None:
    gateway = await start()
    fan_out = FanOut(messaging.js, gateway.parts.webhooks.endpoints, 60, SystemClock())
    assert isinstance(await fan_out.tell(b'{"version": 2}'), Later)
    assert isinstance(await fan_out.tell(b"[]"), Done)
