"""One server without a configuration file, and several models at once with one."""

import asyncio
import json
from pathlib import Path

import pytest

from batchyard.cli.running import running_stack
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
async def test_batches_of_several_models_run_at_once(yard: Yard, tmp_path: Path) -> None:
    models = ["alpha", "beta/chat", "gamma v2"]
    sims = [await yard.sim(models=(model,), base_latency=0.2) for model in models]
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
