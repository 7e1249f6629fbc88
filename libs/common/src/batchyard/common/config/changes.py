"""What is different between two configurations, in names: a log may show it."""

from collections.abc import Mapping

from batchyard.common.config.model import Config


def changes(old: Config, new: Config) -> dict[str, list[str]]:
    """What was added, removed and changed: deployments as `pool/id`, `alias:` and the alias, and single settings."""
    before, after = _named(old), _named(new)
    found = {
        "added": [name for name in after if name not in before],
        "removed": [name for name in before if name not in after],
        "changed": [name for name, value in after.items() if name in before and before[name] != value],
    }
    return {what: names for what, names in found.items() if names}


def _named(config: Config) -> Mapping[str, object]:
    return {
        **{f"{deployment.pool}/{deployment.id}": deployment for deployment in config.deployments},
        **{f"alias:{name}": alias for name, alias in config.aliases.items()},
        **({"master_key": config.master_key} if config.master_key else {}),
        "currency": config.currency,
        "batch_discount": config.batch_discount,
    }
