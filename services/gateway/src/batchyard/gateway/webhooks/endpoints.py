"""The endpoints of each team: one record for a team, changed by compare-and-set."""

from collections.abc import Callable

from batchyard.common.clock import Clock
from batchyard.common.crash import crash_point
from batchyard.common.errors import InvalidRequest, NotFound
from batchyard.common.ids import new_raw_id
from batchyard.common.logs import get_logger
from batchyard.common.messaging.records import Records, RevisionConflict
from batchyard.common.subjects import encode_token
from batchyard.gateway.webhooks.endpoint import TeamEndpoints, WebhookEndpoint, new_secret
from batchyard.gateway.webhooks.request import NewEndpoint, UpdateEndpoint

Endpoints = tuple[WebhookEndpoint, ...]

_log = get_logger(__name__)


class EndpointStore:
    """Makes, changes and removes endpoints. Each act is one write, and one line in the log.

    Every method raises ServiceUnavailable when NATS does not answer. `team` is a team's ID, or `OPERATOR`.
    """

    def __init__(self, records: Records[TeamEndpoints], clock: Clock, most: int) -> None:
        self._records = records
        self._clock = clock
        self._most = most

    async def of(self, team: str) -> Endpoints:
        """All of a team's, the oldest first."""
        entry = await self._records.get(encode_token(team))
        return () if entry is None else entry.value.endpoints

    async def find(self, team: str, endpoint_id: str) -> WebhookEndpoint | None:
        """The endpoint of that ID, if the team has it."""
        return next((endpoint for endpoint in await self.of(team) if endpoint.id == endpoint_id), None)

    async def get(self, team: str, endpoint_id: str) -> WebhookEndpoint:
        """The same. Raises NotFound."""
        found = await self.find(team, endpoint_id)
        if found is None:
            raise _missing(endpoint_id)
        return found

    async def create(self, team: str, wanted: NewEndpoint) -> WebhookEndpoint:
        """A new endpoint. Raises InvalidRequest when there are as many as a team may have."""
        now = self._clock.now()
        made = WebhookEndpoint(
            id=new_raw_id("webhook_endpoint"),
            name=wanted.name,
            url=wanted.url,
            event_types=tuple(wanted.event_types),
            signing_secret=new_secret(),
            created_at=now,
            updated_at=now,
        )

        def add(endpoints: Endpoints) -> Endpoints:
            if len(endpoints) >= self._most:
                raise InvalidRequest(
                    f"There are {len(endpoints)} webhook endpoints already, and no more can be made: delete one first.",
                    code="too_many_webhook_endpoints",
                )
            return (*endpoints, made)

        await self._change(team, add)
        crash_point("webhook.endpoint_written")
        self._tell("webhook_endpoint.created", team, made.id)
        return made

    async def update(self, team: str, endpoint_id: str, wanted: UpdateEndpoint) -> WebhookEndpoint:
        """Change what is named. One that is given a URL is sent to again if it was not any more. Raises NotFound."""
        now = self._clock.now()
        said = wanted.said()
        if "url" in said:
            said["disabled_at"] = None

        def change(endpoint: WebhookEndpoint) -> WebhookEndpoint:
            changed = endpoint.model_copy(update=said)
            return endpoint if changed == endpoint else changed.model_copy(update={"updated_at": now})

        updated = await self._change_one(team, endpoint_id, change)
        self._tell("webhook_endpoint.updated", team, endpoint_id)
        return updated

    async def rotate(self, team: str, endpoint_id: str, *, keep_old: bool) -> WebhookEndpoint:
        """Give an endpoint a new secret. Raises NotFound."""
        now = self._clock.now()
        rotated = await self._change_one(team, endpoint_id, lambda endpoint: endpoint.rotated(now, keep_old=keep_old))
        self._tell("webhook_endpoint.rotated", team, endpoint_id, keeps_old=keep_old)
        return rotated

    async def disable(self, team: str, endpoint_id: str) -> None:
        """Send nothing there any more, if it is still there."""
        now = self._clock.now()
        try:
            await self._change_one(
                team, endpoint_id, lambda endpoint: endpoint.model_copy(update={"disabled_at": now, "updated_at": now})
            )
        except NotFound:
            return
        _log.warning("webhook_endpoint.disabled", team_id=team, endpoint=endpoint_id)

    async def delete(self, team: str, endpoint_id: str) -> None:
        """Remove an endpoint. What waits for it is not sent. Raises NotFound."""

        def remove(endpoints: Endpoints) -> Endpoints:
            left = tuple(endpoint for endpoint in endpoints if endpoint.id != endpoint_id)
            if len(left) == len(endpoints):
                raise _missing(endpoint_id)
            return left

        await self._change(team, remove)
        self._tell("webhook_endpoint.deleted", team, endpoint_id)

    async def _change_one(
        self, team: str, endpoint_id: str, change: Callable[[WebhookEndpoint], WebhookEndpoint]
    ) -> WebhookEndpoint:
        changed: WebhookEndpoint | None = None

        def change_it(endpoints: Endpoints) -> Endpoints:
            nonlocal changed
            found = next((endpoint for endpoint in endpoints if endpoint.id == endpoint_id), None)
            if found is None:
                raise _missing(endpoint_id)
            changed = change(found)
            return tuple(changed if endpoint is found else endpoint for endpoint in endpoints)

        await self._change(team, change_it)
        assert changed is not None
        return changed

    async def _change(self, team: str, change: Callable[[Endpoints], Endpoints]) -> None:
        """Apply a function to a team's endpoints, which are none as long as there is no record."""
        key = encode_token(team)

        def changed(record: TeamEndpoints) -> TeamEndpoints:
            return TeamEndpoints(endpoints=change(record.endpoints))

        if await self._records.change(key, changed) is not None:
            return
        try:
            await self._records.create(key, changed(TeamEndpoints()))
        except RevisionConflict:  # another one was first, and none is ever removed
            await self._records.change(key, changed)

    def _tell(self, act: str, team: str, endpoint_id: str, **more: object) -> None:
        _log.info(act, audit=True, team_id=team, endpoint=endpoint_id, **more)


def _missing(endpoint_id: str) -> NotFound:
    return NotFound(f"No such webhook endpoint: {endpoint_id[:128]}", param="webhook_endpoint_id")
