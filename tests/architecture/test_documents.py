"""Documents that follow from the code are current, and deployment files name only what exists."""

import re
from pathlib import Path

import pytest
import yaml

from docs.generate import SETTINGS, documents
from shared.settings.service_settings import SCOPES, variable_names

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"


@pytest.mark.parametrize("path", list(documents()), ids=lambda path: path.name)
def test_a_generated_document_is_current(path: Path) -> None:
    assert path.read_text() == documents()[path], "run `make docs`"


def test_every_setting_says_what_it_means() -> None:
    silent = [
        name
        for _, settings in SETTINGS
        for name, field in variable_names(settings).items()
        if not (field.description or "").strip()
    ]
    assert silent == []


def test_every_settings_class_has_a_scope_of_its_own() -> None:
    scopes = [
        str(settings.model_config.get("env_prefix")).removeprefix("PENSTOCK_").rstrip("_") for _, settings in SETTINGS
    ]
    assert len(set(scopes)) == len(scopes)
    assert set(scopes) <= set(SCOPES)


def test_deployment_files_and_documents_name_only_settings_that_exist() -> None:
    known = {name for _, settings in SETTINGS for name in variable_names(settings)}
    files = [COMPOSE, ROOT / "README.md", *(ROOT / "deploy").rglob("*"), *(ROOT / "docs").glob("*.md")]
    unknown = {
        (path.name, name)
        for path in files
        if path.is_file()
        for name in re.findall(r"\bPENSTOCK_[A-Z0-9_]*[A-Z0-9]\b", path.read_text())
        if name not in known and not any(name == f"PENSTOCK_{scope}" for scope in SCOPES)
    }
    assert unknown == set()


def test_compose_pins_every_image_builds_from_existing_files_and_starts_existing_modules() -> None:
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    for name, service in services.items():
        assert re.search(r":v?\d+\.\d+", service["image"]), f"{name} does not pin its image"
        if build := service.get("build"):
            assert (ROOT / build["dockerfile"]).is_file()
        command = service.get("command", [])
        if "-m" in command:
            module = ROOT / Path(*command[command.index("-m") + 1].split("."))
            assert module.with_suffix(".py").is_file() or (module / "__main__.py").is_file(), command
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (ROOT / source).exists(), volume


def test_compose_starts_every_service_of_ours_and_publishes_on_this_machine_only() -> None:
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    assert {"gateway", "worker", "supervisor", "kafka", "redis"} <= set(services)
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_prometheus_scrapes_every_service_of_ours_in_the_compose_stack() -> None:
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    ours = {name for name in services if name.split("-")[0] in {"gateway", "supervisor", "worker"}}
    jobs = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    assert {name for job in jobs for found in job["dns_sd_configs"] for name in found["names"]} == ours


def test_docker_files_copy_only_what_exists() -> None:
    for dockerfile in (ROOT / "deploy" / "docker").glob("*.Dockerfile"):
        for line in dockerfile.read_text().splitlines():
            if line.startswith("COPY ") and "--from=" not in line:  # what an earlier stage made is not here
                *sources, _ = line.split()[1:]
                assert all((ROOT / source).exists() for source in sources), line


def test_the_gateway_image_installs_no_torch() -> None:
    assert "[worker]" not in (ROOT / "deploy" / "docker" / "gateway.Dockerfile").read_text()
