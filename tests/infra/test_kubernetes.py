"""The manifests of infra/kubernetes fit Kubernetes' own schemas, ask Serve for what `up` asks for, and open nothing that they should not.

KubeRay's RayService has no schema on PyPI: its pods are held to that of a pod, its Serve configuration to Serve's, its own fields to the
list below, which is from KubeRay's API reference (v1.6).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from infra.settings import Settings
from serving import servers
from tests.commands import check

FOLDER = Path(__file__).parent.parent.parent / "infra" / "kubernetes"
VERSION = "1.33"
RAY_FIELDS = {
    "service": {"excludeHeadPodFromServeSvc", "serveConfigV2", "rayClusterConfig"},
    "cluster": {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"},
    "head": {"rayStartParams", "template"},
    "worker": {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"},
}
SECRET = ("RELEASES_DB", "FEAST_REGISTRY", "ONLINE_STORE", "S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY", "PSEUDONYM_KEY")
"""Settings that the Secret `engines` holds, which docs/deploy.md makes."""


def objects() -> list[dict[str, Any]]:
    """Every object of the kustomization."""
    found = []
    for name in yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]:
        for document in yaml.safe_load_all((FOLDER / name).read_text()):
            found += document["items"] if document["kind"] == "List" else [document]
    return found


OBJECTS = objects()
RAY: dict[str, Any] = next(one for one in OBJECTS if one["kind"] == "RayService")
CORE = [one for one in OBJECTS if one["kind"] != "RayService"]


def named(one: Mapping[str, Any]) -> str:
    return f"{one['kind']} {one['metadata']['name']}"


def templates() -> dict[str, dict[str, Any]]:
    """Every pod there will be, by what makes it."""
    cluster = RAY["spec"]["rayClusterConfig"]
    found = {
        "head": cluster["headGroupSpec"]["template"],
        **{one["groupName"]: one["template"] for one in cluster["workerGroupSpecs"]},
    }
    for one in CORE:
        if one["kind"] == "Deployment":
            found[one["metadata"]["name"]] = one["spec"]["template"]
        elif one["kind"] == "CronJob":
            found[one["metadata"]["name"]] = one["spec"]["jobTemplate"]["spec"]["template"]
    return found


PODS = templates()


def containers(pod: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    yield from pod["spec"].get("initContainers", [])
    yield from pod["spec"]["containers"]


@pytest.mark.parametrize("one", CORE, ids=named)
def test_an_object_fits_the_schema_of_its_kind(one: dict[str, Any]) -> None:
    kubernetes_validate.validate(one, VERSION, strict=True)


@pytest.mark.parametrize("pod", PODS.values(), ids=PODS)
def test_a_pod_fits_the_schema_of_pods(pod: dict[str, Any]) -> None:
    template = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": pod}
    kubernetes_validate.validate(template, VERSION, strict=True)


def test_a_field_that_there_is_not_is_found() -> None:
    broken = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": {"spec": {"contaners": []}}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSION, strict=True)


def test_the_ray_service_has_only_fields_of_kuberay() -> None:
    assert RAY["apiVersion"] == "ray.io/v1"
    cluster = RAY["spec"]["rayClusterConfig"]
    assert set(RAY["spec"]) <= RAY_FIELDS["service"]
    assert set(cluster) <= RAY_FIELDS["cluster"]
    assert set(cluster["headGroupSpec"]) <= RAY_FIELDS["head"]
    for group in cluster["workerGroupSpecs"]:
        assert set(group) <= RAY_FIELDS["worker"]
    for parameters in (
        cluster["headGroupSpec"]["rayStartParams"],
        *(group["rayStartParams"] for group in cluster["workerGroupSpecs"]),
    ):
        assert all(isinstance(value, str) for value in parameters.values())
    import ray

    assert cluster["rayVersion"] == ray.__version__


def test_serve_is_asked_for_what_up_asks_for() -> None:
    told = yaml.safe_load(RAY["spec"]["serveConfigV2"])
    ServeDeploySchema.model_validate(told)
    assert told == servers.serve_config("0.0.0.0", 8000, 2, "/run/shopgraph", "EveryNode")
    mounts = {mount["mountPath"] for mount in PODS["gateway"]["spec"]["containers"][0]["volumeMounts"]}
    assert "/run/shopgraph" in mounts


def test_serve_runs_as_up_runs_it(tmp_path: Path) -> None:
    _, variables = servers.choose_proxy(tmp_path, 20001, 20002)
    places = ("_PATH", "_LOC", "_BASE", "_FILE", "_PORT")  # a pod has its own
    wanted = {name: value for name, value in variables.items() if not name.endswith(places)}
    for pod in ("head", "gateway"):
        found = {one["name"]: one["value"] for one in PODS[pod]["spec"]["containers"][0]["env"]}
        assert wanted.items() <= found.items()


def test_the_head_waits_for_no_answer_and_the_worker_is_ready_when_it_answers() -> None:
    head, worker = PODS["head"]["spec"]["containers"][0], PODS["gateway"]["spec"]["containers"][0]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):  # KubeRay deploys nothing before the head is ready
        assert head[probe]["httpGet"] == {"path": "/api/healthz", "port": 52365}
    assert worker["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": 8000}
    assert worker["livenessProbe"]["httpGet"] == {"path": "/livez", "port": 8000}
    assert RAY["spec"]["rayClusterConfig"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


@pytest.mark.parametrize("pod", PODS.values(), ids=PODS)
def test_a_pod_is_nobody_writes_only_to_volumes_and_has_limits(pod: dict[str, Any]) -> None:
    spec = pod["spec"]
    assert spec["enableServiceLinks"] is False  # else a service named shopgraph makes settings that nobody knows
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 10001
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec.get("serviceAccountName") == "backup" or spec["automountServiceAccountToken"] is False
    volumes = {volume["name"] for volume in spec["volumes"]}
    for container in containers(pod):
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"].keys() == {"cpu", "memory"}
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


@pytest.mark.parametrize("pod", PODS.values(), ids=PODS)
def test_who_mounts_the_home_runs_on_the_machine_of_the_gateway(pod: dict[str, Any]) -> None:
    claims = [volume for volume in pod["spec"]["volumes"] if "persistentVolumeClaim" in volume]
    if not claims or pod is PODS["shell"]:  # which runs before there is a gateway
        return
    (near,) = pod["spec"]["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert near["labelSelector"]["matchLabels"].items() <= labels("gateway").items()


def test_what_waits_for_a_gateway_can_be_left_out_by_its_label() -> None:
    chosen = [one for one in OBJECTS if one["metadata"].get("labels", {}).get("app.kubernetes.io/component") == "gateway"]
    assert chosen == [RAY]
    shell = next(one for one in OBJECTS if named(one) == "Deployment shell")
    assert shell["spec"]["replicas"] == 0


def test_every_setting_is_one_and_no_secret_stands_in_a_file() -> None:
    known = {f"SHOPGRAPH_{name.upper()}": field for name, field in Settings.model_fields.items()}
    said = dict(next(one for one in OBJECTS if named(one) == "ConfigMap settings")["data"])
    for pod in PODS.values():
        for container in containers(pod):
            said |= {one["name"]: one["value"] for one in container.get("env", []) if one["name"].startswith("SHOPGRAPH_")}
    assert said.keys() <= known.keys()
    assert not [name for name in said if "SecretStr" in str(known[name].annotation)]
    Settings(**{name.removeprefix("SHOPGRAPH_").lower(): value for name, value in said.items()})
    assert all("SecretStr" in str(known[f"SHOPGRAPH_{name}"].annotation) for name in SECRET)
    assert "Secret" not in {one["kind"] for one in OBJECTS}


@pytest.mark.parametrize("pod", PODS.values(), ids=PODS)
def test_a_job_gives_commands_that_there_are(pod: dict[str, Any]) -> None:
    for container in containers(pod):
        if container["image"] == "shopgraph" and container.get("args"):
            check(container["args"])


def labels(pod: str) -> dict[str, str]:
    """The labels of a pod, those that KubeRay adds included."""
    found = dict(PODS[pod]["metadata"]["labels"])
    if pod in ("head", "gateway"):
        kind, group = ("head", "headgroup") if pod == "head" else ("worker", "gateway")
        found |= {"ray.io/is-ray-node": "yes", "ray.io/node-type": kind, "ray.io/group": group}
    return found


def is_open(pod: str, port: int, namespace: Mapping[str, str] | None = None, other: str | None = None) -> bool:
    """Whether the policies let somebody of a namespace with these labels, or another pod of ours, reach a port of a pod."""

    def is_chosen(selector: Mapping[str, Any], of: Mapping[str, str]) -> bool:
        return bool(selector.get("matchLabels", {}).items() <= of.items())

    def may(peer: Mapping[str, Any]) -> bool:
        if "namespaceSelector" in peer:
            return namespace is not None and is_chosen(peer["namespaceSelector"], namespace)
        return other is not None and is_chosen(peer["podSelector"], labels(other))

    policies = [one["spec"] for one in OBJECTS if one["kind"] == "NetworkPolicy"]
    chosen = [policy for policy in policies if is_chosen(policy["podSelector"], labels(pod))]
    if not chosen:
        return True
    rules = [rule for policy in chosen for rule in policy.get("ingress", [])]
    return any(
        any(may(peer) for peer in rule["from"]) and ("ports" not in rule or port in [one["port"] for one in rule["ports"]])
        for rule in rules
    )


@pytest.mark.parametrize("port", [30000, 31000, 40000, 41000, 6379, 8265, 10001, 52365])
def test_only_the_ray_cluster_reaches_what_lies_behind_the_proxy(port: int) -> None:
    asks = {"shopgraph/may-ask": "true"}
    assert not is_open("gateway", port, namespace=asks)
    assert not is_open("head", port, namespace=asks)
    assert not is_open("gateway", port, other="nightly")
    assert is_open("gateway", port, other="head")
    assert is_open("head", port, other="gateway")


def test_who_was_told_that_they_may_ask_reaches_the_proxy_and_nobody_else_does() -> None:
    assert is_open("gateway", 8000, namespace={"shopgraph/may-ask": "true"})
    assert not is_open("gateway", 8000, namespace={"kubernetes.io/metadata.name": "default"})
    assert is_open("head", 8265, namespace={"kubernetes.io/metadata.name": "kuberay"})
    assert is_open("mlflow", 5000, other="gateway")
    assert is_open("mlflow", 5000, other="weekly")
    assert not is_open("mlflow", 5000, namespace={"shopgraph/may-ask": "true"})
    assert not is_open("backup", 80, other="gateway")
