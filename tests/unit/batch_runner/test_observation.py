"""What a limit is worth, judged by what was seen at it and at the one before."""

import pytest

from batchyard.batch_runner.observation import Observation, Window


def window(in_flight: int, completions: int, latency: float, looks: int = 2, tokens: int = 0) -> Window:
    """Half a second for each look, with as many answers in each."""
    found = Window(begins=0.0)
    for look in range(looks):
        seen = Observation(
            now=(look + 1) / 2,
            in_flight=in_flight,
            completions=completions,
            tokens=tokens * completions,
            seconds=latency * completions,
        )
        found.add(seen, in_flight, 0.5)
    return found


def test_twice_the_limit_has_to_bring_seven_percent() -> None:
    before = window(32, 16, 1.0)
    assert window(64, 32, 1.0).brings_more(64, before, 32), "as fast for each: twice the work"
    assert window(64, 18, 1.85).brings_more(64, before, 32)
    assert not window(64, 16, 1.9).brings_more(64, before, 32)
    assert not window(64, 16, 2.0).brings_more(64, before, 32)


def test_a_little_less_may_cost_next_to_nothing() -> None:
    before = window(100, 50, 1.0)
    assert window(85, 50, 0.85).brings_more(85, before, 100)
    assert window(85, 50, 0.86).brings_more(85, before, 100)
    assert not window(85, 42, 1.0).brings_more(85, before, 100)


def test_tokens_count_where_answers_have_them() -> None:
    before = window(32, 16, 1.0, tokens=50)
    assert window(64, 16, 2.0, tokens=100).brings_more(64, before, 32), "answers are twice as long"


@pytest.mark.parametrize(("answers", "is_more"), [(2_000, False), (2_100, False), (2_200, True)])
def test_many_answers_are_counted(answers: int, is_more: bool) -> None:
    """A client that is short of time itself has fewer in flight than it may: by Little's law that would be more."""
    before = window(128, 2_000, 0.02)
    assert window(256, answers, 0.02).brings_more(256, before, 128) is is_more
