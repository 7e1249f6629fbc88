"""Nobody sees, names or changes what is another team's: every operation, by every kind of caller.

Whoever adds a route or a command adds a row here: what it names, or that it names nothing of anybody's.
"""

import importlib
import pkgutil
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

import batchyard.common.contracts
from batchyard.common.contracts.base import Command
from batchyard.common.contracts.batches import (
    CancelBatch,
    CreateBatch,
    GetBatch,
    ListBatches,
    RetryBatch,
    ValidateBatch,
)
from batchyard.common.contracts.billing import AdjustSpend, GetSpend, ListPrices, SummarizeSpend
from batchyard.common.contracts.budgets import GetBudgets, GetSpent, ReserveBudget, SpentScope
from batchyard.common.contracts.enqueued import GetEnqueued
from batchyard.common.contracts.events import ListEvents
from batchyard.common.contracts.files import (
    CreateFile,
    DeleteFile,
    GetFile,
    GetStorage,
    ListFiles,
    OpenDownload,
    OpenPlace,
    Purpose,
)
from batchyard.common.contracts.fleet import GetFleet
from batchyard.common.contracts.health import CheckBatchRunner, CheckBilling, CheckFileStore
from batchyard.common.contracts.models import ListModels
from batchyard.common.contracts.uploads import (
    AddPart,
    CancelUpload,
    CompleteUpload,
    CreateUpload,
    GetUpload,
    OpenPart,
)
from batchyard.common.errors import ApiError
from batchyard.common.service import Messaging
from batchyard.common.settings import Settings
from batchyard.gateway.app import routed_api
from support.tenants import (
    ADMIN,
    ADMIN_AS_RED,
    BLUE,
    ENDPOINT,
    MATE,
    OTHER,
    OWNER,
    RED,
    STRANGERS,
    UNKNOWN,
    Ids,
    Tenants,
    ghosts,
    open_tenants,
)

pytestmark = pytest.mark.timeout(300)

INSIDERS = (OWNER, MATE, ADMIN_AS_RED)
KEYS = (OWNER, MATE, OTHER)

Options = Callable[[Ids], dict[str, Any]]


@pytest.fixture
async def tenants(settings: Settings, messaging: Messaging, tmp_path: Path) -> AsyncIterator[Tenants]:
    async with open_tenants(settings, messaging, tmp_path) as tenants:
        yield tenants


@dataclass(frozen=True)
class Named:
    """An operation that names an object of a team, in its path or its body. Insiders are answered 200.

    `only_hook`: nothing but an endpoint of webhooks, so that nothing else has to be made for it.
    """

    options: Options = field(default=lambda _: {})
    path_ids: dict[str, str] = field(default_factory=dict)
    only_hook: bool = False


@dataclass(frozen=True)
class Listing:
    """An operation that shows what a team has. `found` is what stands in an answer.

    `is_global`: it shows every team's to who administrates and acts for none.
    """

    found: Callable[[Any], list[str]]
    is_global: bool = False


@dataclass(frozen=True)
class Own:
    """An operation that names nothing, and makes or shows something of the caller's own."""

    options: dict[str, Any] = field(default_factory=dict)
    path_ids: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Administration:
    """For the master key alone, whatever it is about."""


@dataclass(frozen=True)
class About:
    """Tells a key about itself, and of no other."""


@dataclass(frozen=True)
class Public:
    """For everybody, also without a key."""


Row = Named | Listing | Own | Administration | About | Public


def wish(ids: Ids) -> dict[str, Any]:
    return {"json": {"input_file_id": ids["file_id"], "endpoint": ENDPOINT, "completion_window": "24h"}}


def ids_of(page: Any) -> list[str]:
    return [entry["id"] for entry in page["data"]]


def spent(report: Any) -> list[str]:
    return ["spend"] if report["total"]["batches"] else []


ANNOUNCED = {"bytes": 4, "filename": "a.txt", "mime_type": "text/plain", "purpose": "user_data"}

HOOK = {"name": "n", "url": "https://example.org", "event_types": ["batch.failed"]}

