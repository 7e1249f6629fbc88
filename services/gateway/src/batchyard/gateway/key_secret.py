"""Secrets of keys: made here, shown once, and known by their digest from then on."""

import hashlib
import secrets

PREFIX = "sk-"

_RANDOM_BYTES = 32
_SHOWN = 4
_LONG_ENOUGH_TO_SHOW = 20


def new_secret() -> str:
    """A secret of 256 random bits. Nobody guesses it, so a digest that is quick to make protects it well enough."""
    return PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)


def digest_of(secret: bytes) -> str:
    """What a secret is stored and looked up by: its SHA-256 in hex."""
    return hashlib.sha256(secret).hexdigest()


def name_of(secret: str) -> str:
    """A secret of ours as it may be shown for good: `sk-...wxyz`, as LiteLLM does."""
    return f"{PREFIX}...{secret[-_SHOWN:]}"


def mask(key: str) -> str:
    """A key as it may be shown: enough to recognise a long one, nothing of a short one."""
    if len(key) < _LONG_ENOUGH_TO_SHOW:
        return "***"
    return f"{key[:_SHOWN]}***{key[-_SHOWN:]}"
