"""Batches of one tenant."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import Any, Literal
from uuid import uuid4

from batchyard.common.client.files import Files
from batchyard.common.client.following import followed, until_ended
from batchyard.common.client.results import Result
from batchyard.common.client.session import Session
from batchyard.common.contracts.batches import (
    Batch,
    BatchPage,
    BatchStatus,
    CancelBatch,
    CreateBatch,
    GetBatch,
    ListBatches,
    RetryBatch,
)
from batchyard.common.contracts.events import BatchProgress, StoredEvent
from batchyard.common.contracts.files import ExpiresAfter
from batchyard.common.errors import Conflict, NotFound, ServiceUnavailable
from batchyard.common.objects import lines_of
from batchyard.common.result_lines import merged_results

Wanted = Literal["completed", "failed"]
Progress = Callable[[Batch | BatchProgress], None]


class Batches:
    """Every method raises ApiError: what a service answered, or ServiceUnavailable when none did."""

    def __init__(self, session: Session, files: Files) -> None:
        self._session = session
        self._files = files

    async def create(
        self,
        input_file_id: str | None,
        endpoint: str,
        *,
        requests: Sequence[Mapping[str, Any]] | None = None,
        completion_window: str = "24h",
        metadata: Mapping[str, str] | None = None,
        model: str | None = None,
        output_expires_after: int | None = None,
        idempotency_key: str | None = None,
    ) -> Batch:
        """Start a batch. It is one batch, also when the command had to be sent again.

        Args:
            input_file_id: A file of purpose `batch`, or None with `requests`.
            endpoint: Such as `/v1/chat/completions`.
            requests: The lines themselves, where they are few: together below 1 MB.
            completion_window: Such as `1h` or `7d`.
            metadata: Up to 16 pairs.
            model: The model, where neither the file nor the lines name one.
            output_expires_after: Seconds after which the result files go, 3600 to 2592000.
            idempotency_key: Your own name for this wish, so that a restarted process gets the batch that it has made
                before; by default a random one for this call.

        Raises:
            InvalidRequest: What is wrong with the wish.
            NotFound: There is no such file.
            Conflict: The key stands for another batch.
        """
        wish = CreateBatch(
            input_file_id=input_file_id,
            requests=None if requests is None else tuple(dict(request) for request in requests),
            endpoint=endpoint,
            completion_window=completion_window,
            metadata=None if metadata is None else dict(metadata),
            model=model,
            output_expires_after=None if output_expires_after is None else ExpiresAfter(seconds=output_expires_after),
            idempotency_key=idempotency_key or uuid4().hex,
        )
        return await self._session.call(wish)

    async def get(self, batch_id: str) -> Batch:
        """The batch as it is now. Raises NotFound."""
        return await self._session.call(GetBatch(batch_id=batch_id))

    async def list(
        self,
        *,
        limit: int = 20,
        after: str | None = None,
        status: Sequence[BatchStatus] = (),
        model: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> BatchPage:
        """A page of batches, the newest first; `after` is the last ID of the page before."""
        wish = ListBatches(limit=limit, after=after, status=tuple(status), model=model, metadata=dict(metadata or {}))
        return await self._session.call(wish)

    async def cancel(self, batch_id: str) -> Batch:
        """Stop a batch; what has been answered is kept. Raises Conflict for one that has ended."""
        try:
            return await self._session.call(CancelBatch(batch_id=batch_id), is_repeatable=False)
        except ServiceUnavailable:
            return await self._session.call(CancelBatch(batch_id=batch_id, again=True))

    async def retry(self, batch_id: str, *, idempotency_key: str | None = None) -> Batch:
        """Start a batch over those lines of an ended one that have no success."""
        return await self._session.call(RetryBatch(batch_id=batch_id, idempotency_key=idempotency_key or uuid4().hex))

    async def wait(self, batch_id: str, *, timeout: float | None = None, progress: Progress | None = None) -> Batch:
        """Wait until a batch has ended, by what is told of it, and without asking over and over.

        Args:
            batch_id: The batch.
            timeout: Seconds; None: for as long as it takes. The batch goes on when they are over.
            progress: Told of each tick while the batch runs, and of the batch at the beginning and at the end.

        Raises:
            NotFound: There is no such batch.
            TimeoutError: It has not ended in time.
        """
        return await until_ended(self._session, batch_id, timeout, progress)

    def events(self, *, after: int | None = None, batch_id: str | None = None) -> AsyncGenerator[StoredEvent, None]:
        """What happens to the tenant's batches, in order, without an end. Outages are waited out.

        Args:
            after: The `sequence` of the last event that was dealt with, kept by the caller: those of up to 30 days
                follow, and none is missed over a restart. 0: from the beginning. None: from now on.
            batch_id: Only those of one batch.
        """
        return followed(self._session, after, batch_id)

    async def results(self, batch_id: str, wanted: Wanted | None = None) -> AsyncGenerator[Result, None]:
        """The results of an ended batch in the order of its input: each line once, with its answer or its error.

        Memory is a few lines and chunks, whatever the number of results.

        Args:
            batch_id: The batch.
            wanted: Only the lines with a success, or only those without.

        Raises:
            Conflict: It has not ended.
            NotFound: There is no such batch, it never had results, or one of its files is gone.
        """
        batch = await self.get(batch_id)
        if not batch.status.is_terminal:
            raise Conflict(f"The batch '{batch_id}' is {batch.status}: wait until it has ended.")
        if batch.status is BatchStatus.FAILED:
            raise NotFound(f"The batch '{batch_id}' has no results: its `errors` say why.", param="id")
        files = {"completed": batch.output_file_id, "failed": batch.error_file_id}
        async with AsyncExitStack() as exits:
            sources = [
                await exits.enter_async_context(aclosing(lines_of(self._files.content(file_id))))
                for kind, file_id in files.items()
                if file_id is not None and wanted in (None, kind)
            ]
            lines = await exits.enter_async_context(aclosing(lines_of(merged_results(sources))))
            async for line in lines:
                yield Result.model_validate_json(line)
