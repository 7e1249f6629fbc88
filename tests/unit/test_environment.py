"""Tests see what they say themselves, whatever the shell says that they are run from."""

import json
import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
STRAY = {"BATCHYARD_MAX_REQUESTS": "1", "HOSTED_VLLM_API_BASE": "http://h", "OPENAI_BASE_URL": "http://h"}
SCRIPT = "import json, os, conftest; print(json.dumps(dict(os.environ)))"


def test_the_shells_settings_are_forgotten_before_any_test() -> None:
    environment = os.environ | STRAY | {"PYTHONPATH": str(TESTS), "KEPT": "1"}
    said = subprocess.check_output([sys.executable, "-c", SCRIPT], env=environment, text=True, timeout=60)
    seen = json.loads(said)
    assert seen["KEPT"] == "1"
    assert not STRAY.keys() & seen.keys()
