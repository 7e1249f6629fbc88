"""`batchyard up` as a person meets it: a command in a process of its own."""

import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from unit.cli.conftest import FakeServices

COMMAND = (sys.executable, "-m", "batchyard.cli")


def environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    return {**os.environ, "COLUMNS": "200", **(extra or {})}


def refused(*arguments: str, extra: dict[str, str] | None = None) -> tuple[int, str]:
    """The exit code and the message of an `up` that does not come up."""
    done = subprocess.run(
        [*COMMAND, "up", *arguments], env=environment(extra), capture_output=True, text=True, timeout=60, check=False
    )
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.returncode, done.stderr


@contextmanager
def running_up(*arguments: str, extra: dict[str, str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A system that is ready, and the line that says so."""
    with subprocess.Popen(
        [*COMMAND, "up", *arguments],
        env=environment(extra),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Whoever runs the tests under `nohup` hands an ignored SIGHUP down to every process.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # noqa: PLW1509  no threads here
    ) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline()
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_says_where_it_is_and_ends_quietly(number: signal.Signals, services: FakeServices, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running_up("--data-dir", str(data), "--port", "0", extra=services.environment) as (process, line):
        found = re.fullmatch(
            r"Batchyard is ready on http://127\.0\.0\.1:(\d+)/v1 \(data in (.*), stop with .*\)\n", line
        )
        assert found
        assert found[2] == str(data)
        with socket.create_connection(("127.0.0.1", int(found[1])), timeout=5):
            pass
        process.send_signal(number)
        output, errors = process.communicate(timeout=30)
    assert (process.returncode, output) == (0, "")
    assert errors == "Batchyard has stopped.\n"
    assert services.stopped[0] == "gateway"
    assert sorted(services.stopped) == ["batch-runner", "billing", "file-store", "gateway"]


def test_sighup_has_the_services_read_the_configuration_again(services: FakeServices, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("model_list: [{model_name: m, litellm_params: {model: m, api_base: 'http://h'}}]")
    arguments = ("--data-dir", str(tmp_path / "data"), "--port", "0", "--config", str(config))
    with running_up(*arguments, extra=services.environment) as (process, _):
        assert process.stderr is not None
        process.send_signal(signal.SIGHUP)
        assert process.stderr.readline().startswith("The services read the configuration again")
        deadline = time.monotonic() + 10
        while len(services.reloaded) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert sorted(services.reloaded) == ["batch-runner", "billing", "file-store", "gateway"]
        config.write_text("model_list: 7")
        process.send_signal(signal.SIGHUP)
        assert "the configuration before stays in force" in process.stderr.readline()
        assert "config.yaml:1:1: model_list: Input should be a valid list" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "Batchyard has stopped.\n")
    assert len(services.reloaded) == 4


def test_the_end_of_its_terminal_ends_it(services: FakeServices, tmp_path: Path) -> None:
    ours, its = os.openpty()

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(its, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

    command = [*COMMAND, "up", "--data-dir", str(tmp_path / "data"), "--port", "0"]
    with subprocess.Popen(
        command,
        env=environment(services.environment),
        stdin=its,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=take_terminal,  # noqa: PLW1509  no threads here
    ) as process:
        os.close(its)
        assert process.stdout is not None
        try:
            assert process.stdout.readline().startswith("Batchyard is ready")
            os.close(ours)
            assert process.wait(30) == 0
        finally:
            process.kill()
    assert len(services.stopped) == 4


def test_a_second_up_is_told_who_is_there(services: FakeServices, tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    with running_up("--data-dir", data, "--port", "0", extra=services.environment) as (process, _):
        code, said = refused("--data-dir", data, "--port", "0", extra=services.environment)
    assert code == 1
    assert f"{data} is in use by another `batchyard up` (process {process.pid})" in said


def test_a_busy_port_is_found_before_anything_starts(services: FakeServices, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, said = refused("--data-dir", str(data), "--port", str(port), extra=services.environment)
    assert code == 1
    assert said == f"Error: Port {port} is in use; choose another with --port, or --port 0 for a free one.\n"
    assert not data.exists()


def test_a_strange_host_is_told(services: FakeServices, tmp_path: Path) -> None:
    code, said = refused(
        "--data-dir", str(tmp_path / "d"), "--port", "0", "--host", "203.0.113.7", extra=services.environment
    )
    assert code == 1
    assert "Cannot listen on 203.0.113.7" in said


def test_without_a_server_it_says_how_to_name_one(tmp_path: Path) -> None:
    code, said = refused("--data-dir", str(tmp_path / "data"))
    assert code == 2
    assert "HOSTED_VLLM_API_BASE=http://127.0.0.1:8000 batchyard up" in said
    assert "batchyard up --config config.yaml" in said
    assert "model_list:" in said


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("model_list: 7", "config.yaml:1:1: model_list: Input should be a valid list"),
        ("model_list: []", "config.yaml: model_list names no model."),
        ("a: [", "not valid YAML"),
        (None, "config.yaml: cannot be read: No such file or directory"),
    ],
)
def test_a_wrong_configuration_is_told_before_anything_starts(text: str | None, problem: str, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    if text is not None:
        config.write_text(text)
    code, said = refused("--data-dir", str(tmp_path / "data"), "--config", str(config))
    assert code == 2
    assert problem in said
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("more", [(), ("--verbose",)])
def test_what_a_misconfigured_service_says_is_shown(
    more: tuple[str, ...], services: FakeServices, tmp_path: Path
) -> None:
    extra = {**services.environment, "FAKE_MISCONFIGURED": "batch-runner"}
    code, said = refused("--data-dir", str(tmp_path / "data"), "--port", "0", *more, extra=extra)
    assert code == 2
    assert "batch-runner cannot work with this configuration" in said
    assert "the price is negative" in said


def test_an_api_open_to_the_network_is_warned_of(services: FakeServices, tmp_path: Path) -> None:
    arguments = ("--data-dir", str(tmp_path / "data"), "--port", "0", "--host", "0.0.0.0")
    for extra, is_warned in (({}, True), ({"BATCHYARD_MASTER_KEY": "sk-1"}, False)):
        with running_up(*arguments, extra={**services.environment, **extra}) as (process, line):
            assert "ready on http://127.0.0.1:" in line
            process.terminate()
            _, errors = process.communicate(timeout=30)
        assert ("there is no master key" in errors) is is_warned


def test_logs_are_shown_for_people_if_wanted(services: FakeServices, tmp_path: Path) -> None:
    arguments = ("--data-dir", str(tmp_path / "data"), "--port", "0", "--verbose")
    with running_up(*arguments, extra=services.environment) as (process, _):
        process.terminate()
        _, errors = process.communicate(timeout=30)
    assert re.search(r"^ *billing +info +service\.started tenant=t$", errors, re.MULTILINE)
    assert "nats" in errors


def test_a_second_signal_kills_at_once(services: FakeServices, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running_up("--data-dir", str(data), "--port", "0", extra=services.environment) as (process, _):
        gateway = next(
            int(command.parent.name)
            for command in Path("/proc").glob("[0-9]*/cmdline")
            if b"batchyard.gateway" in _content(command) and _output(command.parent) == data / "logs" / "gateway.log"
        )
        os.kill(gateway, signal.SIGSTOP)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=8)
    assert process.returncode == 0
    with (data / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _output(process: Path) -> Path | None:
    """Where a process' output goes."""
    try:
        return (process / "fd" / "1").readlink()
    except OSError:
        return None


def test_its_version_is_told() -> None:
    done = subprocess.run([*COMMAND, "--version"], capture_output=True, text=True, timeout=60, check=True)
    assert re.fullmatch(r"batchyard \d+\.\d+\.\d+\n", done.stdout)


@pytest.mark.parametrize("command", [(), ("up",), ("demo",), ("sim",)])
def test_help_teaches(command: tuple[str, ...]) -> None:
    done = subprocess.run([*COMMAND, *command, "--help"], capture_output=True, text=True, timeout=60, check=True)
    assert f"Usage: batchyard {' '.join(command)}".rstrip() in done.stdout
