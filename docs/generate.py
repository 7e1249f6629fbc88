"""Write the documents that the code knows best, or with `--check` say which of them are out of date."""

import json
import re
import sys
from pathlib import Path

from batchyard.cli.nats_users import from_environment
from batchyard.common.messaging.async_api import async_api
from batchyard.common.messaging.permissions import users
from batchyard.gateway.app import routed_api

_ROOT = Path(__file__).parents[1]
_TABLE = re.compile(r"(<!-- table: users -->\n).*?(<!-- end -->)", re.DOTALL)
_NAMES = re.compile(r"\b(KV_\w+|EVENTS|WORK|STEPS|WEBHOOKS)\b")


def documents() -> dict[str, str]:
    """Content by path below the repository's root."""
    made = {"docs/openapi.json": routed_api().openapi(), "docs/asyncapi.json": async_api()}
    written = {
        name: f"{json.dumps(document, indent=2, ensure_ascii=False, sort_keys=True)}\n"
        for name, document in made.items()
    }
    nats = (_ROOT / "docs/nats.md").read_text()
    return {
        **written,
        "deploy/nats/users.conf": from_environment(()),
        "docs/nats.md": _TABLE.sub(lambda found: f"{found[1]}{users_table()}{found[2]}", nats),
    }


def users_table() -> str:
    """What each user of NATS may do, in short: subjects of JetStream's are told as the bucket or stream they are of."""
    rows = ["| user | sends | hears | buckets and streams |", "|---|---|---|---|"]
    for user in users(("reports",)):
        allowed = user.permissions
        sends = [subject for subject in allowed.publish if not subject.startswith("$")]
        hears = [subject.split(" ")[0] for subject in allowed.subscribe]
        rows.append(f"| `{user.name}` | {_listed(sends)} | {_listed(hears)} | {_stored(allowed.publish)} |")
    return "".join(f"{row}\n" for row in rows)


def _listed(subjects: list[str]) -> str:
    return "<br>".join(f"`{subject.replace('batchyard.v1.', '…')}`" for subject in subjects)


def _stored(publish: tuple[str, ...]) -> str:
    names = [part for subject in publish if subject.startswith("$") for part in _NAMES.findall(subject)]
    told = []
    for name in dict.fromkeys(names):
        bucket = name.removeprefix("KV_")
        makes = f"$JS.API.STREAM.CREATE.{name}" in publish
        writes = f"$KV.{bucket}.>" in publish
        told.append(f"`{bucket}` {'made' if makes else 'owned' if writes else 'read'}")
    return ", ".join(told)


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
