"""Installs zeropod in the cluster as README.md says: the node image, the manifests, a label for each node.

The image is what installer/Containerfile describes, made without buildah and without a registry: the bundle of this
node's own Debian packages, on the test images' shell and the Debian's Python.
"""

from pathlib import Path

from tests.cluster.command import run
from tests.cluster.pki import SHARED
from tests.node.images import Image, oci_archive

NAME = "docker.io/library/zeropod-node:latest"
"""What the manifests' `zeropod-node` stands for."""
ARCHIVE = SHARED / "zeropod-node.tar"
BUNDLE = Path("/zeropod")
MANIFESTS = "/src/tests/cluster/manifests"
MOVING = "/src/tests/cluster/moving"
"""The same with migrations, for which a manager takes some 10 MiB more."""
NAMESPACE_DEFAULTS = "/src/installer/manifests/components/namespace-defaults/policy.yaml"
PYZ = Path("/src/build/zeropod.pyz")


def make_image() -> None:
    """The archive for all nodes, which is whole as soon as it is there."""
    command = ["python3", "/src/installer/bundle.py", "--pyz", str(PYZ), "--output", str(BUNDLE)]
    run(*command, timeout=180)
    unpacked = Path(run(str(BUNDLE / "bin/zeropod.pyz"), "unpack", timeout=120).strip())
    trees = {str(BUNDLE): 0, str(unpacked): 0}
    image = Image(
        NAME,
        (f"{BUNDLE}/bin/zeropod.pyz",),
        programs=("/usr/bin/python3", "/usr/bin/openssl"),
        trees=trees,
        python=True,
    )
    partial = ARCHIVE.with_suffix(".partial")
    unpacked.chmod(0o755)
    partial.write_bytes(oci_archive(Path("/"), [image]))
    unpacked.chmod(0o700)
    partial.rename(ARCHIVE)


def import_image() -> None:
    """Into this node's containerd."""
    run("ctr", "-n", "k8s.io", "images", "import", "--local", str(ARCHIVE), timeout=120)


def has_mutating_policies() -> bool:
    """Whether this Kubernetes has what the component namespace-defaults needs, as those from 1.36 on have."""
    return "mutatingadmissionpolicies" in run("kubectl", "get", "--raw", "/apis/admissionregistration.k8s.io/v1")


def install(nodes: list[str]) -> None:
    """Apply the manifests, choose the nodes, and wait until every one of them has it."""
    run("kubectl", "apply", "-k", MOVING if len(nodes) > 1 else MANIFESTS)
    if has_mutating_policies():
        run("kubectl", "apply", "-f", NAMESPACE_DEFAULTS)
    run("kubectl", "label", "node", *nodes, "zeropod.ctrox.dev/node=true")
    done = ["rollout", "status", "daemonset/zeropod-node", "--timeout=180s"]
    run("kubectl", "-n", "zeropod-system", *done, timeout=200)
