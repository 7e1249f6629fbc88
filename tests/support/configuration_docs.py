"""The tables of docs/configuration.md, made from the models that read the configuration.

`make docs` writes them anew; a test holds that they are as the code has them.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from batchyard.batch_runner.settings import RunnerSettings
from batchyard.billing.settings import BillingSettings
from batchyard.common.config import schema
from batchyard.common.settings import Settings
from batchyard.file_store.settings import FileStoreSettings
from batchyard.gateway.settings import GatewaySettings

DOCUMENT = Path(__file__).parents[2] / "docs" / "configuration.md"

SECTIONS: dict[str, type[BaseModel]] = {
    "file": schema.File,
    "model_list[]": schema.ModelEntry,
    "model_list[].litellm_params": schema.LiteLLMParams,
    "model_list[].model_info": schema.ModelInfo,
    "router_settings": schema.RouterSettings,
    "router_settings.model_group_alias.*": schema.AliasEntry,
    "general_settings": schema.GeneralSettings,
    "batchyard_settings": schema.BatchyardSettings,
}
SERVICES: dict[str, type[Settings]] = {
    "every service": Settings,
    "gateway": GatewaySettings,
    "file-store": FileStoreSettings,
    "batch-runner": RunnerSettings,
    "billing": BillingSettings,
}
_TABLE = re.compile(r"<!-- table: (?P<name>.+?) -->\n.*?<!-- end -->", re.DOTALL)


def written(document: str) -> str:
    """`document` with every table as the code has it."""
    return _TABLE.sub(lambda found: f"<!-- table: {found['name']} -->\n{_table(found['name'])}<!-- end -->", document)


def tables(document: str) -> list[str]:
    """The names of the tables in `document`."""
    return [found["name"] for found in _TABLE.finditer(document)]


def _table(name: str) -> str:
    rows = _keys(SECTIONS[name]) if name in SECTIONS else _variables(SERVICES[name])
    head = "key" if name in SECTIONS else "variable"
    return "".join(f"{line}\n" for line in (f"| {head} | default | |", "|---|---|---|", *rows))


def _keys(section: type[BaseModel]) -> Iterator[str]:
    for name, field in section.model_fields.items():
        yield _row(name, field)


def _variables(settings: type[Settings]) -> Iterator[str]:
    for name, field in settings.model_fields.items():
        if settings is Settings or name not in Settings.model_fields:
            yield _row(f"BATCHYARD_{name.upper()}", field)


def _row(name: str, field: FieldInfo) -> str:
    return f"| `{name}` | {_default(field)} | {field.description or ''} |".replace("|  |", "| |")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default.get_secret_value() if isinstance(field.default, SecretStr) else field.default
    if (not value and isinstance(value, (dict, list))) or value is None or isinstance(value, BaseModel):
        return ""
    if isinstance(value, dict):
        return f"`{json.dumps(value)}`"
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    DOCUMENT.write_text(written(DOCUMENT.read_text()))
