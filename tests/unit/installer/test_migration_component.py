"""The component migration: what managers and people may do with it, and that its schema knows all that is written."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.unit.installer.test_manifests import MANIFESTS, build, kubectl, of_kind
from tests.unit.installer.test_zeropods_component import roles
from tests.unit.manager.migration.build import BEGUN, migration, newcomer, pod

from zeropod import paths
from zeropod.manager import daemon
from zeropod.manager.migration import resource
from zeropod.manager.migration.flags import settings
from zeropod.manager.migration.needs import as_object
from zeropod.rpc.messages.node_pb2 import Needs

__all__ = ["kubectl"]  # the fixture

COMPONENT = MANIFESTS / "components/migration"


@pytest.fixture
def made(kubectl: str, tmp_path: Path) -> list[dict[str, Any]]:
    components = [
        os.path.relpath(MANIFESTS / "components" / name, tmp_path) for name in ("kubernetes-api", "migration")
    ]
    base = os.path.relpath(MANIFESTS / "overlays/default", tmp_path)
    (tmp_path / "kustomization.yaml").write_text(json.dumps({"resources": [base], "components": components}))
    return build(kubectl, tmp_path)


def test_the_manager_gets_its_flag_and_what_it_needs(made: list[dict[str, Any]]) -> None:
    pod = of_kind(made, "DaemonSet")["spec"]["template"]["spec"]
    manager, exporter = pod["containers"]
    options = daemon.parser().parse_args(manager["command"][2:])
    assert options.migration
    names = {each["name"] for each in manager["env"]}
    assert names == {"NODE_NAME", "POD_IP"}
    (port,) = [each["containerPort"] for each in manager["ports"] if each["name"] == "migration"]
    assert settings(options, {"POD_IP": "10.0.0.1"}).port == port
    places = {volume["name"]: volume.get("hostPath", {}).get("path") for volume in pod["volumes"]}
    mounts = {places[each["name"]]: each.get("readOnly", False) for each in manager["volumeMounts"]}
    assert mounts[paths.MANAGER_SOCKETS] is False
    assert mounts[os.path.dirname(paths.EXPORTS_SOCKET)] is True
    context = manager["securityContext"]
    assert (context["runAsNonRoot"], context["capabilities"]) == (True, {"drop": ["ALL"]})
    # The one that is root has nothing to do with the network or the API.
    assert "ports" not in exporter
    assert "serviceaccount" not in json.dumps(exporter)
    assert exporter["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["CHOWN"]}
    assert (exporter["securityContext"]["runAsUser"], exporter["securityContext"]["readOnlyRootFilesystem"]) == (
        0,
        True,
    )


def test_what_the_manager_may(made: list[dict[str, Any]]) -> None:
    assert roles(made)["zeropod:migration-manager"] == {
        *(("migrations", verb) for verb in ("get", "list", "watch", "create", "patch", "delete")),
        ("migrations/status", "patch"),
        ("pods", "get"),
        *((owner, "get") for owner in ("replicasets", "statefulsets", "daemonsets", "jobs")),
        *(("events", verb) for verb in ("create", "patch")),
        ("tokenreviews", "create"),
    }
    role = of_kind(made, "Role")
    assert role["rules"] == [
        {
            "apiGroups": [""],
            "resources": ["serviceaccounts/token"],
            "resourceNames": [of_kind(made, "ServiceAccount")["metadata"]["name"]],
            "verbs": ["create"],
        }
    ]
    assert of_kind(made, "RoleBinding")["metadata"]["namespace"] == role["metadata"]["namespace"] == "zeropod-system"


@pytest.mark.parametrize(
    ("role", "verbs"), [("view", {"get", "list", "watch"}), ("edit", {"create", "update", "patch", "delete"})]
)
def test_people_get_theirs_by_the_usual_roles(role: str, verbs: set[str]) -> None:
    made = list(yaml.safe_load_all((COMPONENT / "people.yaml").read_text()))
    assert roles(made)[f"zeropod:migrations-{role}"] == {("migrations", verb) for verb in verbs}
    labels = next(each for each in made if each["metadata"]["name"].endswith(role))["metadata"]["labels"]
    assert labels == {f"rbac.authorization.k8s.io/aggregate-to-{role}": "true"}


def version() -> dict[str, Any]:
    (made,) = yaml.safe_load_all((COMPONENT / "crd.yaml").read_text())
    (found,) = made["spec"]["versions"]
    assert isinstance(found, dict)
    return found


def unknown(schema: dict[str, Any], value: Any, where: str = "") -> list[str]:
    """Fields that the API server would drop, and those that it would miss."""
    if schema["type"] == "array":
        return [each for item in value for each in unknown(schema["items"], item, f"{where}[]")]
    if schema["type"] != "object":
        kinds = {"string": str, "boolean": bool, "integer": int}
        return [] if isinstance(value, kinds[schema["type"]]) else [f"{where}: {value!r}"]
    known = schema["properties"]
    found = [f"{where}.{name}" for name in value if name not in known]
    found += [f"{where}.{name} is missing" for name in schema.get("required", ()) if name not in value]
    there = {name: each for name, each in value.items() if name in known and each is not None}
    return found + [part for name, each in there.items() for part in unknown(known[name], each, f"{where}.{name}")]


def test_the_schema_knows_all_that_is_written() -> None:
    schema = version()["schema"]["openAPIV3Schema"]["properties"]
    for of, parks, by_name in (
        (pod(), False, False),
        (pod("web-0", owner="StatefulSet"), True, False),
        (pod(owner="", revision=""), True, True),
    ):
        body = resource.body_of(of, ["main"], "10.0.0.1", 8090, parks=parks, by_name=by_name)
        assert unknown(schema["spec"], body["spec"]) == []
    left = migration(pod())
    needs = Needs(architecture="a", kernel="k", criu="c", cpu_features=["f"], image="i", page_size=4096)
    change = resource.container_change(
        left, "main", {"targetPodIP": "10.0.0.2"}, needs=as_object(needs), asleep=True, restoreReady=True
    )
    spec = {**left.spec, **resource.claim(left, newcomer())["spec"], **change["spec"]}
    assert unknown(schema["spec"], spec) == []
    fields = {
        "pausedAt": resource.timestamp(BEGUN), "restoredAt": resource.timestamp(BEGUN), "imageBytes": 1,
        "storedBytes": 1, "bytesReceived": 1, "pagesToCome": 1,
    }  # fmt: skip
    for phase in ("Completed", "Failed"):
        status = resource.status_change(left, ["main"], BEGUN, phase, "why", fields)
        assert status
        assert unknown(schema["status"], status["status"]) == []
    assert unknown(schema["spec"], {**left.spec, "other": 1}) == [".other"]


def test_the_columns_that_users_know() -> None:
    columns = version()["additionalPrinterColumns"]
    assert [each["name"] for each in columns if not each.get("priority")] == ["Phase", "Live", "Duration", "Age"]
