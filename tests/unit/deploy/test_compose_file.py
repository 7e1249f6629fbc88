"""What docker-compose.yml and deploy/Dockerfile promise, read off the files: no engine is needed."""

import os
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.compose import COMPOSE_FILE, ROOT, SERVICES, STANDS_ON
from support.s3 import MINIO_IMAGE

DOCUMENT = yaml.safe_load(COMPOSE_FILE.read_text())
CONTAINERS: dict[str, Any] = DOCUMENT["services"]
ONE_SHOTS = {name for name, service in CONTAINERS.items() if service["restart"].startswith("on-failure")}
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()


def test_everything_that_batchyard_consists_of_is_there() -> None:
    assert CONTAINERS.keys() == {*SERVICES, *STANDS_ON, "topology", "bucket"}
    assert {"topology", "bucket"} == ONE_SHOTS


@pytest.mark.parametrize("name", CONTAINERS)
def test_an_image_is_pinned(name: str) -> None:
    image = re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", CONTAINERS[name]["image"])
    tag = image.partition(":")[2]
    assert re.search(r"\d+\.\d+(\.\d+)?|RELEASE\.\d{4}-\d\d-\d\d", tag), image
    assert tag != "latest"


def test_base_images_are_pinned() -> None:
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.MULTILINE))
    outside = set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) - stages
    assert len(outside) == 1
    assert all(re.fullmatch(r"[a-z]+:\d+\.\d+\.\d+-[a-z-]+", image) for image in outside)


def test_the_tests_use_the_same_minio() -> None:
    assert CONTAINERS["minio"]["image"] == MINIO_IMAGE


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_container_may_do_next_to_nothing_and_take_no_more_than_it_is_given(name: str) -> None:
    service = CONTAINERS[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["deploy"]["resources"]["limits"].keys() >= {"cpus", "memory", "pids"}
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert "cap_add" not in service or name == "postgres"


@pytest.mark.parametrize("name", sorted(CONTAINERS.keys() - ONE_SHOTS))
def test_what_stays_up_says_how_it_is_and_comes_back(name: str) -> None:
    service = CONTAINERS[name]
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"][0] == "CMD"
    assert int(service["stop_grace_period"].removesuffix("s")) >= 30


@pytest.mark.parametrize("name", CONTAINERS)
def test_nothing_starts_before_what_it_needs_is_well(name: str) -> None:
    for other, how in CONTAINERS[name].get("depends_on", {}).items():
        expected = "service_completed_successfully" if other in ONE_SHOTS else "service_healthy"
        assert how["condition"] == expected


def test_only_the_gateway_has_a_port_and_on_the_loopback_interface_alone() -> None:
    assert {name: service["ports"] for name, service in CONTAINERS.items() if "ports" in service} == {
        "gateway": ["${BATCHYARD_LISTEN:-127.0.0.1:4000}:4000"]
    }


def test_only_who_talks_to_the_outside_has_a_way_there() -> None:
    outside = {name for name, service in CONTAINERS.items() if "outside" in service["networks"]}
    assert outside == {"gateway", "batch-runner", "sim"}
    assert all(network == {"internal": True} for name, network in DOCUMENT["networks"].items() if name != "outside")


def test_no_secret_stands_in_the_file_and_none_in_an_environment() -> None:
    for service in CONTAINERS.values():
        for name, value in service.get("environment", {}).items():
            assert (
                not re.search(r"PASSWORD$|SECRET|TOKEN|KEY$", name)
                or name == "BATCHYARD_SECRETS_DIR"
                or (name.endswith("ACCESS_KEY") and value.startswith("batchyard-"))
            ), name
    for name, secret in DOCUMENT["secrets"].items():
        assert secret == {"file": f"${{BATCHYARD_SECRETS:-./secrets}}/{name}"}


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_container_is_given_its_own_secrets_alone(name: str) -> None:
    given = {one["source"] if isinstance(one, dict) else one for one in CONTAINERS[name].get("secrets", [])}
    mine = name.replace("-", "_")
    foreign = {secret for secret in given if secret.startswith(("nats_", "s3_")) and not secret.endswith(f"_{mine}")}
    expected = {
        "nats": {one for one in DOCUMENT["secrets"] if one.startswith("nats_")},
        "minio": {"s3_root"},
        "bucket": {one for one in DOCUMENT["secrets"] if one.startswith("s3_")},
    }
    assert foreign == expected.get(name, set())


def test_secrets_are_made_once_for_nobody_else_to_reach(tmp_path: Path) -> None:
    directory = tmp_path / "secrets"

    def make() -> dict[str, str]:
        command = [ROOT / "deploy" / "make-secrets", directory]
        environment = {"PATH": os.environ["PATH"], "HOSTED_VLLM_API_KEY": "of-my-own"}
        subprocess.run(command, check=True, capture_output=True, env=environment)
        return {path.name: path.read_text() for path in directory.iterdir()}

    directory.mkdir()
    (directory / "master_key").write_text("sk-of-my-own")
    first = make()
    assert first.keys() == DOCUMENT["secrets"].keys()
    assert first["master_key"] == "sk-of-my-own"
    assert first["vllm_key"] == "of-my-own"
    assert first["postgres"] in first["database_url"]
    random = [value for name, value in first.items() if name not in {"master_key", "vllm_key", "database_url"}]
    assert len(set(random)) == len(random)
    assert all(re.fullmatch(r"[a-z][A-Za-z0-9]{40}", value) for value in random)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert make() == first


def test_git_and_the_builder_see_no_secrets() -> None:
    tracked = subprocess.run(["git", "ls-files", "secrets"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert not tracked.stdout
    assert "/secrets/" in (ROOT / ".gitignore").read_text().splitlines()
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    assert not [line for line in ignored if line.startswith("!") and ("secrets" in line or line == "!.")]
