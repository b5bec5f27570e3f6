"""Ways into the node from outside, as Kubernetes makes them: a node port with iptables, an ingress controller."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.integration import node
from tests.integration.patience import patient

from zeropod.kernel import namespace

CLIENT, NODE = "192.0.2.2", "192.0.2.1"
NODE_PORT = 30080
INGRESS_PORT = 8081


def run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=patient(20), capture_output=True)


@contextmanager
def node_port(address: str, port: int) -> Iterator[list[str]]:
    """A service's port on the node, whose clients are masked as the node (`externalTrafficPolicy: Cluster`).

    Gives the words to put in front of a command that is to run outside of the node.
    """
    nat = ("iptables", "-w", "-t", "nat")
    to_pod = ("-p", "tcp", "--dport", str(NODE_PORT), "-j", "DNAT", "--to-destination", f"{address}:{port}")
    masked = ("-s", CLIENT, "-j", "MASQUERADE")
    # Not by `ip netns`, which makes /run/netns a mount of which copies would keep containerd's namespaces busy.
    with TemporaryDirectory() as directory, ExitStack() as undo:
        path = f"{directory}/outside"
        namespace.create_pinned(path)
        undo.callback(namespace.unpin, path)
        there = ["nsenter", f"--net={path}"]
        run("ip", "link", "add", "outside0", "type", "veth", "peer", "name", "outside1")
        undo.callback(run, "ip", "link", "del", "outside0")
        with open(path) as target:
            subprocess.run(
                ["ip", "link", "set", "outside1", "netns", f"/proc/self/fd/{target.fileno()}"],
                pass_fds=[target.fileno()], check=True, timeout=patient(20),
            )  # fmt: skip
        for where, own, name in (([], NODE, "outside0"), (there, CLIENT, "outside1")):
            run(*where, "ip", "addr", "add", f"{own}/24", "dev", name)
            run(*where, "ip", "link", "set", name, "up")
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        for chain, rule in (("PREROUTING", to_pod), ("POSTROUTING", masked)):
            run(*nat, "-A", chain, *rule)
            undo.callback(run, *nat, "-D", chain, *rule)
        yield there


@contextmanager
def ingress(directory: Path, address: str, port: int) -> Iterator[None]:
    """nginx in the node's network, which passes everything on to the pod."""
    config = directory / "ingress.conf"
    config.write_text(
        f"daemon off; pid {directory}/nginx.pid; error_log stderr; events {{}} user root; http {{ access_log off;\n"
        f"server {{ listen 127.0.0.1:{INGRESS_PORT}; location / {{ proxy_pass http://{address}:{port}; }} }} }}\n"
    )
    with subprocess.Popen(["nginx", "-c", str(config), "-e", "stderr"]) as nginx:
        try:
            node.until(lambda: listens(INGRESS_PORT), "the ingress controller listens")
            yield
        finally:
            nginx.terminate()


def listens(port: int) -> bool:
    shown = subprocess.run(["ss", "-Hltn", f"sport = :{port}"], capture_output=True, check=True, timeout=patient(20))
    return bool(shown.stdout)


def curl(url: str, *arguments: str, before: list[str] | None = None) -> str:
    """What a real client gets. Raises CalledProcessError."""
    command = [*(before or []), "curl", "--silent", "--show-error", "--fail", "--max-time", "30", *arguments, url]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=patient(60)).stdout


def keeps_coming(url: str, seconds: float, **how: list[str]) -> None:
    """A request every fifth of a second."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        curl(url, **how)
        time.sleep(0.2)
