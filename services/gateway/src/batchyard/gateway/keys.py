"""What the master key does to keys."""

from collections.abc import Callable
from dataclasses import dataclass

from batchyard.common.clock import Clock
from batchyard.common.contracts.access import Key, Secret
from batchyard.common.crash import crash_point
from batchyard.common.errors import Conflict, NotFound
from batchyard.common.logs import get_logger
from batchyard.common.periods import later
from batchyard.gateway.access_request import given
from batchyard.gateway.directory import Directory
from batchyard.gateway.key_aliases import KeyAliases, alias_taken
from batchyard.gateway.key_request import GenerateKey, KeyFields, RegenerateKey, UpdateKey
from batchyard.gateway.key_secret import PREFIX, digest_of, mask, name_of, new_secret
from batchyard.gateway.pausing_keys import PausingKeyWriter

_MAX_SECRETS = 8
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Made:
    """A key, and the secret that was made for it."""

    key: Key
    secret: str


class Keys:
    """Makes, changes and removes keys. Each act is one write, and one line in the log."""

    def __init__(self, directory: Directory, aliases: KeyAliases, pausing: PausingKeyWriter, clock: Clock) -> None:
        self._directory = directory
        self._pausing = pausing
        self._aliases = aliases
        self._clock = clock

    def named(self, name: str, only: Key | None = None) -> Key:
        """The key that has the ID `name`, or a secret of which this is the text or the digest.

        With `only`, any other key is as if it did not exist. Raises NotFound.
        """
        digest = _digest_in(name)
        key = self._directory.keys.get(digest) or self._directory.keys.find(digest)
        if key is None or (only is not None and key.key_id != only.key_id):
            raise NotFound(f"No such key: {mask(name)}", param="key", code="key_not_found")
        return key

    async def known(self, name: str) -> Key:
        """The same, for who administrates: a key that another gateway has made just now is known by its ID or its first
        secret. Raises NotFound."""
        await self._directory.keys.look_up(_digest_in(name))
        return self.named(name)

    def aliased(self, alias: str) -> Key:
        """The key of that alias. Raises NotFound."""
        key = self._with_alias(alias)
        if key is None:
            raise NotFound(f"No key has the alias '{alias}'.", param="key_alias", code="key_not_found")
        return key

    async def generate(self, wanted: GenerateKey) -> Made:
        """A new key.

        Raises:
            NotFound: There is no such team.
            Conflict: Another key has the alias.
        """
        if not await self._directory.look_up_team(wanted.team_id):
            raise NotFound(f"No such team: {wanted.team_id}", param="team_id", code="team_not_found")
        now = self._clock.now()
        secret = new_secret()
        digest = digest_of(secret.encode())
        key = Key(
            key_id=digest,
            key_name=name_of(secret),
            secrets=(Secret(digest=digest),),
            team_id=wanted.team_id,
            created_at=now,
            updated_at=now,
            expires_at=_end(wanted.duration, now),
        )
        key = _with_fields(key, wanted)
        await self._claim(key.key_alias, key.key_id)
        await self._directory.keys.create(key.key_id, key)
        # Whoever dies here leaves a key that nobody can use, as its secret is nowhere: `regenerate` gives it another.
        crash_point("key.written")
        if key.key_alias is not None and not await self._aliases.is_of(key.key_alias, key.key_id):
            await self._directory.keys.remove(key.key_id)
            raise alias_taken(key.key_alias, key.key_id)
        if key.pause_over_budget:
            await self._pausing.tell(key.key_id)
        self._tell("key.generated", key)
        return Made(key, secret)

    async def update(self, wanted: UpdateKey) -> Key:
        """Change what a key may do. Raises NotFound, or Conflict when another key has the alias."""
        key = await self.known(wanted.key)
        await self._claim(wanted.key_alias, key.key_id)
        now = self._clock.now()

        def change(key: Key) -> Key:
            changed = _with_fields(key, wanted).model_copy(update={"updated_at": now})
            if "duration" in wanted.model_fields_set:
                return changed.model_copy(update={"expires_at": _end(wanted.duration, now)})
            return changed

        changed = await self._change(key, change)
        crash_point("key.changed")
        if key.pause_over_budget or changed.pause_over_budget:
            await self._pausing.tell(key.key_id)
        if wanted.key_alias is not None and not await self._aliases.is_of(wanted.key_alias, key.key_id):
            await self._change(key, lambda now: now.model_copy(update={"key_alias": key.key_alias}))
            raise alias_taken(wanted.key_alias, key.key_id)
        return self._told("key.updated", changed)

    async def block(self, name: str, *, blocked: bool) -> Key:
        """Let a key open nothing, or let it again. Raises NotFound."""
        now = self._clock.now()
        key = await self._change(
            await self.known(name), lambda key: key.model_copy(update={"blocked": blocked, "updated_at": now})
        )
        return self._told("key.blocked" if blocked else "key.unblocked", key)

    async def regenerate(self, wanted: RegenerateKey) -> Made:
        """A new secret for a key; the one before works for the grace period more, older ones as long as they were to.

        One write does both, so that a rotation is never half done. Raises NotFound, or Conflict when too many secrets
        of the key are still in their grace period.
        """
        key = await self.known(wanted.key)
        now = self._clock.now()
        secret = new_secret()
        newest = Secret(digest=digest_of(secret.encode()))
        end = now if wanted.grace_period is None else later(wanted.grace_period, now)

        def rotate(key: Key) -> Key:
            limited = (
                one if _ends_before(one, end) else one.model_copy(update={"expires_at": end}) for one in key.secrets
            )
            kept = tuple(one for one in limited if not _ends_before(one, now))
            if len(kept) >= _MAX_SECRETS:
                raise Conflict(
                    f"The key has {len(kept)} secrets that still work. Rotate it without a grace period to end them.",
                    param="grace_period",
                )
            return key.model_copy(update={"secrets": (newest, *kept), "key_name": name_of(secret), "updated_at": now})

        key = await self._change(key, rotate)
        crash_point("key.rotated")
        self._tell("key.regenerated", key, grace_period=wanted.grace_period)
        return Made(key, secret)

    async def delete(self, keys: list[Key]) -> list[str]:
        """Remove keys; their IDs."""
        for key in keys:
            await self._directory.keys.remove(key.key_id)
            if key.pause_over_budget:
                await self._pausing.tell(key.key_id)
            self._tell("key.deleted", key)
        return [key.key_id for key in keys]

    async def _change(self, key: Key, change: Callable[[Key], Key]) -> Key:
        changed = await self._directory.keys.change(key.key_id, change)
        if changed is None:
            raise NotFound(f"No such key: {mask(key.key_id)}", param="key", code="key_not_found")
        return changed

    def _with_alias(self, alias: str) -> Key | None:
        return next((key for key in self._directory.keys if key.key_alias == alias), None)

    async def _claim(self, alias: str | None, key_id: str) -> None:
        """Take an alias for a key. Raises Conflict when another one has it."""
        if alias is None:
            return
        known = self._with_alias(alias)
        if known is not None and known.key_id != key_id:
            raise alias_taken(alias, known.key_id)
        await self._aliases.claim(alias, key_id)

    def _told(self, act: str, key: Key) -> Key:
        self._tell(act, key)
        return key

    def _tell(self, act: str, key: Key, **more: object) -> None:
        _log.info(act, audit=True, key_id=key.key_id, key_alias=key.key_alias, team_id=key.team_id, **more)


def _with_fields(key: Key, wanted: KeyFields) -> Key:
    said = given(wanted, ("key_alias", "models", "pause_over_budget", "metadata", "blocked"))
    return key.model_copy(
        update={
            "key_alias": said.get("key_alias", key.key_alias),
            "models": tuple(said["models"] or ()) if "models" in said else key.models,
            "pause_over_budget": bool(said.get("pause_over_budget", key.pause_over_budget)),
            "metadata": (said["metadata"] or {}) if "metadata" in said else key.metadata,
            "blocked": bool(said["blocked"]) if "blocked" in said else key.blocked,
            "limits": wanted.limits(key.limits),
        }
    )


def _digest_in(name: str) -> str:
    return digest_of(name.encode()) if name.startswith(PREFIX) else name


def _end(duration: str | None, now: float) -> float | None:
    return None if duration is None else later(duration, now)


def _ends_before(secret: Secret, end: float) -> bool:
    return secret.expires_at is not None and secret.expires_at <= end
