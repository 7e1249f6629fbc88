"""The price book as it is kept: the part of the configuration that prices depend on, as a JSON document.

A version of it is valid from a moment until the next version's. A batch is priced by the version that was valid when it
ended, so that a price changed later never rewrites the past, however late its event comes and however often.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Any

from batchyard.common.config import Alias, Config, Deployment, Price

_CLOCKS_APART = 3600
_PRICES = tuple(field.name for field in fields(Price) if field.name != "gpus")


@dataclass(frozen=True, slots=True)
class PriceVersion:
    """Prices and from when on they are valid.

    Attributes:
        number: 1 for the first one; valid for all that was before as well.
        version: What entries name it by: a digest of the document and of `valid_from`.
        valid_from: Unix seconds, included.
        recorded_at: When it was written down, in Unix seconds.
    """

    number: int
    version: str
    digest: str
    valid_from: int
    recorded_at: int
    prices: Mapping[str, Any]


def document_of(config: Config) -> dict[str, Any]:
    """What prices depend on. No address and no secret of a server is in it."""
    return {
        "currency": config.currency,
        "batch_discount": format(config.batch_discount, "f"),
        "deployments": [
            {
                "id": deployment.id,
                "model_name": deployment.pool,
                "model": deployment.model,
                "gpus": deployment.price.gpus,
                **{
                    name: format(price, "f")
                    for name in _PRICES
                    if (price := getattr(deployment.price, name)) is not None
                },
            }
            for deployment in config.deployments
        ],
        "aliases": {name: alias.model for name, alias in sorted(config.aliases.items())},
    }


def config_of(document: Mapping[str, Any]) -> Config:
    """A configuration that prices as `document` says."""
    return Config(
        deployments=tuple(
            Deployment(
                id=entry["id"],
                pool=entry["model_name"],
                model=entry["model"],
                base_url="",
                price=Price(gpus=entry["gpus"], **{name: Decimal(entry[name]) for name in _PRICES if name in entry}),
            )
            for entry in document["deployments"]
        ),
        aliases={name: Alias(model) for name, model in document["aliases"].items()},
        currency=document["currency"],
        batch_discount=Decimal(document["batch_discount"]),
    )


def digest_of(document: Mapping[str, Any]) -> str:
    """The same for documents that say the same."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def next_version(
    document: Mapping[str, Any], known: PriceVersion | None, newest_end: int | None, now: float
) -> PriceVersion | None:
    """The version to write for `document`, None if it is the one that is valid.

    It is valid from the next second on, and for no batch that has been billed: its end may lie ahead of our clock, but
    one that is more than an hour ahead is a clock gone wrong, and must not keep prices from ever changing.

    Args:
        known: The last version.
        newest_end: The latest end of a batch on the ledger, in Unix seconds.
        now: Unix seconds.
    """
    digest = digest_of(document)
    if known is not None and known.digest == digest:
        return None
    valid_from = 0
    if known is not None:
        valid_from = max(int(now), known.valid_from) + 1
        if newest_end is not None and newest_end <= now + _CLOCKS_APART:
            valid_from = max(valid_from, newest_end + 1)
    version = hashlib.sha256(f"{valid_from} {digest}".encode()).hexdigest()[:16]
    number = 1 if known is None else known.number + 1
    return PriceVersion(number, version, digest, valid_from, int(now), document)
