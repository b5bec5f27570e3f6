"""``python3 -m tests.cluster.start OPTIONS CMD...``: makes a cluster of the test nodes, runs the command in the first.

Runs in each of them, which becomes node-N by its number. The first one has the control plane besides. The exit status
is the command's.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

from tests.cluster import components, pki, product, services
from tests.cluster.command import ClusterError, run
from tests.cluster.components import ADDRESSES, PODS, RUN, name_of
from tests.cluster.kube import Api, ApiError
from tests.cluster.services import wait
from tests.node.cache import say

NO_CLUSTER = 125
"""The exit status where there is none to run the command in."""
OTHER = {1: 2, 2: 1}
BEGUN = time.monotonic()

CONFIG = Path("/etc/containerd/config.toml")
HANDLER = re.compile(r"^ *\[plugins\.\S+\.runtimes\.zeropod\]\n(?: +\w+ = .*\n)+", re.MULTILINE)
KUBELET = Path("/var/lib/kubelet")
LINKS = (Path("/usr/local/bin/zeropod"), Path("/usr/local/bin/containerd-shim-zeropod-v2"))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--number", type=int, required=True)
    parser.add_argument("--programs", required=True, help="the directory with Kubernetes")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    os.environ["PATH"] = f"{options.programs}:{os.environ['PATH']}"
    os.environ["KUBECONFIG"] = str(pki.ADMIN)
    RUN.mkdir()
    be_named(name_of(options.number))
    lay_network(options.number, options.nodes)
    return first(options.nodes, options.command) if options.number == 1 else other(options.number)


def other(number: int) -> int:
    """A node that joins the first one, and is there as long as that is."""
    own = pki.SHARED / f"{name_of(number)}.conf"
    wait(own.exists, "the first node has made the certificates", "containerd")
    become_a_plain_node()
    start(components.node(number))
    wait(product.ARCHIVE.exists, "the first node has made the image", "kubelet", 180)
    product.import_image()
    return signal.sigwait([signal.SIGTERM])


def first(nodes: int, command: list[str]) -> int:
    """The node with the control plane, which the command runs in."""
    names = [name_of(number) for number in range(1, nodes + 1)]
    image = threading.Thread(target=product.make_image)
    image.start()
    addresses = ["DNS:kubernetes", "DNS:kubernetes.default", "DNS:kubernetes.default.svc", "DNS:localhost"]
    addresses += [f"IP:{address}" for address in (components.API_SERVICE, ADDRESSES[1], "127.0.0.1")]
    authorities = pki.make(components.SERVER, addresses, names)
    start(components.control_plane(authorities))
    become_a_plain_node()
    say("waits for the API server")
    with Api(pki.SUPER_ADMIN) as api:
        wait(lambda: api.answers("/readyz"), "the API server is ready", "kube-apiserver")
        api.create("clusterrolebindings", admins())
    start(components.node(1))
    with Api() as api:
        say(f"waits for {' and '.join(names)} to be ready")
        for name in names:
            wait(partial(is_ready, api, name), f"{name} is ready", "kubelet")
        wait(lambda: api.answers("/api/v1/namespaces/default/serviceaccounts/default"), "there is a service account",
             "kube-controller-manager")  # fmt: skip
    image.join()
    product.import_image()
    say("waits for the DaemonSet to install zeropod")
    product.install(names)
    say(f"the cluster is there after {time.monotonic() - BEGUN:.0f} s, and kubectl in its first node")
    return subprocess.run(command, check=False).returncode


def start(wanted: dict[str, list[str]]) -> None:
    """Start services by their names, with these arguments."""
    environment = {"PATH": os.environ["PATH"], "HOME": "/root"}
    for name, arguments in wanted.items():
        services.keep(name, [name, *arguments], environment)


def be_named(name: str) -> None:
    """Give the node its name."""
    run("hostname", name)
    with open("/etc/hosts", "a", encoding="ascii") as hosts:
        hosts.write(f"127.0.0.1 {name}\n")


def lay_network(number: int, nodes: int) -> None:
    """The node's address, its pods' subnet, and the way to the other node and its pods."""
    uplink = Path("/sys/class/net/uplink")
    if nodes == 1:  # a cable that ends in the node itself: the kubelet wants an address and a default route
        ip("link", "add", "uplink", "type", "veth", "peer", "name", "downlink")
        ip("link", "set", "downlink", "up")
    deadline = time.monotonic() + 20
    while not uplink.exists():
        if time.monotonic() > deadline:
            raise ClusterError("there is no cable to the other node")
        time.sleep(0.05)
    ip("address", "add", f"{ADDRESSES[number]}/24", "dev", "uplink")
    ip("link", "set", "uplink", "up")
    other = OTHER[number]
    ip("route", "add", "default", "via", ADDRESSES[other])
    ip("route", "add", PODS[other], "via", ADDRESSES[other])
    network = components.pod_network(number)
    Path("/etc/cni/net.d/pods.conflist").write_text(json.dumps(network))


def become_a_plain_node() -> None:
    """Take away what the test node has of zeropod, and keep containerd running as a service."""
    for link in LINKS:
        link.unlink()
    CONFIG.write_text(HANDLER.sub("", CONFIG.read_text()))
    # The kubelet reads the kernel's messages, and the node has none of its own.
    Path("/dev/kmsg").touch()
    # An overlay's files cannot be mapped to the ids of a user namespace.
    KUBELET.mkdir()
    run("mount", "-t", "tmpfs", "-o", "mode=0750", "kubelet", str(KUBELET))
    pid = int(run("pidof", "containerd"))
    os.kill(pid, signal.SIGTERM)
    while Path(f"/proc/{pid}").exists():
        time.sleep(0.02)
    system = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    services.keep_containerd(["containerd"], {"PATH": system, "HOME": "/root"})
    wait(services.listens, "containerd listens", services.CONTAINERD)


def admins() -> dict[str, object]:
    """What makes a person an administrator."""
    return {
        "metadata": {"name": pki.ADMINS},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": pki.ADMINS}],
    }


def is_ready(api: Api, name: str) -> bool:
    """Whether a node is."""
    try:
        conditions = api.get("nodes", name)["status"].get("conditions", ())
    except ApiError:
        return False
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def ip(*arguments: str) -> None:
    run("ip", *arguments)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ClusterError as error:
        say(str(error))
        sys.exit(NO_CLUSTER)
