"""How many requests a key and a team may make: by the minute and at a time."""

import pytest
from unit.gateway.rig import KEY, UPLOAD_HEAD, Served, error_of, raw_request
from unit.gateway.test_keys import Act, act, client

from batchyard.common.clock import ManualClock
from batchyard.common.contracts.access import Key, Limits, Team
from batchyard.gateway.auth import Identity
from batchyard.gateway.request_limits import LIMIT_HEADER, REMAINING_HEADER, Refused, RequestLimits

__all__ = ["act"]


def identity(key: Limits, team: Limits | None = None, key_id: str = "k") -> Identity:
    of_team = None if team is None else Team(team_id="t", limits=team, created_at=0, updated_at=0)
    record = Key(key_id=key_id, key_name="sk-...wxyz", limits=key, created_at=0, updated_at=0)
    return Identity("t", None, key_id, key=record, team=of_team)


def test_a_minute_holds_as_many_requests_as_the_limit() -> None:
    clock = ManualClock()
    limits = RequestLimits(clock)
    one = identity(Limits(rpm_limit=60))
    left = [limits.admit(one).headers[REMAINING_HEADER] for _ in range(60)]
    assert left == [str(count) for count in range(59, -1, -1)]
    with pytest.raises(Refused, match="60 requests per minute") as refused:
        limits.admit(one)
    assert refused.value.retry_after == 1
    assert refused.value.headers == {LIMIT_HEADER: "60", REMAINING_HEADER: "0"}
    clock.advance(1.0)  # what was said to be waited for
    limits.admit(one)
    with pytest.raises(Refused):
        limits.admit(one)
    clock.advance(60)
    for _ in range(60):
        limits.admit(one)


def test_a_slow_rate_says_how_long_to_wait() -> None:
    clock = ManualClock()
    limits = RequestLimits(clock)
    one = identity(Limits(rpm_limit=2))
    limits.admit(one)
    limits.admit(one)
    with pytest.raises(Refused) as refused:
        limits.admit(one)
    assert refused.value.retry_after == 30


def test_none_at_all_is_a_limit_too() -> None:
    with pytest.raises(Refused) as refused:
        RequestLimits(ManualClock()).admit(identity(Limits(rpm_limit=0)))
    assert refused.value.retry_after == 60


def test_the_keys_of_a_team_share_its_rate() -> None:
    limits = RequestLimits(ManualClock())
    team = Limits(rpm_limit=3)
    for key_id in ("a", "b", "a"):
        limits.admit(identity(Limits(rpm_limit=2), team, key_id))
    with pytest.raises(Refused, match="team 't'"):
        limits.admit(identity(Limits(rpm_limit=2), team, "b"))
    with pytest.raises(Refused, match="API key sk-...wxyz"):
        limits.admit(identity(Limits(rpm_limit=2), Limits(), "a"))


def test_a_refused_request_counts_for_nobody() -> None:
    limits = RequestLimits(ManualClock())
    with pytest.raises(Refused):
        limits.admit(identity(Limits(rpm_limit=5), Limits(rpm_limit=0)))
    assert limits.admit(identity(Limits(rpm_limit=5))).headers[REMAINING_HEADER] == "4"


def test_the_headers_tell_the_tighter_of_two_limits() -> None:
    limits = RequestLimits(ManualClock())
    headers = limits.admit(identity(Limits(rpm_limit=5), Limits(rpm_limit=100))).headers
    assert headers == {LIMIT_HEADER: "5", REMAINING_HEADER: "4"}


def test_as_many_requests_at_a_time_as_the_limit() -> None:
    limits = RequestLimits(ManualClock())
    one = identity(Limits(max_parallel_requests=2))
    first = limits.admit(one)
    limits.admit(one)
    with pytest.raises(Refused, match="at a time") as refused:
        limits.admit(one)
    assert refused.value.retry_after == 1
    first.leave()
    limits.admit(one)


def test_without_limits_nothing_is_counted_and_nothing_said() -> None:
    limits = RequestLimits(ManualClock())
    assert limits.admit(Identity(is_admin=True)).headers == {}
    assert limits.admit(identity(Limits(), Limits())).headers == {}


async def test_a_client_is_told_its_rate_and_when_to_come_again(gateway: Served, act: Act) -> None:
    made = await act("/key/generate", rpm_limit=2)
    async with client(gateway, made["key"]) as http:
        for left in ("1", "0"):
            response = await http.get("/v1/files/file-none")  # an error counts, and says so too
            assert response.status_code == 404
            assert (response.headers[LIMIT_HEADER], response.headers[REMAINING_HEADER]) == ("2", left)
        response = await http.get("/v1/files")
    assert response.status_code == 429
    error = error_of(response)
    assert (error["type"], error["code"]) == ("requests", "rate_limit_exceeded")
    assert 1 <= int(response.headers["retry-after"]) <= 30
    assert response.headers[REMAINING_HEADER] == "0"


async def test_a_request_holds_its_place_until_it_is_answered(gateway: Served, act: Act) -> None:
    made = await act("/key/generate", max_parallel_requests=1)
    head = UPLOAD_HEAD.replace(KEY, made["key"])
    async with client(gateway, made["key"]) as http:
        async with raw_request(gateway.port, head, b"--b0undary\r\n"):
            while (await http.get("/v1/files")).status_code == 200:
                pass  # the upload has not begun yet
            refused = await http.get("/v1/files")
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        while (response := await http.get("/v1/files")).status_code == 429:
            pass  # the gateway has not seen yet that the client is gone
        assert response.status_code == 200


async def test_the_limit_is_kept_before_the_body_is_read(gateway: Served, act: Act) -> None:
    made = await act("/key/generate", rpm_limit=0)
    async with raw_request(gateway.port, UPLOAD_HEAD.replace(KEY, made["key"])) as reader:
        assert (await reader.readline()).startswith(b"HTTP/1.1 429")
