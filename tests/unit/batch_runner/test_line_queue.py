"""Which line a deployment gets, once it has a place for one."""

import json
from collections import Counter

import pytest

from batchyard.batch_runner.attempt import LineJob
from batchyard.batch_runner.line_queue import LineQueue, home
from batchyard.batch_runner.lines import read_request
from batchyard.common.config import Deployment


def deployment(name: str, weight: float = 1.0) -> Deployment:
    return Deployment(id=name, pool="m", model="m", base_url=f"http://{name}", weight=weight)


def job(line: int, prompt: str) -> LineJob:
    text = json.dumps({"custom_id": str(line), "body": {"model": "m", "prompt": prompt}})
    return LineJob(line, f"r{line}", read_request(text.encode()), "/v1/completions", "m")


def jobs(count: int, groups: int) -> list[LineJob]:
    return [job(number, f"{number % groups:03} " * 300 + f"question {number:04}") for number in range(count)]


def drained(queue: LineQueue, *names: str) -> list[tuple[str, int]]:
    """Who got which line, when the deployments take turns."""
    taken: list[tuple[str, int]] = []
    while queue.reserve():
        name = names[len(taken) % len(names)]
        taken.append((name, queue.take(name).line))
    return taken


A, B, C = deployment("a"), deployment("b"), deployment("c")


@pytest.mark.parametrize("groups", [1, 3, 20, 200])
@pytest.mark.parametrize("deployments", [[], [A], [A, B, C]])
def test_every_line_is_handed_out_once(groups: int, deployments: list[Deployment]) -> None:
    taken = drained(LineQueue(jobs(200, groups), deployments), "a", "b", "c", "newcomer")
    assert sorted(line for _, line in taken) == list(range(200))


def test_one_server_gets_group_after_group() -> None:
    taken = drained(LineQueue(jobs(60, 3), [A]), "a")
    assert [line for _, line in taken] == sorted(range(60), key=lambda line: (line % 3, line))


def test_lines_that_share_nothing_stay_in_order() -> None:
    taken = drained(LineQueue(jobs(200, 200), [A, B]), "a", "b")
    assert [line for _, line in taken] == list(range(200))


def test_nothing_is_arranged_when_it_is_not_wanted() -> None:
    taken = drained(LineQueue(jobs(60, 3), [A, B], arrange=False), "a", "b")
    assert [line for _, line in taken] == list(range(60))


def test_a_group_stays_on_one_server_until_another_one_has_nothing_else_to_do() -> None:
    taken = drained(LineQueue(jobs(400, 40), [A, B]), "a", "b")
    servers: dict[int, Counter[str]] = {group: Counter() for group in range(40)}
    for name, line in taken:
        servers[line % 40][name] += 1
    assert Counter(name for name, _ in taken) == {"a": 200, "b": 200}, "both work all the time"
    split = [group for group, names in servers.items() if len(names) > 1]
    assert len(split) <= 1, "the one that has run out takes whole groups from the end of the other's"


def test_a_group_that_fills_any_server_is_everywhere() -> None:
    mixed = jobs(60, 60) + [job(number, "same " * 300 + str(number)) for number in range(60, 200)]
    taken = drained(LineQueue(mixed, [A, B]), "a", "b")
    common = Counter(name for name, line in taken if line >= 60)
    assert common == {"a": 70, "b": 70}


def test_the_lines_of_a_server_that_is_gone_are_taken_by_the_others() -> None:
    assert {name for name, _ in drained(LineQueue(jobs(200, 20), [A, B, C]), "a")} == {"a"}


def test_a_group_has_the_same_home_whoever_asks_and_moves_only_with_its_server() -> None:
    groups = [number.to_bytes(16) for number in range(3000)]
    before = [home(group, [A, B, C]) for group in groups]
    assert before == [home(group, [C, A, B]) for group in groups]
    assert all(800 < count < 1200 for count in Counter(before).values())
    after = [home(group, [A, C]) for group in groups]
    assert all(was in (now, "b") for was, now in zip(before, after, strict=True))


def test_homes_are_given_out_by_weight() -> None:
    groups = [number.to_bytes(16) for number in range(3000)]
    homes = Counter(home(group, [deployment("a", 3.0), B]) for group in groups)
    assert 2100 < homes["a"] < 2400
