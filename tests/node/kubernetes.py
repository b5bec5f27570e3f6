"""Kubernetes for the tests' cluster, built from Go modules: etcd, every component and kubectl in one program.

Kept under build/kubernetes, by what it was built from; a directory there has a link for each name that the program goes
by. Built with the machine's Go, whose settings (GOPROXY, GOFLAGS, …) are the machine's own, or with Debian's.
"""

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

from tests.node.cache import CHECKOUT, NodeError, digest, locked, say

SOURCE = CHECKOUT / "tests" / "cluster" / "kubernetes"
BUILT = CHECKOUT / "build" / "kubernetes"
"""Not below build/node, which the node does not see."""

COMPONENTS = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
    "kubelet",
    "kubectl",
)

PACKAGES = 2900
"""About as many are compiled when nothing is cached."""
SAY_EVERY = 15.0
LONGEST = 5400.0
"""Seconds; 12 minutes on 2 cores with nothing cached."""


def programs() -> Path:
    """The directory with the components, built when it is missing. Raises NodeError with the end of the log."""
    module = (SOURCE / "go.mod").read_text()
    sources = [(SOURCE / name).read_bytes() for name in ("go.mod", "go.sum", "main.go")]
    final = BUILT / digest(*sources, *COMPONENTS)
    with locked(BUILT / "lock"):
        if not final.is_dir():
            partial = final.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            _build(partial / "kubernetes", version_of(module))
            for name in COMPONENTS:
                (partial / name).symlink_to("kubernetes")
            partial.rename(final)
    return final


def version_of(module: str) -> str:
    """The version of Kubernetes that a go.mod requires, such as v1.37.2."""
    found = re.search(r"^\s*k8s\.io/kubernetes (v[\d.]+)$", module, re.MULTILINE)
    if not found:
        raise NodeError(f"{SOURCE}/go.mod requires no k8s.io/kubernetes")
    return found[1]


def _build(target: Path, version: str) -> None:
    major, minor, _ = version.removeprefix("v").split(".")
    stamped = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    # Without symbols: half the size, and nobody debugs it.
    flags = " ".join(
        ["-s -w", *(f"-X k8s.io/component-base/version.{name}={value}" for name, value in stamped.items())]
    )
    command = ["nice", _go(), "build", "-v", "-mod=readonly", "-trimpath", "-ldflags", flags, "-o", str(target), "."]
    log = BUILT / "build.log"
    say(f"waits for Kubernetes {version} to be built: once, 12 minutes on 2 cores (log: {log})")
    with log.open("wb") as output:
        build = subprocess.Popen(
            command,
            cwd=SOURCE,
            env=os.environ | {"CGO_ENABLED": "0"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        try:
            _watch(build, log)
        finally:
            build.kill()
            build.wait()
    if build.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise NodeError(f"{' '.join(command[:3])} ended with {build.returncode}; the end of {log}:\n{tail}")


def _watch(build: "subprocess.Popen[bytes]", log: Path) -> None:
    """Say how far it is, from time to time, until it has ended."""
    begun = time.monotonic()
    while time.monotonic() - begun < LONGEST:
        try:
            build.wait(SAY_EVERY)
        except subprocess.TimeoutExpired:
            lines = log.read_text(errors="replace").splitlines()
            done = sum(not line.startswith("go: ") for line in lines)
            what = f"{done} of some {PACKAGES} packages compiled" if done else f"{len(lines)} modules downloaded"
            say(f"Kubernetes: {what}, {time.monotonic() - begun:.0f} s")
        else:
            return
    raise NodeError(f"Kubernetes was not built within {LONGEST:.0f} s; see {log}")


def _go() -> str:
    """The machine's Go, or the newest that Debian has installed beside it."""
    if found := shutil.which("go"):
        return found
    if installed := sorted(Path("/usr/lib").glob("go-*/bin/go")):
        return str(installed[-1])
    raise NodeError("building Kubernetes needs Go 1.26 or newer: install it, or Debian's package golang-go")