ROWS: dict[str, Row] = {
    "get_liveness": Public(),
    "get_readiness": Public(),
    "create_file": Own({"data": {"purpose": "user_data"}, "files": {"file": ("a.txt", b"a")}}),
    "list_files": Listing(ids_of),
    "get_file": Named(),
    "delete_file": Named(),
    "get_file_content": Named(),
    "create_upload": Own({"json": ANNOUNCED}),
    "get_upload": Named(),
    "add_upload_part": Named(lambda _: {"files": {"data": ("upload", b"b")}}),
    "complete_upload": Named(lambda ids: {"json": {"part_ids": [ids["part_id"]]}}),
    "cancel_upload": Named(),
    "create_batch": Named(wish),
    "list_batches": Listing(ids_of),
    "get_batch": Named(),
    "cancel_batch": Named(path_ids={"batch_id": "stuck_id"}),
    "retry_batch": Named(),
    "get_batch_results": Named(),
    "list_models": Own(),
    "get_model": Own(path_ids={"model": "served"}),
    "get_fleet": Administration(),
    "get_limits": Own(),
    "get_spend_logs": Listing(lambda page: [entry["batch_id"] for entry in page["data"]], is_global=True),
    "get_spend_summary": Listing(spent, is_global=True),
    "get_spend_report": Listing(lambda report: [group["group"] for group in report["data"]], is_global=True),
    "get_spend_keys": Listing(lambda report: [group["key_id"] or "" for group in report["data"]], is_global=True),
    "get_spend_tags": Listing(spent, is_global=True),
    "get_prices": Administration(),
    "adjust_spend": Administration(),
    "generate_key": Administration(),
    "update_key": Administration(),
    "regenerate_key": Administration(),
    "block_key": Administration(),
    "unblock_key": Administration(),
    "delete_keys": Administration(),
    "list_keys": Administration(),
    "get_key_info": About(),
    "create_team": Administration(),
    "update_team": Administration(),
    "block_team": Administration(),
    "unblock_team": Administration(),
    "delete_teams": Administration(),
    "get_team_info": Administration(),
    "list_teams": Administration(),
    "list_webhook_event_types": Own(),
    "create_webhook_endpoint": Own({"json": HOOK}),
    "list_webhook_endpoints": Listing(ids_of),
    "get_webhook_endpoint": Named(only_hook=True),
    "update_webhook_endpoint": Named(lambda _: {"json": {"name": "other"}}, only_hook=True),
    "delete_webhook_endpoint": Named(only_hook=True),
    "rotate_webhook_secret": Named(only_hook=True),
    "test_webhook_endpoint": Named(lambda _: {"json": {"event_type": "batch.failed"}}, only_hook=True),
}


@dataclass(frozen=True)
class Operation:
    name: str
    method: str
    path: str

    def url(self, row: Row, ids: Ids) -> str:
        """The path, naming those objects of which a row says that the operation does."""
        names = row.path_ids if isinstance(row, Named | Own) else {}
        values = {name: ids.get(names.get(name, name), names.get(name, "")) for name in (*ids, *names)}
        return self.path.replace("{model}", values.get("model", "")).format(**values)


def operations() -> Iterator[Operation]:
    for path, found in routed_api().openapi()["paths"].items():
        for method, operation in found.items():
            yield Operation(operation["operationId"], method.upper(), path)


def commands() -> set[type[Command[Any]]]:
    """Every command that there is."""
    for module in pkgutil.iter_modules(batchyard.common.contracts.__path__):
        importlib.import_module(f"{batchyard.common.contracts.__name__}.{module.name}")
    found: set[type[Command[Any]]] = set()
    waiting: list[Any] = [Command]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        if hasattr(kind, "verb") and kind.__module__.startswith("batchyard.") and "[" not in kind.__name__:
            found.add(kind)
    return found


def test_every_operation_has_a_row() -> None:
    assert {operation.name for operation in operations()} == set(ROWS)


def test_every_command_has_a_row() -> None:
    assert {kind.__name__ for kind in commands()} == {kind.__name__ for kind in COMMANDS}


