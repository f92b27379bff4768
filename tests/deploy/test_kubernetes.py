"""The manifests, validated against Kubernetes' schemas, and what they use of this project."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from errata.cli.settings_reference import all_settings
from service.metrics import Metrics
from tests.deploy.compose import ROOT, make_secrets

FOLDER = ROOT / "deploy" / "kubernetes"
KUSTOMIZE = ("Kustomization", "Component")
RELEASE = "1.32"


def manifests() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every document, with its file and place."""
    for path in sorted(FOLDER.rglob("*.yaml")):
        for number, document in enumerate(yaml.safe_load_all(path.read_text())):
            yield f"{path.relative_to(FOLDER)}#{number}", document


ALL = dict(manifests())
OBJECTS = {name: each for name, each in ALL.items() if each["kind"] not in (*KUSTOMIZE, "ScaledObject")}
SCALING = [each for each in ALL.values() if each["kind"] == "ScaledObject"]
PODS = {
    name: each["spec"]["template"]["spec"] for name, each in OBJECTS.items() if "template" in each["spec"]
}


def test_every_manifest_is_valid() -> None:
    assert len(OBJECTS) >= 12
    for document in OBJECTS.values():
        kubernetes_validate.validate(document, RELEASE, strict=True)


def test_an_unknown_member_is_found() -> None:
    wrong = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"portz": []}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, RELEASE, strict=True)


def test_every_file_is_named_by_a_kustomization() -> None:
    named = set()
    for name, document in ALL.items():
        if document["kind"] in KUSTOMIZE:
            folder = (FOLDER / name.partition("#")[0]).parent
            for entry in (*document.get("resources", ()), *document.get("components", ())):
                target = (folder / entry).resolve()
                assert target.exists(), f"{name} names {entry}"
                named.add(target if target.is_file() else target / "kustomization.yaml")
    files = {path.resolve() for path in FOLDER.rglob("*.yaml")}
    assert files - named == {FOLDER / "example" / "kustomization.yaml"}


def test_containers_have_limits_and_no_privileges() -> None:
    for name, pod in PODS.items():
        assert pod["securityContext"]["runAsNonRoot"], name
        assert not pod["automountServiceAccountToken"], name
        for container in pod["containers"]:
            assert "memory" in container["resources"]["limits"], name
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }, name


def test_every_setting_exists() -> None:
    known = {setting.name for setting in all_settings({})}
    text = "".join(path.read_text() for path in FOLDER.rglob("*.yaml"))
    used = set(re.findall(r"\bERRATA_[A-Z_]+", text))
    assert {"ERRATA_ROLE", "ERRATA_MODEL"} <= used
    assert used - known == set()


def test_secrets_are_those_that_the_script_writes(tmp_path: Path) -> None:
    written = {path.name for path in make_secrets(tmp_path / "secrets").iterdir()}
    used = {
        item["key"]
        for pod in PODS.values()
        for volume in pod["volumes"]
        for item in volume.get("secret", {}).get("items", ())
    }
    assert used <= written
    knowing = [name for name, pod in PODS.items() if "migration_database_url" in str(pod)]
    assert [name.partition("#")[0] for name in knowing] == ["base/migrate.yaml"]


def test_scaling_asks_for_a_metric_that_there_is() -> None:
    metrics = Metrics()
    metrics.queues({("m", "edits"): 3, ("m", "generation"): 5})
    there = {
        (sample.name, tuple(sorted(sample.labels)), sample.labels.get("queue"))
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }
    assert len(SCALING) == 2
    for each in SCALING:
        query = each["spec"]["triggers"][0]["metadata"]["query"]
        found = re.fullmatch(r'max\((\w+)\{model="MODEL",queue="(\w+)"\}\)', query)
        assert found, query
        assert (found[1], ("model", "queue"), found[2]) in there
        assert any(each["spec"]["scaleTargetRef"]["name"] == o["metadata"]["name"] for o in OBJECTS.values())


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")
def test_the_example_renders_to_valid_objects() -> None:
    done = subprocess.run(["kubectl", "kustomize", str(FOLDER / "example")], capture_output=True, check=True)
    rendered = list(yaml.safe_load_all(done.stdout))
    names = [(each["kind"], each["metadata"]["name"]) for each in rendered]
    assert len(set(names)) == len(names)
    for each in rendered:
        assert each["metadata"]["namespace"] == "errata"
        if each["kind"] != "ScaledObject":
            kubernetes_validate.validate(each, RELEASE, strict=True)
        else:
            assert ("Deployment", each["spec"]["scaleTargetRef"]["name"]) in names
            assert "MODEL" not in str(each)
