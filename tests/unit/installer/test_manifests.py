"""The manifests are what kubectl builds and Kubernetes takes, and say what the installer understands."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from zeropod import paths
from zeropod.installer.distributions import NAMES
from zeropod.installer.main import parser
from zeropod.lifecycle import settings
from zeropod.manager import daemon

INSTALLER = Path(__file__).resolve().parents[3] / "installer"
MANIFESTS = INSTALLER / "manifests"
OVERLAYS = sorted((MANIFESTS / "overlays").iterdir())
COMPONENTS = sorted((MANIFESTS / "components").iterdir())
EXAMPLES = sorted((INSTALLER / "examples").glob("*.yaml"))
DAEMON_SET = MANIFESTS / "base/daemon-set.yaml"

VERSIONS = ("1.29", kubernetes_validate.latest_version())
"""The oldest and the newest Kubernetes whose schemas are asked."""

SINCE = {
    "ValidatingAdmissionPolicy": (1, 30),
    "ValidatingAdmissionPolicyBinding": (1, 30),
    "MutatingAdmissionPolicy": (1, 36),
    "MutatingAdmissionPolicyBinding": (1, 36),
}
"""Kinds that the oldest does not know; their components say so."""

OF_AN_OPERATOR = "monitoring.coreos.com/v1"
"""Kinds that Kubernetes itself does not know; their component says so."""

OLDEST_KUSTOMIZE = (4, 1)
"""Of kubectl's own; the first that has components."""


def kustomize_version() -> tuple[int, ...]:
    if shutil.which("kubectl") is None:
        return ()
    command = ["kubectl", "version", "--client", "-o", "json"]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    try:
        said = json.loads(done.stdout).get("kustomizeVersion", "")
    except ValueError:
        return ()
    return tuple(map(int, re.findall(r"\d+", said)))


@pytest.fixture(scope="module")
def kubectl() -> str:
    if kustomize_version() < OLDEST_KUSTOMIZE:
        why = f"there is no kubectl with kustomize {'.'.join(map(str, OLDEST_KUSTOMIZE))} or newer on PATH"
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    return "kubectl"


