"""The Helm chart, rendered by Helm's own code and held to Kubernetes' own schemas, without a cluster.

Both come from a group of dependencies that is large: `make test-chart` installs it and runs these tests.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from batchyard.batch_runner.settings import RunnerSettings
from batchyard.billing.settings import BillingSettings
from batchyard.cli.services import MODULES
from batchyard.common import subjects
from batchyard.common.config.load import load_config
from batchyard.common.messaging.topology import WORK, work_consumer
from batchyard.common.settings import Settings
from batchyard.file_store.settings import FileStoreSettings
from batchyard.gateway.settings import GatewaySettings

helm = pytest.importorskip("helm_python", reason="Helm is not installed: make test-chart")
kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="no schemas are installed: make test-chart")

CHART = Path(__file__).parents[2] / "deploy" / "helm" / "batchyard"
VERSIONS = ("1.25", "1.31", kubernetes_validate.latest_version())
SETTINGS: Mapping[str, type[Settings]] = {
    "gateway": GatewaySettings,
    "file-store": FileStoreSettings,
    "batch-runner": RunnerSettings,
    "billing": BillingSettings,
}
MODEL = "meta-llama/Llama-3.1-8B-Instruct"
CONFIG = f"""\
# The servers.
model_list:
  - model_name: {MODEL}
    litellm_params:
      model: hosted_vllm/{MODEL}
      api_base: http://vllm.models:8000
      api_key: os.environ/HOSTED_VLLM_API_KEY
      tpm: 1000000
      input_cost_per_token: 0.0000002
"""
EVERYTHING: dict[str, Any] = {
    "image": {"registry": "registry.example/team/", "tag": "1.2.3", "pullSecrets": [{"name": "registry"}]},
    "config": CONFIG,
    "configSecrets": [{"name": "HOSTED_VLLM_API_KEY", "secret": "models", "key": "api-key"}],
    "masterKey": {"existingSecret": "master"},
    "nats": {
        "url": "nats://nats-0.nats:4222,nats://nats-1.nats:4222",
        "replicas": 3,
        "maxEventsBytes": 10_000_000_000,
        "auth": {"existingSecret": "nats-users"},
    },
    "objectStore": {"existingSecret": "bucket"},
    "services": {
        "gateway": {"env": {"BATCHYARD_MAX_FILE_BYTES": 1_000_000_000, "BATCHYARD_HEALTH_TIMEOUT": 1.5}},
        "batch-runner": {"env": {"BATCHYARD_SHARD_LINES": 200, "BATCHYARD_MIXED_MODELS": True}},
    },
    "podAnnotations": {"example.com/team": "a"},
    "nodeSelector": {"kubernetes.io/arch": "amd64"},
    "tolerations": [{"key": "batch", "operator": "Exists"}],
    "affinity": {"podAntiAffinity": {}},
    "priorityClassName": "low",
    "service": {"annotations": {"example.com/team": "a"}},
    "ingress": {
        "enabled": True,
        "className": "nginx",
        "host": "batch.example",
        "tlsSecret": "tls",
        "annotations": {"nginx.ingress.kubernetes.io/proxy-body-size": "512m"},
    },
    "autoscaling": {"gateway": {"enabled": True}, "batchRunner": {"enabled": True, "models": [MODEL]}},
    "networkPolicy": {
        "clients": [{"namespaceSelector": {"matchLabels": {"team": "a"}}}],
        "monitoring": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
        "nats": {"to": [{"podSelector": {"matchLabels": {"app": "nats"}}}]},
        "models": {"ports": [8000, 443], "to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]},
    },
}
NOTHING = {
    "podDisruptionBudget": {"enabled": False},
    "networkPolicy": {"enabled": False},
    "nats": {"topologyJob": False},
}


def rendered(values: Mapping[str, Any], name: str = "demo") -> list[Any]:
    """The objects that an installation with these values makes, hooks included."""
    with helm.Chart.load(CHART) as chart:
        chart.validate_schema(values)
        files = chart.render(values, name=name, namespace="prod")
    return [
        made
        for path, text in sorted(files.items())
        if path.endswith(".yaml")
        for made in yaml.safe_load_all(text)
        if made is not None
    ]


def of_kind(objects: list[Any], kind: str) -> dict[str, Any]:
    """The objects of a kind, by the service that they are for."""
    return {made["metadata"]["labels"]["app.kubernetes.io/component"]: made for made in objects if made["kind"] == kind}


def container(workload: Any) -> Any:
    (only,) = workload["spec"]["template"]["spec"]["containers"]
    return only


def environment(workload: Any) -> dict[str, Any]:
    """A container's variables: their values, or where they come from."""
    named = container(workload)["env"]
    assert len({one["name"] for one in named}) == len(named)
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in named}