async def test_no_request_reaches_what_is_another_teams(tenants: Tenants, subtests: pytest.Subtests) -> None:
    for operation in operations():
        row = ROWS[operation.name]
        with subtests.test(operation=operation.name):
            await check_unknown_callers(tenants, operation, row)
            match row:
                case Named():
                    await check_named(tenants, operation, row)
                case Listing():
                    await check_listing(tenants, operation, row)
                case Own():
                    for caller in (*INSIDERS, *STRANGERS):
                        await tenants.done(caller, operation.method, operation.url(row, {}), **row.options)
                case Administration():
                    for caller in KEYS:
                        response = await tenants.as_(caller, operation.method, operation.path, json={})
                        assert response.status_code == 403, response.text
                case About():
                    await check_about(tenants, operation)
                case Public():
                    await tenants.done("none", operation.method, operation.path)


async def check_unknown_callers(tenants: Tenants, operation: Operation, row: Row) -> None:
    """Who has no key that works is told so, and nothing else."""
    if isinstance(row, Public):
        return
    ids = await tenants.fresh(only_hook=row.only_hook) if isinstance(row, Named) else {}
    for caller in UNKNOWN:
        response = await tenants.as_(caller, operation.method, operation.url(row, ids))
        assert response.status_code == 401, (caller, response.text)
        assert set(response.json()) == {"error"}


async def check_named(tenants: Tenants, operation: Operation, row: Named) -> None:
    """For a stranger it is as if the object did not exist, and it is as it was afterwards; for insiders it is there."""
    ids = await tenants.fresh(only_hook=row.only_hook)
    none = ghosts(ids)
    before = await state(tenants, ids)
    for caller in STRANGERS:
        real = await tenants.as_(caller, operation.method, operation.url(row, ids), **row.options(ids))
        ghost = await tenants.as_(caller, operation.method, operation.url(row, none), **row.options(none))
        assert real.status_code in (400, 404), (caller, real.text)
        assert told(real, ids) == told(ghost, none)
    assert await state(tenants, ids) == before
    for caller in INSIDERS:
        fresh = await tenants.fresh(only_hook=row.only_hook)
        response = await tenants.as_(caller, operation.method, operation.url(row, fresh), **row.options(fresh))
        assert response.status_code == 200, (caller, response.text)


def told(response: httpx.Response, ids: Ids) -> tuple[int, str, list[str]]:
    """All that an answer says, with names in place of IDs."""
    text = response.text
    for name, value in ids.items():
        text = text.replace(value, name)
    return response.status_code, text, sorted(response.headers)


async def state(tenants: Tenants, ids: Ids) -> list[Any]:
    """What red's objects are at the moment."""
    paths = (
        "/v1/files/{file_id}",
        "/v1/files/{file_id}/content",
        "/v1/uploads/{upload_id}",
        "/v1/batches/{batch_id}",
        "/v1/webhook_endpoints/{webhook_endpoint_id}",
    )
    known = [path.format(**ids) for path in paths if any(f"{{{name}}}" in path for name in ids)]
    found: list[Any] = [(await tenants.as_(OWNER, "GET", path)).text for path in known]
    if "stuck_id" in ids:
        stuck = await tenants.done(OWNER, "GET", f"/v1/batches/{ids['stuck_id']}")
        found += [stuck["cancelling_at"], stuck["cancelled_at"]]
    return found


async def check_listing(tenants: Tenants, operation: Operation, row: Listing) -> None:
    theirs: set[str] = set()
    for caller in INSIDERS:
        found = set(row.found(await tenants.done(caller, operation.method, operation.path)))
        assert found, caller
        theirs |= found
    for caller in STRANGERS:
        found = set(row.found(await tenants.done(caller, operation.method, operation.path)))
        if row.is_global and caller == ADMIN:
            assert found >= theirs
        else:
            assert not found & theirs, caller


async def check_about(tenants: Tenants, operation: Operation) -> None:
    for caller in KEYS:
        found = await tenants.done(caller, operation.method, operation.path)
        assert found["key"] == tenants.tokens[caller]
    for caller, asked in ((OTHER, OWNER), (MATE, OWNER), (OWNER, OTHER)):
        real = await tenants.as_(caller, operation.method, operation.path, params={"key": tenants.tokens[asked]})
        ghost = await tenants.as_(caller, operation.method, operation.path, params={"key": "0" * 64})
        assert (real.status_code, ghost.status_code) == (404, 404)
        assert real.json()["error"]["code"] == ghost.json()["error"]["code"] == "key_not_found"
    for asked in KEYS:
        await tenants.done(ADMIN, operation.method, operation.path, params={"key": tenants.tokens[asked]})


