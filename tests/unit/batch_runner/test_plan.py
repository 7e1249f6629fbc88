"""Planning: every request in exactly one shard, and every problem with its line."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchyard.batch_runner.plan import Plan, Planner, Rejection, raw_lines
from batchyard.batch_runner.routing import MAX_MODELS
from batchyard.batch_runner.settings import RunnerSettings
from batchyard.batch_runner.shard import ShardRange, ShardTable, fair_window, next_shards
from batchyard.batch_runner.shard_input import numbered_requests
from batchyard.batch_runner.validate import MAX_PROBLEMS, LineRules
from batchyard.common.config import ANY_MODEL
from batchyard.common.objects import LocalObjectStore

POOLS = {"m": "m", "served/m": "m", "other": "other"}


async def pool_of(model: str) -> str | None:
    return POOLS.get(model)


async def any_pool(model: str) -> str | None:
    return ANY_MODEL


def request(custom_id: str, model: str | None = "m", **body: object) -> str:
    members = body if model is None else {"model": model, **body}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": members})


@pytest.fixture
def store(tmp_path: Path) -> LocalObjectStore:
    return LocalObjectStore(tmp_path)


async def plan(
    store: LocalObjectStore, content: bytes | str, *, model: str | None = "m", pools: object = pool_of, **limits: int
) -> Plan | Rejection:
    await store.put("in", content.encode() if isinstance(content, str) else content)
    runner = RunnerSettings(**{"shard_lines": 3, **limits})  # type: ignore[arg-type]
    rules = LineRules(endpoint="/v1/chat/completions", max_line_bytes=runner.max_line_bytes)
    return await Planner(runner, rules, model, pools).plan(store, "in")  # type: ignore[arg-type]


async def problems(store: LocalObjectStore, content: bytes | str, **options: object) -> list[tuple[str, int | None]]:
    verdict = await plan(store, content, **options)  # type: ignore[arg-type]
    assert isinstance(verdict, Rejection)
    return [(problem.code, problem.line) for problem in verdict.problems]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    blanks=st.lists(st.sampled_from(["", "\n", "  \n", "\r\n", "\t\n\n"]), min_size=1, max_size=20),
    end=st.sampled_from(["\n", "\r\n", ""]),
    bom=st.booleans(),
    shard_lines=st.integers(1, 7),
    shard_bytes=st.sampled_from([1024, 100_000]),
)
async def test_every_request_lies_in_exactly_one_shard_with_its_line_number(
    store: LocalObjectStore, blanks: list[str], end: str, bom: bool, shard_lines: int, shard_bytes: int
) -> None:
    newline = end or "\n"
    content = "".join(f"{blank}{request(f'r{index}')}{newline}" for index, blank in enumerate(blanks))
    content = content.removesuffix("\n") if not end else content
    verdict = await plan(store, ("\ufeff" if bom else "") + content, shard_lines=shard_lines, shard_bytes=shard_bytes)
    assert isinstance(verdict, Plan)
    assert verdict.lines == len(blanks)
    found = [
        (number, json.loads(bytes(request.custom_id)))
        for shard in verdict.table.shards
        async for number, request in numbered_requests(store, "in", shard)
    ]
    expected = [(n, json.loads(text)["custom_id"]) for n, text in enumerate(content.split("\n"), 1) if text.strip()]
    assert found == expected
    assert all(shard.requests <= shard_lines for shard in verdict.table.shards)
    assert sum(shard.requests for shard in verdict.table.shards) == len(blanks)


@given(content=st.binary(max_size=400), cuts=st.lists(st.integers(1, 50), max_size=30), limit=st.integers(1, 60))
async def test_raw_lines_are_the_lines_whatever_the_chunks(content: bytes, cuts: list[int], limit: int) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        rest = content
        for cut in cuts:
            yield rest[:cut]
            rest = rest[cut:]
        yield rest

    lines = [line async for line in raw_lines(chunks(), limit)]
    expected = [(number, text) for number, text in enumerate(content.split(b"\n"), 1) if text]
    assert [line.number for line in lines] == [number for number, _ in expected]
    assert [line.text[:limit] for line in lines] == [text[:limit] for _, text in expected]
    assert all((len(line.text) > limit) == (line.size > limit) for line in lines)
    assert [content[line.offset : line.offset + line.size] for line in lines] == [text for _, text in expected]
    assert all(content[line.end - 1 : line.end] in (b"\n", content[-1:]) for line in lines)
    assert all(len(line.text) <= limit + 1 for line in lines)


@pytest.mark.parametrize("content", ["", "\n \r\n\n", "\ufeff", "\ufeff\n"])
async def test_a_file_without_requests_is_empty(store: LocalObjectStore, content: str) -> None:
    assert await problems(store, content) == [("empty_file", None)]


async def test_all_bad_lines_are_reported_with_their_numbers(store: LocalObjectStore) -> None:
    lines = [request("a"), "{", "", request("a"), request("b", stream=True), "[]"]
    assert await problems(store, "\n".join(lines)) == [
        ("invalid_json_line", 2),
        ("duplicate_custom_id", 4),
        ("streaming_unsupported", 5),
        ("invalid_json_line", 6),
    ]


async def test_no_more_problems_than_the_limit_are_reported(store: LocalObjectStore) -> None:
    found = await problems(store, "{\n" * 500)
    assert found[:-1] == [("invalid_json_line", line) for line in range(1, MAX_PROBLEMS + 1)]
    assert found[-1] == ("too_many_problems", None)
    assert len(await problems(store, "{\n" * (MAX_PROBLEMS - 1))) == MAX_PROBLEMS - 1


async def test_a_line_beyond_the_limit_is_refused_and_not_kept(store: LocalObjectStore) -> None:
    content = f"{request('a')}\n{'x' * 5000}\n{request('b')}\n"
    assert await problems(store, content, max_line_bytes=1024) == [("line_too_large", 2)]


async def test_too_many_requests_name_limit_and_count(store: LocalObjectStore) -> None:
    verdict = await plan(store, "\n".join(request(f"r{index}") for index in range(12)), max_requests=10)
    assert isinstance(verdict, Rejection)
    assert verdict.problems[0].code == "too_many_tasks"
    assert "12" in verdict.problems[0].message
    assert "10" in verdict.problems[0].message


async def test_the_lines_name_the_model_where_nothing_else_does(store: LocalObjectStore) -> None:
    verdict = await plan(store, f"{request('a')}\n{request('b')}", model=None)
    assert isinstance(verdict, Plan)
    assert (verdict.model, verdict.pool) == ("m", "m")


async def test_lines_may_leave_the_model_to_the_batch(store: LocalObjectStore) -> None:
    assert isinstance(await plan(store, request("a", None)), Plan)


async def test_a_line_without_a_model_where_nothing_names_one(store: LocalObjectStore) -> None:
    content = f"{request('a', None)}\n{request('b')}"
    assert await problems(store, content, model=None) == [("invalid_request", 1)]


async def test_a_line_may_use_the_name_the_server_knows(store: LocalObjectStore) -> None:
    assert isinstance(await plan(store, f"{request('a')}\n{request('b', 'served/m')}"), Plan)


async def test_a_line_for_another_model_is_mismatched(store: LocalObjectStore) -> None:
    assert await problems(store, f"{request('a')}\n{request('b', 'other')}") == [("mismatched_model", 2)]


async def test_a_model_nobody_serves_is_named_with_its_lines(store: LocalObjectStore) -> None:
    content = f"{request('a', 'ghost')}\n{request('b', 'ghost')}"
    for model in ("ghost", None):
        assert await problems(store, content, model=model) == [("model_not_found", 1), ("model_not_found", 2)]


async def test_an_unknown_model_in_the_first_line_is_not_blamed_on_the_others(store: LocalObjectStore) -> None:
    assert await problems(store, f"{request('a', 'ghost')}\n{request('b')}", model=None) == [("model_not_found", 1)]


async def test_a_server_that_takes_any_model_still_gets_one_per_batch(store: LocalObjectStore) -> None:
    content = f"{request('a', 'x')}\n{request('b', 'hosted_vllm/x')}\n{request('c', 'y')}"
    assert await problems(store, content, model=None, pools=any_pool) == [("mismatched_model", 3)]


async def test_lines_may_name_several_models_where_that_is_allowed(store: LocalObjectStore) -> None:
    names = ["m", "other", "served/m", "hosted_vllm/m", "m", "other", "m", "m"]
    content = "\n".join(request(f"r{index}", name) for index, name in enumerate(names))
    verdict = await plan(store, content, model=None, mixed_models=True)
    assert isinstance(verdict, Plan)
    assert (verdict.model, verdict.pool, verdict.lines) == (None, None, 8)
    table = verdict.table
    assert table.models == {"m": "m", "hosted_vllm/m": "m", "served/m": "m", "other": "other"}
    assert [(shard.pool, shard.first_line, shard.requests) for shard in table.shards] == [
        ("m", 1, 3),
        ("m", 5, 3),
        ("other", 2, 2),
    ]
    found = {
        shard.pool: [number async for number, _ in numbered_requests(store, "in", shard, table.models_of(shard.pool))]
        for shard in table.shards[::2]
    }
    assert found == {"m": [1, 3, 4], "other": [2, 6]}


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(st.sampled_from(["m", "served/m", "other", "third"]), min_size=1, max_size=40))
async def test_every_line_of_a_mixed_batch_lies_in_one_shard_of_its_own_pool(
    store: LocalObjectStore, names: list[str]
) -> None:
    pools = {**POOLS, "third": "third"}

    async def pool_of_three(model: str) -> str | None:
        return pools.get(model)

    content = "\n\n".join(request(f"r{index}", name) for index, name in enumerate(names))
    verdict = await plan(store, content, model=None, pools=pool_of_three, mixed_models=True)
    assert isinstance(verdict, Plan)
    table = verdict.table
    found = [
        (number, shard.pool or verdict.pool)
        for shard in table.shards
        async for number, _ in numbered_requests(store, "in", shard, table.models_of(shard.pool))
    ]
    assert sorted(found) == [(2 * index + 1, pools[name]) for index, name in enumerate(names)]
    places = [(table.pools.index(shard.pool), shard.first_line) for shard in table.shards]
    assert places == sorted(places)
    assert (verdict.model is None) == (len({pools[name] for name in names}) > 1)


@pytest.mark.parametrize("may_mix", [False, True])
async def test_a_batch_that_was_given_its_model_has_no_other(store: LocalObjectStore, may_mix: bool) -> None:
    content = f"{request('a')}\n{request('b', 'other')}"
    assert await problems(store, content, mixed_models=may_mix) == [("mismatched_model", 2)]


async def test_a_mixed_batch_is_refused_where_it_is_not_allowed(store: LocalObjectStore) -> None:
    assert await problems(store, f"{request('a')}\n{request('b', 'other')}", model=None) == [("mismatched_model", 2)]


@pytest.mark.parametrize("names", [["m", "m"], ["m", "served/m"], ["m", None]])
async def test_lines_for_one_pool_make_an_ordinary_batch(store: LocalObjectStore, names: list[str | None]) -> None:
    content = "\n".join(request(f"r{index}", name) for index, name in enumerate(names))
    verdict = await plan(store, content, model=None, mixed_models=True)
    assert isinstance(verdict, Plan)
    assert (verdict.model, verdict.pool, verdict.table.models) == ("m", "m", None)
    assert {shard.pool for shard in verdict.table.shards} == {None}


async def test_every_line_of_a_mixed_batch_names_a_model_that_is_served(store: LocalObjectStore) -> None:
    names = ["m", None, "ghost", "other", None]
    content = "\n".join(request(f"r{index}", name) for index, name in enumerate(names))
    assert await problems(store, content, model=None, mixed_models=True) == [
        ("invalid_request", 2),
        ("model_not_found", 3),
        ("invalid_request", 5),
    ]


async def test_one_server_that_takes_any_model_runs_several_of_them(store: LocalObjectStore) -> None:
    content = f"{request('a', 'x')}\n{request('b', 'y')}"
    verdict = await plan(store, content, model=None, pools=any_pool, mixed_models=True)
    assert isinstance(verdict, Plan)
    assert verdict.model is None
    assert verdict.table.models == {"x": ANY_MODEL, "y": ANY_MODEL}
    assert [(shard.pool, shard.requests) for shard in verdict.table.shards] == [(ANY_MODEL, 2)]


async def test_a_mixed_batch_has_a_limit_of_models(store: LocalObjectStore) -> None:
    content = "\n".join(request(f"r{index}", f"m{index}") for index in range(MAX_MODELS + 1))
    verdict = await plan(store, content, model=None, pools=any_pool, mixed_models=True)
    assert isinstance(verdict, Rejection)
    assert [problem.code for problem in verdict.problems] == ["too_many_models"]
    assert f"{MAX_MODELS + 1} models; at most {MAX_MODELS}" in verdict.problems[0].message


@pytest.mark.parametrize(("batches", "window"), [(0, 16), (1, 16), (2, 10), (3, 8), (7, 4), (15, 2), (31, 1), (500, 1)])
def test_the_more_batches_there_are_the_fewer_shards_has_each_in_the_queue(batches: int, window: int) -> None:
    assert fair_window(16, 32, batches) == window
    assert batches * window < 32 or window == 1, "the next batch finds a slot"


def test_a_window_is_filled_for_each_pool_whatever_the_others_do() -> None:
    table = ShardTable([ShardRange(0, 1, number + 1, 1, "aaaaaabbbbbb"[number]) for number in range(12)])

    def found(outstanding: set[int], settled: set[int]) -> list[int]:
        unqueued = sorted(set(range(12)) - outstanding - settled)
        return next_shards(table, unqueued, outstanding, lambda _: 2)

    assert found(set(), set()) == [0, 1, 6, 7]
    assert found({0, 1, 6, 7}, set()) == []
    assert found({0, 1}, {6, 7}) == [8, 9], "the pool a has what it may have"
    assert found({0, 1, 10}, {6, 7, 8, 9}) == [11]
    assert found({2}, {0, 1, *range(6, 12)}) == [3]
    assert next_shards(table, range(2, 12), range(2), lambda _: 1) == [6], "a window may shrink"


def shared_lines(beginnings: int, count: int) -> list[str]:
    """Lines whose system prompts of 500 bytes take turns."""
    systems = [f"{number:03d} " * 125 for number in range(beginnings)]
    return [
        request(f"r{index}", messages=[{"role": "system", "content": systems[index % beginnings]}])
        for index in range(count)
    ]


@pytest.mark.parametrize(
    ("limits", "sizes"),
    [
        ({}, [80] * 5),
        ({"shard_lines_shared": 50}, [40] * 10),
        ({"arrange_prefixes": False}, [20] * 20),
        ({"shard_bytes": 20_000}, [20] * 20),  # a shard more would be too many bytes
        ({"shards_per_batch": 8}, [40] * 10),
    ],
)
async def test_shards_are_larger_where_a_beginning_has_few_lines(
    store: LocalObjectStore, limits: dict[str, int], sizes: list[int]
) -> None:
    lines = shared_lines(40, 400)
    usual = {"shard_lines": 20, "shard_lines_shared": 80}
    verdict = await plan(store, "\n".join(lines), **(usual | limits))  # type: ignore[arg-type]
    assert isinstance(verdict, Plan)
    assert [shard.requests for shard in verdict.table.shards] == sizes
    content = "\n".join(lines).encode()
    cut = [content[shard.offset : shard.offset + shard.length] for shard in verdict.table.shards]
    assert b"".join(cut) == content
    assert [shard.first_line for shard in verdict.table.shards] == [
        1 + sum(sizes[:index]) for index in range(len(sizes))
    ]


async def test_shards_stay_as_they_are_where_nothing_is_shared(store: LocalObjectStore) -> None:
    verdict = await plan(store, "\n".join(shared_lines(400, 400)), shard_lines=20, shard_lines_shared=80)
    assert isinstance(verdict, Plan)
    assert [shard.requests for shard in verdict.table.shards] == [20] * 20
