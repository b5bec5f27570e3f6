"""The cluster's certificates and kubeconfigs, with the names and groups that kubeadm gives them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.command import run

SHARED = Path("/node/shared")
"""The same directory in all nodes."""
ADMIN = SHARED / "admin.conf"
"""A person's. In no group that is hard-wired: its rights are a ClusterRoleBinding's."""
SUPER_ADMIN = SHARED / "super-admin.conf"
"""In system:masters, to make that ClusterRoleBinding; nothing else uses it."""
ADMINS = "kubeadm:cluster-admins"

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30")


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key."""

    certificate: Path
    key: Path


class Authority:
    """A certificate authority in a directory of its own."""

    def __init__(self, directory: Path, name: str) -> None:
        directory.mkdir(parents=True)
        self._directory = directory
        self.own = Pair(directory / "ca.crt", directory / "ca.key")
        usage = ["-addext", "keyUsage=critical,digitalSignature,keyEncipherment,keyCertSign"]
        files = ["-keyout", str(self.own.key), "-out", str(self.own.certificate)]
        run("openssl", "req", "-x509", *_KEY, "-subj", f"/CN={name}", *usage, *files)

    def issue(self, file: str, name: str, group: str | None = None, addresses: Sequence[str] = ()) -> Pair:
        """A client's certificate, or a server's that has these addresses (`DNS:…`, `IP:…`)."""
        pair = Pair(self._directory / f"{file}.crt", self._directory / f"{file}.key")
        extensions = ["basicConstraints=critical,CA:FALSE", "keyUsage=critical,digitalSignature,keyEncipherment"]
        extensions += [f"extendedKeyUsage={'serverAuth' if addresses else 'clientAuth'}"]
        extensions += [f"subjectAltName={','.join(addresses)}"] if addresses else []
        subject = (f"/O={group}" if group else "") + f"/CN={name}"
        signed = ["-CA", str(self.own.certificate), "-CAkey", str(self.own.key)]
        wanted = [word for extension in extensions for word in ("-addext", extension)]
        files = ["-keyout", str(pair.key), "-out", str(pair.certificate)]
        run("openssl", "req", "-x509", *_KEY, *signed, "-subj", subject, *wanted, *files)
        return pair


def kubeconfig(path: Path, server: str, authority: Authority, client: Pair) -> None:
    """Write a client's configuration; it is whole as soon as it is there."""
    cluster = {"server": server, "certificate-authority": str(authority.own.certificate)}
    user = {"client-certificate": str(client.certificate), "client-key": str(client.key)}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "tests", "cluster": cluster}],
        "users": [{"name": "user", "user": user}],
        "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "user"}}],
        "current-context": "tests",
    }
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content))
    partial.rename(path)


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """What the API server and the controllers are started with."""

    authority: Authority
    server: Pair
    kubelet_client: Pair
    front_proxy: Authority
    front_proxy_client: Pair
    service_accounts: Pair
    """The public and the private key that sign their tokens."""


def make(server: str, addresses: Sequence[str], nodes: Sequence[str]) -> ControlPlane:
    """All certificates, and a kubeconfig for each client: of people, components, and of `nodes` by their name."""
    directory = SHARED / "pki"
    authority = Authority(directory, "kubernetes")
    accounts = Pair(directory / "sa.pub", directory / "sa.key")
    run("openssl", "genrsa", "-out", str(accounts.key), "2048")
    run("openssl", "rsa", "-in", str(accounts.key), "-pubout", "-out", str(accounts.certificate))
    front_proxy = Authority(directory / "front-proxy", "front-proxy-ca")
    made = ControlPlane(
        authority,
        authority.issue("apiserver", "kube-apiserver", None, addresses),
        authority.issue("apiserver-kubelet-client", "kube-apiserver-kubelet-client", ADMINS),
        front_proxy,
        front_proxy.issue("client", "front-proxy-client"),
        accounts,
    )
    clients = {
        "super-admin": ("kubernetes-super-admin", "system:masters"),
        "admin": ("kubernetes-admin", ADMINS),
        "controller-manager": ("system:kube-controller-manager", None),
        "scheduler": ("system:kube-scheduler", None),
        "kube-proxy": ("system:kube-proxy", None),
        **{name: (f"system:node:{name}", "system:nodes") for name in nodes},
    }
    for file, (name, group) in clients.items():
        kubeconfig(SHARED / f"{file}.conf", server, authority, authority.issue(file, name, group))
    return made
