"""How much work a batch is, before it is done."""

from pathlib import Path

import pytest
from unit.batch_runner.test_plan import plan, request

from batchyard.batch_runner.estimate import MOST_OUTPUT_TOKENS, Rule, Size, allowed_output
from batchyard.batch_runner.plan import Plan
from batchyard.common.objects import LocalObjectStore

RULE = Rule(bytes_per_token=4.0, output_tokens=256)
CHAT = "/v1/chat/completions"


def test_at_first_a_batch_has_the_lines_that_were_counted() -> None:
    assert RULE.at_first(CHAT, 1001, 3) == Size(lines=3, input_tokens=251, output_tokens=768)


def test_lines_that_nobody_counted_are_guessed() -> None:
    assert RULE.at_first(CHAT, 100, None).lines == 1
    assert RULE.at_first(CHAT, 10 * 1024, None).lines == 10


def test_embeddings_have_no_output() -> None:
    assert RULE.at_first("/v1/embeddings", 400, 5) == Size(lines=5, input_tokens=100)


@pytest.mark.parametrize(
    ("limits", "choices", "expected"),
    [
        ((None, 50), None, 50),
        ((20, 50), None, 20),
        ((50,), 3, 150),
        ((None,), 3, None),
        (("50",), None, None),
        ((True,), None, None),
        ((-1,), None, None),
        ((10**30,), 10**30, MOST_OUTPUT_TOKENS),
    ],
)
def test_what_a_line_allows(limits: tuple[object, ...], choices: object, expected: int | None) -> None:
    assert allowed_output(*limits, choices=choices) == expected


async def test_once_planned_the_lines_themselves_are_counted(tmp_path: Path) -> None:
    lines = [request("a", max_tokens=10), "", request("b", max_completion_tokens=20, n=2), request("c")]
    planned = await plan(LocalObjectStore(tmp_path), "\n".join(lines))
    assert isinstance(planned, Plan)
    size = sum(len(line) for line in lines)
    assert planned.size == Size(lines=3, input_tokens=-(-size // 4), output_tokens=10 + 40 + 256)
    assert planned.models == ("m",)


async def test_a_batch_of_several_models_names_them_all(tmp_path: Path) -> None:
    lines = [request("a", model="m"), request("b", model="other")]
    planned = await plan(LocalObjectStore(tmp_path), "\n".join(lines), model=None, mixed_models=True)
    assert isinstance(planned, Plan)
    assert planned.models == ("m", "other")


def test_a_share_is_rounded_up() -> None:
    whole = Size(lines=10, input_tokens=101, output_tokens=7)
    assert whole.share(5, 10) == Size(lines=5, input_tokens=51, output_tokens=4)
