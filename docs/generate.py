"""Write the documents that the code knows best, or with `--check` say which of them are out of date."""

import json
import sys
from pathlib import Path

from batchyard.cli.nats_users import from_environment
from batchyard.common.messaging.async_api import async_api
from batchyard.gateway.app import routed_api

_ROOT = Path(__file__).parents[1]


def documents() -> dict[str, str]:
    """Content by path below the repository's root."""
    made = {"docs/openapi.json": routed_api().openapi(), "docs/asyncapi.json": async_api()}
    written = {
        name: f"{json.dumps(document, indent=2, ensure_ascii=False, sort_keys=True)}\n"
        for name, document in made.items()
    }
    return {**written, "deploy/nats/users.conf": from_environment(())}


def main(arguments: list[str]) -> int:
    """Returns the exit code: 1 when a document was found to be out of date."""
    stale = {
        name: content
        for name, content in documents().items()
        if not (_ROOT / name).exists() or (_ROOT / name).read_text() != content
    }
    for name, content in stale.items():
        if "--check" in arguments:
            print(f"{name} is out of date: run `make docs`")
        else:
            (_ROOT / name).write_text(content)
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
