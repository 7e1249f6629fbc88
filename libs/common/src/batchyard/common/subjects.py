"""The subject grammar, in one place: builders and parsers, and no string formatting anywhere else.

    batchyard.v1.cmd.<tenant>.<noun>.<verb>        request/reply, queue group = service name
    batchyard.v1.evt.<tenant>.<noun>.<id>.<what>   stream EVENTS
    batchyard.v1.work.<pool>.<batch>.<shard>       stream WORK; at most one message per shard
    batchyard.v1.work.<pool>.<batch>.native.whole  stream WORK; a batch that its server runs as one of its own
    batchyard.v1.step.<tenant>.<batch>             stream STEPS; at most one message per batch
    batchyard.v1.hook.<tenant>.<endpoint>.<event>  stream WEBHOOKS; at most one message per event and endpoint
    batchyard.v1.live.<tenant>.batches.<id>        core NATS: progress ticks, not persisted
    batchyard.v1.ctl.batches.<id>                  core NATS: broadcast to every runner
    batchyard.v1.ctl.fleet                         core NATS: asked of every runner, each replies
    batchyard.v1.ctl.runners                       core NATS: each runner says that it is there
    _INBOX.<user>.…                                replies to a user of NATS that has permissions

The tenant is a token of the subject so that NATS' own permissions can enforce tenancy.
"""

import re
from dataclasses import dataclass

ROOT = "batchyard.v1"

MAX_TOKEN = 3000
"""Characters: nats-server ends a connection for good at a protocol line above 4096."""

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")
_ESCAPED = re.compile(r"=([0-9A-F]{2})")
_TOKEN = re.compile(r"(?:[A-Za-z0-9_-]|=[0-9A-F]{2})+")


def encode_token(text: str) -> str:
    """`text` as one subject token, also safe in a KV key, a consumer name and an object key.

    Letters, digits, `-` and `_` stay; every other byte of the UTF-8 form becomes `=XX`.

    Raises:
        ValueError: `text` is empty, which is no token, or so long that the server would close the connection.
    """
    if not text:
        raise ValueError("a subject token cannot be empty")
    token = _UNSAFE.sub(lambda m: "".join(f"={byte:02X}" for byte in m[0].encode()), text)
    if len(token) > MAX_TOKEN:
        raise ValueError(f"a subject token of {len(token)} characters is too long; {MAX_TOKEN} are possible")
    return token


def decode_token(token: str) -> str:
    """The text that `encode_token` made `token` from. Raises ValueError when it made no such token."""
    if not _TOKEN.fullmatch(token):
        raise ValueError(f"not an encoded subject token: {token!r}")
    text = _ESCAPED.sub(lambda m: chr(int(m[1], 16)), token).encode("latin-1").decode()
    if encode_token(text) != token:
        raise ValueError(f"not an encoded subject token: {token!r}")
    return text


def command(tenant: str, noun: str, verb: str) -> str:
    """Where a command is sent."""
    return f"{ROOT}.cmd.{encode_token(tenant)}.{noun}.{verb}"


def command_pattern(noun: str, verb: str) -> str:
    """Where the service that owns `noun` listens, in FastStream's notation: `tenant` is a path parameter."""
    return f"{ROOT}.cmd.{{tenant}}.{noun}.{verb}"


def command_filter(noun: str = "*", verb: str = "*", *, tenant: str | None = None) -> str:
    """A filter over commands; what is not given matches everything."""
    return f"{ROOT}.cmd.{encode_token(tenant) if tenant is not None else '*'}.{noun}.{verb}"


def event(tenant: str, noun: str, object_id: str, what: str) -> str:
    """Where a fact about one object is published."""
    return f"{ROOT}.evt.{encode_token(tenant)}.{noun}.{encode_token(object_id)}.{what}"


def event_filter(noun: str = "*", what: str = "*", *, tenant: str | None = None, object_id: str | None = None) -> str:
    """A filter over events; what is not given matches everything."""
    who = encode_token(tenant) if tenant is not None else "*"
    which = encode_token(object_id) if object_id is not None else "*"
    return f"{ROOT}.evt.{who}.{noun}.{which}.{what}"


