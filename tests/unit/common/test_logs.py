"""Logs are one JSON object a line, whoever wrote them."""

import io
import json
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pytest
import structlog
from pydantic import SecretStr

from batchyard.common.logs import configure_logging, get_logger

Configure = Callable[..., None]
Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {
        name: logger.level for name, logger in root.manager.loggerDict.items() if isinstance(logger, logging.Logger)
    }
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in root.manager.loggerDict:
        logging.getLogger(name).setLevel(levels.get(name, logging.NOTSET))


@pytest.fixture
def stderr() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def configure(stderr: io.StringIO) -> Configure:
    def configure(level: str = "info", form: Literal["json", "console"] = "json") -> None:
        with redirect_stderr(stderr):
            configure_logging("probe", level, form)

    return configure


@pytest.fixture
def lines(configure: Configure, stderr: io.StringIO) -> Lines:
    configure()
    return lambda: [json.loads(line) for line in stderr.getvalue().splitlines()]


def test_an_event_is_a_line_with_its_fields(lines: Lines) -> None:
    get_logger("a.module").info("batch.planned", batch="batch_1", shards=3)
    (line,) = lines()
    assert datetime.now(UTC) - datetime.fromisoformat(line.pop("timestamp")) < timedelta(minutes=1)
    assert line == {
        "event": "batch.planned",
        "level": "info",
        "service": "probe",
        "logger": "a.module",
        "batch": "batch_1",
        "shards": 3,
    }


def test_the_standard_librarys_records_have_the_same_form(lines: Lines) -> None:
    logging.getLogger("a.library").warning("lost %s of %d", "one", 2, extra={"batch": "batch_1"})
    (line,) = lines()
    assert line["event"] == "lost one of 2"
    assert (line["level"], line["logger"], line["service"]) == ("warning", "a.library", "probe")
    assert line["batch"] == "batch_1"
    assert "timestamp" in line


@pytest.mark.parametrize("logger", [get_logger("ours"), logging.getLogger("theirs")], ids=["ours", "theirs"])
def test_an_exception_stays_within_its_line(lines: Lines, logger: Any) -> None:
    try:
        raise ZeroDivisionError("two\nlines")  # noqa: TRY301  to be logged with its trace
    except ZeroDivisionError:
        logger.exception("shard.failed")
    (line,) = lines()
    assert line["event"] == "shard.failed"
    assert line["level"] == "error"
    assert "Traceback" in line["exception"]
    assert "ZeroDivisionError: two\nlines" in line["exception"]


def test_a_line_break_in_a_field_does_not_part_the_line(lines: Lines) -> None:
    get_logger("m").info("x", text='a\nb\r\u2028"c"')
    assert [line["text"] for line in lines()] == ['a\nb\r\u2028"c"']


def test_a_thread_of_a_library_is_part_of_the_service(lines: Lines) -> None:
    with ThreadPoolExecutor() as pool:
        pool.submit(logging.getLogger("a.library").warning, "x").result()
    assert [line["service"] for line in lines()] == ["probe"]


def test_bound_context_is_on_every_line(lines: Lines) -> None:
    with structlog.contextvars.bound_contextvars(request_id="req_1"):
        get_logger("m").info("x")
        logging.getLogger("m").info("y")
    assert [line["request_id"] for line in lines()] == ["req_1", "req_1"]


def test_a_value_that_json_does_not_know_is_still_logged_and_a_secret_is_not(lines: Lines) -> None:
    get_logger("m").info("x", kind=OSError("gone"), key=SecretStr("hidden"))
    (line,) = lines()
    assert "gone" in line["kind"]
    assert "hidden" not in line["key"]


def test_what_is_below_the_level_is_left_out(configure: Configure, lines: Lines) -> None:
    configure("warning")
    get_logger("m").info("x")
    get_logger("m").warning("y")
    assert [line["event"] for line in lines()] == ["y"]


def test_chatty_libraries_speak_only_of_trouble(lines: Lines) -> None:
    logging.getLogger("httpx").info("GET")
    logging.getLogger("httpx").warning("trouble")
    assert [line["event"] for line in lines()] == ["trouble"]


def test_configuring_twice_does_not_double_the_lines(configure: Configure, lines: Lines) -> None:
    configure()
    get_logger("m").info("x")
    assert len(lines()) == 1


def test_nothing_goes_to_stdout(lines: Lines, capsys: pytest.CaptureFixture[str]) -> None:
    get_logger("m").info("x")
    assert capsys.readouterr().out == ""


def test_for_people_the_event_is_plain_text(configure: Configure, stderr: io.StringIO) -> None:
    configure(form="console")
    get_logger("m").info("batch.planned", shards=3)
    text = stderr.getvalue()
    assert "batch.planned" in text
    assert "probe" in text
    assert "\x1b" not in text  # no colours where it is not a terminal
