"""One line against the fleet: attempts until there is a result."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from batchyard.batch_runner.exchange import Answer, Broken, NotSent, TimedOut, TooLarge, UpstreamError
from batchyard.batch_runner.fairness import Claim
from batchyard.batch_runner.flight import Flight
from batchyard.batch_runner.lines import (
    LineError,
    RequestLine,
    Tokens,
    answered_line,
    body_for,
    on_one_line,
    one_line_json,
    read_answer,
    unanswered_line,
)
from batchyard.batch_runner.member import Member
from batchyard.batch_runner.pool import Pool, PoolRetired
from batchyard.batch_runner.priority import Takes, may_be_refused
from batchyard.batch_runner.redirects import described, is_redirect
from batchyard.batch_runner.retry import THROTTLED, Failure, RetryPolicy, Spent, is_retryable, parse_retry_after
from batchyard.batch_runner.segments import Kind, Result
from batchyard.batch_runner.upstream import Upstream
from batchyard.common.clock import Clock
from batchyard.common.config import Deployment
from batchyard.common.logs import get_logger

_SERVER_ERRORS = frozenset({500, 502, 503, 504})
_TOO_MUCH = frozenset({THROTTLED, 503})
_THROTTLED_REST = 0.5
_NOTHING_SPENT = Spent()
_log = get_logger(__name__)


class LineJob(msgspec.Struct, frozen=True):
    """A request to bring to a result.

    Attributes:
        line: Its number in the input file, from 1.
        identity: The result's `id`.
        path: The route on the model server, beginning with `/v1/`.
        model: The name that clients use; each deployment has its own for it.
        claim: What it waits under for its turn.
    """

    line: int
    identity: str
    request: RequestLine
    path: str
    model: str
    claim: Claim | None = None


@dataclass(frozen=True, slots=True)
class _Failed:
    """An attempt without a result."""

    failure: Failure
    reason: str
    answer: Answer | None = None
    retry_after: float | None = None

    @property
    def is_throttled(self) -> bool:
        """Whether the server says that it has too much to do."""
        return self.answer is not None and self.answer.status in _TOO_MUCH


class Attempts:
    """Brings lines to results: chooses a deployment, sends, and tries again within the policy."""

    def __init__(self, upstream: Upstream, policy: RetryPolicy, clock: Clock, rng: random.Random) -> None:
        self._upstream = upstream
        self._policy = policy
        self._clock = clock
        self._rng = rng

    async def run(
        self, job: LineJob, pool: Pool, stopped: Callable[[], bool] = lambda: False, place: Member | None = None
    ) -> Result | None:
        """The line's result. Waits as long as no deployment is up; cancel to give up.

        The first attempt takes `place`, if the caller has acquired one for it; it is given back here.
        Once `stopped` says so, or the pool is retired, nothing more is sent: None for a line that has waited for its
        turn until then.
        """
        spent = _NOTHING_SPENT
        member: Member | None = None
        while True:
            try:
                member = place or await pool.acquire(member, job.claim)
            except PoolRetired:
                return None
            place = None
            if stopped():
                pool.release(member, job.claim)
                return None
            began = self._clock.monotonic()
            outcome = await self._fly(job, member, pool)
            if outcome is None:
                continue
            if isinstance(outcome, Result):
                pool.succeeded(member, began)
                return outcome
            took = self._clock.monotonic() - began
            is_down = await self._is_down(outcome, member, pool)
            if not is_down or outcome.failure is Failure.UNREACHABLE:
                spent = spent.after(outcome.failure, 0.0 if is_down else took)
            if self._policy.is_spent(spent):
                return _given_up(job, outcome, spent, member)
            if not is_down:
                spent = await self._back_off(spent, outcome, began, member, pool)

    async def _back_off(self, spent: Spent, failed: _Failed, began: float, member: Member, pool: Pool) -> Spent:
        """Tell the pool of an attempt that failed, and wait; what the line has used up then."""
        if failed.failure is Failure.THROTTLED or failed.retry_after is not None:
            # The server asked for rest, not the line: another deployment may take it in the meantime.
            pool.rest(member, _THROTTLED_REST if failed.retry_after is None else failed.retry_after)
        else:
            pool.failed(member, began)
        delay = self._policy.delay(spent, self._rng)
        await asyncio.sleep(delay)
        return spent.waited(delay)

    async def _fly(self, job: LineJob, member: Member, pool: Pool) -> Result | _Failed | None:
        """What an attempt came to; None for one that was taken back, which has cost the line nothing."""
        outcome: Result | _Failed | None = None
        flight = Flight(member.flights, self._clock)
        try:
            with flight:
                outcome = await self._send(job, member)
                if isinstance(outcome, Result):
                    flight.ended(outcome.tokens, is_refused=outcome.kind is Kind.FAILED)
                else:
                    member.flights.failures[outcome.failure] += 1
                    flight.failed(throttled=outcome.is_throttled, timed_out=outcome.failure is Failure.TIMED_OUT)
        finally:
            pool.release(member, job.claim)
        if not isinstance(outcome, Result):
            return outcome
        return msgspec.structs.replace(outcome, busy=int(flight.busy * 1e6))

    async def _send(self, job: LineJob, member: Member) -> Result | _Failed:
        deployment = member.deployment
        # vLLM refuses an ID that it is still working on, so every attempt has one of its own.
        upstream_id = f"{job.identity}-{self._rng.getrandbits(16):04x}"
        try:
            answer = await self._post(job, member, upstream_id)
        except NotSent as error:
            return _Failed(Failure.UNREACHABLE, str(error))
        except TimedOut as error:
            return _Failed(Failure.TIMED_OUT, str(error))
        except Broken as error:
            return _Failed(Failure.BROKEN, str(error))
        except TooLarge as error:
            return _unanswered(job, "response_too_large", str(error), deployment.id)
        except UpstreamError as error:
            return _Failed(Failure.BROKEN, str(error))
        return self._judge(job, answer, upstream_id, deployment)

    async def _post(self, job: LineJob, member: Member, request_id: str) -> Answer:
        """The server's answer, to a request without a priority where it does not take one. Raises UpstreamError."""
        deployment, model = member.deployment, member.deployment.name_for(job.model)
        if deployment.priority is None:
            return await self._upstream.post(deployment, job.path, body_for(job.request, model), request_id)
        with member.priority.sending(deployment.priority) as priority:
            body = body_for(job.request, model, priority)
            answer = await self._upstream.post(deployment, job.path, body, request_id)
            if priority is None or not may_be_refused(answer):
                member.priority.taken(answer)
                return answer
            body = body_for(job.request, model)
            plain = await self._upstream.post(deployment, job.path, body, f"{request_id}-p")
            if 200 <= plain.status < 300:
                member.priority.takes = Takes.NO
                _log.warning("deployment.no_priority", deployment=deployment.id, pool=deployment.pool)
            return plain

    def _judge(self, job: LineJob, answer: Answer, upstream_id: str, deployment: Deployment) -> Result | _Failed:
        if is_retryable(answer.status):
            throttled = answer.status == THROTTLED
            return _Failed(
                Failure.THROTTLED if throttled else Failure.REFUSED,
                f"the server answered {answer.status}",
                answer,
                parse_retry_after(answer.header("retry-after"), self._clock.now()),
            )
        tokens, kind, body, error = Tokens(), Kind.FAILED, one_line_json, None
        if 200 <= answer.status < 300:
            read = read_answer(answer.body)
            if read is None:
                return _Failed(Failure.MALFORMED, "the server's answer is not a JSON object")
            if read.aborted:
                return _Failed(Failure.ABORTED, "the server gave up while it was answering")
            tokens, kind, body = read.tokens, Kind.COMPLETED, on_one_line
        elif is_redirect(answer):
            told = described(answer, deployment.base_url)
            error = LineError("server_redirects", f"Redirects are not followed: {told}.")
        custom_id = bytes(job.request.custom_id)
        text = answered_line(job.identity, custom_id, answer.status, upstream_id, body(answer.body), error)
        return Result(job.line, kind, tokens, deployment.id, text)

    async def _is_down(self, failed: _Failed, member: Member, pool: Pool) -> bool:
        """Whether the failure is the server's and not the line's: then the line waits and nothing is counted.

        A broken connection is counted, or a line that kills its server would be sent for ever; but the server is asked
        as well, since a proxy in front of a dead one accepts connections only to close them.
        """
        if failed.failure is Failure.UNREACHABLE:
            pool.health.set_aside(member)
            return True
        if failed.failure is Failure.BROKEN:
            await pool.health.confirm_alive(member)
            return False
        if failed.answer is not None and failed.answer.status in _SERVER_ERRORS:
            return not await pool.health.confirm_alive(member)
        return False


def _given_up(job: LineJob, failed: _Failed, spent: Spent, member: Member) -> Result:
    """The result of a line whose budget is spent: why, and the server's last answer if there was one."""
    custom_id = bytes(job.request.custom_id)
    times = "1 attempt" if spent.total == 1 else f"{spent.total} attempts"
    error = LineError(
        failed.failure.value,
        f"Gave up after {times} in {spent.seconds:.1f} s; the last one failed because {failed.reason}.",
        spent.total,
        {failure.value: count for failure, count in spent.failures.items()},
    )
    if failed.answer is None:
        text = unanswered_line(job.identity, custom_id, error)
    else:
        upstream_id = failed.answer.header("x-request-id") or job.identity
        body = one_line_json(failed.answer.body)
        text = answered_line(job.identity, custom_id, failed.answer.status, upstream_id, body, error)
    return Result(job.line, Kind.FAILED, Tokens(), member.deployment.id, text)


def _unanswered(job: LineJob, code: str, message: str, deployment: str) -> Result:
    text = unanswered_line(job.identity, bytes(job.request.custom_id), LineError(code, message))
    return Result(job.line, Kind.FAILED, Tokens(), deployment, text)