def secrets_in(node: Any) -> Iterator[Any]:
    if isinstance(node, dict):
        if "secretKeyRef" in node:
            yield node["secretKeyRef"]
        for below in node.values():
            yield from secrets_in(below)
    elif isinstance(node, list):
        for below in node:
            yield from secrets_in(below)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("values", [{}, EVERYTHING, NOTHING], ids=["defaults", "everything", "nothing"])
def test_every_object_fits_the_schemas_of_kubernetes(values: Mapping[str, Any], version: str) -> None:
    checked = set()
    for made in rendered(values):
        if made["apiVersion"].startswith("keda.sh/"):
            continue  # KEDA's own kind: Kubernetes has no schema of it
        kubernetes_validate.validate(made, version, strict=True)
        checked.add(made["kind"])
    assert checked >= {"ConfigMap", "Deployment", "Service", "ServiceAccount"}


@pytest.mark.parametrize("values", [{}, EVERYTHING, NOTHING], ids=["defaults", "everything", "nothing"])
def test_lint_finds_nothing(values: Mapping[str, Any]) -> None:
    report = helm.lint(CHART, values, strict=True)
    assert report["errors"] == []
    assert [said["error"] for said in report["messages"] if said["severity"] > 1] == []


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"objectStore": {"url": "file:///data"}}, "/objectStore/url"),
        ({"nats": {"url": "nats://user:secret@nats:4222"}}, "/nats/url"),
        ({"services": {"gateway": {"env": {"PATH": "/"}}}}, "'PATH'"),
        ({"servcies": {}}, "servcies"),
        ({"database": {"existingSecret": ""}}, "/database/existingSecret"),
    ],
)
def test_a_value_that_cannot_be_is_named(values: Mapping[str, Any], named: str) -> None:
    with pytest.raises(helm.HelmValuesError) as refused:
        rendered(values)
    assert named in str(refused.value)


