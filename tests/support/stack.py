"""Batchyard as its users start it: `batchyard up` and `batchyard sim`, as processes."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

MODEL = "my-vllm-model"
MASTER_KEY = "sk-1234"
TOKEN_PRICES = {"input_cost_per_token": "0.000001", "output_cost_per_token": "0.000002"}
_START_SECONDS = 60.0
_STOP_SECONDS = 30.0
BATCHYARD = [sys.executable, "-m", "batchyard.cli"]


@contextmanager
def command(
    arguments: list[str], ready: str, *, environment: Mapping[str, str] | None = None, log: Path
) -> Iterator[str]:
    """Run `batchyard …` until the end of the context; yields what the first group of `ready` matched in its output."""
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [*BATCHYARD, *arguments],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, **(environment or {})},
        )
    watchdog = threading.Timer(_START_SECONDS, process.kill)
    watchdog.start()
    try:
        found = _first_match(process, re.compile(ready), log)
        watchdog.cancel()
        yield found
    finally:
        watchdog.cancel()
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_SECONDS)
        finally:
            process.kill()
            assert process.stdout is not None
            process.stdout.close()
    assert process.returncode == 0, log.read_text()


def _first_match(process: subprocess.Popen[str], ready: re.Pattern[str], log: Path) -> str:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        match = ready.search(line)
        if match:
            return match[1]
    raise AssertionError(f"{''.join(lines)}\n{log.read_text()}")


def config_for(
    api_base: str, path: Path, *, model: str = MODEL, prices: Mapping[str, str] = TOKEN_PRICES, more: str = ""
) -> Path:
    """A config.yaml as the quick start has it, with one server and a master key."""
    priced = "\n".join(f"      {name}: {price}" for name, price in prices.items())
    path.write_text(
        f"""
model_list:
  - model_name: {model}
    litellm_params:
      model: hosted_vllm/{model}
      api_base: {api_base}
{priced}
general_settings:
  master_key: {MASTER_KEY}
{more}"""
    )
    return path
