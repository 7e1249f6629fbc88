"""What the OpenAPI document promises, held against a running Batchyard by `schemathesis`."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from openai import OpenAI

from support.stack import MASTER_KEY, MODEL

from .test_openai import ended

_CONFIG = Path(__file__).with_name("schemathesis.toml")
_EXAMPLES = 10
_OPERATIONS = 30


@pytest.mark.timeout(300)
def test_the_document_and_the_gateway_agree(base_url: str, requests_file: Path, tmp_path: Path) -> None:
    with OpenAI(base_url=f"{base_url}/v1", api_key=MASTER_KEY, max_retries=0) as client:
        file = client.files.create(file=requests_file, purpose="batch", extra_headers={"x-litellm-model": MODEL})
        batch = client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"a": "b"}
        )
        ended(client, batch.id)
    shutil.copy(_CONFIG, tmp_path)
    (tmp_path / "files.txt").write_text(f'"{file.id}"\n')
    (tmp_path / "batches.txt").write_text(f'"{batch.id}"\n')
    key = f"Authorization: Bearer {MASTER_KEY}"
    limits = ["--max-examples", str(_EXAMPLES), "--seed", "1", "--continue-on-failure"]
    done = subprocess.run(
        [Path(sys.executable).with_name("schemathesis"), "run", f"{base_url}/openapi.json", "-H", key, *limits],
        cwd=tmp_path,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    tested = re.search(r"Tested: (\d+)", done.stdout)
    assert tested, done.stdout
    assert int(tested[1]) >= _OPERATIONS
