"""Commands that make one batch, however often a client sends them."""

from typing import TypeVar

from batchyard.common.contracts.base import Command
from batchyard.common.contracts.batches import Batch, CreateBatch, RetryBatch
from batchyard.common.errors import InternalError, ServiceUnavailable
from batchyard.gateway.caller import Caller

C = TypeVar("C", CreateBatch, RetryBatch)


async def call_once(command: C, retries: int | None, caller: Caller) -> Batch:
    """The batch that a command makes, or has made when the client sent it before.

    Args:
        command: With an idempotency key, if the client gave one.
        retries: How often the client says that it has sent this before; None if it does not say.
        caller: Whose command it is.

    Raises:
        ApiError: What batch-runner answered. After ServiceUnavailable or InternalError the batch may be there.
    """
    if command.idempotency_key is not None:
        return await caller.call(command)
    memory = caller.gateway.failed_creates
    wish = (
        f"{caller.identity.tenant} {command.key_id or command.key_alias or ''} {command.verb} {command.fingerprint()}"
    )
    attempt = memory.attempt(wish, retries)
    told: Command[Batch] = command.model_copy(update={"attempt": attempt})
    try:
        return await caller.call(told)
    except (ServiceUnavailable, InternalError):
        memory.remember(wish, attempt)
        raise
