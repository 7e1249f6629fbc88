"""One server without a configuration file, and several models at once with one."""

import asyncio
import json
import random
from collections import Counter, defaultdict
from decimal import Decimal
from pathlib import Path

import pytest

from batchyard.cli.running import running_stack
from batchyard.vllm_sim.answers import chat_text
from batchyard.vllm_sim.prompts import chat_prompt, prompt_digest
from support.programs import add_runner
from support.stack import MODEL
from support.systems import System, Yard, expected_answer, request_line


@pytest.mark.timeout(120)
async def test_the_address_of_one_server_is_configuration_enough(yard: Yard, tmp_path: Path) -> None:
    sim = await yard.sim(api_key="secret")
    environment = {"HOSTED_VLLM_API_BASE": sim.url, "HOSTED_VLLM_API_KEY": "secret"}
    async with running_stack(tmp_path / "alone", environment=environment) as stack:
        system = System(stack, await yard.client())
        assert [model["id"] for model in (await system.call("GET", "/models"))["data"]] == [MODEL]
        batch = await system.ended((await system.submit(request_line("a", "hello")))["id"])
        assert batch["status"] == "completed"
        (line,) = await system.lines(batch["output_file_id"])
        assert line["response"]["body"]["choices"][0]["message"]["content"] == expected_answer("hello")
        file = await system.call(
            "POST",
            "/files",
            data={"purpose": "batch"},
            files={"file": ("in.jsonl", request_line("a", "hello").replace(MODEL.encode(), b"ghost"))},
        )
        batch = await system.call(
            "POST",
            "/batches",
            json={"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"},
        )
        batch = await system.ended(batch["id"])
        assert [problem["code"] for problem in batch["errors"]["data"]] == ["model_not_found"]


@pytest.mark.timeout(120)
async def test_two_runners_keep_together_to_what_a_server_may_have(yard: Yard, tmp_path: Path) -> None:
    sim = await yard.sim(base_latency=0.1)
    config = tmp_path / "ceiling.yaml"
    server = {"model": f"hosted_vllm/{MODEL}", "api_base": sim.url, "max_parallel_requests": 7}
    config.write_text(json.dumps({"model_list": [{"model_name": MODEL, "litellm_params": server}]}))
    environment = {"BATCHYARD_SHARD_LINES": "10", "BATCHYARD_SHARDS_PER_POOL": "8"}
    async with running_stack(tmp_path / "ceiling", config=config, environment=environment) as stack:
        system = System(stack, await yard.client())
        add_runner(stack, "batch-runner-2")

        async def parts() -> list[tuple[int, bool]]:
            runners = (await system.call("GET", "/fleet"))["runners"]
            return sorted((one["max_parallel_requests"], one["in_flight"] > 0) for r in runners for one in r["data"])

        while len(await parts()) < 2:
            await asyncio.sleep(0.05)
        batch = await system.submit(b"\n".join(request_line(f"r{n}", f"hello {n}") for n in range(400)))
        while await parts() != [(3, True), (4, True)]:
            await asyncio.sleep(0.05)
        done = (await system.call("GET", f"/batches/{batch['id']}"))["request_counts"]["completed"]
        await system.until(batch["id"], lambda batch: batch["request_counts"]["completed"] >= done + 14)
        sim.state.capacity.forget_peaks()
        assert (await system.ended(batch["id"]))["request_counts"]["completed"] == 400
        assert sim.state.capacity.max_in_flight == 7


@pytest.mark.timeout(120)
async def test_batches_of_several_models_run_at_once(yard: Yard, tmp_path: Path) -> None:
    models = ["alpha", "beta/chat", "gamma v2"]
    sims = [await yard.sim(models=(model,), base_latency=1.0) for model in models]
    config = tmp_path / "fleet.yaml"
    entries = [
        {"model_name": model, "litellm_params": {"model": f"hosted_vllm/{model}", "api_base": sim.url}}
        for model, sim in zip(models, sims, strict=True)
    ]
    config.write_text(json.dumps({"model_list": entries}))
    async with running_stack(tmp_path / "fleet", config=config) as stack:
        system = System(stack, await yard.client())

        async def run(model: str) -> None:
            lines = b"\n".join(request_line(f"r{n}", f"{model} {n}") for n in range(40))
            content = lines.replace(MODEL.encode(), model.encode())
            file = await system.call(
                "POST",
                "/files",
                data={"purpose": "batch"},
                files={"file": ("in.jsonl", content)},
                headers={"x-litellm-model": model},
            )
            batch = await system.call(
                "POST",
                "/batches",
                json={"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"},
            )
            batch = await system.ended(batch["id"])
            assert batch["status"] == "completed"
            assert batch["model"] == model
            assert batch["request_counts"]["completed"] == 40

        await asyncio.gather(*(run(model) for model in models for _ in range(2)))
    for sim in sims:
        assert sim.state.log.total == 80
        assert sim.state.capacity.max_in_flight > 40, "two batches of one model run side by side"


