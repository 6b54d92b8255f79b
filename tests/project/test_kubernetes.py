"""Examples for Kubernetes and Ray: what they name is what the service has. No cluster reads them here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import Settings

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docker" / "kubernetes"
DEPLOYMENT, SERVICE, BUDGET = yaml.safe_load_all((FOLDER / "deployment.yaml").read_text())
RAY_SERVICE = yaml.safe_load((FOLDER / "rayservice.yaml").read_text())
RAY_CLUSTER = RAY_SERVICE["spec"]["rayClusterConfig"]
RAY_PODS = [RAY_CLUSTER["headGroupSpec"]["template"], *(group["template"] for group in RAY_CLUSTER["workerGroupSpecs"])]
PODS = [DEPLOYMENT["spec"]["template"], *RAY_PODS]
SERVE_CONFIGS = [
    yaml.safe_load((ROOT / "docker" / "ray.yaml").read_text()), yaml.safe_load(RAY_SERVICE["spec"]["serveConfigV2"])
]  # fmt: skip
RAYS_OWN_PATHS = {"/api/local_raylet_healthz", "/-/healthz"}


def container(pod: dict[str, Any]) -> dict[str, Any]:
    (one,) = pod["spec"]["containers"]
    return dict(one)


def environment(pod: dict[str, Any]) -> dict[str, Any]:
    return {variable["name"]: variable.get("value") for variable in container(pod)["env"]}


@pytest.mark.parametrize("pod", PODS)
def test_variables_are_settings_and_their_values_are_accepted(pod: dict[str, Any]) -> None:
    given = environment(pod)
    names = {name.removeprefix("SURETY_").lower() for name in given}
    assert names <= set(Settings.model_fields)
    values = {name.removeprefix("SURETY_").lower(): value for name, value in given.items() if value is not None}
    Settings(**values)
    secret = {"noise_secret", "database_url", "signing_key", "keys_file"}
    assert secret <= names
    for variable in container(pod)["env"]:
        if variable["name"] in ("SURETY_NOISE_SECRET", "SURETY_DATABASE_URL"):
            assert set(variable["valueFrom"]) == {"secretKeyRef"}
    mounts = {mount["name"]: mount["mountPath"] for mount in container(pod)["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    assert set(mounts) == set(volumes)
    files = {f"{mounts['secrets']}/{item['path']}" for item in volumes["secrets"]["secret"]["items"]}
    assert files == {given["SURETY_KEYS_FILE"], given["SURETY_SIGNING_KEY"]}


@pytest.mark.parametrize("pod", PODS)
def test_pods_have_no_privileges_and_probes_for_paths_that_exist(pod: dict[str, Any], tmp_path: Path) -> None:
    from service.app import create_app

    paths = set(create_app(Settings(zoo=tmp_path)).openapi()["paths"]) | RAYS_OWN_PATHS
    one = container(pod)
    assert pod["spec"]["securityContext"]["runAsNonRoot"]
    assert one["securityContext"]["readOnlyRootFilesystem"]
    assert {"/tmp", "/var/lib/surety"} <= {mount["mountPath"] for mount in one["volumeMounts"]}
    assert not one["securityContext"]["allowPrivilegeEscalation"]
    assert one["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    for probe in ("livenessProbe", "readinessProbe"):
        assert one[probe]["httpGet"]["path"] in paths
    user = re.search(r"useradd --uid (\d+)", (ROOT / "docker" / "Dockerfile.cpu").read_text()).group(1)
    assert pod["spec"]["securityContext"]["runAsUser"] == int(user)


def test_the_plain_deployment_is_one_server_a_pod_that_may_drain() -> None:
    pod = DEPLOYMENT["spec"]["template"]
    one, port = container(pod), Settings.model_fields["port"].default
    assert one["image"] == "surety"
    assert one["ports"] == [{"name": "http", "containerPort": port}]
    assert one["livenessProbe"]["httpGet"] == {"path": "/health/live", "port": "http"}
    assert one["readinessProbe"]["httpGet"] == {"path": "/health/ready", "port": "http"}
    assert SERVICE["spec"]["ports"][0]["targetPort"] == "http"
    labels = pod["metadata"]["labels"]
    assert labels == SERVICE["spec"]["selector"] == BUDGET["spec"]["selector"]["matchLabels"]
    assert labels == DEPLOYMENT["spec"]["selector"]["matchLabels"]
    assert BUDGET["spec"]["minAvailable"] < DEPLOYMENT["spec"]["replicas"]
    pause = int(one["lifecycle"]["preStop"]["exec"]["command"][1])
    drain = float(environment(pod)["SURETY_DRAIN_SECONDS"])
    assert pod["spec"]["terminationGracePeriodSeconds"] > pause + drain


def test_the_ray_service_has_room_for_its_engines_and_time_for_its_answers() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert f"ray[serve]=={RAY_CLUSTER['rayVersion']}" in pyproject
    (group,), scale = RAY_CLUSTER["workerGroupSpecs"], SERVE_CONFIGS[1]["applications"][0]["args"]
    asked = container(group["template"])["resources"]["requests"]
    assert int(asked["nvidia.com/gpu"]) * group["maxReplicas"] >= scale["num_gpus"] * scale["most_engines"]
    # the least there is: the engines and all edges on their nodes
    assert int(asked["cpu"]) * group["minReplicas"] >= scale["num_cpus"] * scale["engines"] + scale["edges"]
    assert {container(pod)["image"] for pod in RAY_PODS} == {"surety-ray-gpu"}
    longest = Settings().default_deadline_ms / 1000.0
    assert all(pod["spec"]["terminationGracePeriodSeconds"] > longest + 10.0 for pod in RAY_PODS)


@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")
@pytest.mark.parametrize("config", SERVE_CONFIGS)
def test_ray_and_the_service_accept_the_configurations(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    from pkgutil import resolve_name

    from ray.serve.schema import ServeDeploySchema

    from service.ray_app import Scale
    from service.settings import SettingsError

    (deployed,) = ServeDeploySchema.model_validate(config).applications
    assert config["http_options"]["port"] == Settings.model_fields["port"].default
    scale, app = Scale.model_validate(deployed.args), resolve_name(deployed.import_path)
    with pytest.raises(SettingsError, match="no API keys"):
        app(scale)
    monkeypatch.setenv("SURETY_ALLOW_PUBLIC_WITHOUT_KEYS", "true")
    edges = app(scale)._bound_deployment
    engines = edges.init_args[0]._bound_deployment
    assert edges.num_replicas == scale.edges
    scaling = engines._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas) == (scale.engines, scale.most_engines)
    assert scaling.policy.policy_kwargs == {"target_seconds": scale.queue_seconds}
    assert engines.ray_actor_options["num_gpus"] == scale.num_gpus


def test_the_images_of_the_ray_service_are_built_as_the_page_says() -> None:
    text, page = (FOLDER / "rayservice.yaml").read_text(), (ROOT / "docs" / "scale-out.md").read_text()
    (built,) = re.findall(r"(--build-arg EXTRAS=\S+ -f docker/Dockerfile\.cuda)", text)
    assert built in page
    assert {"cuda", "postgres", "ray"} == set(re.search(r"EXTRAS=(\S+)", built)[1].split(","))


def test_compose_brings_up_a_head_a_worker_and_the_service() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    ours = {name: service for name, service in services.items() if service.get("profiles") == ["ray"]}
    assert set(ours) == {"ray-head", "ray-worker", "ray-deploy"}
    assert {service["image"] for service in ours.values()} == {"surety-ray"}
    assert all(services[name]["read_only"] for name in ("ray-head", "ray-worker"))
    assert "ray" in services["ray-head"]["build"]["args"]["EXTRAS"].split(",")
    assert "--address=ray-head:6379" in services["ray-worker"]["command"]
    assert "/etc/surety/ray.yaml" in services["ray-deploy"]["command"]
