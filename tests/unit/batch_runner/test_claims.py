"""Which batch a wish stands for, whatever order its tries come in."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchyard.batch_runner.claims import Claim, Claims, TriesRecord, tried
from batchyard.common.contracts.batches import RETRY_WINDOW, Attempt, CreateBatch
from batchyard.common.errors import Conflict
from batchyard.common.service import Messaging, open_messaging
from batchyard.common.settings import Settings

WISH = CreateBatch(input_file_id="file-1", endpoint="/v1/chat/completions")


def batches(*attempts: tuple[str, float, bool]) -> list[int]:
    """For each try (token, when, whether it is a retry of an unknown one) the number of the batch it stands for."""
    record, found = TriesRecord(), []
    for index, (token, asked_at, again) in enumerate(attempts):
        outcome = tried(record, Attempt(token=token, asked_at=asked_at, again=again), Claim(raw_id=str(index)))
        record = outcome.record
        found.append(int(outcome.claim.raw_id))
    return found


@pytest.mark.parametrize(
    ("attempts", "expected"),
    [
        pytest.param([("a", 0, False), ("b", 1, False)], [0, 1], id="two first tries are two wishes"),
        pytest.param([("a", 0, False), ("a", 0, False)], [0, 0], id="a try known by its token is the same"),
        pytest.param([("a", 0, False), ("b", 1, True)], [0, 0], id="a retry repeats the last one"),
        pytest.param([("a", 0, False), ("b", 1, True), ("c", 2, True)], [0, 0, 0], id="and so does the next"),
        pytest.param([("a", 0, False), ("b", 1, False), ("c", 2, True)], [0, 1, 1], id="of two, the last one"),
        pytest.param([("a", 0, False), ("b", 1, False), ("a", 0, False)], [0, 1, 0], id="but not where the token says"),
        pytest.param([("b", 1, True)], [0], id="a retry of nothing is a wish"),
        pytest.param([("b", 1, True), ("a", 0, False)], [0, 0], id="overtaken by its retry"),
        pytest.param([("b", 1, True), ("a", 0, False), ("c", 0.5, False)], [0, 0, 2], id="only one was overtaken"),
        pytest.param([("b", 1, True), ("a", 2, False)], [0, 1], id="asked after the retry, it is a new wish"),
        pytest.param([("a", 0, False), ("b", RETRY_WINDOW, True)], [0, 0], id="at the window's end"),
        pytest.param([("a", 0, False), ("b", RETRY_WINDOW + 1, True)], [0, 1], id="beyond the window's end"),
    ],
)
def test_what_a_try_stands_for(attempts: list[tuple[str, float, bool]], expected: list[int]) -> None:
    assert batches(*attempts) == expected


@given(st.permutations(range(4)))
def test_one_wish_is_one_batch_in_whatever_order_its_tries_are_seen(order: list[int]) -> None:
    """A first try and the retries of a client whose gateway remembers nothing, all waiting in a queue."""
    tries = [(str(number), float(number), number > 0) for number in range(4)]
    found = batches(*(tries[number] for number in order))
    assert len(set(found)) == 1


@given(st.lists(st.booleans(), min_size=20, max_size=60))
def test_what_is_kept_of_tries_is_bounded(retries: list[bool]) -> None:
    record = TriesRecord()
    for number, again in enumerate(retries):
        attempt = Attempt(token=str(number), asked_at=number / 100, again=again)
        record = tried(record, attempt, Claim(raw_id=str(number))).record
    assert len(record.tries) <= 16


@pytest.fixture
async def claims(messaging: Messaging) -> Claims:
    return Claims(messaging.js)


async def test_of_many_at_once_with_one_key_all_get_the_same_claim(claims: Claims) -> None:
    command = WISH.model_copy(update={"idempotency_key": "k"})
    found = await asyncio.gather(*(claims.claim("t", command) for _ in range(10)))
    assert len({claim.raw_id for claim in found}) == 1
    assert await claims.known("t", command) == found[0]


async def test_of_many_at_once_with_one_token_all_get_the_same_claim(claims: Claims) -> None:
    command = WISH.model_copy(update={"attempt": Attempt(token="x", asked_at=1.0)})
    found = await asyncio.gather(*(claims.claim("t", command) for _ in range(10)))
    assert len({claim.raw_id for claim in found}) == 1


async def test_many_wishes_at_once_are_as_many_batches(claims: Claims) -> None:
    commands = [WISH.model_copy(update={"attempt": Attempt(token=str(number), asked_at=1.0)}) for number in range(10)]
    found = await asyncio.gather(*(claims.claim("t", command) for command in commands))
    assert len({claim.raw_id for claim in found}) == 10


async def test_a_key_belongs_to_its_tenant(claims: Claims) -> None:
    command = WISH.model_copy(update={"idempotency_key": "k"})
    mine, theirs = await claims.claim("t", command), await claims.claim("other", command)
    assert mine.raw_id != theirs.raw_id


async def test_another_wish_under_a_known_key_is_a_conflict(claims: Claims) -> None:
    command = WISH.model_copy(update={"idempotency_key": "k"})
    await claims.claim("t", command)
    other = command.model_copy(update={"metadata": {"a": "b"}})
    for ask in (claims.known, claims.claim):
        with pytest.raises(Conflict, match="Idempotency-Key was used before") as caught:
            await ask("t", other)
        assert caught.value.code == "idempotency_key_reused"


async def test_tries_with_other_keys_or_other_wishes_are_not_retries(claims: Claims) -> None:
    first = WISH.model_copy(update={"key_id": "a", "attempt": Attempt(token="1", asked_at=1.0)})
    again = Attempt(token="2", asked_at=2.0, again=True)
    claim = await claims.claim("t", first)
    for change in (
        {"key_id": "b"},
        {"key_id": None, "key_alias": "b"},
        {"model": "m"},
        {"metadata": {"a": "b"}},
        {"input_file_id": "file-2"},
    ):
        assert (await claims.claim("t", first.model_copy(update={"attempt": again, **change}))).raw_id != claim.raw_id
    assert (await claims.claim("t", first.model_copy(update={"attempt": again}))).raw_id == claim.raw_id


async def test_a_key_is_forgotten_in_time(settings: Settings) -> None:
    command = WISH.model_copy(update={"idempotency_key": "k"})
    async with open_messaging("test", settings.model_copy(update={"idempotency_max_age": 1.0})) as messaging:
        claims = Claims(messaging.js)
        claim = await claims.claim("t", command)
        async with asyncio.timeout(10):
            while await claims.known("t", command) is not None:
                await asyncio.sleep(0.05)
        assert (await claims.claim("t", command)).raw_id != claim.raw_id


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ({"metadata": {"a": "1", "b": "2"}}, {"metadata": {"b": "2", "a": "1"}}, True),
        ({"key_alias": "a"}, {"key_alias": "b"}, True),
        ({"key_id": "a"}, {"key_id": "b"}, True),
        ({"model": "a"}, {"model": "b"}, False),
        ({"completion_window": "1h"}, {"completion_window": "24h"}, False),
        ({"endpoint": "/v1/embeddings"}, {}, False),
        ({"input_file_id": None, "upload_key": "x", "input_digest": "d"}, {"input_file_id": "file-1"}, False),
    ],
)
def test_a_fingerprint_is_of_what_is_meant(one: dict[str, object], other: dict[str, object], is_same: bool) -> None:
    fingerprints = {WISH.model_copy(update=change).fingerprint() for change in (one, other)}
    assert (len(fingerprints) == 1) is is_same


def test_lines_that_came_along_are_known_by_their_digest() -> None:
    wish = CreateBatch(upload_key="a", input_digest="d", endpoint="/v1/embeddings")
    assert wish.fingerprint() == wish.model_copy(update={"upload_key": "b"}).fingerprint()
    assert wish.fingerprint() != wish.model_copy(update={"input_digest": "e"}).fingerprint()
