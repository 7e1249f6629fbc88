"""Write the documents that the code knows best, or with `--check` say which of them are out of date."""

import json
import sys
from pathlib import Path

from batchyard.common.messaging.async_api import async_api
from batchyard.gateway.app import routed_api

_HERE = Path(__file__).parent


def documents() -> dict[str, str]:
    """Content by file name."""
    made = {"openapi.json": routed_api().openapi(), "asyncapi.json": async_api()}
    return {
        name: f"{json.dumps(document, indent=2, ensure_ascii=False, sort_keys=True)}\n"
        for name, document in made.items()
    }


def main(arguments: list[str]) -> int:
    """Returns the exit code: 1 when a document was found to be out of date."""
    stale = {
        name: content
        for name, content in documents().items()
        if not (_HERE / name).exists() or (_HERE / name).read_text() != content
    }
    for name, content in stale.items():
        if "--check" in arguments:
            print(f"docs/{name} is out of date: run `make docs`")
        else:
            (_HERE / name).write_text(content)
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
