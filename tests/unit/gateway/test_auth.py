"""Keys: which are needed where, and what is said about wrong ones."""

import asyncio

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from unit.gateway.rig import KEY, UPLOAD_HEAD, Served, Start, error_of, raw_request

from batchyard.common.clock import ManualClock
from batchyard.common.config import Config
from batchyard.common.contracts.access import Key, Team
from batchyard.common.errors import AuthenticationFailed
from batchyard.common.messaging.mirror import Mirror
from batchyard.common.messaging.topology import KEYS_BUCKET, TEAMS_BUCKET
from batchyard.gateway.auth import Identity, Keyring
from batchyard.gateway.directory import Book, Directory
from batchyard.gateway.key_secret import mask

PROTECTED = [
    ("POST", "/v1/files"),
    ("GET", "/v1/files"),
    ("GET", "/v1/files/x"),
    ("DELETE", "/v1/files/x"),
    ("GET", "/v1/files/x/content"),
    ("HEAD", "/v1/files/x/content"),
    ("POST", "/v1/batches"),
    ("GET", "/v1/batches"),
    ("GET", "/v1/batches/x"),
    ("POST", "/v1/batches/x/cancel"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/x"),
    ("GET", "/spend/logs"),
    ("GET", "/spend/summary"),
]
OPEN = ["/health/liveness", "/health/readiness", "/docs", "/openapi.json"]


def keyring(master_key: str | None) -> Keyring:
    """A keyring of the master key alone. Nothing is written to the directory, so it needs no records."""
    keys: Book[Key] = Book(Mirror(KEYS_BUCKET, Key), None)  # type: ignore[arg-type]
    teams: Book[Team] = Book(Mirror(TEAMS_BUCKET, Team), None)  # type: ignore[arg-type]
    key = None if master_key is None else SecretStr(master_key)
    return Keyring(key, Directory(keys, teams), ManualClock())


@pytest.fixture
async def strangers(gateway: Served) -> httpx.AsyncClient:
    """A client without a key."""
    del gateway.http.headers["authorization"]
    return gateway.http


async def test_without_a_key_nothing_is_answered(strangers: httpx.AsyncClient, subtests: pytest.Subtests) -> None:
    for method, path in PROTECTED + [(method, path.removeprefix("/v1")) for method, path in PROTECTED]:
        with subtests.test(method=method, path=path):
            response = await strangers.request(method, path)
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"


async def test_a_missing_key_is_asked_for(strangers: httpx.AsyncClient) -> None:
    error = error_of(await strangers.get("/v1/files"))
    assert error["message"].startswith("You didn't provide an API key. ")
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", None, None)


async def test_health_and_documents_need_no_key(strangers: httpx.AsyncClient, subtests: pytest.Subtests) -> None:
    for path in OPEN:
        with subtests.test(path=path):
            assert (await strangers.get(path)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer {KEY}"},
        {"x-api-key": KEY},
        {"authorization": "Basic eDp5", "x-api-key": KEY},
    ],
)
async def test_a_key_is_taken_from_either_header(strangers: httpx.AsyncClient, headers: dict[str, str]) -> None:
    assert (await strangers.get("/v1/files", headers=headers)).status_code == 200


@pytest.mark.parametrize("headers", [{"authorization": "Bearer"}, {"authorization": ""}, {"x-api-key": ""}])
async def test_an_empty_key_is_none(strangers: httpx.AsyncClient, headers: dict[str, str]) -> None:
    error = error_of(await strangers.get("/v1/files", headers=headers))
    assert error["message"].startswith("You didn't provide an API key.")


@pytest.mark.parametrize(
    ("key", "shown"),
    [("sk-abcdefghijklmnopqrstuvwxyz", "sk-a***wxyz"), ("sk-short", "***"), (f"{KEY}x", "sk-b***789x")],
)
async def test_a_wrong_key_is_shown_masked(strangers: httpx.AsyncClient, key: str, shown: str) -> None:
    response = await strangers.get("/v1/files", headers={"authorization": f"Bearer {key}"})
    assert response.status_code == 401
    assert error_of(response) == {
        "message": f"Incorrect API key provided: {shown}.",
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_api_key",
    }


async def test_the_key_is_checked_before_the_body_is_read(gateway: Served) -> None:
    head = UPLOAD_HEAD.replace(KEY, "wrong")
    async with asyncio.timeout(5), raw_request(gateway.port, head) as reader:
        assert (await reader.readline()).startswith(b"HTTP/1.1 401")


async def test_without_a_master_key_everything_is_open(services: object, start: Start) -> None:
    gateway = await start(Config())
    del gateway.http.headers["authorization"]
    assert (await gateway.http.get("/v1/files")).status_code == 200


def test_the_master_key_names_the_payer() -> None:
    identity = keyring("schlüssel").identify("schlüssel".encode().decode("latin-1"))
    assert identity == Identity(tenant="default", key_alias="master", is_admin=True)


RING = keyring(KEY)


@given(st.text(st.characters(max_codepoint=255)))
def test_no_other_key_opens(key: str) -> None:
    with pytest.raises(AuthenticationFailed):
        RING.identify(key)


@given(st.text(min_size=1))
def test_a_mask_shows_at_most_four_characters_at_each_end(key: str) -> None:
    assert mask(key) == "***" or (len(key) >= 20 and mask(key) == f"{key[:4]}***{key[-4:]}")


def test_a_key_can_be_changed_but_not_be_taken_away_while_it_runs() -> None:
    ring = keyring(None)
    assert ring.identify(None) == Identity(is_admin=True)
    ring.use(SecretStr("first"))
    ring.use(SecretStr("second"))
    with pytest.raises(AuthenticationFailed):
        ring.identify("first")
    ring.use(None)
    assert ring.identify("second").key_alias == "master"
    with pytest.raises(AuthenticationFailed):
        ring.identify(None)