def work(pool: str, batch_id: str, shard: int) -> str:
    """Where one shard waits for a runner. Its own subject, so that a shard still queued cannot be queued twice."""
    return f"{ROOT}.work.{encode_token(pool)}.{encode_token(batch_id)}.{shard}"


def native_work(pool: str, batch_id: str) -> str:
    """Where a batch waits that its server runs as one of its own."""
    return f"{ROOT}.work.{encode_token(pool)}.{encode_token(batch_id)}.native.whole"


def work_of_batch(batch_id: str) -> str:
    """The shards of one batch, in whatever pools, or the whole of it."""
    return f"{ROOT}.work.*.{encode_token(batch_id)}.>"


def work_filter(pool: str) -> str:
    """The shards of one pool of deployments."""
    return f"{ROOT}.work.{encode_token(pool)}.*.*"


def native_work_filter(pool: str) -> str:
    """The batches of one pool that its servers run as their own."""
    return f"{ROOT}.work.{encode_token(pool)}.*.native.whole"


def step(tenant: str, batch_id: str) -> str:
    """Where the wish to move one batch waits."""
    return f"{ROOT}.step.{encode_token(tenant)}.{encode_token(batch_id)}"


def hook(tenant: str, endpoint_id: str, event_id: str) -> str:
    """Where the delivery of one event to one endpoint of webhooks waits."""
    return f"{ROOT}.hook.{encode_token(tenant)}.{encode_token(endpoint_id)}.{encode_token(event_id)}"


def live(tenant: str, batch_id: str) -> str:
    """Progress ticks of one batch."""
    return f"{ROOT}.live.{encode_token(tenant)}.batches.{encode_token(batch_id)}"


def is_live(subject: str) -> bool:
    """Whether a subject is one of progress ticks."""
    return subject.startswith(f"{ROOT}.live.")


def live_filter(tenant: str) -> str:
    """The progress ticks of all batches of a tenant."""
    return f"{ROOT}.live.{encode_token(tenant)}.batches.*"


def control(batch_id: str) -> str:
    """Broadcast to the runners about one batch."""
    return f"{ROOT}.ctl.batches.{encode_token(batch_id)}"


BATCH_EVENT_PATTERN = f"{ROOT}.evt.{{tenant}}.batches.{{batch}}.{{status}}"
BUDGET_EVENT_PATTERN = f"{ROOT}.evt.{{tenant}}.budgets.{{key}}.soft_exceeded"
LIVE_PATTERN = f"{ROOT}.live.{{tenant}}.batches.{{batch}}"
"""What `event` and `live` make, with names in place of values: for documents."""

INBOX = "_INBOX"
"""Where replies go. Nothing else is answered there, and nothing is answered elsewhere."""

ALL_INBOXES = f"{INBOX}.>"
ALL_LIVE = f"{ROOT}.live.*.batches.*"
ALL_EVENTS = f"{ROOT}.evt.>"
ALL_WORK = f"{ROOT}.work.>"
ALL_STEPS = f"{ROOT}.step.>"
ALL_HOOKS = f"{ROOT}.hook.>"
ALL_CONTROL = f"{ROOT}.ctl.>"
BATCH_CONTROL = f"{ROOT}.ctl.batches.>"
FLEET_CONTROL = f"{ROOT}.ctl.fleet"
"""Asks every runner for its view of the servers."""
RUNNERS_CONTROL = f"{ROOT}.ctl.runners"
"""By which each runner says that it is there."""


@dataclass(frozen=True, slots=True)
class EventSubject:
    """The parts of an event's subject, decoded."""

    tenant: str
    noun: str
    object_id: str
    what: str


def parse_event(subject: str) -> EventSubject:
    """Raises ValueError when `subject` is not an event's."""
    prefix = f"{ROOT}.evt."
    parts = subject.removeprefix(prefix).split(".")
    if not subject.startswith(prefix) or len(parts) != 4:
        raise ValueError(f"not an event subject: {subject!r}")
    tenant, noun, object_id, what = parts
    return EventSubject(decode_token(tenant), noun, decode_token(object_id), what)


def parse_control(subject: str) -> str:
    """The batch a control broadcast is about. Raises ValueError when `subject` is not one."""
    prefix = f"{ROOT}.ctl.batches."
    if not subject.startswith(prefix):
        raise ValueError(f"not a control subject: {subject!r}")
    return decode_token(subject.removeprefix(prefix))