def build(kubectl: str, directory: Path) -> list[dict[str, Any]]:
    """What `kubectl kustomize` makes of a directory, each object valid."""
    command = [kubectl, "kustomize", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr
    return validated(done.stdout)


def validated(text: str) -> list[dict[str, Any]]:
    made = list(yaml.safe_load_all(text))
    for each in made:
        if each["apiVersion"] == OF_AN_OPERATOR:
            continue
        for version in VERSIONS:
            if each["kind"] not in SINCE or tuple(map(int, version.split(".")[:2])) >= SINCE[each["kind"]]:
                kubernetes_validate.validate(each, version, strict=True)
    return made


def of_kind(made: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = (each for each in made if each["kind"] == kind)
    return found


def installer_of(made: list[dict[str, Any]]) -> dict[str, Any]:
    found = of_kind(made, "DaemonSet")["spec"]["template"]["spec"]["initContainers"][0]
    assert isinstance(found, dict)
    assert found["name"] == "installer"
    return found


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_an_overlay_installs_for_its_distribution(kubectl: str, overlay: Path) -> None:
    made = build(kubectl, overlay)
    options = parser().parse_args(installer_of(made)["args"])
    assert options.distribution == (None if overlay.name == "default" else overlay.name)
    assert options.host_root == "/host"
    assert of_kind(made, "RuntimeClass")["handler"] == "zeropod"
    assert of_kind(made, "DaemonSet")["metadata"]["namespace"] == "zeropod-system"


def test_every_distribution_has_an_overlay() -> None:
    assert {overlay.name for overlay in OVERLAYS} == {"default", *NAMES} - {"containerd"}


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda path: path.name)
def test_a_component_adds_to_every_overlay(kubectl: str, component: Path, tmp_path: Path) -> None:
    for overlay in OVERLAYS:
        directory = tmp_path / overlay.name
        directory.mkdir()
        resource, added = os.path.relpath(overlay, directory), os.path.relpath(component, directory)
        (directory / "kustomization.yaml").write_text(f"resources: [{resource}]\ncomponents: [{added}]\n")
        made = build(kubectl, directory)
        parser().parse_args(installer_of(made)["args"])
        assert made != build(kubectl, overlay)


def test_what_uninstalls_replaces_what_installs(kubectl: str) -> None:
    made, installed = build(kubectl, MANIFESTS / "uninstall"), build(kubectl, MANIFESTS / "base")
    assert parser().parse_args(installer_of(made)["args"]).uninstall
    names = [{(each["kind"], each["metadata"]["name"]) for each in objects} for objects in (made, installed)]
    assert names[0] == names[1]
    pod = of_kind(made, "DaemonSet")["spec"]["template"]["spec"]
    assert [volume["hostPath"]["path"] for volume in pod["volumes"]] == ["/"]
    mounts = [mount for each in pod["initContainers"] + pod["containers"] for mount in each.get("volumeMounts", [])]
    assert {mount["name"] for mount in mounts} == {"host"}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_valid_and_sleeps(example: Path) -> None:
    pods = [each["spec"]["template"] for each in validated(example.read_text()) if "template" in each.get("spec", {})]
    assert pods
    for pod in pods:
        assert pod["spec"]["runtimeClassName"] == "zeropod"
        names = {name.removeprefix("zeropod.ctrox.dev/") for name in pod["metadata"]["annotations"]}
        assert names <= set(settings.KNOWN)


def test_every_capability_and_every_path_of_the_node_has_its_reason() -> None:
    lines = [line.strip() for line in DAEMON_SET.read_text().splitlines()]
    (pod,) = yaml.safe_load_all(DAEMON_SET.read_text())
    spec = pod["spec"]["template"]["spec"]
    containers = [*spec["initContainers"], *spec["containers"]]
    added = [name for each in containers for name in each["securityContext"]["capabilities"].get("add", [])]
    volumes = lines[lines.index("volumes:") :]
    for entry in added:
        assert any(line.startswith("#") for line in lines[lines.index(f"- {entry}") - 2 : lines.index(f"- {entry}")])
    for volume in spec["volumes"]:
        assert volumes[volumes.index(f"- name: {volume['name']}") - 1].startswith("#")
    for each in containers:
        context = each["securityContext"]
        assert (context["privileged"], context["allowPrivilegeEscalation"]) == (False, False)
        assert context["capabilities"]["drop"] == ["ALL"]


def test_what_serves_has_no_right_of_roots_and_what_is_root_serves_nothing() -> None:
    (pod,) = yaml.safe_load_all(DAEMON_SET.read_text())
    spec = pod["spec"]["template"]["spec"]
    (manager,) = spec["containers"]
    context = manager["securityContext"]
    assert (context["runAsNonRoot"], context["runAsUser"], context["runAsGroup"]) == (True, *[paths.MANAGER_GROUP] * 2)
    assert context["readOnlyRootFilesystem"]
    assert "add" not in context["capabilities"]
    places = {volume["name"]: volume["hostPath"]["path"] for volume in spec["volumes"]}
    mounts = [(places[mount["name"]], mount["readOnly"]) for mount in manager["volumeMounts"]]
    assert mounts == [(paths.STATUS_SOCKETS, True)]
    assert all("ports" not in each for each in spec["initContainers"])


ON_KUBERNETES = {
    "status-labels": {("pods", "patch")},
    "status-events": {("events", "get"), ("events", "create"), ("events", "patch")},
    "in-place-scaling": {("pods", "patch"), ("pods/resize", "patch")},
}
"""Components by which the manager writes to Kubernetes, and what they may do besides reading pods."""


@pytest.mark.parametrize("chosen", [*([name] for name in ON_KUBERNETES), list(ON_KUBERNETES)], ids=",".join)
def test_a_flag_comes_with_the_rights_that_it_needs(kubectl: str, chosen: list[str], tmp_path: Path) -> None:
    components = [os.path.relpath(MANIFESTS / "components" / name, tmp_path) for name in ("kubernetes-api", *chosen)]
    base = os.path.relpath(MANIFESTS / "overlays/default", tmp_path)
    (tmp_path / "kustomization.yaml").write_text(json.dumps({"resources": [base], "components": components}))
    made = build(kubectl, tmp_path)
    rights = {
        (resource, verb)
        for each in made
        if each["kind"] == "ClusterRole"
        for rule in each["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert rights == {("pods", "list"), ("pods", "watch")}.union(*(ON_KUBERNETES[name] for name in chosen))
    roles = {each["metadata"]["name"] for each in made if each["kind"] == "ClusterRole"}
    bindings = [each for each in made if each["kind"] == "ClusterRoleBinding"]
    assert {each["roleRef"]["name"] for each in bindings} == roles
    account = {"kind": "ServiceAccount", "name": "zeropod-node", "namespace": "zeropod-system"}
    assert all(each["subjects"] == [account] for each in bindings)
    spec = of_kind(made, "DaemonSet")["spec"]["template"]["spec"]
    (manager,) = spec["containers"]
    assert manager["command"][:2] == ["/zeropod/bin/zeropod.pyz", "manager"]
    options = daemon.parser().parse_args(manager["command"][2:])
    given = {name for name in ON_KUBERNETES if getattr(options, name.replace("-", "_"))}
    assert given == set(chosen)
    assert [each["name"] for each in manager["env"]] == ["NODE_NAME"]
    tokens = [
        each for each in [*spec["initContainers"], manager] if "serviceaccount" in json.dumps(each["volumeMounts"])
    ]
    assert tokens == [manager]
    assert spec["automountServiceAccountToken"] is False


def test_without_components_nothing_may_ask_kubernetes(kubectl: str) -> None:
    made = build(kubectl, MANIFESTS / "overlays/default")
    assert not [each for each in made if "Role" in each["kind"]]
    assert "serviceAccountToken" not in json.dumps(made)


def test_a_namespace_may_have_every_annotation_that_is_a_setting(kubectl: str) -> None:
    policy = next(yaml.safe_load_all((MANIFESTS / "components/namespace-defaults/policy.yaml").read_text()))
    (inherited,) = [each["expression"] for each in policy["spec"]["variables"] if each["name"] == "inherited"]
    assert sorted(re.findall(r'"([a-z-]+)"', inherited)) == sorted(settings.KNOWN)
    (mutation,) = policy["spec"]["mutations"]
    assert set(re.findall(r"(?:ctrox.dev/|~1)([a-z-]+)", mutation["jsonPatch"]["expression"])) == {
        settings.FROM_NAMESPACE
    }


def test_a_configuration_of_ones_own_comes_to_the_nodes_by_another_name(kubectl: str, tmp_path: Path) -> None:
    base, component = (os.path.relpath(MANIFESTS / each, tmp_path) for each in ("base", "components/node-config"))
    own = {"name": "zeropod-node-config", "namespace": "zeropod-system"}
    own_file = {"configMapGenerator": [{**own, "files": ["zeropod.toml"]}]}
    names = []
    for text in ("min-free-bytes = 1\n", "min-free-bytes = 2\n"):
        (tmp_path / "zeropod.toml").write_text(text)
        (tmp_path / "kustomization.yaml").write_text(
            json.dumps({"resources": [base], "components": [component], **own_file})
        )
        made = build(kubectl, tmp_path)
        config = of_kind(made, "ConfigMap")
        assert config["data"] == {"zeropod.toml": text}
        spec = of_kind(made, "DaemonSet")["spec"]["template"]["spec"]
        (volume,) = [each for each in spec["volumes"] if "configMap" in each]
        assert volume["configMap"]["name"] == config["metadata"]["name"]
        names.append(config["metadata"]["name"])
        (mount,) = [each for each in spec["initContainers"][0]["volumeMounts"] if each["name"] == volume["name"]]
        options = parser().parse_args(spec["initContainers"][0]["args"])
        assert options.node_config == f"{mount['mountPath']}/zeropod.toml"
    assert len(set(names)) == 2


@pytest.mark.parametrize(
    "role", sorted((MANIFESTS / "components").glob("*/rbac.yaml")), ids=lambda path: path.parent.name
)
def test_every_right_has_its_reason(role: Path) -> None:
    lines = [line.strip() for line in role.read_text().splitlines()]
    rules = [number for number, line in enumerate(lines) if line.startswith("- apiGroups")]
    assert rules
    assert all(lines[number - 1].startswith("#") for number in rules)
