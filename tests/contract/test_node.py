"""The unchanged `openai` SDK for Node.js; its own tests are in node/client.test.js."""

import os
import re
import subprocess

from support.node import PACKAGES, node_with_packages
from support.stack import MASTER_KEY, MODEL


def test_the_sdk_for_node_works(base_url: str) -> None:
    environment = {
        **os.environ,
        "BATCHYARD_URL": base_url,
        "BATCHYARD_KEY": MASTER_KEY,
        "BATCHYARD_MODEL": MODEL,
    }
    done = subprocess.run(
        [node_with_packages(), "--test", "--test-reporter=tap"],
        cwd=PACKAGES,
        env=environment,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"^# pass (\d+)$", done.stdout, re.MULTILINE)
    assert passed, done.stdout
    assert int(passed[1]) >= 15
