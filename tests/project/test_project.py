"""The project's own files: containers, settings page, README, what is shipped."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from service.settings import Settings

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
MAKEFILE = (ROOT / "Makefile").read_text()
DOCKERFILES = sorted((ROOT / "docker").glob("Dockerfile.*"))


def instructions(path):
    """(instruction, arguments) of a Dockerfile, continued lines joined."""
    text = re.sub(r"\\\n\s*", "", path.read_text())
    lines = [line for line in text.split("\n") if line and not line.startswith("#")]
    return [tuple(line.split(" ", 1)) for line in lines]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.name)
def test_dockerfile_copies_what_exists_runs_as_a_user_and_checks_health(path):
    steps = instructions(path)
    for name, arguments in steps:
        if name == "COPY" and "--from" not in arguments:
            for source in arguments.split()[:-1]:
                assert (ROOT / source).exists(), source
    names = [name for name, _ in steps]
    assert names.count("FROM") >= 2
    assert "HEALTHCHECK" in names
    assert [arguments for name, arguments in steps if name == "USER"] == ["surety"]
    assert dict(steps)["ENTRYPOINT"] == '[".venv/bin/python", "-m", "service.cli"]'
    assert (ROOT / "service" / "cli.py").is_file()


def test_cpu_image_installs_what_make_installs():
    """The same pip lines, but for the developers' tools and the index that holds CPU wheels."""
    torch = re.search(r"^TORCH := (\S+)$", MAKEFILE, re.M).group(1)
    made = re.findall(r"^\t\$\(PY\) -m pip install (.*)$", MAKEFILE, re.M)
    expected = [
        made[0].replace("$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX) )$(TORCH)", torch),
        made[1].replace("'.[dev]'", ".[$EXTRAS]"),
    ]
    pip = ".venv/bin/python -m pip install "
    steps = instructions(ROOT / "docker" / "Dockerfile.cpu")
    found = [arguments.removeprefix(pip) for name, arguments in steps if name == "RUN" and arguments.startswith(pip)]
    assert [line.replace("--extra-index-url $TORCH_INDEX ", "") for line in found] == expected
    assert ("ARG", "EXTRAS=postgres") in steps
    assert "python3.11 -m venv .venv" in [arguments for _, arguments in steps]


def test_compose_names_files_that_exist_and_has_a_gpu_profile():
    services = COMPOSE["services"]
    for service in services.values():
        if "build" in service:
            assert (ROOT / service["build"]["dockerfile"]).is_file()
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in COMPOSE["volumes"] or (ROOT / source).exists()
    assert services["surety-gpu"]["profiles"] == ["gpu"]
    assert "profiles" not in services["surety"]
    scrape = yaml.safe_load((ROOT / "docker" / "prometheus" / "prometheus.yml").read_text())["scrape_configs"][0]
    (discovery,) = scrape["dns_sd_configs"]
    port = Settings.model_fields["port"].default
    published = {name for name in services if any(one.endswith(f":{port}") for one in services[name]["ports"])}
    assert (set(discovery["names"]), discovery["port"]) == (published, port)


def test_only_compose_serves_without_keys_and_to_this_machine_alone():
    """The images refuse a start without keys, unless whoever starts them says that nobody else gets in."""
    for path in DOCKERFILES:
        text = path.read_text()
        assert "SURETY_HOST=0.0.0.0" in text
        assert "SURETY_ALLOW_PUBLIC" not in text
        assert "/var/lib/surety" in text
    for name, service in COMPOSE["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), name
        allowed = service.get("environment", {}).get("SURETY_ALLOW_PUBLIC_WITHOUT_KEYS")
        assert allowed == ("true" if "build" in service else None)


def test_readme_names_commands_and_files_that_exist():
    readme = (ROOT / "README.md").read_text()
    for target in re.findall(r"^(?:`)?make (\w+)|`make (\w+)`", readme, re.M):
        target = "".join(target)
        assert re.search(rf"^{target}:", MAKEFILE, re.M), target
    for link in re.findall(r"\]\(((?:docs|benchmarks)/[^)]+)\)", readme):
        assert (ROOT / link).exists(), link
    for sample in re.findall(r"service/samples/[\w.-]+", readme):
        assert (ROOT / sample).is_file(), sample


def test_shipped_weights_are_small_and_never_pickled():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    assert not [name for name in tracked if name.endswith((".pt", ".pth", ".pkl"))]
    weights = [ROOT / name for name in tracked if name.endswith(".safetensors")]
    assert weights
    for path in weights:
        assert path.stat().st_size <= 3_000_000, path


@pytest.mark.parametrize("room", ["certification", "gpu", "models"])
def test_numeric_rooms_import_without_the_services_packages(room):
    blocked = ("fastapi", "starlette", "pydantic", "pydantic_settings", "prometheus_client", "uvicorn", "httpx", "ray")
    script = (
        "import importlib, pkgutil, sys\n"
        f"for name in {blocked!r}: sys.modules[name] = None\n"
        f"import {room}\n"
        f"for module in pkgutil.walk_packages({room}.__path__, '{room}.'): importlib.import_module(module.name)\n"
    )

    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=300)
