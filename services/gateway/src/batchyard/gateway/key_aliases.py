"""Who has an alias: decided in NATS, as two gateways may be asked for the same one at once.

An alias is claimed before its key is written, and looked at again afterwards. A claim whose key is not there, or has
another alias by now, is nobody's: whoever takes it looks once more for the key, which may have been written meanwhile.
So of those who want an alias at once one gets it at most.
"""

import hashlib

from nats.js import JetStreamContext
from pydantic import BaseModel, ConfigDict

from batchyard.common.contracts.access import Key
from batchyard.common.errors import Conflict, ServiceUnavailable
from batchyard.common.messaging.records import Records, RevisionConflict
from batchyard.common.messaging.topology import KEYS_BUCKET
from batchyard.common.subjects import encode_token
from batchyard.gateway.key_secret import mask

_ATTEMPTS = 16


class Claim(BaseModel):
    """The ID of the key that wants an alias."""

    model_config = ConfigDict(frozen=True)

    key_id: str


class KeyAliases:
    """The claims, beside the keys in their bucket: names of two tokens, which the directory does not read.

    Every method raises ServiceUnavailable when NATS does not answer.
    """

    def __init__(self, js: JetStreamContext) -> None:
        self._claims = Records(js, KEYS_BUCKET, Claim)
        self._keys = Records(js, KEYS_BUCKET, Key)

    async def claim(self, alias: str, key_id: str) -> None:
        """Note that a key is to have an alias. Raises Conflict when another one has it."""
        name, claim = _name_of(alias), Claim(key_id=key_id)
        for _ in range(_ATTEMPTS):
            known = await self._claims.get(name)
            if known is not None:
                await self._check(alias, known.value.key_id, key_id)
            try:
                if known is None:
                    await self._claims.create(name, claim)
                else:
                    await self._claims.update(name, claim, known.revision)
                    await self._check(alias, known.value.key_id, key_id)
            except RevisionConflict:
                continue
            return
        raise ServiceUnavailable("The alias is wanted by too many at once. Please retry shortly.")

    async def is_of(self, alias: str, key_id: str) -> bool:
        """Whether the key that claimed an alias has it still."""
        known = await self._claims.get(_name_of(alias))
        return known is not None and known.value.key_id == key_id

    async def _check(self, alias: str, holder: str, key_id: str) -> None:
        if holder == key_id:
            return
        key = await self._keys.get(encode_token(holder))
        if key is not None and key.value.key_alias == alias:
            raise alias_taken(alias, holder)


def alias_taken(alias: str, key_id: str) -> Conflict:
    """Another key has the alias."""
    return Conflict(
        f"The alias '{alias}' is that of another key: {mask(key_id)}. Aliases tell keys apart.", param="key_alias"
    )


def _name_of(alias: str) -> str:
    return f"alias.{hashlib.sha256(alias.encode(errors='surrogatepass')).hexdigest()}"
