"""Webhooks at the end: who was told of what, how often, under which ID, and by whose signature."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from openai import InvalidWebhookSignatureError, OpenAI

from batchyard.common.contracts.events import BudgetEvent
from soak.checker import ENDED, Findings, Verdict
from soak.diary import Endpoint
from soak.listener import Heard

_LATE = 30.0
"""Seconds between a signature and its arrival at a process that may be stopped in between."""
_A_DAY = 24 * 3600
_LOST = "/lost/"


@dataclass(frozen=True, slots=True)
class Told:
    """One request of an endpoint, and the event in it."""

    heard: Heard
    event: Any

    @property
    def about(self) -> tuple[str, str]:
        """What it tells of: of that there is one event."""
        data = self.event["data"]
        if self.event["type"].startswith("batch."):
            return "batch", data["id"]
        return "budget", f"{data['team_id']} {data['key_id']} {data['period_start']}"


def check_webhooks(
    endpoints: Sequence[Endpoint],
    heard: Sequence[Heard],
    listed: Sequence[tuple[str, Any]],
    budgets: Sequence[BudgetEvent],
    moods: Mapping[Any, int],
) -> list[Verdict]:
    """`listed` are all batches with their teams, as each team lists them."""
    told: dict[str, list[Told]] = {endpoint.path: [] for endpoint in endpoints}
    strange = Findings()
    for one in heard:
        if one.request.path in told:
            told[one.request.path].append(Told(one, json.loads(one.request.body)))
        else:
            strange.expect(one.request.path.startswith(_LOST), f"{one.request.path} was never an endpoint's")
    teams = {batch["id"]: (team, batch) for team, batch in listed}
    return [
        _told_of_all(endpoints, told, listed, budgets, moods),
        _signed(endpoints, told),
        _one_id(told, strange),
        _true(endpoints, told, teams),
    ]


def _told_of_all(
    endpoints: Sequence[Endpoint],
    told: Mapping[str, Sequence[Told]],
    listed: Sequence[tuple[str, Any]],
    budgets: Sequence[BudgetEvent],
    moods: Mapping[Any, int],
) -> Verdict:
    """What ended, and each budget that was told in the stream, was taken over by each endpoint there was before.

    A batch's time is told in whole seconds, without the rest: one of the very second does not count.
    """
    findings, due = Findings(), 0
    for endpoint in endpoints:
        taken = {one.about for one in told[endpoint.path] if one.heard.is_taken}
        wanted = [
            ("batch", batch["id"], f"batch {batch['metadata']['soak']} of {team}, {batch['status']}")
            for team, batch in listed
            if endpoint.hears(team) and batch["status"] in ENDED and batch["created_at"] > endpoint.since
        ]
        wanted += [
            ("budget", f"{event.tenant} {event.key_id} {event.period_start}", f"a budget of {event.tenant}")
            for event in budgets
            if endpoint.hears(event.tenant) and event.occurred_at > endpoint.since
        ]
        due += len(wanted)
        for kind, name, what in wanted:
            findings.expect((kind, name) in taken, f"{endpoint.path} was not told of {what}")
    findings.expect(due > 0, "nothing was to be told")
    count = sum(map(len, told.values()))
    refused = count - sum(one.heard.is_taken for of_one in told.values() for one in of_one)
    spells = ", ".join(f"{number} times {kind}" for kind, number in sorted(moods.items())) or "well throughout"
    return findings.verdict(
        "every end is told to each endpoint that was there before",
        f"{due} events due at {len(endpoints)} endpoints, {count} requests, {refused} of them not taken over; "
        f"the receiver: {spells}",
    )


def _signed(endpoints: Sequence[Endpoint], told: Mapping[str, Sequence[Told]]) -> Verdict:
    findings, count = Findings(), 0
    with OpenAI(api_key="sk-unused") as client:
        for endpoint in endpoints:
            for one in told[endpoint.path]:
                count += 1
                request = one.heard.request
                try:
                    client.webhooks.verify_signature(
                        request.body, request.headers, secret=endpoint.secret, tolerance=_A_DAY
                    )
                except (InvalidWebhookSignatureError, ValueError) as error:
                    findings.expect(False, f"{endpoint.path} {request.id}: {error}")
                age = one.heard.at - int(request.headers.get("webhook-timestamp", "0"))
                findings.expect(-1 < age < _LATE, f"{endpoint.path} {request.id} was signed {age:.0f} s before")
    return findings.verdict("every webhook is signed, and anew at each try", f"{count} signatures")


def _one_id(told: Mapping[str, Sequence[Told]], findings: Findings) -> Verdict:
    """An event has one ID, which is that of no other, at every endpoint; and one body at each of them."""
    ids: dict[tuple[str, str], set[str]] = defaultdict(set)
    about: dict[str, set[tuple[str, str]]] = defaultdict(set)
    again = 0
    for path, of_one in told.items():
        bodies: dict[str, set[str]] = defaultdict(set)
        for one in of_one:
            request = one.heard.request
            ids[one.about].add(request.id)
            about[request.id].add(one.about)
            bodies[request.id].add(request.body)
            findings.expect(one.event["id"] == request.id, f"{path}: {request.id} has {one.event['id']} within")
        again += len(of_one) - len(bodies)
        for event_id, texts in bodies.items():
            findings.expect(len(texts) == 1, f"{path}: {event_id} came with {len(texts)} bodies")
    for what, found in ids.items():
        findings.expect(len(found) == 1, f"{what} came under {len(found)} IDs")
    for event_id, found_things in about.items():
        findings.expect(len(found_things) == 1, f"{event_id} tells of {len(found_things)} things")
    return findings.verdict("a webhook that comes again has its ID", f"{len(about)} events, {again} requests again")


def _true(
    endpoints: Sequence[Endpoint], told: Mapping[str, Sequence[Told]], teams: Mapping[str, tuple[str, Any]]
) -> Verdict:
    """Each tells what is the case, and a team's endpoint of its own team alone."""
    findings = Findings()
    for endpoint in endpoints:
        for one in told[endpoint.path]:
            kind, data = one.event["type"], one.event["data"]
            if kind.startswith("batch."):
                team, batch = teams.get(data["id"], (None, {"status": "none"}))
                findings.expect(
                    kind == f"batch.{batch['status']}", f"{endpoint.path}: {kind} of a batch that is {batch['status']}"
                )
                shown = data.get("team_id")
                findings.expect(shown == (team if endpoint.team is None else None), f"{endpoint.path} names {shown}")
            else:
                team = data["team_id"]
            findings.expect(team is not None and endpoint.hears(team), f"{endpoint.path} was told of {team}")
    return findings.verdict("webhooks tell what is so, and no team of another", f"{len(endpoints)} endpoints")
