"""The README's quick start, as it stands there, against a running Batchyard."""

import json
import re
import subprocess
from pathlib import Path

from batchyard.common.config import load_config

README = Path(__file__).parents[2] / "README.md"


def test_the_simulator_serves_the_model_of_the_configuration(tmp_path: Path) -> None:
    section = README.read_text().partition("## Quick start")[2]
    (tmp_path / "config.yaml").write_text(section.partition("```yaml\n")[2].partition("```")[0])
    (deployment,) = load_config(tmp_path / "config.yaml", {}).deployments
    command = re.search(r"batchyard sim( [^`]*)?`", section)
    assert command is not None
    assert (command[1] or "").split() == ["--model", deployment.name_for("my-vllm-model")]
    assert deployment.base_url == "http://localhost:8000"


def test_the_quick_start_works_as_written(base_url: str, tmp_path: Path) -> None:
    section = README.read_text().partition("## Quick start")[2].partition("\n## ")[0]
    blocks = re.findall(r"```bash\n# (?:input|upload|create|status|content).*?\n(.*?)```", section, re.DOTALL)
    assert len(blocks) == 5
    script = "\n".join(["set -euo pipefail", *blocks]).replace("http://localhost:4000", base_url)
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [line["custom_id"] for line in lines] == ["request-1", "request-2"]
    assert all(line["response"]["status_code"] == 200 for line in lines)
