"""What each user of NATS may do: one user for each service, one for `batchyard topology`, one for each internal tenant.

The lists are allow lists: what is not in them is refused by the server. All users share one account; three rules keep
them apart in it.

- Whoever may ask JetStream for anything may have the answer sent to any subject of the account, since NATS does not
  check the reply subject of a request: into a bucket, or to the subject that purges a stream. So a tenant gets no
  subject of JetStream at all; `events.list` reads its past events for it.
- The services answer to inboxes alone (`commands`): otherwise a tenant could have a service, which may do more than
  itself, send its answer to a subject of JetStream.
- Replies arrive below `_INBOX.<user>`, and nobody may listen below another's.

Sources: https://docs.nats.io/running-a-nats-service/configuration/securing_nats/authorization and
https://docs.nats.io/reference/reference-protocols/nats_api_reference.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from batchyard.common import subjects
from batchyard.common.messaging.topology import (
    BILLING_CONSUMER,
    BUCKETS,
    CREATIONS_BUCKET,
    DELIVERIES_CONSUMER,
    EVENTS,
    OWNED_BUCKETS,
    STEPS,
    STEPS_CONSUMER,
    WATCHED_BUCKETS,
    WEBHOOKS,
    WEBHOOKS_CONSUMER,
    WORK,
)

GATEWAY = "gateway"
FILE_STORE = "file-store"
BATCH_RUNNER = "batch-runner"
BILLING = "billing"
SERVICES = (GATEWAY, FILE_STORE, BATCH_RUNNER, BILLING)
TOPOLOGY = "topology"

COMMAND_OWNERS = {
    "files": FILE_STORE,
    "uploads": FILE_STORE,
    "batches": BATCH_RUNNER,
    "events": BATCH_RUNNER,
    "models": BATCH_RUNNER,
    "fleet": BATCH_RUNNER,
    "billing": BILLING,
    "budgets": BILLING,
}
"""The service that answers the commands of a noun. `health` has one verb for each service."""

TENANT_NOUNS = ("batches", "billing", "events", "files", "models", "uploads")

_API = "$JS.API"
_LONGEST_PLAIN_TOKEN = 100
_PLAIN_USER = re.compile("[A-Za-z0-9_=-]+")


@dataclass(frozen=True, slots=True)
class Permissions:
    """The subjects that a user may publish to, and those it may subscribe to, in NATS' notation.

    A subscription `subject queue` is allowed as a member of that queue group alone.
    """

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class User:
    """A user of NATS: its name, what it is for, what it may do."""

    name: str
    purpose: str
    permissions: Permissions


def users(tenants: tuple[str, ...] = ()) -> list[User]:
    """The users of an installation with these internal tenants."""
    services = [User(name, f"the service {name}", service_permissions(name)) for name in SERVICES]
    topology = User(TOPOLOGY, "batchyard topology", topology_permissions())
    return [*services, topology, *(tenant_user(tenant) for tenant in sorted(set(tenants)))]


def tenant_user(tenant: str) -> User:
    """The user of an internal tenant. Raises ValueError for a name that cannot be one."""
    return User(tenant_user_name(tenant), f"the tenant {tenant}", tenant_permissions(tenant))


def tenant_user_name(tenant: str) -> str:
    """`tenant-` and the tenant's token; a long one is replaced by a digest, which no token looks like."""
    token = subjects.encode_token(tenant)
    if len(token) > _LONGEST_PLAIN_TOKEN:
        token = f"=={hashlib.sha256(token.encode()).hexdigest()}"
    return f"tenant-{token}"


def inbox_prefix(user: str | None) -> str:
    """Where a user's replies arrive: for the client's option of that name. None: a connection without a user."""
    if user is None:
        return subjects.INBOX
    return f"{subjects.INBOX}.{user if _PLAIN_USER.fullmatch(user) else subjects.encode_token(user)}"


def tenant_permissions(tenant: str) -> Permissions:
    """A tenant's own commands, events, progress and replies, and nothing else."""
    name = tenant_user_name(tenant)
    return Permissions(
        publish=tuple(subjects.command_filter(noun, tenant=tenant) for noun in TENANT_NOUNS),
        subscribe=(subjects.event_filter(tenant=tenant), subjects.live_filter(tenant), _inbox(name)),
    )


def service_permissions(service: str) -> Permissions:
    """What one of `SERVICES` needs. Raises KeyError for another name."""
    publish, subscribe = {
        GATEWAY: (list(_gateway_publishes()), []),
        FILE_STORE: ([], []),
        BATCH_RUNNER: (list(_runner_publishes()), [subjects.ALL_CONTROL]),
        BILLING: (list(_billing_publishes()), []),
    }[service]
    commands = list(_commands_of(service))
    if commands:
        publish.append(subjects.ALL_INBOXES)
    for bucket in OWNED_BUCKETS.get(service, ()):
        publish += _owns_bucket(bucket)
    for bucket in WATCHED_BUCKETS.get(service, ()):
        publish += _watches_bucket(bucket)
    return Permissions(tuple(publish), (*commands, *subscribe, _inbox(service)))


