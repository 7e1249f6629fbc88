"""The nine operations with curl alone, with and without `/v1`."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support.stack import MASTER_KEY, MODEL


@pytest.mark.parametrize("prefix", ["/v1", ""], ids=["with /v1", "without /v1"])
def test_every_operation_with_curl(base_url: str, prefix: str, tmp_path: Path) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")

    def call(path: str, *arguments: str) -> str:
        key = ["-H", f"Authorization: Bearer {MASTER_KEY}"]
        command = [curl, "-sS", "--fail-with-body", "--max-time", "30", *key, *arguments, f"{base_url}{prefix}{path}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=40, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def read(path: str, *arguments: str) -> Any:
        return json.loads(call(path, *arguments))

    line = tmp_path / "in.jsonl"
    body = {"model": MODEL, "messages": [{"role": "user", "content": "wait [[fault:delay=30]]"}]}
    line.write_text(json.dumps({"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}))
    file = read("/files", "-F", "purpose=batch", "-F", f"file=@{line}", "-F", "expires_after[anchor]=created_at",
                "-F", "expires_after[seconds]=3600")  # fmt: skip
    assert file["expires_at"] == file["created_at"] + 3600
    assert read(f"/files/{file['id']}") == file
    assert read("/files?limit=1&order=desc&purpose=batch")["data"] == [file]
    assert call(f"/files/{file['id']}/content") == line.read_text()
    assert call(f"/files/{file['id']}/content", "-r", "1-9") == line.read_text()[1:10]

    wish = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch = read("/batches", "--json", json.dumps(wish))
    assert (batch["object"], batch["status"]) == ("batch", "validating")
    assert read(f"/batches/{batch['id']}")["id"] == batch["id"]
    assert [entry["id"] for entry in read("/batches?limit=1")["data"]] == [batch["id"]]
    assert read(f"/batches/{batch['id']}/cancel", "-X", "POST")["status"] == "cancelling"
    assert read(f"/files/{file['id']}", "-X", "DELETE") == {"id": file["id"], "object": "file", "deleted": True}