def test_each_service_runs_with_least_rights() -> None:
    objects = rendered(EVERYTHING)
    deployments = of_kind(objects, "Deployment")
    assert deployments.keys() == MODULES.keys()
    accounts = {made["metadata"]["name"] for made in objects if made["kind"] == "ServiceAccount"}
    used = set()
    for workload in (*deployments.values(), of_kind(objects, "Job")["topology"]):
        pod, own = workload["spec"]["template"]["spec"], container(workload)["securityContext"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert own == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert pod["automountServiceAccountToken"] is False
        assert "memory" in container(workload)["resources"]["limits"]
        used.add(pod.get("serviceAccountName"))
    assert used == {*accounts, None}  # the job has none of its own, and no token


def test_each_service_is_probed_where_it_answers() -> None:
    for name, workload in of_kind(rendered({}), "Deployment").items():
        one = container(workload)
        ports = {port["name"]: port["containerPort"] for port in one["ports"]}
        assert str(ports["operations"]) == environment(workload)["BATCHYARD_OPERATIONS_PORT"]
        assert environment(workload)["BATCHYARD_OPERATIONS_HOST"] == "0.0.0.0"
        assert one["livenessProbe"]["httpGet"] == {"path": "/health/liveness", "port": "operations"}
        assert one["readinessProbe"]["httpGet"] == {"path": "/health/readiness", "port": "operations"}
        assert ("http" in ports) is (name == "gateway")


def test_each_service_has_time_to_stop() -> None:
    deployments = of_kind(rendered({}), "Deployment")
    grace = {
        name: made["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] for name, made in deployments.items()
    }
    (_, wait) = container(deployments["gateway"])["lifecycle"]["preStop"]["exec"]["command"]
    assert grace["gateway"] > int(wait) + GatewaySettings().shutdown_timeout
    assert grace["batch-runner"] > 2 * (RunnerSettings().shutdown_grace + 10)


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_the_variables_are_settings_of_the_service(values: Mapping[str, Any]) -> None:
    others = {"BATCHYARD_MASTER_KEY", "HOSTED_VLLM_API_KEY"}
    for name, workload in of_kind(rendered(values), "Deployment").items():
        known = {f"BATCHYARD_{field.upper()}" for field in SETTINGS[name].model_fields}
        assert environment(workload).keys() - others <= known
        plain = {key: value for key, value in environment(workload).items() if isinstance(value, str)}
        fields = {key.removeprefix("BATCHYARD_").lower(): value for key, value in plain.items()}
        SETTINGS[name](**fields)  # type: ignore[arg-type]  # raises for what a service would refuse


def test_secrets_are_named_and_never_held() -> None:
    objects = rendered(EVERYTHING)
    assert "Secret" not in {made["kind"] for made in objects}
    deployments = of_kind(objects, "Deployment")
    for name, workload in deployments.items():
        assert environment(workload)["BATCHYARD_NATS_USER"] == name
        assert environment(workload)["BATCHYARD_NATS_PASSWORD"] == {"secretKeyRef": {"name": "nats-users", "key": name}}
    assert {one["name"] for one in secrets_in(deployments["billing"])} >= {"batchyard-database", "nats-users"}
    assert "batchyard-database" not in {one["name"] for one in secrets_in(deployments["gateway"])}
    assert {one["name"] for one in secrets_in(deployments["file-store"])} == {"nats-users", "bucket"}
    job = of_kind(objects, "Job")["topology"]
    assert environment(job)["BATCHYARD_NATS_USER"] == "topology"
    assert environment(job)["BATCHYARD_NATS_REPLICAS"] == "3"


def test_the_configuration_arrives_as_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (given,) = [made for made in rendered(EVERYTHING) if made["kind"] == "ConfigMap"]
    assert given["data"]["config.yaml"] == CONFIG
    path = tmp_path / "config.yaml"
    path.write_text(given["data"]["config.yaml"])
    monkeypatch.setenv("HOSTED_VLLM_API_KEY", "k")
    (deployment,) = load_config(path, os.environ).deployments
    assert (deployment.model, deployment.tpm) == (MODEL, 1_000_000)
    for name, workload in of_kind(rendered(EVERYTHING), "Deployment").items():
        mounts = {mount["name"]: mount for mount in container(workload)["volumeMounts"]}
        if name == "file-store":
            assert "config" not in mounts
        else:
            where = Path(mounts["config"]["mountPath"]) / "config.yaml"
            assert environment(workload)["BATCHYARD_CONFIG"] == str(where)
            assert "subPath" not in mounts["config"], "a file that is mounted alone never changes"


def test_services_and_policies_select_the_pods_that_they_are_for() -> None:
    objects = rendered(EVERYTHING)
    pods = {
        name: made["spec"]["template"]["metadata"]["labels"]
        for kind in ("Deployment", "Job")
        for name, made in of_kind(objects, kind).items()
    }
    selectors = [
        *((name, made["spec"]["selector"]["matchLabels"]) for name, made in of_kind(objects, "Deployment").items()),
        *(
            (name, made["spec"]["podSelector"]["matchLabels"])
            for name, made in of_kind(objects, "NetworkPolicy").items()
        ),
        *((n, made["spec"]["selector"]["matchLabels"]) for n, made in of_kind(objects, "PodDisruptionBudget").items()),
        *((name, made["spec"]["selector"]) for name, made in of_kind(objects, "Service").items()),
    ]
    assert len(selectors) == 4 + 5 + 4 + 1
    for name, selector in selectors:
        assert [pod for pod, labels in pods.items() if selector.items() <= labels.items()] == [name]


def test_a_service_reaches_what_it_needs_and_nothing_else() -> None:
    reached = {
        name: {port["port"] for rule in made["spec"]["egress"] for port in rule["ports"]}
        for name, made in of_kind(rendered({}), "NetworkPolicy").items()
    }
    assert reached == {
        "gateway": {53, 4222, 9000, 443},
        "file-store": {53, 4222, 9000},
        "batch-runner": {53, 4222, 9000, 8000},
        "billing": {53, 4222, 5432},
        "topology": {53, 4222},
    }


def test_what_is_scaled_has_no_number_of_replicas() -> None:
    objects = rendered(EVERYTHING)
    fixed = {name for name, made in of_kind(objects, "Deployment").items() if "replicas" in made["spec"]}
    assert fixed == {"file-store", "billing"}
    names = {made["metadata"]["name"] for made in of_kind(objects, "Deployment").values()}
    for kind in ("HorizontalPodAutoscaler", "ScaledObject"):
        (made,) = of_kind(objects, kind).values()
        assert made["spec"]["scaleTargetRef"]["name"] in names


@pytest.mark.parametrize("model", [MODEL, "my-vllm-model", "a:b@c d_e/f.g"])
def test_runners_are_scaled_by_the_queue_of_their_pool(model: str) -> None:
    values = {"autoscaling": {"batchRunner": {"enabled": True, "models": [model]}}}
    (scaled,) = of_kind(rendered(values), "ScaledObject").values()
    (trigger,) = scaled["spec"]["triggers"]
    assert trigger["type"] == "nats-jetstream"
    assert trigger["metadata"]["stream"] == WORK
    assert (
        trigger["metadata"]["consumer"]
        == work_consumer(model, Settings()).name
        == f"pool-{subjects.encode_token(model)}"
    )
