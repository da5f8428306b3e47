"""What is applied to a cluster, held against Kubernetes' own schemas, our metrics, and a real service."""

import json
import re
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import httpx2
import kubernetes_validate
import pytest
import yaml
from serving import Service, until

from app.settings import PREFIX, Settings
from training.demo.demo import find_free_port

K8S = Path(__file__).parents[2] / "docker/k8s"
OVERLAYS = ("cpu", "gpu", "line", "s3", "retrain")
VERSIONS = ("1.32", "1.37")  # the oldest and the newest that are checked
# The operator's own kinds, of which Kubernetes has no schema.
CUSTOM = {"ServiceMonitor", "PrometheusRule"}
WORKLOADS = {
    "Deployment": ("spec",),
    "StatefulSet": ("spec",),
    "Job": ("spec",),
    "CronJob": ("spec", "jobTemplate", "spec"),
}

needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl, which has kustomize, is not here")
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not here"
)


def documents(name):
    return [one for one in yaml.safe_load_all((K8S / "base" / name).read_text()) if one]


def render(overlay):
    done = subprocess.run(
        ["kubectl", "kustomize", K8S / "overlays" / overlay], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def of_kind(found, kind, name=None):
    (one,) = [one for one in found if one["kind"] == kind and name in (None, one["metadata"]["name"])]
    return one


def find_pod(workload):
    inner = workload
    for key in WORKLOADS[workload["kind"]]:
        inner = inner[key]
    return inner["template"]


def rules():
    return of_kind(documents("monitoring.yaml"), "PrometheusRule")["spec"]


def dashboard():
    return json.loads((K8S / "base/dashboard.json").read_text())


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("folder", ["base", "training"])
def test_each_file_is_what_kubernetes_takes(folder, version):
    num_checked = 0
    for path in sorted((K8S / folder).glob("*.yaml")):
        for one in yaml.safe_load_all(path.read_text()):
            if isinstance(one, dict) and one.get("kind") not in (None, "Kustomization", *CUSTOM):
                kubernetes_validate.validate(one, version, strict=True)
                num_checked += 1
    assert num_checked == {"base": 12, "training": 1}[folder]


def test_a_misspelt_field_would_be_found():
    deployment = documents("deployment.yaml")[0]
    deployment["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, VERSIONS[0], strict=True)


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_each_overlay_is_what_kubernetes_takes(overlay):
    checked = [one for one in render(overlay) if one["kind"] not in CUSTOM]
    assert checked
    for one in checked:
        for version in VERSIONS:
            kubernetes_validate.validate(one, version, strict=True)


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_pod_is_restricted_and_writes_to_its_volumes_only(overlay):
    pods = [find_pod(one)["spec"] for one in render(overlay) if one["kind"] in WORKLOADS]
    assert pods
    for pod in pods:
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False  # else a Service called goodpart sets GOODPART_PORT
        assert (pod["securityContext"]["runAsNonRoot"], pod["securityContext"]["runAsUser"]) == (True, 10001)
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"]["memory"]
            assert {mount["mountPath"] for mount in container["volumeMounts"]} >= {"/local"}


@needs_kubectl
def test_the_overlays_differ_in_what_they_are_for():
    cpu, gpu, line = map(render, ("cpu", "gpu", "line"))
    image = "goodpart:service-{}".format
    for found, kind, name in (
        (cpu, "Deployment", image("cpu")),
        (gpu, "Deployment", image("gpu")),
        (line, "StatefulSet", image("cpu")),
    ):
        assert find_pod(of_kind(found, kind))["spec"]["containers"][0]["image"] == name
    limits = [
        find_pod(of_kind(gpu, kind))["spec"]["containers"][0]["resources"]["limits"]
        for kind in ("Deployment", "CronJob")
    ]
    assert [one["nvidia.com/gpu"] for one in limits] == [1, 1]
    assert not {one["kind"] for one in line} & {"Deployment", "HorizontalPodAutoscaler", "PodDisruptionBudget"}
    stateful = of_kind(line, "StatefulSet")["spec"]
    assert (stateful["replicas"], stateful["serviceName"]) == (1, of_kind(line, "Service")["metadata"]["name"])
    (claim,) = stateful["volumeClaimTemplates"]
    mounts = {mount["name"] for mount in stateful["template"]["spec"]["containers"][0]["volumeMounts"]}
    volumes = {volume["name"] for volume in stateful["template"]["spec"]["volumes"]}
    assert claim["metadata"]["name"] in mounts - volumes


@needs_kubectl
@pytest.mark.parametrize("overlay", ["cpu", "gpu", "line", "s3"])
def test_what_is_named_is_there(overlay):
    found = render(overlay)
    names = {(one["kind"], one["metadata"]["name"]) for one in found}
    for one in found:
        if one["kind"] not in WORKLOADS:
            continue
        pod = find_pod(one)["spec"]
        assert ("ServiceAccount", pod["serviceAccountName"]) in names
        for volume in pod["volumes"]:
            if "persistentVolumeClaim" in volume:
                assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in names
        for container in pod["containers"]:
            for source in container.get("envFrom", ()):
                if "secretRef" in source:
                    continue  # made by hand, as docs/kubernetes.md says
                assert ("ConfigMap", source["configMapRef"]["name"]) in names


@needs_kubectl
@pytest.mark.parametrize("overlay", ["cpu", "gpu", "line", "s3"])
def test_what_is_selected_is_there(overlay):
    found = render(overlay)
    labels = {tuple(sorted(find_pod(one)["metadata"]["labels"].items())) for one in found if one["kind"] in WORKLOADS}
    for policy in (one for one in found if one["kind"] == "NetworkPolicy"):
        selected = set(policy["spec"]["podSelector"]["matchLabels"].items())
        assert any(selected <= set(pod) for pod in labels)
    monitored = of_kind(found, "ServiceMonitor")["spec"]
    service = of_kind(found, "Service")
    assert monitored["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert {one["port"] for one in monitored["endpoints"]} <= {port["name"] for port in service["spec"]["ports"]}


@needs_kubectl
def test_on_object_storage_service_and_trainer_share_addresses_and_no_volume():
    found = render("s3")
    names = {one["metadata"]["name"] for one in found if one["kind"] == "PersistentVolumeClaim"}
    assert names == {"goodpart-data", "goodpart-trainer"}
    maps = [one["data"] for one in found if one["kind"] == "ConfigMap" and "GOODPART_STORE" in one["data"]]
    (train,) = find_pod(of_kind(found, "CronJob"))["spec"]["containers"]
    variables = {one["name"]: one["value"] for one in train["env"]}
    for name in ("GOODPART_STORE", "GOODPART_STATE"):
        assert [maps[0][name]] == [variables[name]]
        assert variables[name].startswith("s3://")
    for workload in (of_kind(found, "Deployment"), of_kind(found, "CronJob")):
        (container,) = find_pod(workload)["spec"]["containers"]
        assert {"secretRef": {"name": "goodpart-s3"}} in container["envFrom"]
        volumes = {volume["name"] for volume in find_pod(workload)["spec"]["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        assert not {"store", "state"} & volumes


def settings_of_service():
    literals = yaml.safe_load((K8S / "base/kustomization.yaml").read_text())["configMapGenerator"][0]["literals"]
    return dict(literal.split("=", 1) for literal in literals)


def test_every_variable_is_a_setting():
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    text = "".join(path.read_text() for path in K8S.rglob("*.yaml"))
    assert set(re.findall(r"\bGOODPART_[A-Z_]+\b", text)) <= known


@pytest.fixture
def container():
    """The service's container, as the manifest has it."""
    return documents("deployment.yaml")[0]["spec"]["template"]["spec"]["containers"][0]


def seconds_to_leave(container):
    settings = settings_of_service()
    hook = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    return hook, float(settings["GOODPART_DRAIN_S"]), float(settings["GOODPART_GRACE_S"])


def test_the_grace_period_covers_hook_drain_and_requests_in_flight(container):
    given = documents("deployment.yaml")[0]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert given >= sum(seconds_to_leave(container)) + 5


@pytest.fixture
def deployed(store_folder, container):
    """A real service with the manifest's numbers, and what its health port answers."""
    _, drain_s, grace_s = seconds_to_leave(container)
    port = find_free_port()
    with (
        Service(store_folder, drain_s=drain_s, grace_s=grace_s, health_port=port) as service,
        httpx2.Client(base_url=f"http://127.0.0.1:{port}") as client,
    ):

        def probe(name):
            probe = container[name]
            assert probe["httpGet"]["port"] == "health"
            return client.get(probe["httpGet"]["path"], timeout=probe["timeoutSeconds"]).status_code

        yield SimpleNamespace(service=service, probed=probe, metrics=lambda: client.get("/metrics").text)


PROBES = ("startupProbe", "livenessProbe", "readinessProbe")


@pytest.mark.processes
def test_each_probe_is_answered_and_a_rollout_under_load_loses_no_request(deployed, container, good_bytes):
    """As a kubelet ends a pod: the hook runs while endpoints are taken away, then SIGTERM, then the grace period."""
    service, status = deployed.service, deployed.probed
    hook_s, *_ = seconds_to_leave(container)
    until(lambda: status("startupProbe") == 200)
    assert [status(name) for name in PROBES] == [200, 200, 200]
    outcomes, is_endpoint = [], threading.Event()
    is_endpoint.set()

    def client():
        while is_endpoint.is_set():
            try:
                answer = service.client.post(
                    "/v1/products/disc/inspect", content=good_bytes, headers={"content-type": "image/png"}
                )
                outcomes.append(answer.status_code)
            except Exception as error:  # noqa: BLE001  # whatever it is, it is a request that was lost
                outcomes.append(repr(error))

    threads = [threading.Thread(target=client) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(hook_s)  # the hook: nothing has changed for the service yet
    service.process.send_signal(signal.SIGTERM)
    until(lambda: status("readinessProbe") == 503)
    assert status("livenessProbe") == 200
    num_before = len(outcomes)
    time.sleep(2)  # the slowest proxy has heard of it by now
    is_endpoint.clear()
    for thread in threads:
        thread.join()
    pod = documents("deployment.yaml")[0]["spec"]["template"]["spec"]
    assert service.process.wait(timeout=pod["terminationGracePeriodSeconds"] - hook_s) == 0
    assert len(outcomes) > num_before > 0
    assert set(outcomes) == {200}


@pytest.mark.processes
def test_dashboard_and_rules_ask_for_metrics_that_there_are(deployed):
    exposed = set()
    for name, kind in re.findall(r"^# TYPE (\w+) (\w+)", deployed.metrics(), re.MULTILINE):
        exposed |= {f"{name}{end}" for end in ("_bucket", "_sum", "_count")} if kind == "histogram" else {name}
    expressions = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    variables = [one for one in dashboard()["templating"]["list"] if one["type"] == "query"]
    expressions += [one["query"]["query"] for one in variables]
    expressions += [rule["expr"] for group in rules()["groups"] for rule in group["rules"]]
    named = set(re.findall(r"\bgoodpart_\w+", " ".join(expressions)))
    assert len(named) > 10
    assert named <= exposed


def test_the_autoscaler_asks_for_what_the_adapter_makes_of_a_recorded_rule():
    (metric,) = of_kind(documents("scaling.yaml"), "HorizontalPodAutoscaler")["spec"]["metrics"]
    (rule,) = yaml.safe_load((K8S / "base/adapter.yaml").read_text())
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    recorded = [one["record"] for group in rules()["groups"] for one in group["rules"] if "record" in one]
    assert rule["seriesQuery"].partition("{")[0] in recorded


@pytest.mark.processes
@needs_promtool
def test_what_the_service_exposes_is_what_prometheus_reads(deployed):
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=deployed.metrics(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@needs_promtool
def test_each_alert_is_raised_by_what_it_is_for(tmp_path):
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules()))
    shutil.copy(K8S / "base/rules-test.yaml", tmp_path)
    for command in (["check", "rules", "rules.yaml"], ["test", "rules", "rules-test.yaml"]):
        done = subprocess.run(["promtool", *command], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    tested = {
        case["alertname"]
        for one in yaml.safe_load((tmp_path / "rules-test.yaml").read_text())["tests"]
        for case in one["alert_rule_test"]
    }
    assert tested == {rule["alert"] for group in rules()["groups"] for rule in group["rules"] if "alert" in rule}
