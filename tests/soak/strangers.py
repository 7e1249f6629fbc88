"""Who asks for what they must not have, all the time: with other teams' IDs, and with secrets that work no more."""

import asyncio
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from soak.administration import Administrator
from soak.client import Client, batch_request
from soak.diary import Diary, Knock, Wish
from soak.plan import MODELS
from soak.teams import DEFAULT, OPEN, WARNED

_PAUSE = 0.25
_BROKEN = 500
_HARMLESS = ("/v1/files?limit=1", "/v1/models", "/v1/batches?limit=1")
_LISTS = ("/v1/batches?limit=100", "/v1/files?limit=100", "/spend/logs?limit=100")


@dataclass
class Strangers:
    """Ask until cancelled; what they see goes into the diary."""

    administrator: Administrator
    diary: Diary
    rng: random.Random
    _harmless: Iterator[str] = field(default_factory=lambda: itertools.cycle(_HARMLESS), init=False)

    async def run(self) -> None:
        await asyncio.gather(*map(_again_and_again, (self._knock, self._intrude, self._look, self._name_others_model)))

    async def _knock(self) -> None:
        """With the secrets of which it matters when they work, at every gateway."""
        administrator = self.administrator
        open_client = administrator.clients.get(OPEN)
        doors: list[tuple[Client | None, list[Knock]]] = [
            (administrator.leaver, self.diary.revoked),
            (administrator.rotated, self.diary.old),
            (open_client if administrator.rotated else None, self.diary.new),
        ]
        path = next(self._harmless)
        for client, knocks in doors:
            if client is None:
                continue
            for url in client.urls:
                sent = time.time()
                answer = await _once(client, "GET", path, url=url)
                knocks.append(Knock(url, sent, time.time(), None if answer is None else answer.status_code))

    async def _intrude(self) -> None:
        """Name what is another team's: it must not exist."""
        wishes = [wish for wish in self.diary.wishes.values() if wish.file_id and wish.batch_id]
        if not wishes:
            return
        wish = self.rng.choice(wishes)
        strangers = [team for team in self.administrator.clients if team != wish.planned.team]
        if not strangers:
            return
        team = self.rng.choice(strangers)
        method, path, body = self.rng.choice(_intrusions(wish))
        if path.startswith("/spend") and team == DEFAULT:
            return  # the master key sees what all teams have spent
        answer = await _once(self.administrator.clients[team], method, path, json=body)
        if answer is None or answer.status_code >= _BROKEN:
            return
        self.diary.intrusions += 1
        is_empty = path.startswith("/spend") and answer.status_code == httpx.codes.OK and not answer.json()["data"]
        denied_by_model = body is not None and _code(answer) == "model_not_allowed"
        if answer.status_code != httpx.codes.NOT_FOUND and not is_empty and not denied_by_model:
            self.diary.leaks.append(f"{team}: {method} {path} of {wish.planned.team}: {answer.status_code}")

    async def _look(self) -> None:
        """List what there is: nothing of another team's may be among it."""
        if not self.administrator.clients:
            return
        team = self.rng.choice(list(self.administrator.clients))
        path = self.rng.choice(_LISTS)
        if path.startswith("/spend") and team == DEFAULT:
            return
        answer = await _once(self.administrator.clients[team], "GET", path)
        if answer is None or answer.status_code != httpx.codes.OK:
            return
        self.diary.intrusions += 1
        theirs = {name: wish for wish in self.diary.wishes.values() for name in (wish.file_id, wish.batch_id) if name}
        for entry in answer.json()["data"]:
            known = theirs.get(entry.get("batch_id") or entry["id"])
            if known is not None and known.planned.team != team:
                self.diary.leaks.append(f"{team}: {path} lists a thing of {known.planned.team}")

    async def _name_others_model(self) -> None:
        """The team `warned` may name one model alone."""
        client = self.administrator.clients.get(WARNED)
        if client is None:
            return
        form: Any = {"data": {"purpose": "batch"}, "files": {"file": ("no.jsonl", b"{}")}}
        answer = await _once(client, "POST", "/v1/files", headers={"x-litellm-model": MODELS[1].name}, **form)
        if answer is None or answer.status_code >= _BROKEN:
            return
        self.diary.denied_models += 1
        if answer.status_code != httpx.codes.FORBIDDEN or _code(answer) != "model_not_allowed":
            self.diary.wrong_models.append(f"{answer.status_code} {answer.text[:100]}")


def _intrusions(wish: Wish) -> Sequence[tuple[str, str, Any]]:
    batch, file = f"/v1/batches/{wish.batch_id}", f"/v1/files/{wish.file_id}"
    return (
        ("GET", batch, None),
        ("POST", f"{batch}/cancel", None),
        ("GET", file, None),
        ("GET", f"{file}/content", None),
        ("DELETE", file, None),
        ("GET", f"/spend/logs?batch_id={wish.batch_id}", None),
        ("POST", "/v1/batches", batch_request(str(wish.file_id), wish.planned.number)),
    )


async def _again_and_again(act: Callable[[], Awaitable[None]]) -> None:
    while True:
        await act()
        await asyncio.sleep(_PAUSE)


async def _once(
    client: Client, method: str, path: str, url: str | None = None, **options: Any
) -> httpx.Response | None:
    """The answer to one request; None if there was none."""
    headers = {"authorization": f"Bearer {client.secret}", **options.pop("headers", {})}
    try:
        return await client.http.request(
            method, f"{url or client.urls[0]}{path}", headers=headers, timeout=5, **options
        )
    except httpx.TransportError:
        return None


def _code(answer: httpx.Response) -> str | None:
    try:
        code: str | None = answer.json()["error"]["code"]
    except (ValueError, KeyError, TypeError):
        return None
    return code
