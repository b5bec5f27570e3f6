"""The command line and configuration of each component, close to kubeadm's; what differs says why."""

import json
from pathlib import Path
from typing import Any

from tests.cluster.pki import SHARED, ControlPlane

RUN = Path("/run/cluster")
PODS = {1: "10.88.0.0/16", 2: "10.89.0.0/16"}
"""The subnet of each node's pods, and what holds both."""
ALL_PODS = "10.88.0.0/15"
ADDRESSES = {1: "10.200.0.1", 2: "10.200.0.2"}
SERVICES = "10.96.0.0/16"
API_SERVICE = "10.96.0.1"
DNS = "10.96.0.10"
SERVER = f"https://{ADDRESSES[1]}:6443"
ETCD = "http://127.0.0.1:2379"


def name_of(number: int) -> str:
    return f"node-{number}"


def control_plane(pki: ControlPlane) -> dict[str, list[str]]:
    """By their names, in the order in which they are started."""
    client = SHARED / "controller-manager.conf"
    return {
        # On this node's loopback without TLS, and without waiting for the disk.
        "etcd": ["--data-dir", f"{RUN}/etcd", "--unsafe-no-fsync", "--log-level=warn",
                 f"--listen-client-urls={ETCD}", f"--advertise-client-urls={ETCD}",
                 "--listen-peer-urls=http://127.0.0.1:2380"],
        "kube-apiserver": [
            f"--etcd-servers={ETCD}", f"--advertise-address={ADDRESSES[1]}", "--secure-port=6443",
            "--allow-privileged=true", "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction", f"--service-cluster-ip-range={SERVICES}",
            f"--client-ca-file={pki.authority.own.certificate}",
            f"--tls-cert-file={pki.server.certificate}", f"--tls-private-key-file={pki.server.key}",
            f"--kubelet-client-certificate={pki.kubelet_client.certificate}",
            f"--kubelet-client-key={pki.kubelet_client.key}",
            "--kubelet-preferred-address-types=InternalIP",
            f"--proxy-client-cert-file={pki.front_proxy_client.certificate}",
            f"--proxy-client-key-file={pki.front_proxy_client.key}",
            f"--requestheader-client-ca-file={pki.front_proxy.own.certificate}",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            "--requestheader-group-headers=X-Remote-Group", "--requestheader-username-headers=X-Remote-User",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={pki.service_accounts.certificate}",
            f"--service-account-signing-key-file={pki.service_accounts.key}",
        ],
        # One of each: there is nothing to elect a leader from.
        "kube-controller-manager": [
            f"--kubeconfig={client}", f"--authentication-kubeconfig={client}", f"--authorization-kubeconfig={client}",
            f"--client-ca-file={pki.authority.own.certificate}",
            f"--requestheader-client-ca-file={pki.front_proxy.own.certificate}",
            f"--cluster-signing-cert-file={pki.authority.own.certificate}",
            f"--cluster-signing-key-file={pki.authority.own.key}",
            f"--root-ca-file={pki.authority.own.certificate}",
            f"--service-account-private-key-file={pki.service_accounts.key}",
            "--use-service-account-credentials=true", "--controllers=*,bootstrapsigner,tokencleaner",
            "--leader-elect=false",
        ],
        "kube-scheduler": [
            f"--kubeconfig={SHARED}/scheduler.conf", f"--authentication-kubeconfig={SHARED}/scheduler.conf",
            f"--authorization-kubeconfig={SHARED}/scheduler.conf", "--leader-elect=false",
        ],
    }  # fmt: skip


def node(number: int) -> dict[str, list[str]]:
    """What runs on every node besides containerd."""
    kubelet = RUN / "kubelet.json"
    kubelet.write_text(json.dumps(_kubelet()))
    proxy = RUN / "kube-proxy.json"
    proxy.write_text(json.dumps(_proxy(number)))
    name = name_of(number)
    return {
        "kubelet": [f"--kubeconfig={SHARED}/{name}.conf", f"--config={kubelet}", f"--hostname-override={name}",
                    f"--node-ip={ADDRESSES[number]}", "--root-dir=/var/lib/kubelet"],
        "kube-proxy": [f"--config={proxy}"],
    }  # fmt: skip


def pod_network(number: int) -> dict[str, Any]:
    """The node's CNI configuration: each pod a cable to the node, which routes."""
    ranges = [[{"subnet": PODS[number]}]]
    ipam = {"type": "host-local", "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}]}
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "ptp", "ipMasq": False, "ipam": ipam}, ports]}


def _kubelet() -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True, "cacheTTL": "0s"},
            "x509": {"clientCAFile": str(SHARED / "pki/ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs",
        # Nothing answers there; without one each pod has an event that says so.
        "clusterDNS": [DNS],
        "clusterDomain": "cluster.local",
        "resolvConf": "/etc/resolv.conf",
        # Volumes follow what they are made from within seconds, not within a minute.
        "syncFrequency": "2s",
        "nodeStatusUpdateFrequency": "5s",
        # The test node: cgroup v1, no right to set oom_score_adj or sysctls of the machine, a disk that is not its own.
        "failCgroupV1": False,
        # The latter for Kubernetes 1.34, to let restarts follow one another.
        "featureGates": {"KubeletInUserNamespace": True, "KubeletCrashLoopBackOffMax": True},
        "enforceNodeAllocatable": [],
        "failSwapOn": False,
        "evictionHard": {"memory.available": "1Mi"},
        "imageGCHighThresholdPercent": 100,
        "makeIPTablesUtilChains": False,
        # As many as the soak test has, on each node.
        "maxPods": 400,
        # Restarts in tests follow one another quickly.
        "crashLoopBackOff": {"maxContainerRestartPeriod": "2s"},
    }


def _proxy(number: int) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": {"kubeconfig": str(SHARED / "kube-proxy.conf")},
        "hostnameOverride": name_of(number),
        "clusterCIDR": ALL_PODS,
        # The machine's limits are not the node's to set.
        "conntrack": {"maxPerCore": 0},
        "nftables": {"minSyncPeriod": "100ms"},
    }
