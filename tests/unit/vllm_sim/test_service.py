"""What the simulator tells about itself."""

import asyncio

from prometheus_client.parser import text_string_to_metric_families
from unit.vllm_sim.asking import Client, Start

from batchyard.vllm_sim.prefix_cache import PrefixCache


async def metrics(client: Client) -> dict[str, float]:
    """Return each sample by its name, and by name and reason where there is one."""
    text = (await client.get("/metrics")).body.decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    assert all(sample.labels["engine"] == "0" for sample in samples)
    assert all(sample.labels["model_name"] == "my-vllm-model" for sample in samples)
    return {
        "/".join([sample.name, *(value for key, value in sample.labels.items() if "reason" in key)]): sample.value
        for sample in samples
    }


async def test_health_is_an_empty_200(client: Client) -> None:
    answer = await client.get("/health")
    assert (answer.status, answer.body) == (200, b"")


async def test_every_answer_says_who_gives_it(client: Client) -> None:
    for answer in (await client.get("/health"), await client.chat("hello"), await client.get("/nowhere")):
        assert answer.headers["Server"].startswith("batchyard-vllm-sim/")


async def test_the_version_is_the_simulators(client: Client) -> None:
    assert (await client.get("/version")).json["simulator"] == "batchyard-vllm-sim"


async def test_models_lists_every_served_name(start: Start) -> None:
    client = await start(models=("one", "two"), max_model_len=1000)
    cards = (await client.get("/v1/models")).json["data"]
    assert [card["id"] for card in cards] == ["one", "two"]
    assert {card["owned_by"] for card in cards} == {"batchyard-vllm-sim"}
    assert {card["max_model_len"] for card in cards} == {1000}


async def test_every_served_name_answers(start: Start) -> None:
    client = await start(models=("one", "two"))
    assert (await client.chat("hello", model="two")).json["model"] == "two"


async def test_metrics_count_tokens_and_requests(client: Client) -> None:
    usage = (await client.chat("hello")).json["usage"]
    await client.chat("hello", max_tokens=1)
    found = await metrics(client)
    assert found["vllm:prompt_tokens_total"] == 2 * usage["prompt_tokens"]
    assert found["vllm:generation_tokens_total"] == usage["completion_tokens"] + 1
    assert found["vllm:request_success_total/stop"] == 1
    assert found["vllm:request_success_total/length"] == 1
    assert found["vllm:num_preemptions_total"] == 0


async def test_metrics_show_who_runs_and_who_waits(start: Start) -> None:
    client = await start(max_num_seqs=1)
    asking = [asyncio.create_task(client.chat(f"[[fault:hang]] {number}")) for number in range(3)]
    await client.sim.until(lambda state: state.capacity.waiting == 2)
    found = await metrics(client)
    assert found["vllm:num_requests_running"] == 1
    assert found["vllm:num_requests_waiting"] == 2
    assert found["vllm:num_requests_waiting_by_reason/capacity"] == 2
    assert found["vllm:kv_cache_usage_perc"] > 0
    for task in asking:
        task.cancel()
    await client.sim.until(lambda state: state.capacity.running + state.capacity.waiting == 0)
    assert (await metrics(client))["vllm:kv_cache_usage_perc"] == 0
    assert (await metrics(client))["vllm:request_success_total/abort"] == 2


async def test_a_prompt_seen_before_is_cached_in_full_blocks(client: Client) -> None:
    first = (await client.chat("word " * 100)).json["usage"]
    again = (await client.chat("word " * 100)).json["usage"]
    assert first["prompt_tokens_details"] == {"cached_tokens": 0}
    assert again["prompt_tokens_details"] == {"cached_tokens": (again["prompt_tokens"] - 1) // 16 * 16}
    found = await metrics(client)
    assert found["vllm:prefix_cache_queries_total"] == 2 * first["prompt_tokens"]
    assert found["vllm:prefix_cache_hits_total"] == again["prompt_tokens_details"]["cached_tokens"]


async def test_without_prefix_caching_there_are_no_details(start: Start) -> None:
    client = await start(prefix_caching=False)
    assert (await client.chat("hello")).json["usage"]["prompt_tokens_details"] is None


def test_only_a_common_prefix_hits() -> None:
    cache = PrefixCache(blocks=10, block_size=2)
    cache.admit(["a", "b", "c", "d"])
    assert cache.admit(["a", "b", "x", "d", "e"]) == 2
    assert cache.admit(["x", "b", "c", "d", "e"]) == 0


def test_a_prompts_last_token_is_never_cached() -> None:
    cache = PrefixCache(blocks=10, block_size=2)
    cache.admit(["a", "b", "c", "d"])
    assert cache.admit(["a", "b", "c", "d"]) == 2


def test_the_least_recently_used_block_is_forgotten_first() -> None:
    cache = PrefixCache(blocks=2, block_size=1)
    for word in ("a", "b", "a", "c"):
        cache.admit([word])
    assert cache.admit(["a", "z"]) == 1
    assert cache.admit(["b", "z"]) == 0
