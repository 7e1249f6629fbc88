"""The parts of `batchyard demo`: its input, its model server, what it shows."""

import io
import json
from decimal import Decimal
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from batchyard.cli import console, report
from batchyard.cli.demo import Results
from batchyard.cli.demo_server import ModelServer, model_server, sim_settings
from batchyard.cli.failures import Failure
from batchyard.cli.requests_file import prepare, questions
from batchyard.common.config import load_config
from batchyard.common.contracts.batches import Batch, BatchErrors, BatchProblem, BatchStatus, RequestCounts
from batchyard.common.contracts.billing import LedgerLine
from batchyard.common.contracts.usage import Usage
from batchyard.vllm_sim.settings import SimSettings
from batchyard.vllm_sim.testing import running_sim


def requests_in(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def own_file(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def request(custom_id: str, **body: object) -> str:
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": "/v1/embeddings", "body": body})


def test_the_examples_are_a_few_hundred_distinct_requests(tmp_path: Path) -> None:
    prepared = prepare(None, None, tmp_path)
    lines = requests_in(prepared.path)
    assert prepared.lines == len(lines) == 300
    assert (prepared.endpoint, prepared.model) == ("/v1/chat/completions", "my-vllm-model")
    assert len({str(line["custom_id"]) for line in lines}) == 300
    assert len({json.dumps(line["body"]) for line in lines}) == 300
    assert {line["url"] for line in lines} == {"/v1/chat/completions"}


@pytest.mark.parametrize("wanted", [1, 299, 300, 301, 900, 1000])
def test_the_examples_can_be_cut_and_repeated(wanted: int, tmp_path: Path) -> None:
    prepared = prepare(None, wanted, tmp_path)
    assert prepared.lines == wanted
    assert len({str(line["custom_id"]) for line in requests_in(prepared.path)}) == wanted


def test_an_own_file_is_taken_as_it_is(tmp_path: Path) -> None:
    own = own_file(tmp_path, request("a", model="bge"), "", "not JSON at all")
    prepared = prepare(own, None, tmp_path)
    assert (prepared.endpoint, prepared.model, prepared.name) == ("/v1/embeddings", "bge", "mine.jsonl")
    assert prepared.lines == 2
    assert prepared.path.read_text().splitlines() == [request("a", model="bge"), "not JSON at all"]


def test_an_own_file_is_cut_to_its_first_lines(tmp_path: Path) -> None:
    prepared = prepare(own_file(tmp_path, *(request(name, model="m") for name in "abc")), 2, tmp_path)
    assert [line["custom_id"] for line in requests_in(prepared.path)] == ["a", "b"]


@pytest.mark.parametrize("first", ["", "hello", "[]", '{"url": "/v1/embeddings"}', '{"url": "/v1/x", "body": {}}'])
def test_a_file_of_something_else_is_refused_with_an_example(first: str, tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"mine\.jsonl: the first line is not a request.*custom_id") as caught:
        prepare(own_file(tmp_path, first), None, tmp_path)
    assert caught.value.exit_code == 2


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="none: cannot be read: No such file or directory"):
        prepare(tmp_path / "none", None, tmp_path)


def test_the_question_of_a_request_is_found_by_its_custom_id(tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    lines = [request("chat", model="m", messages=messages), request("text", prompt="Once"), request("e", input=["x"])]
    path = own_file(tmp_path, *lines, request("unasked"))
    assert questions(path, ["chat", "text", "e"]) == {"chat": "Why?", "text": "Once", "e": '["x"]'}


async def test_a_simulator_stands_in_where_no_server_is_named() -> None:
    async with model_server("llama", 300, {}) as server, httpx.AsyncClient(trust_env=False) as client:
        listed = (await client.get(f"{server.url}/v1/models")).json()["data"]
        assert [model["id"] for model in listed] == ["llama"]
        assert server.is_simulator


def test_a_simulator_takes_its_time_for_few_lines_and_none_for_many() -> None:
    few, many = sim_settings("m", 300), sim_settings("m", 1_000_000)
    assert 0.1 < few.base_latency <= 0.25
    assert many.base_latency < 0.0002


@pytest.mark.parametrize(("wanted", "chosen"), [("b", "b"), ("unknown", "a")])
async def test_an_own_server_is_asked_for_its_models(wanted: str, chosen: str) -> None:
    async with running_sim(SimSettings(models=("a", "b"), api_key="k")) as sim:
        environ = {"HOSTED_VLLM_API_BASE": f"{sim.url}/v1/", "HOSTED_VLLM_API_KEY": "k"}
        async with model_server(wanted, 300, environ) as server:
            assert server == ModelServer(sim.url, chosen, is_simulator=False)


async def test_an_own_server_that_is_away_is_told() -> None:
    with pytest.raises(Failure, match=r"HOSTED_VLLM_API_BASE=http://127.0.0.1:9: .* does not list models"):
        async with model_server("m", 300, {"HOSTED_VLLM_API_BASE": "http://127.0.0.1:9"}):
            raise AssertionError


def test_the_configuration_is_one_that_batchyard_reads(tmp_path: Path) -> None:
    written = ModelServer("http://127.0.0.1:8000", "llama", is_simulator=True).write_config(
        tmp_path / "config.yaml", "lines' own name", "sk-demo-1"
    )
    config = load_config(written, {})
    (deployment,) = config.deployments
    assert (deployment.pool, deployment.model, deployment.base_url) == (
        "lines' own name",
        "llama",
        "http://127.0.0.1:8000",
    )
    assert deployment.price.input == Decimal("0.00000015")
    assert config.master_key is not None
    assert config.warnings == ()
    assert written.stat().st_mode & 0o777 == 0o600


def test_results_replace_those_of_an_earlier_demo(tmp_path: Path) -> None:
    (tmp_path / "demo-errors.jsonl").write_text("old")
    results = Results.made(tmp_path)
    assert not results.errors.exists()
    assert results.output == tmp_path / "demo-output.jsonl"


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Console:
    """A terminal that is none, and remembers."""
    recorder = Console(record=True, width=120, highlight=False, file=io.StringIO())
    monkeypatch.setattr(console, "out", recorder)
    monkeypatch.setattr(console, "err", recorder)
    return recorder


def batch(status: BatchStatus, done: int = 0, total: int = 100, **more: object) -> Batch:
    return Batch.model_validate(
        {
            "id": "batch_1",
            "endpoint": "/v1/chat/completions",
            "input_file_id": "file-1",
            "completion_window": "24h",
            "status": status,
            "created_at": 1,
            "request_counts": RequestCounts(total=total, completed=done),
            **more,
        }
    )


def ledger_line(**more: object) -> LedgerLine:
    priced = {"input_price": "0.00000015", "output_price": "0.0000006", "cached_price": None}
    return LedgerLine.model_validate(
        {
            "id": "entry_1",
            "batch_id": "batch_1",
            "tenant": "default",
            "key_alias": None,
            "model": "m",
            "endpoint": "/v1/chat/completions",
            "status": "completed",
            "request_counts": {},
            "usage": {},
            "cost": "0.0120",
            "currency": "EUR",
            "discount": "0",
            "batch_created_at": 1,
            "finished_at": 2,
            "recorded_at": 3,
            "metadata": None,
            **priced,
            **more,
        }
    )


def test_progress_is_told_every_few_percent_where_there_is_no_terminal(shown: Console) -> None:
    with report.watching(100) as watch:
        watch.show(batch(BatchStatus.VALIDATING, total=0))
        for done in range(101):
            watch.show(batch(BatchStatus.IN_PROGRESS, done))
        watch.show(batch(BatchStatus.COMPLETED, 100))
    lines = shown.export_text().splitlines()
    assert len(lines) == 1 + 21 + 1
    assert "completed       100 of 100 lines, 0 failed" in lines[-1]


def test_the_totals_say_what_it_cost(shown: Console) -> None:
    usage = Usage.of(prompt=1000, cached=600, output=50, reasoning=0)
    report.show_totals(batch(BatchStatus.COMPLETED, 100, usage=usage), 2.0, ledger_line())
    text = shown.export_text()
    assert "100: 100 answered, 0 failed" in text
    assert "1,000 in (600 cached), 50 out" in text
    assert "2.0 s, 50 lines/s" in text
    assert "0.012 EUR (0.15 in, 0.60 out per million tokens" in text


def test_a_cost_of_nothing_has_a_reason(shown: Console) -> None:
    unpriced = ledger_line(cost="0", input_price=None, output_price=None)
    report.show_totals(batch(BatchStatus.COMPLETED, 100), 2.0, unpriced)
    assert "0 EUR: no price is configured for this server" in shown.export_text()


def test_answers_stand_beside_their_questions(shown: Console, tmp_path: Path) -> None:
    asked = own_file(tmp_path, request("a", messages=[{"role": "user", "content": "Why [so] blue?"}]))
    answers = [
        {"choices": [{"message": {"content": "Rayleigh [1]"}}]},
        {"choices": [{"text": "there was"}]},
        {"data": [{"embedding": [0.1, 0.2]}]},
        {"unseen": True},
    ]
    output = tmp_path / "output.jsonl"
    output.write_text("".join(json.dumps({"custom_id": "a", "response": {"body": body}}) + "\n" for body in answers))
    report.show_answers(output, asked)
    text = shown.export_text()
    for expected in ("Why [so] blue?", "Rayleigh [1]", "there was", "a vector of 2 numbers"):
        assert expected in text
    assert "unseen" not in text


def test_problems_of_the_input_are_named_by_line(shown: Console) -> None:
    problems = [BatchProblem(code="invalid_json_line", message=f"Bad [{n}].", line=n) for n in range(1, 8)]
    report.show_problems(batch(BatchStatus.FAILED, errors=BatchErrors(data=problems)))
    lines = [line.strip() for line in shown.export_text().splitlines()]
    assert lines == [*(f"line {n}: Bad [{n}]." for n in range(1, 6)), "… and 2 more"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            '{"timestamp": "2026-01-02T03:04:05Z", "level": "info", "event": "batch.planned", "lines": 3}',
            "03:04:05 gateway      info     batch.planned lines=3",
        ),
        ("\x1b[2Jgone", "gateway      \N{REPLACEMENT CHARACTER}[2Jgone"),
        ("[8088] Server [is] ready", "gateway      [8088] Server [is] ready"),
        (
            '{"event": "file.created", "level": "info", "model": "m\\n00:00:00 gateway info forged"}',
            " gateway      info     file.created model=m\\n00:00:00 gateway info forged",
        ),
        ('{"event": "x", "level": "error", "exception": "Traceback"}', " gateway      error    x\nTraceback"),
    ],
)
def test_a_log_line_is_made_readable(line: str, expected: str) -> None:
    assert console.log_line("gateway", line).plain == expected
