"""`batchyard validate`: the problems of a file, where they are."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from batchyard.cli.main import app
from support.stack import BATCHYARD, config_for

MESSAGES = [{"role": "user", "content": "hi"}]


def line(custom_id: str = "a", url: str = "/v1/chat/completions", **body: Any) -> str:
    members = {"model": "m", "messages": MESSAGES, **body}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": members})


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path("in.jsonl")


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["validate", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize(
    ("lines", "options", "problems"),
    [
        ([line(), line("b")], [], []),
        ([line(url="/v1/embeddings"), line("b", url="/embeddings")], [], []),
        (["", "\ufeff" + line()], [], ["2: invalid_json_line"]),
        (["\ufeff" + line()], [], []),
        (
            [line(), "{", line("b", stream=True)],
            [],
            [
                "2: invalid_json_line",
                "3: streaming_unsupported",
            ],
        ),
        (
            [line(), line()],
            [],
            ["2: duplicate_custom_id"],
        ),
        (
            [line()],
            ["--endpoint", "/v1/embeddings"],
            ["1: invalid_url"],
        ),
        ([line(model=None)], [], ["1: invalid_request"]),
        ([line(model=None)], ["--model", "m"], []),
        (
            [line(url="/v1/audio")],
            [],
            ["1: invalid_url"],
        ),
        ([], [], [" empty_file"]),
        (["[1]"], [], ["1: invalid_json_line"]),
    ],
)
def test_each_problem_is_a_line(file: Path, lines: list[str], options: list[str], problems: list[str]) -> None:
    file.write_text("".join(f"{text}\n" for text in lines))
    code, out, err = run(file, *options)
    assert code == (1 if problems else 0), err
    if problems:
        assert [": ".join(text.split(": ")[:2]) for text in out.splitlines()] == [f"in.jsonl:{one}" for one in problems]
        assert err == f"Error: in.jsonl: {len(problems)} problem{'s' if len(problems) > 1 else ''}.\n"
    else:
        endpoint = json.loads(lines[0].lstrip("\ufeff"))["url"].removeprefix("/v1")
        count = f"{len(lines)} request{'s' if len(lines) > 1 else ''}"
        assert (out, err) == (f"in.jsonl: {count} for model m, endpoint /v1{endpoint}: fine.\n", "")


def test_a_configuration_says_which_models_there_are(file: Path, tmp_path: Path) -> None:
    file.write_text(line(model="ghost"))
    config = config_for("http://127.0.0.1:9", tmp_path / "config.yaml", model="m")
    assert run(file)[0] == 0
    code, out, _ = run(file, "--config", config)
    assert (code, out) == (
        1,
        "in.jsonl:1: model_not_found: The provided model 'ghost' is not supported by the Batch API.\n",
    )
    file.write_text(line())
    assert run(file, "--config", config)[0] == 0


def test_an_alias_is_the_model_that_it_stands_for(file: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "model_list:\n  - model_name: team-*\n    litellm_params:\n"
        "      model: hosted_vllm/*\n      api_base: http://127.0.0.1:9\n"
        "router_settings:\n  model_group_alias:\n    ours: team-x\n"
    )
    file.write_text(line(model="ours") + "\n" + line("b", model="team-x"))
    code, out, _ = run(file, "--config", config)
    assert (code, out) == (0, "in.jsonl: 2 requests for model team-x, endpoint /v1/chat/completions: fine.\n")


def test_no_more_than_a_hundred_problems_are_shown(file: Path) -> None:
    file.write_text("{\n" * 150)
    code, out, err = run(file)
    assert (code, len(out.splitlines())) == (1, 101)
    assert "too_many_problems" in out.splitlines()[-1]
    assert err == "Error: in.jsonl: more than 100 problems.\n"


def test_the_verdict_as_json(file: Path) -> None:
    file.write_text(f"{line()}\n{{")
    code, out, _ = run(file, "--json")
    assert code == 1
    assert json.loads(out) == {
        "object": "batch.validation",
        "valid": False,
        "endpoint": "/v1/chat/completions",
        "model": None,
        "input_file_id": None,
        "request_counts": {"total": 2, "completed": 0, "failed": 0},
        "errors": {
            "object": "list",
            "data": [
                {
                    "code": "invalid_json_line",
                    "message": "This line is not parseable as valid JSON.",
                    "param": None,
                    "line": 2,
                }
            ],
        },
        "truncated": False,
    }


def test_limits_are_those_of_the_environment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(f"{line()}\n{line('b')}\n")
    monkeypatch.setenv("BATCHYARD_MAX_REQUESTS", "1")
    monkeypatch.setenv("BATCHYARD_MAX_BATCH_FILE_BYTES", "100")
    _, out, _ = run(file)
    assert [text.split(": ")[1] for text in out.splitlines()] == ["file_too_large", "too_many_tasks"]


def test_several_models_are_fine_where_they_may_be_mixed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(f"{line()}\n{line('b', model='n')}\n")
    assert "in.jsonl:2: mismatched_model: " in run(file)[1]
    monkeypatch.setenv("BATCHYARD_MIXED_MODELS", "true")
    assert run(file)[:2] == (0, "in.jsonl: 2 requests for several models, endpoint /v1/chat/completions: fine.\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.jsonl"], "absent.jsonl: cannot be read: No such file or directory."),
        (["."], ".: cannot be read: Is a directory."),
        (
            ["in.jsonl", "--endpoint", "/v1/audio"],
            "No batch can be for '/v1/audio'. Possible are: ",
        ),
        (["in.jsonl", "--config", "absent.yaml"], "absent.yaml"),
    ],
)
def test_what_cannot_be_checked_is_said(file: Path, arguments: list[str], message: str) -> None:
    file.write_text(line())
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_a_setting_that_cannot_be_is_said(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(line())
    monkeypatch.setenv("BATCHYARD_MAX_REQUESTS", "none")
    code, _, err = run(file)
    assert (code, "BATCHYARD_MAX_REQUESTS: " in err) == (2, True)


def test_nothing_in_a_file_steers_the_terminal(file: Path) -> None:
    file.write_text(line(model="a") + "\n" + line("b", model="\x1b[31m[bold]"))
    _, out, _ = run(file)
    assert "\x1b" not in out
    assert "[31m[bold]" in out


def test_a_long_file_can_be_interrupted(file: Path, tmp_path: Path) -> None:
    fifo = tmp_path / "long.jsonl"
    file.write_text("".join(f"{line(str(number))}\n" for number in range(300_000)))
    file.rename(fifo)
    process = subprocess.Popen(
        [*BATCHYARD, "validate", str(fifo)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "BATCHYARD_MAX_REQUESTS": "1000000"},
    )
    assert sys.executable == BATCHYARD[0]
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert out == b""
    assert process.returncode in (130, -signal.SIGTERM)  # the latter before the command has begun


def test_the_help_teaches() -> None:
    result = CliRunner().invoke(app, ["validate", "--help"], env={"COLUMNS": "200"})
    for word in ("--endpoint", "--model", "--url", "--json", "Exit codes", "FILE:LINE"):
        assert word in result.stdout
