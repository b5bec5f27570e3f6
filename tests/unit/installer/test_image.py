"""What builds the node image and brings it to nodes: which programs it runs, and what it writes. They are stand-ins."""

import importlib.util
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from tests.unit.installer.test_manifests import INSTALLER, build, installer_of, kubectl, of_kind

__all__ = ["kubectl"]

NAME = "docker.io/library/zeropod-node:latest"


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module, in a checkout of its own."""
    spec = importlib.util.spec_from_file_location("image", INSTALLER / "image.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "ARCHIVE", tmp_path / "build/zeropod-node.tar")
    monkeypatch.setattr(module, "INSTALL", tmp_path / "build/install/kustomization.yaml")
    (tmp_path / "build").mkdir()
    return module


Having = Callable[..., list[str]]


@pytest.fixture
def having(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Having:
    """Has these programs on PATH alone; returns what they are called with, as it comes."""
    calls: list[str] = []

    def run(command: tuple[str, ...], *, cwd: Path, check: bool) -> None:
        assert (cwd, check) == (tmp_path, True)
        calls.append(" ".join(command))
        if command[0] in failing:
            raise subprocess.CalledProcessError(1, command)

    failing: set[str] = set()

    def have(*programs: str, fails: str = "") -> list[str]:
        failing.add(fails)
        directory = tmp_path / "programs"
        directory.mkdir()
        for name in programs:
            (directory / name).symlink_to("/bin/true")
        monkeypatch.setenv("PATH", str(directory))
        monkeypatch.setattr(subprocess, "run", run)
        return calls

    return have


BUILT = f"build --file installer/Containerfile --tag {NAME} ."


def test_it_is_built_by_what_there_is(image: ModuleType, having: Having) -> None:
    calls = having("buildah")
    assert image.main([]) == 0
    assert calls == [f"buildah {BUILT}"]


def test_options_go_to_the_builder(image: ModuleType, having: Having) -> None:
    calls = having("docker", "buildah")
    assert image.main(["--build-arg", "BASE=debian:sid"]) == 0
    assert calls == [f"docker {BUILT.removesuffix(' .')} --build-arg BASE=debian:sid ."]


@pytest.mark.parametrize(
    ("builder", "where", "expected"),
    [
        ("docker", "archive", ["docker save --output {archive} {name}"]),
        ("docker", "kind", ["docker save --output {archive} {name}", "kind load image-archive {archive}"]),
        ("docker", "k3s", ["docker save --output {archive} {name}", "k3s ctr images import {archive}"]),
        ("buildah", "k3s", ["buildah push {name} docker-archive:{archive}:{name}", "k3s ctr images import {archive}"]),
    ],
)
def test_it_is_loaded_into_nodes_under_the_name_that_the_manifests_have(
    image: ModuleType, having: Having, builder: str, where: str, expected: list[str]
) -> None:
    calls = having(builder, where)
    assert image.main([where]) == 0
    assert calls[1:] == [each.format(archive=image.ARCHIVE, name=NAME) for each in expected]
    assert not image.INSTALL.exists()


@pytest.mark.parametrize(
    ("name", "new_name", "tag"),
    [
        ("registry.example.com/zeropod-node:v1", "registry.example.com/zeropod-node", "v1"),
        ("localhost:5000/a/zeropod-node", "localhost:5000/a/zeropod-node", "latest"),
    ],
)
def test_it_is_pushed_and_what_installs_it_names_it(
    image: ModuleType, having: Having, name: str, new_name: str, tag: str
) -> None:
    calls = having("docker")
    assert image.main([name]) == 0
    assert calls == [f"docker {BUILT.replace(NAME, name)}", f"docker push {name}"]
    said = json.loads(image.INSTALL.read_text())
    assert said["images"] == [{"name": "zeropod-node", "newName": new_name, "newTag": tag}]


def test_what_installs_it_is_the_default_overlay_with_that_image(
    image: ModuleType, kubectl: str, tmp_path: Path
) -> None:
    shutil.copytree(INSTALLER / "manifests", tmp_path / "installer/manifests")
    image.INSTALL.parent.mkdir()
    image.INSTALL.write_text(image.kustomization("localhost:5000/node:v2"))
    made = build(kubectl, image.INSTALL.parent)
    assert installer_of(made)["image"] == "localhost:5000/node:v2"
    spec = of_kind(made, "DaemonSet")["spec"]["template"]["spec"]
    images = {each["image"] for each in [*spec["initContainers"], *spec["containers"]]}
    assert images == {"localhost:5000/node:v2"}


def test_without_a_builder_it_says_what_to_install(
    image: ModuleType, having: Having, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = having("kind")
    assert image.main(["kind"]) == 1
    assert calls == []
    assert "docker or buildah" in capsys.readouterr().err


def test_without_the_cluster_nothing_is_built(
    image: ModuleType, having: Having, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = having("docker")
    assert image.main(["k3s"]) == 1
    assert calls == []
    assert "no k3s on PATH" in capsys.readouterr().err


def test_a_builder_that_fails_ends_it(image: ModuleType, having: Having, capsys: pytest.CaptureFixture[str]) -> None:
    calls = having("docker", fails="docker")
    assert image.main(["localhost:5000/node"]) == 1
    assert len(calls) == 1
    assert "docker has failed" in capsys.readouterr().err
    assert not image.INSTALL.exists()
