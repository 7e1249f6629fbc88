"""The unchanged LiteLLM proxy, with Batchyard as its `hosted_vllm` server: openai client → LiteLLM → Batchyard.

What differs from talking to Batchyard itself is LiteLLM's own doing:
- A list without a model's name goes to OpenAI: `x-litellm-model` says where.
- Lists of files hold Batchyard's IDs, and a deleted file is named by Batchyard's ID, without the model in it.
"""

import json
import os
import re
import socket
import subprocess
import sys
import time
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from openai import OpenAI

from support.stack import MASTER_KEY, MODEL

from .test_openai import custom_ids, ended

_ROOT = Path(__file__).parents[2]
_PROJECT = Path(__file__).parent / "litellm_proxy"
_ENVIRONMENT = _ROOT / ".cache" / "litellm-proxy"
_KEY = "sk-proxy"
_START_SECONDS = 100.0
_UNREACHABLE = re.compile(
    r"error sending request|failed to (fetch|download)|dns error|could not connect", re.IGNORECASE
)
# What it would otherwise fetch from the internet when it starts.
_OFFLINE = {
    f"LITELLM_LOCAL_{what}": "True"
    for what in ("ANTHROPIC_BETA_HEADERS", "AUTOROUTER_PRESETS", "BLOG_POSTS", "MODEL_COST_MAP", "POLICY_TEMPLATES")
}
NAMED = {"x-litellm-model": MODEL}

# The first run downloads the proxy; all others take a second for that.
pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def litellm_command() -> Path:
    """The proxy's command, installed as litellm_proxy/uv.lock has it, in an environment of its own."""
    uv = Path(sys.executable).with_name("uv")
    sync: list[str | Path] = [uv, "sync", "--quiet", "--locked", "--project", _PROJECT, "--python", sys.executable]
    environment = {**os.environ, "UV_PROJECT_ENVIRONMENT": str(_ENVIRONMENT)}
    for arguments in (sync, [*sync, "--system-certs"]):
        done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=280, check=False)
        if done.returncode == 0:
            return _ENVIRONMENT / "bin" / "litellm"
    if _UNREACHABLE.search(done.stderr):
        pytest.skip(f"the LiteLLM proxy cannot be downloaded: {done.stderr.strip().splitlines()[-1]}")
    raise AssertionError(done.stderr)


@pytest.fixture(scope="module")
def proxy_url(litellm_command: Path, base_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running proxy, without /v1."""
    directory = tmp_path_factory.mktemp("litellm")
    server = {"api_base": f"{base_url}/v1", "api_key": MASTER_KEY}
    config = {
        "model_list": [{"model_name": MODEL, "litellm_params": {"model": f"hosted_vllm/{MODEL}", **server}}],
        "files_settings": [{"custom_llm_provider": "hosted_vllm", **server}],
        "general_settings": {"master_key": _KEY},
        "litellm_settings": {"telemetry": False},
    }
    path = directory / "config.yaml"
    path.write_text(json.dumps(config))
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = directory / "litellm.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [litellm_command, "--config", path, "--host", "127.0.0.1", "--port", str(port)],
            stdout=output,
            stderr=output,
            env={**inherited, **_OFFLINE},
        )
    try:
        _await_start(process, f"http://127.0.0.1:{port}", log)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(20)
        finally:
            process.kill()


def _await_start(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        try:
            if httpx.get(f"{url}/health/liveliness", trust_env=False).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.1)


@pytest.fixture
def client(proxy_url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{proxy_url}/v1", api_key=_KEY, max_retries=0) as client:
        yield client


def test_a_file_becomes_a_batch_becomes_answers(client: OpenAI, requests_file: Path) -> None:
    file = client.files.create(file=requests_file, purpose="batch", extra_headers=NAMED)
    assert client.files.retrieve(file.id).bytes == requests_file.stat().st_size
    assert client.files.content(file.id).content == requests_file.read_bytes()
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"via": "proxy"}
    )
    assert batch.metadata == {"via": "proxy"}
    assert batch.input_file_id == file.id
    batch = ended(client, batch.id)
    assert batch.status == "completed"
    assert batch.output_file_id is not None
    lines = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
    assert [line["custom_id"] for line in lines] == custom_ids(requests_file)
    assert all(line["response"]["body"]["choices"][0]["message"]["content"] for line in lines)


def test_the_provider_may_be_named_instead_of_a_model(client: OpenAI, requests_file: Path) -> None:
    provider = {"custom-llm-provider": "hosted_vllm"}
    body = {"custom_llm_provider": "hosted_vllm"}
    file = client.files.create(file=requests_file, purpose="batch", extra_body=body)
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", extra_body=body
    )
    assert client.batches.retrieve(batch.id, extra_headers=provider).id == batch.id
    assert client.files.retrieve(file.id, extra_headers=provider).id == file.id


def test_files_are_listed_and_deleted(client: OpenAI, requests_file: Path) -> None:
    file = client.files.create(file=requests_file, purpose="batch", extra_headers=NAMED)
    encoded = file.id.removeprefix("file-")
    raw_id = b64decode(encoded + "=" * (-len(encoded) % 4), altchars="-_").removeprefix(b"litellm:").split(b";")[0]
    assert raw_id.decode() in [entry.id for entry in client.files.list(extra_headers=NAMED).data]
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError, match="No such File object"):
        client.files.retrieve(file.id)


def test_batches_are_listed_and_cancelled(client: OpenAI, tmp_path: Path) -> None:
    path = tmp_path / "slow.jsonl"
    body = {"model": MODEL, "messages": [{"role": "user", "content": "wait [[fault:delay=30]]"}]}
    path.write_text(json.dumps({"custom_id": "s", "method": "POST", "url": "/v1/chat/completions", "body": body}))
    file = client.files.create(file=path, purpose="batch", extra_headers=NAMED)
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    assert batch.id in [entry.id for entry in client.batches.list(limit=5, extra_headers=NAMED).data]
    assert client.batches.cancel(batch.id).status in {"cancelling", "cancelled"}
    assert ended(client, batch.id).status == "cancelled"
    with pytest.raises(openai.ConflictError, match="Cannot cancel a batch with status 'cancelled'."):
        client.batches.cancel(batch.id)


def test_what_batchyard_refuses_is_refused_alike(client: OpenAI, requests_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text("this is not JSON\n")
    with pytest.raises(openai.BadRequestError, match="JSON"):
        client.files.create(file=path, purpose="batch", extra_headers=NAMED)
    file = client.files.create(file=requests_file, purpose="batch", extra_headers=NAMED)
    with pytest.raises(openai.BadRequestError, match="Supported values are"):
        client.batches.create(input_file_id=file.id, endpoint="/v1/audio", completion_window="24h")  # type: ignore[arg-type]
