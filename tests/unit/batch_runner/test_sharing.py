"""Whether a batch's lines have so many beginnings in common that larger shards are worth while."""

import json
import random

import pytest

from batchyard.batch_runner.sharing import Sharing

CHAT = "/v1/chat/completions"


def line(system: str, user: str) -> bytes:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    body = {"model": "m", "messages": messages}
    return json.dumps({"custom_id": user, "method": "POST", "url": CHAT, "body": body}).encode()


def seen(beginnings: int, lines: int = 4000, path: str = CHAT) -> Sharing:
    """A batch whose lines are shuffled over as many system prompts of 600 bytes."""
    rng = random.Random(1)
    sharing = Sharing(path)
    for number in range(lines):
        which = rng.randrange(beginnings)
        sharing.see(line(f"{which:06d} " * 85, f"What of {number}?"))
    return sharing


@pytest.mark.parametrize(
    ("beginnings", "is_worth"),
    [(1, False), (20, False), (100, True), (400, True), (10**9, False)],
)
def test_larger_shards_pay_where_a_shard_has_few_lines_for_each_beginning(beginnings: int, is_worth: bool) -> None:
    assert seen(beginnings).is_worth(500, 1000) is is_worth


def test_what_has_no_prompts_in_common_is_not_looked_at() -> None:
    assert not seen(100, path="/v1/embeddings").is_worth(500, 2000)


def test_few_lines_tell_nothing() -> None:
    sharing = Sharing(CHAT)
    assert not sharing.is_worth(500, 2000)
    sharing.see(line("a" * 600, "one"))
    assert not sharing.is_worth(500, 2000)


def test_a_body_of_an_unknown_shape_is_no_trouble() -> None:
    sharing = Sharing(CHAT)
    for number in range(600):
        sharing.see(json.dumps({"custom_id": str(number), "body": {"model": "m", "messages": number}}).encode())
    assert not sharing.is_worth(500, 2000)
