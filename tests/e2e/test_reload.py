"""A configuration that changes under running batches: real processes, told by SIGHUP or by the file alone."""

import asyncio
import json
import signal
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx

from batchyard.cli.running import running_stack
from batchyard.vllm_sim.testing import RunningSim
from support.stack import MODEL
from support.systems import System, Yard, request_line

KEY = "sk-reload-1"


class Fleet:
    """A system over a configuration file that the test rewrites."""

    def __init__(self, system: System, config: Path) -> None:
        self.system = system
        self.config = config

    def write(self, *entries: dict[str, Any], key: str = KEY, **sections: Any) -> None:
        """Replace the file in one step, as editors and deployments do."""
        document = {"model_list": entries, "general_settings": {"master_key": key}, **sections}
        self.put(json.dumps(document, indent=1))

    def put(self, text: str) -> None:
        unfinished = self.config.with_name("config.new")
        unfinished.write_text(text)
        unfinished.replace(self.config)

    def hang_up(self) -> None:
        for name in ("gateway", "billing", "batch-runner", "file-store"):
            self.system.stack.kill(name, signal.SIGHUP)

    def events(self, program: str, event: str) -> list[dict[str, Any]]:
        """What a service has logged under this name."""
        lines = self.system.stack.layout.log(program).read_text().splitlines()
        return [line for line in map(json.loads, lines) if line["event"] == event]

    async def told(self, program: str, event: str, count: int = 1) -> dict[str, Any]:
        """The latest of at least `count` events of a service."""
        await until(lambda: len(self.events(program, event)) >= count)
        return self.events(program, event)[-1]


async def until(condition: Callable[[], bool], within: float = 20) -> None:
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.02)


def entry(sim: RunningSim, name: str = MODEL, **params: Any) -> dict[str, Any]:
    return {
        "model_name": name,
        "litellm_params": {"model": f"hosted_vllm/{name}", "api_base": sim.url, **params},
        "model_info": {"id": f"{name}-{sim.url.rpartition(':')[2]}"},
    }


def lines(count: int) -> bytes:
    return b"\n".join(request_line(f"r{index}", f"question {index}") for index in range(count))


def pending(sim: RunningSim) -> bool:
    return any(record.outcome == "pending" for record in sim.state.log.records())


def plain(count: int) -> bytes:
    """Lines that leave the model to the batch."""
    return lines(count).replace(f'"model": "{MODEL}", '.encode(), b"")


async def open_fleet(yard: Yard, exits: AsyncExitStack, tmp_path: Path, **first: Any) -> Fleet:
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps(first))
    stack = await exits.enter_async_context(
        running_stack(tmp_path / "data", config=config, environment={"BATCHYARD_CONFIG_POLL_INTERVAL": "0.2"})
    )
    client = await exits.enter_async_context(
        httpx.AsyncClient(headers={"authorization": f"Bearer {KEY}"}, timeout=60, trust_env=False)
    )
    return Fleet(System(stack, client), config)


async def test_deployments_come_and_go_under_a_running_batch(yard: Yard, tmp_path: Path) -> None:
    first = await yard.sim(base_latency=0.2)
    second = await yard.sim(base_latency=0.2)
    async with AsyncExitStack() as exits:
        general = {"master_key": KEY}
        fleet = await open_fleet(
            yard, exits, tmp_path, model_list=[entry(first, max_parallel_requests=4)], general_settings=general
        )
        pids = dict(fleet.system.stack.pids)
        batch = await fleet.system.submit(lines(120))
        await until(lambda: first.state.log.total >= 8)

        fleet.write(entry(first, max_parallel_requests=4), entry(second, max_parallel_requests=4))
        await until(lambda: second.state.log.total >= 4, within=10)
        told = await fleet.told("batch-runner", "config.changed")
        assert told["added"] == [f"{MODEL}/{MODEL}-{second.url.rpartition(':')[2]}"]
        assert "removed" not in told

        fleet.write(entry(second, max_parallel_requests=32))
        fleet.hang_up()
        told = await fleet.told("batch-runner", "config.changed", 2)
        assert told["removed"] == [f"{MODEL}/{MODEL}-{first.url.rpartition(':')[2]}"]
        await until(lambda: not pending(first))
        reached = first.state.log.total
        assert reached + second.state.log.total < 120, "the batch was over before it could be seen"
        batch = await fleet.system.ended(batch["id"])
        assert (batch["status"], batch["request_counts"]["completed"]) == ("completed", 120)
        assert first.state.log.total == reached, "a deployment that was removed got something new"
        assert first.state.log.total + second.state.log.total == 120, "no request was sent twice"
        assert dict(fleet.system.stack.pids) == pids


async def test_a_model_that_vanishes_keeps_its_batches_until_it_is_back(yard: Yard, tmp_path: Path) -> None:
    sim, other = await yard.sim(base_latency=0.2), await yard.sim(models=("other",))
    async with AsyncExitStack() as exits:
        mine, others = entry(sim, max_parallel_requests=4), entry(other, "other")
        fleet = await open_fleet(yard, exits, tmp_path, model_list=[mine, others], general_settings={"master_key": KEY})
        batch = await fleet.system.submit(lines(120))
        await until(lambda: sim.state.log.total >= 8)
        fleet.write(others)
        waiting = await fleet.system.until(batch["id"], lambda batch: batch["status_reason"] is not None)
        assert waiting["status"] == "in_progress"
        assert f"The model '{MODEL}' is no longer configured" in waiting["status_reason"]
        await fleet.told("batch-runner", "shard.handed_back")
        reached = sim.state.log.total
        assert [model["id"] for model in (await fleet.system.call("GET", "/models"))["data"]] == ["other"]
        assert sim.state.log.total == reached < 120

        # It waits through a restart of the runner as well, and goes on when the model is back.
        pid = fleet.system.stack.kill("batch-runner")
        await fleet.system.stack.restarted("batch-runner", pid)
        await fleet.system.stack.ready()
        again = await fleet.system.call("GET", f"/batches/{batch['id']}")
        assert "no longer configured" in again["status_reason"]
        fleet.write(others, mine)
        batch = await fleet.system.ended(batch["id"])
        assert (batch["status"], batch["request_counts"]["completed"]) == ("completed", 120)
        assert batch["status_reason"] is None
        assert sim.state.log.total == 120, "what was in flight when the model vanished was kept"


