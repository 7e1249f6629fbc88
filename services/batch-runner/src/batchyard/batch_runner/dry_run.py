"""Checking what a batch would be, without making one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

from batchyard.batch_runner.fleet import Fleet
from batchyard.batch_runner.model_access import ModelAccess
from batchyard.batch_runner.native.servers import NativeServers, Undecided
from batchyard.batch_runner.plan import Plan, Planner, Rejection
from batchyard.batch_runner.settings import RunnerSettings
from batchyard.batch_runner.source import Source, encoded, opened
from batchyard.batch_runner.validate import MAX_PROBLEMS, LineRules
from batchyard.batch_runner.wish import check_source, endpoint_of, seconds_of
from batchyard.common.contracts.batches import BatchErrors, BatchValidation, RequestCounts, ValidateBatch
from batchyard.common.errors import InvalidRequest, ServiceUnavailable
from batchyard.common.messaging.commands import CommandClient
from batchyard.common.objects import ObjectNotFound, ObjectStore, ObjectStoreUnavailable

_TOO_LATE = "The input could not be checked in time, as others are being checked too. Please retry shortly."


class DryRun:
    """The command that checks. A few inputs are read at a time; the others wait, for as long as a check may take."""

    def __init__(
        self,
        objects: ObjectStore,
        fleet: Fleet,
        natives: NativeServers,
        commands: CommandClient,
        access: ModelAccess,
        settings: RunnerSettings,
    ) -> None:
        self._objects = objects
        self._fleet = fleet
        self._natives = natives
        self._commands = commands
        self._access = access
        self._settings = settings
        self._slots = asyncio.Semaphore(settings.validation_slots)

    async def validate(self, tenant: str, command: ValidateBatch) -> BatchValidation:
        """What is wrong with the lines, or that nothing is. Writes nothing.

        Raises:
            NotFound: There is no such input file.
            InvalidRequest: What can be said without reading the lines.
            PermissionDenied: The model may not be used.
            ServiceUnavailable: It took longer than `validation_timeout`.
        """
        check_source(tenant, command)
        endpoint_of(command)
        seconds_of(command.completion_window)
        try:
            async with asyncio.timeout(self._settings.validation_timeout), self._slots:
                return await self._read(tenant, command)
        except TimeoutError as error:
            raise ServiceUnavailable(_TOO_LATE) from error
        except ObjectStoreUnavailable as error:
            raise ServiceUnavailable("The object store did not answer. Please retry shortly.") from error
        except ObjectNotFound as error:
            raise InvalidRequest("The input was removed while it was read.", param="input_file_id") from error

    async def _read(self, tenant: str, command: ValidateBatch) -> BatchValidation:
        source = await opened(tenant, command, self._commands)
        model = source.model if source is not None and source.model is not None else command.model
        rules = LineRules(endpoint=endpoint_of(command), max_line_bytes=self._settings.max_line_bytes)
        self._access.check(tenant, command.key_models, model)
        may_use = self._access.of(tenant, command.key_models)
        planner = Planner(self._settings, rules, model, self._fleet.pool_for, self._fleet.public_name, may_use)
        if command.requests is not None:
            verdict = await planner.plan_chunks(_whole(encoded(command)))
        else:
            key = source.object_key if source is not None else command.upload_key
            assert key is not None
            verdict = await planner.plan(self._objects, key)
        if isinstance(verdict, Plan) and verdict.pool is None:
            with suppress(Undecided):  # the batch waits until that is known
                problem = await self._natives.check_mixed(verdict.table.pools)
                verdict = Rejection((problem,)) if problem is not None else verdict
        return _validation(rules.endpoint, source, model, planner.requests, verdict)


async def _whole(lines: bytes) -> AsyncIterator[bytes]:
    yield lines


def _validation(
    endpoint: str, source: Source | None, model: str | None, requests: int, verdict: Plan | Rejection
) -> BatchValidation:
    problems = verdict.problems if isinstance(verdict, Rejection) else ()
    return BatchValidation(
        valid=isinstance(verdict, Plan),
        endpoint=endpoint,
        model=verdict.model if isinstance(verdict, Plan) else model,
        input_file_id=source.file_id if source is not None else None,
        request_counts=RequestCounts(total=requests),
        errors=BatchErrors(data=list(problems)) if problems else None,
        truncated=len(problems) > MAX_PROBLEMS,
    )
