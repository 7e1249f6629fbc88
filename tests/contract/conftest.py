"""One running Batchyard, over one simulated vLLM, for clients that nobody here wrote."""

import os
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI, OpenAI

from support.receiver import LOOPBACK
from support.stack import MASTER_KEY, command, config_for

# Importing the LiteLLM SDK would otherwise fetch its price list from the internet.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")


@pytest.fixture(scope="session")
def sim_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The simulator's address as the quick start writes it: without /v1."""
    log = tmp_path_factory.mktemp("sim") / "sim.log"
    with command(["sim", "--port", "0"], r"(http://[\d.:]+)/v1", log=log) as url:
        yield url


@pytest.fixture(scope="session")
def base_url(sim_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The root of Batchyard's API, without /v1."""
    directory = tmp_path_factory.mktemp("stack")
    config = config_for(sim_url, directory / "config.yaml")
    arguments = ["up", "--config", str(config), "--data-dir", str(directory / "data"), "--port", "0"]
    environment = {"BATCHYARD_WEBHOOK_ALLOWED_NETWORKS": LOOPBACK}
    with command(arguments, r"(http://[\d.:]+)/v1", environment=environment, log=directory / "up.log") as url:
        yield url


@pytest.fixture
def requests_file(tmp_path: Path) -> Path:
    """The JSONL file of the quick start."""
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    content = re.search(r"cat > batch_requests.jsonl <<'EOF'\n(.*?)EOF\n", readme, re.DOTALL)
    assert content, "the README's quick start begins with its input file"
    path = tmp_path / "batch_requests.jsonl"
    path.write_text(content[1])
    return path


@pytest.fixture
def options(base_url: str) -> dict[str, Any]:
    """For a client of the `openai` SDK that validates what it is answered, and asks once."""
    return {
        "base_url": f"{base_url}/v1",
        "api_key": MASTER_KEY,
        "max_retries": 0,
        "_strict_response_validation": True,
    }


@pytest.fixture
def client(options: dict[str, Any]) -> Iterator[OpenAI]:
    with OpenAI(**options) as client:
        yield client


@pytest.fixture
async def async_client(options: dict[str, Any]) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(**options) as client:
        yield client