@pytest.mark.timeout(120)
async def test_the_lines_of_one_batch_name_several_models(yard: Yard, tmp_path: Path) -> None:
    """The servers of one model are down for a while, and the runner is killed meanwhile: only its lines wait."""
    models = ["alpha", "beta/chat"]
    prices = {"alpha": (Decimal("0.000001"), Decimal("0.000002")), "beta/chat": (Decimal("0.00003"), Decimal("0.0001"))}
    sims = {model: await yard.sim(models=(model,), base_latency=0.02) for model in models}
    entries = [
        {
            "model_name": model,
            "litellm_params": {
                "model": f"hosted_vllm/{model}",
                "api_base": sim.url,
                "input_cost_per_token": str(prices[model][0]),
                "output_cost_per_token": str(prices[model][1]),
            },
        }
        for model, sim in sims.items()
    ]
    config = tmp_path / "fleet.yaml"
    config.write_text(json.dumps({"model_list": entries}))
    said = [("beta/chat" if n % 3 == 0 else "alpha", f"question {n}") for n in range(240)]
    said[7] = ("alpha", "bad [[fault:status=400]]")
    said[9] = ("beta/chat", "bad [[fault:status=400]]")
    content = b"\n".join(
        request_line(f"r{n}", prompt).replace(MODEL.encode(), model.encode()) for n, (model, prompt) in enumerate(said)
    )
    settings = {"mixed_models": "true", "shard_lines": "20", "shard_window": "2", "probe_interval": "0.1"}
    environment = {f"BATCHYARD_{name.upper()}": value for name, value in settings.items()}
    environment["BATCHYARD_WORK_ACK_WAIT"] = "2"
    sims["beta/chat"].state.healthy = False
    async with running_stack(tmp_path / "mixed", config=config, environment=environment) as stack:
        system = System(stack, await yard.client())
        file = await system.call("POST", "/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", content)})
        order = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        batch = await system.call("POST", "/batches", json=order)
        others = sum(model == "alpha" for model, _ in said)
        stuck = await system.until(
            batch["id"],
            lambda batch: (
                sum(batch["request_counts"][what] for what in ("completed", "failed")) == others
                and batch["status_reason"]
            ),
        )
        assert (stuck["status"], stuck["model"]) == ("in_progress", None)
        assert stuck["status_reason"] == (
            "No server of the model 'beta/chat' answers. Its requests wait for one, the others go on; none is lost."
        )
        assert Decimal(stuck["cost"]) > 0, "of what has been answered"
        await stack.restarted("batch-runner", stack.kill("batch-runner"))
        sims["beta/chat"].state.healthy = True
        batch = await system.ended(batch["id"])
        assert (batch["status"], batch["model"]) == ("completed", None)
        assert batch["request_counts"] == {"total": 240, "completed": 238, "failed": 2}
        output = await system.lines(batch["output_file_id"])
        assert [line["custom_id"] for line in output] == [f"r{n}" for n in range(240) if n not in (7, 9)]
        for line in output:
            model, prompt = said[int(line["custom_id"][1:])]
            body = line["response"]["body"]
            assert body["model"] == model
            assert body["choices"][0]["message"]["content"] == chat_text([{"role": "user", "content": prompt}], model)
        assert [line["custom_id"] for line in await system.lines(batch["error_file_id"])] == ["r7", "r9"]
        charges = {entry["model"]: entry for entry in await system.ledger(batch["id"])}
        used = Counter[tuple[str, int]]()
        for line in output:
            body = line["response"]["body"]
            used[body["model"], 0] += body["usage"]["prompt_tokens"]
            used[body["model"], 1] += body["usage"]["completion_tokens"]
        assert charges.keys() == set(models)
        for model, entry in charges.items():
            assert [entry["usage"][name] for name in ("input_tokens", "output_tokens")] == [
                used[model, 0],
                used[model, 1],
            ]
            assert Decimal(entry["cost"]) == sum(used[model, which] * prices[model][which] for which in (0, 1))
        assert Decimal(batch["cost"]) == sum(Decimal(entry["cost"]) for entry in charges.values())
        assert Decimal(batch["cost"]) > Decimal(stuck["cost"])


@pytest.mark.timeout(120)
async def test_lines_that_begin_alike_go_to_one_server_of_a_pool(yard: Yard, tmp_path: Path) -> None:
    """Whatever shard they are in: so its cache of prompts holds their beginning, and no other server's has to."""
    sims = [await yard.sim(base_latency=0.02, max_num_seqs=8) for _ in range(2)]
    entries = [
        {"model_name": MODEL, "litellm_params": {"model": f"hosted_vllm/{MODEL}", "api_base": sim.url}} for sim in sims
    ]
    config = tmp_path / "pool.yaml"
    config.write_text(json.dumps({"model_list": entries}))
    said = [f"{beginning} {'be brief ' * 200}{n}" for beginning in range(40) for n in range(15)]
    random.Random(4).shuffle(said)
    content = b"\n".join(request_line(f"r{n}", prompt) for n, prompt in enumerate(said))
    async with running_stack(tmp_path / "data", config=config, environment={"BATCHYARD_SHARD_LINES": "200"}) as stack:
        system = System(stack, await yard.client())
        batch = await system.ended((await system.submit(content))["id"])
        assert batch["request_counts"] == {"total": 600, "completed": 600, "failed": 0}
        output = await system.lines(batch["output_file_id"])
    assert [line["custom_id"] for line in output] == [f"r{n}" for n in range(600)], "in the order of the input"
    digests = [prompt_digest(chat_prompt([{"role": "user", "content": prompt}]).text) for prompt in said]
    beginnings = {digest: prompt.split()[0] for digest, prompt in zip(digests, said, strict=True)}
    served: dict[str, Counter[int]] = defaultdict(Counter)
    for number, sim in enumerate(sims):
        for record in sim.state.log.records():
            served[beginnings[record.digest or ""]][number] += 1
    assert sum(len(servers) for servers in served.values()) <= 60, "40 if it were perfect, about 80 by chance"
