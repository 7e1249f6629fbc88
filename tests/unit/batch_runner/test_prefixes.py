"""Which prompts begin alike, and in which order they are sent."""

import json
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchyard.batch_runner.prefixes import arrange, arrangement, prompt_key, shared_bytes

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
SYSTEM = "You are a patient clerk. " * 40
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "iVBORw0K" * 2000}}
OTHER_IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "iVBORw0K" * 1999 + "AAAAAAAA"}}


def key(path: str, **body: object) -> bytes:
    return prompt_key(path, json.dumps({"model": "m", **body}).encode())


def user(*content: object) -> dict[str, object]:
    return {"role": "user", "content": list(content)}


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def test_a_conversation_begins_like_the_one_that_it_continues() -> None:
    turns = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "a"}]
    answered = [*turns, {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]
    assert key(CHAT, messages=answered).startswith(key(CHAT, messages=turns))
    other = [*turns, {"role": "assistant", "content": None, "tool_calls": [{"id": "2"}]}]
    assert key(CHAT, messages=answered) != key(CHAT, messages=other)


@pytest.mark.parametrize(
    ("path", "one", "other", "least"),
    [
        (
            CHAT,
            {"temperature": 1, "messages": [user(text(SYSTEM), text("a"))]},
            {"messages": [user(text(SYSTEM))]},
            1000,
        ),
        (CHAT, {"messages": [user(text(SYSTEM))]}, {"messages": [{"role": "user", "content": SYSTEM}]}, 1000),
        (CHAT, {"tools": [SYSTEM], "messages": []}, {"messages": [user(text("b"))], "tools": [SYSTEM]}, 1000),
        (COMPLETIONS, {"prompt": SYSTEM + "a"}, {"max_tokens": 5, "prompt": SYSTEM + "b"}, 1000),
        (COMPLETIONS, {"prompt": [*range(1000), 1]}, {"prompt": [*range(1000), 2]}, 3000),
        (RESPONSES, {"instructions": SYSTEM, "input": "a"}, {"instructions": SYSTEM, "input": [user(text("b"))]}, 1000),
        (RESPONSES, {"input": [user(text(SYSTEM + "a"))]}, {"input": [user(text(SYSTEM + "b"))]}, 1000),
    ],
)
def test_what_is_sent_to_the_model_first_counts_first(
    path: str, one: dict[str, object], other: dict[str, object], least: int
) -> None:
    assert least <= shared_bytes(key(path, **one), key(path, **other)) < 5000


@pytest.mark.parametrize("member", ["cache_salt", "model"])
def test_prompts_that_a_server_caches_apart_share_nothing(member: str) -> None:
    messages = [{"role": "system", "content": SYSTEM}]
    assert shared_bytes(key(CHAT, messages=messages, **{member: "x"}), key(CHAT, messages=messages)) < 10


def test_images_are_told_apart_though_their_bytes_are_not_kept() -> None:
    first, same, other = (
        key(CHAT, messages=[user(image, text("what?"))]) for image in (IMAGE, dict(IMAGE), OTHER_IMAGE)
    )
    assert first == same != other
    assert len(first) < 100


def test_a_key_is_bounded() -> None:
    assert len(key(CHAT, messages=[user(text("x" * 100_000), text("y" * 100_000))])) <= 32 * 1024 + 1


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"null",
        b'{"messages":"not a list"}',
        b'{"messages":[1,null,"x"]}',
        b'{"messages":[{"role":5,"content":{"a":1}},{"content":[[[]],7]}]}',
        b'{"messages":[{"content":[' + b"[" * 50 + b"]" * 50 + b"]}]}",
        b"{}",
    ],
)
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, RESPONSES])
def test_bodies_of_any_shape_have_a_key(path: str, body: bytes) -> None:
    assert isinstance(prompt_key(path, body), bytes)


def shuffled(groups: int, count: int, length: int = 2000) -> list[bytes]:
    """Prompts of which every `groups`-th begins alike, as JSON bodies."""
    texts = (f"{number % groups:03} " * (length // 4) + f" question {number}" for number in range(count))
    return [json.dumps({"model": "m", "prompt": words}).encode() for words in texts]


def test_prompts_that_begin_alike_are_sent_one_after_another() -> None:
    bodies = shuffled(20, 500)
    arranged = arrangement(COMPLETIONS, bodies)
    assert arranged is not None
    assert [len(list(run)) for _, run in groupby(arranged.order, key=lambda index: index % 20)] == [25] * 20
    assert len(set(arranged.groups)) == 20


def test_pairs_are_found_among_many() -> None:
    assert arrangement(COMPLETIONS, shuffled(250, 500)) is not None


@pytest.mark.parametrize(
    ("path", "bodies"),
    [
        (COMPLETIONS, shuffled(500, 500)),
        (COMPLETIONS, shuffled(20, 500, length=100)),
        (COMPLETIONS, shuffled(1, 1)),
        (COMPLETIONS, []),
        ("/v1/embeddings", shuffled(20, 500)),
        ("/v1/score", shuffled(20, 500)),
    ],
    ids=["nothing shared", "little shared", "one", "none", "embeddings", "score"],
)
def test_without_much_in_common_the_order_stays(path: str, bodies: list[bytes]) -> None:
    assert arrangement(path, bodies) is None


def test_what_lies_together_already_stays_where_it_is() -> None:
    bodies = [f'{{"prompt": "{SYSTEM * 2}{"zyx"[number // 20]}{60 - number}"}}'.encode() for number in range(60)]
    arranged = arrangement(COMPLETIONS, bodies)
    assert arranged is not None
    assert arranged.order == tuple(range(60))


def test_shards_of_one_batch_agree_on_their_groups() -> None:
    bodies = shuffled(10, 200)
    first, second = arrangement(COMPLETIONS, bodies[:100]), arrangement(COMPLETIONS, bodies[100:])
    assert first is not None
    assert second is not None
    assert set(first.groups) == set(second.groups)
    assert None not in first.groups


beginnings = st.sampled_from([letter * length for letter in (b"a", b"b", b"c") for length in (1, 300, 900)])


@given(st.lists(st.builds(bytes.__add__, beginnings, st.binary(max_size=8)), max_size=40))
def test_an_arrangement_is_a_permutation_that_keeps_groups_together(keys: list[bytes]) -> None:
    arranged = arrange(keys)
    if arranged is None:
        return
    assert sorted(arranged.order) == list(range(len(keys)))
    if arranged.order != tuple(range(len(keys))):
        runs = [group for group, _ in groupby(arranged.groups[index] for index in arranged.order) if group]
        assert len(runs) == len(set(runs))
    for index, group in enumerate(arranged.groups):
        assert group is None or arranged.groups.count(group) > 1, f"{index} is alone"


@given(st.binary(max_size=50), st.binary(max_size=50), st.binary(max_size=50))
def test_the_shared_beginning_is_as_long_as_can_be(start: bytes, one: bytes, other: bytes) -> None:
    count = shared_bytes(start + one, start + other)
    assert count >= len(start)
    assert (start + one)[:count] == (start + other)[:count]
    assert (start + one)[count : count + 1] != (start + other)[count : count + 1] or start + one == start + other
