"""The custom resource's manifests: what managers and people may do with it, and nothing more."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.unit.installer.test_manifests import MANIFESTS, build, kubectl, of_kind

from zeropod.manager import daemon

__all__ = ["kubectl"]  # the fixture

COMPONENT = MANIFESTS / "components/zeropods"


def roles(made: list[dict[str, Any]]) -> dict[str, set[tuple[str, str]]]:
    """What each role may do."""
    return {
        each["metadata"]["name"]: {
            (to, verb) for rule in each["rules"] for to in rule["resources"] for verb in rule["verbs"]
        }
        for each in made
        if each["kind"] == "ClusterRole"
    }


def test_the_manager_gets_its_flag_and_what_it_needs(kubectl: str, tmp_path: Path) -> None:
    components = [os.path.relpath(MANIFESTS / "components" / name, tmp_path) for name in ("kubernetes-api", "zeropods")]
    base = os.path.relpath(MANIFESTS / "overlays/default", tmp_path)
    (tmp_path / "kustomization.yaml").write_text(json.dumps({"resources": [base], "components": components}))
    made = build(kubectl, tmp_path)
    (manager,) = of_kind(made, "DaemonSet")["spec"]["template"]["spec"]["containers"]
    assert daemon.parser().parse_args(manager["command"][2:]).zeropods
    assert roles(made)["zeropod:zeropods"] == {
        *(("zeropods", verb) for verb in ("list", "watch", "create", "patch")),
        ("zeropods/status", "patch"),
    }
    bound = {each["roleRef"]["name"]: each["subjects"] for each in made if each["kind"] == "ClusterRoleBinding"}
    account = {"kind": "ServiceAccount", "name": "zeropod-node", "namespace": "zeropod-system"}
    assert bound["zeropod:zeropods"] == [account]
    assert not {"zeropod:zeropods-view", "zeropod:zeropods-edit"} & bound.keys()


@pytest.mark.parametrize(
    ("role", "verbs"), [("view", {"get", "list", "watch"}), ("edit", {"create", "update", "patch", "delete"})]
)
def test_people_get_theirs_by_the_usual_roles(role: str, verbs: set[str]) -> None:
    made = list(yaml.safe_load_all((COMPONENT / "people.yaml").read_text()))
    assert roles(made)[f"zeropod:zeropods-{role}"] == {("zeropods", verb) for verb in verbs}
    labels = next(each for each in made if each["metadata"]["name"].endswith(role))["metadata"]["labels"]
    assert labels == {f"rbac.authorization.k8s.io/aggregate-to-{role}": "true"}