async def test_a_cursor_of_another_team_is_as_good_as_none(tenants: Tenants) -> None:
    """A position in a list is an ID; that there is something at it, nobody is told."""
    ids = await tenants.fresh()
    none = ghosts(ids)
    for path, name in (("/v1/files", "file_id"), ("/v1/batches", "batch_id"), ("/spend/logs", "batch_id")):
        real = await tenants.as_(OTHER, "GET", path, params={"after": ids[name]})
        ghost = await tenants.as_(OTHER, "GET", path, params={"after": none[name]})
        assert told(real, ids) == told(ghost, none), path
    for name in ("batch_id", "stuck_id"):
        for params in ({"batch_id": ids[name]}, {"batch_id": none[name]}):
            assert (await tenants.done(OTHER, "GET", "/spend/logs", params=params))["data"] == []
    for team in ({"team_id": RED}, {"team_id": "nobody"}):
        assert (await tenants.done(OTHER, "GET", "/spend/logs", params=team))["data"] == []
        assert (await tenants.done(OTHER, "GET", "/global/spend/report", params=team))["data"] == []


async def test_an_idempotency_key_is_a_teams_own(tenants: Tenants) -> None:
    theirs, ours = await tenants.file(), await tenants.file(OTHER)
    key = {"headers": {"idempotency-key": "the-same"}}
    red = await tenants.done(OWNER, "POST", "/v1/batches", **wish({"file_id": theirs}), **key)
    blue = await tenants.done(OTHER, "POST", "/v1/batches", **wish({"file_id": ours}), **key)
    assert blue["id"] != red["id"]
    stolen = await tenants.as_(
        OTHER, "POST", "/v1/batches", **wish({"file_id": theirs}), headers={"idempotency-key": "2"}
    )
    assert stolen.status_code == 404
    assert (await tenants.done(MATE, "POST", "/v1/batches", **wish({"file_id": theirs}), **key))["id"] == red["id"]


@dataclass(frozen=True)
class Ordered:
    """A command that names an object of a team."""

    make: Callable[[Ids], Command[Any]]


@dataclass(frozen=True)
class Showing:
    """A command that shows what a team has; `found` is what stands in a result."""

    make: Command[Any]
    found: Callable[[Any], Any]


@dataclass(frozen=True)
class Harmless:
    """A command that names nothing of anybody's."""

    make: Command[Any]


@dataclass(frozen=True)
class Operators:
    """A command for those who run Batchyard: a tenant is refused."""

    make: Command[Any]


def batch_of(ids: Ids, **more: Any) -> dict[str, Any]:
    return {"input_file_id": ids["file_id"], "endpoint": ENDPOINT, **more}


UPLOAD = CreateUpload(filename="a.txt", purpose=Purpose.USER_DATA, bytes=4)

COMMANDS: dict[type[Command[Any]], Ordered | Showing | Harmless | Operators] = {
    CheckFileStore: Harmless(CheckFileStore()),
    CheckBatchRunner: Harmless(CheckBatchRunner()),
    CheckBilling: Harmless(CheckBilling()),
    ListModels: Harmless(ListModels()),
    GetFleet: Operators(GetFleet()),
    OpenPlace: Harmless(OpenPlace()),
    CreateFile: Ordered(
        lambda ids: CreateFile(filename="a.txt", purpose=Purpose.USER_DATA, object_key=ids["object_key"])
    ),
    GetFile: Ordered(lambda ids: GetFile(file_id=ids["file_id"])),
    ListFiles: Showing(ListFiles(), lambda page: page.data),
    DeleteFile: Ordered(lambda ids: DeleteFile(file_id=ids["file_id"])),
    OpenDownload: Ordered(lambda ids: OpenDownload(file_id=ids["file_id"])),
    CreateUpload: Harmless(UPLOAD),
    GetUpload: Ordered(lambda ids: GetUpload(upload_id=ids["upload_id"])),
    OpenPart: Ordered(lambda ids: OpenPart(upload_id=ids["upload_id"])),
    AddPart: Ordered(lambda ids: AddPart(upload_id=ids["upload_id"], object_key=ids["part_key"])),
    CompleteUpload: Ordered(lambda ids: CompleteUpload(upload_id=ids["upload_id"], part_ids=(ids["part_id"],))),
    CancelUpload: Ordered(lambda ids: CancelUpload(upload_id=ids["upload_id"])),
    CreateBatch: Ordered(lambda ids: CreateBatch(**batch_of(ids))),
    ValidateBatch: Ordered(lambda ids: ValidateBatch(**batch_of(ids))),
    GetBatch: Ordered(lambda ids: GetBatch(batch_id=ids["batch_id"])),
    ListBatches: Showing(ListBatches(), lambda page: page.data),
    RetryBatch: Ordered(lambda ids: RetryBatch(batch_id=ids["batch_id"])),
    CancelBatch: Ordered(lambda ids: CancelBatch(batch_id=ids["stuck_id"])),
    ListEvents: Showing(ListEvents(after=0), lambda page: page.data),
    GetStorage: Harmless(GetStorage()),
    GetEnqueued: Harmless(GetEnqueued()),
    GetBudgets: Harmless(GetBudgets()),
    ReserveBudget: Harmless(ReserveBudget(batch_id="batch_1", input_tokens=1, output_tokens=1)),
    GetSpent: Operators(GetSpent(scopes=(SpentScope(team=RED),))),
    GetSpend: Showing(GetSpend(), lambda page: page.data),
    SummarizeSpend: Showing(SummarizeSpend(), lambda report: report.data),
    ListPrices: Operators(ListPrices()),
    AdjustSpend: Operators(AdjustSpend(adjustment_id="1", team=BLUE, amount=Decimal(-1), reason="r", author="a")),
}