def topology_permissions() -> Permissions:
    """Making and changing streams, buckets and the fixed consumers. Not emptying and not removing them."""
    streams = [EVENTS, WORK, STEPS, WEBHOOKS, *(f"KV_{bucket}" for bucket in (*BUCKETS, CREATIONS_BUCKET))]
    declares = [f"{_API}.STREAM.{verb}.{stream}" for stream in streams for verb in ("CREATE", "UPDATE")]
    consumers = ((EVENTS, BILLING_CONSUMER), (EVENTS, WEBHOOKS_CONSUMER), (WEBHOOKS, DELIVERIES_CONSUMER))
    declares += [f"{_API}.CONSUMER.DURABLE.CREATE.{stream}.{name}" for stream, name in consumers]
    return Permissions(tuple(declares), (_inbox(TOPOLOGY),))


def _inbox(user: str) -> str:
    return f"{inbox_prefix(user)}.>"


def _commands_of(service: str) -> Iterator[str]:
    for noun, owner in COMMAND_OWNERS.items():
        if owner == service:
            yield f"{subjects.command_filter(noun)} {service}"
    if service != GATEWAY:
        yield f"{subjects.command_filter('health', service)} {service}"


def _gateway_publishes() -> Iterator[str]:
    yield subjects.command_filter()
    yield subjects.ALL_HOOKS
    yield from _consumes(EVENTS, WEBHOOKS_CONSUMER)
    yield from _consumes(WEBHOOKS, DELIVERIES_CONSUMER)


def _runner_publishes() -> Iterator[str]:
    yield subjects.command_filter("files")
    yield subjects.command_filter("budgets")
    yield subjects.event_filter("batches")
    yield from (subjects.ALL_LIVE, subjects.ALL_CONTROL, subjects.ALL_STEPS, subjects.ALL_WORK)
    yield from (f"{_API}.STREAM.INFO.{stream}" for stream in (EVENTS, WORK, STEPS))
    yield f"{_API}.STREAM.PURGE.{WORK}"
    yield f"{_API}.STREAM.MSG.GET.{STEPS}"
    # `events.list`.
    yield f"{_API}.CONSUMER.CREATE.{EVENTS}"
    yield from _reads(f"{EVENTS}.*")
    # The pools, and so the consumers of their shards, are known to the runners alone.
    for consumer in (f"{WORK}.*", f"{STEPS}.{STEPS_CONSUMER}"):
        yield f"{_API}.CONSUMER.DURABLE.CREATE.{consumer}"
        yield from _reads(consumer)
        yield f"$JS.ACK.{consumer}.>"


def _billing_publishes() -> Iterator[str]:
    yield subjects.command_filter("batches", "get")
    yield subjects.event_filter("budgets")
    yield f"{_API}.STREAM.MSG.GET.{EVENTS}"
    yield from _consumes(EVENTS, BILLING_CONSUMER)


def _consumes(stream: str, consumer: str) -> Iterator[str]:
    """Pulling from a consumer that others have made, and acknowledging."""
    yield f"{_API}.STREAM.INFO.{stream}"
    yield from _reads(f"{stream}.{consumer}")
    yield f"$JS.ACK.{stream}.{consumer}.>"


def _reads(consumer: str) -> Iterator[str]:
    yield f"{_API}.CONSUMER.INFO.{consumer}"
    yield f"{_API}.CONSUMER.MSG.NEXT.{consumer}"


def _owns_bucket(bucket: str) -> Iterator[str]:
    """Reading, writing, listing, watching and erasing. Listings and watches are consumers that end by themselves."""
    stream = f"KV_{bucket}"
    yield f"$KV.{bucket}.>"
    yield f"{_API}.STREAM.MSG.GET.{stream}"
    yield f"{_API}.STREAM.PURGE.{stream}"
    yield from _watches_bucket(bucket)
    yield from _reads(f"{stream}.*")


def _watches_bucket(bucket: str) -> Iterator[str]:
    stream = f"KV_{bucket}"
    yield f"{_API}.STREAM.INFO.{stream}"
    yield f"{_API}.CONSUMER.CREATE.{stream}"
    yield f"{_API}.CONSUMER.CREATE.{stream}.>"
    yield f"{_API}.CONSUMER.DELETE.{stream}.*"
    yield f"$JS.FC.{stream}.>"
