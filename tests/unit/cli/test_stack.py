"""What the processes are told."""

from pathlib import Path

from batchyard.cli.process import Program
from batchyard.cli.stack import Address, Layout, Nats, Stage, default_data_dir, service_programs, with_port

LAYOUT = Layout(Path("/data"))
NATS = Nats("nats://127.0.0.1:4321", "secret")


def programs(config: Path | None = None, **inherited: str) -> dict[str, Program]:
    made = service_programs(inherited, LAYOUT, NATS, config, Address("127.0.0.1", 4000))
    return {program.name: program for program in made}


def test_every_service_is_told_where_everything_is() -> None:
    for program in programs(config=Path("/etc/config.yaml")).values():
        told = program.environment
        assert told["BATCHYARD_NATS_URL"] == "nats://127.0.0.1:4321"
        assert told["BATCHYARD_NATS_TOKEN"] == "secret"
        assert told["BATCHYARD_OBJECT_STORE"] == "file:///data/objects"
        assert told["BATCHYARD_DATABASE_URL"] == "sqlite+aiosqlite:////data/billing.db"
        assert told["BATCHYARD_CONFIG"] == "/etc/config.yaml"
        assert told["BATCHYARD_LOG_FORMAT"] == "json"
        assert program.command[-2:] == ("-m", f"batchyard.{program.name.replace('-', '_')}")


def test_a_relative_configuration_is_found_from_anywhere() -> None:
    told = programs(config=Path("config.yaml"))["gateway"].environment
    assert told["BATCHYARD_CONFIG"] == str(Path("config.yaml").absolute())


def test_the_gateway_alone_is_told_where_to_listen() -> None:
    made = programs()
    assert made["gateway"].environment["BATCHYARD_PORT"] == "4000"
    assert "BATCHYARD_PORT" not in made["billing"].environment


def test_the_environment_is_inherited_but_for_what_would_speak_against_it() -> None:
    told = programs(HOSTED_VLLM_API_KEY="k", BATCHYARD_NATS_USER="x", BATCHYARD_NATS_URL="nats://far")["billing"]
    assert told.environment["HOSTED_VLLM_API_KEY"] == "k"
    assert told.environment["BATCHYARD_NATS_URL"] == NATS.url
    assert "BATCHYARD_NATS_USER" not in told.environment


def test_a_path_with_spaces_is_quoted_in_the_url() -> None:
    made = service_programs({}, Layout(Path("/my data#1")), NATS, None, Address())
    assert made[0].environment["BATCHYARD_OBJECT_STORE"] == "file:///my%20data%231/objects"


def test_the_gateway_stops_first_and_comes_back_on_its_port() -> None:
    gateway = programs()["gateway"]
    assert {program.stage for name, program in programs().items() if name != "gateway"} == {Stage.SERVICE}
    assert gateway.stage is Stage.EDGE
    assert with_port(gateway, 5000).environment == {**gateway.environment, "BATCHYARD_PORT": "5000"}


def test_an_address_becomes_a_url_for_this_machine() -> None:
    assert Address("0.0.0.0", 0).url(80) == "http://127.0.0.1:80"
    assert Address("::", 0).url(80) == "http://[::1]:80"
    assert Address("192.168.1.5", 0).url(80) == "http://192.168.1.5:80"
    assert Address("::1").is_loopback
    assert Address("localhost").is_loopback
    assert not Address("0.0.0.0").is_loopback


def test_the_data_are_where_the_desktop_specification_says() -> None:
    home = Path("/home/me")
    assert default_data_dir({}, home) == Path("/home/me/.local/share/batchyard")
    assert default_data_dir({"XDG_DATA_HOME": "/xdg"}, home) == Path("/xdg/batchyard")
    assert default_data_dir({"XDG_DATA_HOME": "relative"}, home) == Path("/home/me/.local/share/batchyard")


def test_every_service_has_a_port_of_its_own_for_operations() -> None:
    told = {
        name: one.environment["BATCHYARD_OPERATIONS_PORT"]
        for name, one in programs(BATCHYARD_OPERATIONS_PORT="9100").items()
    }
    assert told == {"gateway": "9100", "file-store": "9101", "batch-runner": "9102", "billing": "9103"}


def test_any_free_port_for_operations_stays_any_free_port() -> None:
    assert programs(BATCHYARD_OPERATIONS_PORT="0")["billing"].environment["BATCHYARD_OPERATIONS_PORT"] == "0"
