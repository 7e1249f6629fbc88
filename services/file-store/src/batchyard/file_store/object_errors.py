"""What the object store raises, as answers to a caller."""

from collections.abc import Iterator
from contextlib import contextmanager

from batchyard.common.errors import InvalidRequest, NotFound, ServiceUnavailable
from batchyard.common.objects import InvalidObjectKey, ObjectNotFound, ObjectStoreUnavailable


@contextmanager
def object_store_errors() -> Iterator[None]:
    """Raises ServiceUnavailable, NotFound or InvalidRequest for what is raised within."""
    try:
        yield
    except ObjectStoreUnavailable as error:
        raise ServiceUnavailable("The object store did not answer. Please retry shortly.") from error
    except ObjectNotFound as error:
        raise NotFound(f"No such object: {error.key}") from error
    except InvalidObjectKey as error:
        raise InvalidRequest(f"The object store cannot hold this tenant's files: {error.reason}.") from error
