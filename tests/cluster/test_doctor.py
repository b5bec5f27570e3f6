"""`kubectl zeropod doctor` on a real cluster: where all is right, and with what a person has broken."""

import json
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from tests.cluster import product
from tests.cluster.command import run
from tests.cluster.kube import Object, kubectl, until
from tests.cluster.pki import ADMIN
from tests.cluster.pods import Place
from tests.integration.patience import patient

PLUGIN = Path("/usr/local/bin/kubectl-zeropod")
INSTALLED = ["rollout", "status", "daemonset/zeropod-node", "--timeout=120s"]


@pytest.fixture(scope="session", autouse=True)
def plugin() -> None:
    with suppress(FileExistsError):  # several test processes make it
        PLUGIN.symlink_to("/src/build/zeropod.pyz")


def doctor(*arguments: str) -> tuple[int, list[Object]]:
    """Its exit status, and what it has found."""
    done = subprocess.run(
        ["kubectl", "zeropod", "doctor", "-o", "json", *arguments],
        capture_output=True, text=True, timeout=patient(60), check=False,
    )  # fmt: skip
    assert not done.stderr
    found: list[Object] = json.loads(done.stdout)
    return done.returncode, found


def wrong() -> list[tuple[str, str]]:
    """What fails, and what is said of it."""
    return [(each["subject"], each["found"]) for each in doctor()[1] if each["verdict"] == "FAILS"]


def says(words: str) -> Callable[[], bool]:
    """Whether it says this of the node."""
    return lambda: any(subject == "node-1" and words in text for subject, text in wrong())


def test_all_is_right_in_a_cluster_that_has_just_been_installed(place: Place) -> None:
    status, found = doctor()
    assert (status, {each["verdict"] for each in found}) == (0, {"ok"}), found
    assert found[-1]["subject"] == "node-1"
    assert found[-1]["found"].startswith("containerd ")


def test_who_may_see_a_namespace_alone_is_told_what_was_not_looked_at(place: Place, tmp_path: Path) -> None:
    place.kubectl("create", "serviceaccount", "viewer")
    place.kubectl("create", "rolebinding", "viewer", "--clusterrole=view", f"--serviceaccount={place.name}:viewer")
    config = json.loads(ADMIN.read_text())
    config["users"] = [{"name": "user", "user": {"token": place.kubectl("create", "token", "viewer").strip()}}]
    config["contexts"][0]["context"]["user"] = "user"
    (tmp_path / "viewer.conf").write_text(json.dumps(config))
    done = subprocess.run(
        ["kubectl", "zeropod", "doctor", "--kubeconfig", str(tmp_path / "viewer.conf")],
        capture_output=True, text=True, timeout=patient(60), check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "?      nodes" in done.stdout
    assert "is forbidden" in done.stdout


@pytest.mark.alone
def test_a_node_that_is_not_chosen_any_more(place: Place) -> None:
    kubectl("label", "node", "node-1", "zeropod.ctrox.dev/node-")
    try:
        until(lambda: "has no node to run on" in str(wrong()), "it says that no node is chosen")
    finally:
        kubectl("label", "node", "node-1", "zeropod.ctrox.dev/node=true")
        until(lambda: not wrong() and doctor()[0] == 0, "all is right again", 120)


@pytest.mark.alone
def test_an_installer_that_fails_is_told_with_its_own_words(place: Place) -> None:
    patch = [{"op": "add", "path": "/spec/template/spec/initContainers/0/args/-", "value": "--node-config=/nowhere"}]
    kubectl("-n", "zeropod-system", "patch", "daemonset", "zeropod-node", "--type=json", "-p", json.dumps(patch))
    try:
        until(says("zeropod installer: /nowhere: No such file or directory"), "it says why the installer fails", 60)
    finally:
        run("kubectl", "apply", "-k", product.MANIFESTS)
        run("kubectl", "-n", "zeropod-system", *INSTALLED, timeout=150)
    until(lambda: doctor()[0] == 0, "all is right again", 60)


@pytest.mark.alone
def test_an_image_that_is_nowhere(place: Place) -> None:
    image = "localhost/nowhere:1"
    kubectl("-n", "zeropod-system", "set", "image", "daemonset/zeropod-node", f"installer={image}")
    try:
        until(says("installer has no image: "), "it says that there is no image", 60)
    finally:
        run("kubectl", "apply", "-k", product.MANIFESTS)
        run("kubectl", "-n", "zeropod-system", *INSTALLED, timeout=150)
    until(lambda: doctor()[0] == 0, "all is right again", 60)


@pytest.mark.alone
def test_a_runtime_class_that_is_gone(place: Place) -> None:
    kubectl("delete", "runtimeclass", "zeropod")
    try:
        status, found = doctor()
        assert (status, found[0]["subject"], found[0]["verdict"]) == (1, "RuntimeClass", "FAILS")
    finally:
        run("kubectl", "apply", "-k", product.MANIFESTS)
