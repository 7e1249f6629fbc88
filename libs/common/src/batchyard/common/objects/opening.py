"""The object store that a process' settings name."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol

from batchyard.common.errors import ConfigurationError
from batchyard.common.objects.factory import open_object_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pydantic import SecretStr

    from batchyard.common.objects.port import ObjectStore


class ObjectStoreSettings(Protocol):
    """What settings say of it, those of services and those of clients."""

    @property
    def object_store(self) -> str | None: ...

    @property
    def object_store_access_key(self) -> str | None: ...

    @property
    def object_store_secret_key(self) -> SecretStr | None: ...


@asynccontextmanager
async def open_objects(settings: ObjectStoreSettings) -> AsyncIterator[ObjectStore]:
    """The object store, untouched; closed at the end.

    Raises:
        ConfigurationError: The settings name none.
    """
    try:
        objects = open_object_store(
            settings.object_store or "",
            access_key=settings.object_store_access_key,
            secret_key=settings.object_store_secret_key,
        )
    except ValueError as error:
        raise ConfigurationError(f"BATCHYARD_OBJECT_STORE: {error}") from error
    try:
        yield objects
    finally:
        await objects.close()