async def test_a_broken_file_changes_nothing_and_says_why(yard: Yard, tmp_path: Path) -> None:
    sim = await yard.sim()
    async with AsyncExitStack() as exits:
        fleet = await open_fleet(yard, exits, tmp_path, model_list=[entry(sim)], general_settings={"master_key": KEY})
        services = ("gateway", "billing", "batch-runner")
        fleet.put("model_list:\n  - model_name: m\n    litellm_params: {model: m, rpm: 0, api_key: sk-hidden}\n")
        for service in services:
            told = await fleet.told(service, "config.rejected")
            assert told["errors"] == [
                f"{fleet.config}:3:32: model_list[0].litellm_params.rpm: Input should be greater than or equal to 1"
            ]
        fleet.hang_up()
        for service in services:
            await fleet.told(service, "config.rejected", 2)
            assert "hidden" not in fleet.system.stack.layout.log(service).read_text()
        fleet.config.unlink()
        for service in services:
            told = await fleet.told(service, "config.rejected", 3)
            assert told["errors"] == [f"{fleet.config}: cannot be read: No such file or directory"]
        batch = await fleet.system.ended((await fleet.system.submit(lines(2)))["id"])
        assert batch["status"] == "completed"
        fleet.write(entry(sim))
        fleet.hang_up()
        for service in services:
            await fleet.told(service, "config.unchanged")


async def test_prices_keys_aliases_and_models_change_while_it_runs(yard: Yard, tmp_path: Path) -> None:
    sim = await yard.sim(models=(MODEL, "another"))
    async with AsyncExitStack() as exits:
        priced = entry(sim, "another", output_cost_per_token=1e-06)
        fleet = await open_fleet(yard, exits, tmp_path, model_list=[priced], general_settings={"master_key": KEY})
        system = fleet.system
        batch = await system.ended((await system.submit(lines(1)))["id"])
        assert [problem["code"] for problem in batch["errors"]["data"]] == ["model_not_found"]

        async def cost(model: str) -> tuple[Decimal, int, str]:
            options: dict[str, Any] = {"data": {"purpose": "batch"}, "files": {"file": ("in.jsonl", plain(3))}}
            file = await system.call("POST", f"/files?model={model}", **options)
            wish = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
            batch = await system.ended((await system.call("POST", "/batches", json=wish))["id"])
            assert (batch["status"], batch["model"]) == ("completed", "another")
            (found,) = await system.ledger(batch["id"])
            assert found["model"] == "another"
            assert Decimal(batch["cost"]) == Decimal(found["cost"])
            return Decimal(found["cost"]), batch["usage"]["output_tokens"], batch["id"]

        before, tokens, dated = await cost("another")
        assert before == tokens * Decimal("0.000001")

        # Kubernetes swaps a link.
        document = {
            "model_list": [entry(sim, "another", output_cost_per_token=5e-06), entry(sim)],
            "router_settings": {"model_group_alias": {"fast": "another"}},
            "general_settings": {"master_key": "sk-new"},
        }
        (tmp_path / "new.yaml").write_text(json.dumps(document))
        (tmp_path / "link").symlink_to(tmp_path / "new.yaml")
        (tmp_path / "link").replace(fleet.config)
        for service in ("gateway", "billing", "batch-runner"):
            told = await fleet.told(service, "config.changed")
            port = sim.url.rpartition(":")[2]
            assert told["added"] == [f"{MODEL}/{MODEL}-{port}", "alias:fast"]
            assert told["changed"] == [f"another/another-{port}", "master_key"]
            assert "sk-new" not in system.stack.layout.log(service).read_text()
        assert (await system.http.get(f"{system.stack.url}/v1/models")).status_code == 401
        system.http.headers["authorization"] = "Bearer sk-new"
        listed = await system.call("GET", "/models")
        assert [model["id"] for model in listed["data"]] == ["another", MODEL, "fast"]
        changed = await fleet.told("billing", "prices.changed", 2)
        await until(lambda: time.time() >= changed["valid_from"])
        after, tokens, _ = await cost("fast")
        assert after == tokens * Decimal("0.000005")
        shown = await system.http.get(f"{system.stack.url}/v1/batches/{dated}")
        assert Decimal(shown.json()["cost"]) == before, "a price that changes does not rewrite the past"
        assert Decimal(shown.headers["x-litellm-response-cost"]) == before
        batch = await system.ended((await system.submit(lines(1)))["id"])
        assert (batch["status"], batch["model"]) == ("completed", MODEL)

        # A key that is gone from the file is kept: nobody gets in without one.
        fleet.put(json.dumps({"model_list": [entry(sim)]}))
        await fleet.told("gateway", "auth.key_kept")
        without = await system.http.get(f"{system.stack.url}/v1/models", headers={"authorization": ""})
        assert without.status_code == 401
