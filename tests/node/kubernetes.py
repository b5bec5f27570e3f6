"""Kubernetes for the tests' cluster: etcd, every component and kubectl in one program, and its own tests.

Kept under build/kubernetes and build/kubernetes-oldest, with a link for each name that the program goes by.
"""

import re
from pathlib import Path

from tests.node import go
from tests.node.cache import CHECKOUT, NodeError
from tests.node.go import Module, Program

SOURCE = CHECKOUT / "tests" / "cluster" / "kubernetes"
OLDEST = CHECKOUT / "tests" / "cluster" / "kubernetes-oldest"
"""The oldest one that tests/cluster is run on."""

COMPONENTS = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
    "kubelet",
    "kubectl",
)


def programs(source: Path = SOURCE) -> Path:
    """The directory with the components of the Kubernetes that `source` requires, built when it is missing."""
    module = _module(source, "12 minutes on 2 cores")
    return go.built(module, Program("kubernetes", variables=stamps(version_of(source)), aliases=COMPONENTS))


def tests() -> Path:
    """The directory with e2e.test, Kubernetes' own tests, what runs them in parallel, and what their images run."""
    stamped = stamps(version_of(SOURCE))
    images = "k8s.io/kubernetes/test/images"
    return go.built(
        _module(SOURCE, "10 minutes on 2 cores after Kubernetes itself"),
        Program("e2e.test", "k8s.io/kubernetes/test/e2e", is_test=True, variables=stamped),
        Program("ginkgo", "github.com/onsi/ginkgo/v2/ginkgo"),
        Program("agnhost", f"{images}/agnhost"),
        Program("nnp", f"{images}/nonewprivs"),
    )


def version_of(source: Path) -> str:
    """The version of Kubernetes that a directory's go.mod requires, such as v1.37.2."""
    found = re.search(r"^\s*k8s\.io/kubernetes (v[\d.]+)$", (source / "go.mod").read_text(), re.MULTILINE)
    if not found:
        raise NodeError(f"{source}/go.mod requires no k8s.io/kubernetes")
    return found[1]


def stamps(version: str) -> dict[str, str]:
    """What tells a program of which version it is."""
    major, minor, _ = version.removeprefix("v").split(".")
    values = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    return {f"k8s.io/component-base/version.{name}": value for name, value in values.items()}


def _module(source: Path, how_long: str) -> Module:
    return Module(f"Kubernetes {version_of(source)}", how_long, source, CHECKOUT / "build" / source.name)
