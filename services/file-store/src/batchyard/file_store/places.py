"""Places: where the bytes of one file are before there is a record of it, and what is claimed of them."""

from batchyard.common.clock import Clock
from batchyard.common.errors import ApiError, InvalidRequest, NotFound
from batchyard.common.ids import created_at_of, new_raw_id, raw_id_of
from batchyard.common.object_keys import file_key, parse_file_key
from batchyard.common.objects import ObjectInfo, ObjectStore, check_key
from batchyard.file_store.object_errors import object_store_errors


class Places:
    """Each is named by the raw ID of the file that it will be. Every method raises ServiceUnavailable when the object
    store is away.

    Args:
        claim_within: Seconds after their writing for which bytes may be claimed.
    """

    def __init__(self, objects: ObjectStore, clock: Clock, claim_within: float) -> None:
        self._objects = objects
        self._clock = clock
        self._claim_within = claim_within

    async def claimed(self, tenant: str, object_key: str) -> tuple[str, ObjectInfo]:
        """The raw ID of what lies in a place, and what that is. Raises InvalidRequest for none of this tenant's."""
        try:
            owner, uuid_hex = parse_file_key(object_key)
            raw_id = raw_id_of("file", uuid_hex)
            created_at_of(raw_id)
        except ValueError:
            raise no_such_place(object_key) from None
        if owner != tenant:
            raise no_such_place(object_key)
        try:
            with object_store_errors():
                stored = await self._objects.stat(object_key)
        except NotFound:
            raise no_such_place(object_key) from None
        # The sweep deletes what is older still: it never meets a claim that is under way.
        if self._clock.now() - stored.modified_at.timestamp() > self._claim_within:
            raise no_such_place(object_key)
        return raw_id, stored

    async def filled(self, tenant: str, content: bytes) -> tuple[str, ObjectInfo]:
        """A place with this in it, and its raw ID."""
        raw_id, object_key = new_place(tenant)
        with object_store_errors():
            return raw_id, await self._objects.put(object_key, content)


def new_place(tenant: str) -> tuple[str, str]:
    """A fresh raw ID and the key of its bytes. Raises InvalidRequest for a tenant too long for a key."""
    raw_id = new_raw_id("file")
    object_key = file_key(tenant, raw_id.removeprefix("file-"))
    with object_store_errors():
        check_key(object_key)
    return raw_id, object_key


def no_such_place(object_key: str) -> ApiError:
    """Nothing was uploaded there, or it was too long ago."""
    return InvalidRequest(f"No such upload: {object_key}", param="object_key")