async def test_no_command_reaches_what_is_another_tenants(tenants: Tenants, subtests: pytest.Subtests) -> None:
    for kind, row in COMMANDS.items():
        with subtests.test(command=kind.__name__):
            match row:
                case Ordered():
                    await check_ordered(tenants, row)
                case Showing():
                    assert row.found(await tenants.commands.call(RED, row.make))
                    assert not row.found(await tenants.commands.call(BLUE, row.make))
                case Operators():
                    assert (await refusal(tenants, row.make)).http_status == 403
                case Harmless():
                    await tenants.commands.call(BLUE, row.make)


async def test_the_events_of_another_tenants_batch_are_none(tenants: Tenants) -> None:
    of_batch = ListEvents(after=0, batch_id=tenants.ended["id"])
    assert (await tenants.commands.call(RED, of_batch)).data
    real, ghost = (
        await refusal_or_none(tenants, of_batch),
        await refusal_or_none(tenants, ListEvents(after=0, batch_id=ghosts(await tenants.fresh())["batch_id"])),
    )
    assert real == ghost


async def refusal_or_none(tenants: Tenants, command: ListEvents) -> int | None:
    """The status of blue's refusal; None where it is answered with nothing."""
    try:
        page = await tenants.commands.call(BLUE, command)
    except ApiError as error:
        return error.http_status
    assert page.data == []
    return None


async def check_ordered(tenants: Tenants, row: Ordered) -> None:
    ids = await nats_ids(tenants)
    none = ghosts(ids) | {name: key.replace(key[-8:], "00000000") for name, key in ids.items() if name.endswith("key")}
    before = await state(tenants, ids)
    real, ghost = await refusal(tenants, row.make(ids)), await refusal(tenants, row.make(none))
    assert real.http_status in (400, 404)
    texts = [str(error.body()) for error in (real, ghost)]
    for named, text in ((ids, 0), (none, 1)):
        for name, value in named.items():
            texts[text] = texts[text].replace(value, name)
    assert texts[0] == texts[1]
    assert await state(tenants, ids) == before
    await tenants.commands.call(RED, row.make(ids))


async def nats_ids(tenants: Tenants) -> Ids:
    """Red's objects, and places that were opened for it."""
    ids = await tenants.fresh()
    place = await tenants.commands.call(RED, OpenPlace())
    part = await tenants.commands.call(RED, OpenPart(upload_id=ids["upload_id"]))
    for key in (place.object_key, part.object_key):
        await tenants.objects.put(key, b"abcd")
    return ids | {"object_key": place.object_key, "part_key": part.object_key}


async def refusal(tenants: Tenants, command: Command[Any]) -> ApiError:
    with pytest.raises(ApiError) as refused:
        await tenants.commands.call(BLUE, command)
    return refused.value
