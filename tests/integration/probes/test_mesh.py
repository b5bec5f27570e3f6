"""Behind the sidecar of a service mesh: a real proxy, to which iptables leads all that comes into the pod."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.integration import node
from tests.integration.patience import patient
from tests.integration.probes.helpers.outside import curl, keeps_coming
from tests.integration.probes.helpers.probing import failures, probe
from tests.integration.sleep.helpers.stage import NGINX, App, Stage

from zeropod.kernel.namespace import entered

pytestmark = pytest.mark.timeout(120)

WEB, HEALTH, SIDECAR = 80, 8081, 15006
LONGER = patient(4.0)
SCALEDOWN = "1500ms"

APPLICATION = f"""
user root; daemon off; worker_processes 1; pid /run/nginx.pid; error_log /dev/stderr;
events {{ worker_connections 64; }}
http {{
    access_log off; default_type text/plain;
    server {{ listen {WEB}; listen {HEALTH}; location / {{ return 200 "$remote_addr $http_user_agent"; }} }}
}}
"""

PROXY = f"""
user root; daemon off; worker_processes 1; pid /run/nginx.pid; error_log /dev/stderr;
events {{ worker_connections 64; }}
http {{
    access_log off;
    upstream application {{ server 127.0.0.1:{WEB}; keepalive 4; }}
    server {{
        listen {SIDECAR};
        location / {{ proxy_pass http://application; proxy_http_version 1.1; proxy_set_header Connection ""; }}
    }}
}}
"""
"""As Envoy does it: connections to the application are kept, and used again by whoever comes next."""


@contextmanager
def in_the_mesh(stage: Stage, directory: Path, localhost: str) -> Iterator[App]:
    """Its application, and beside it the proxy to which everything is redirected, but for the port HEALTH."""
    pod = stage.pod(SCALEDOWN, {"container-names": "nginx", "localhost-traffic": localhost})
    (directory / "application.conf").write_text(APPLICATION)
    (directory / "proxy.conf").write_text(PROXY)
    target = "/etc/nginx/nginx.conf"
    app = App(NGINX, pod.container("nginx", NGINX.image, mounts={target: f"{directory}/application.conf"}))
    pod.container("proxy", NGINX.image, mounts={target: f"{directory}/proxy.conf"})
    nat = ["iptables", "-w", "-t", "nat", "-A", "PREROUTING", "-p", "tcp"]
    with entered(app.network):
        for rule in (["--dport", str(HEALTH), "-j", "RETURN"], ["-j", "REDIRECT", "--to-ports", str(SIDECAR)]):
            subprocess.run([*nat, *rule], check=True, timeout=patient(20))
    node.until(lambda: answers(app), "the application answers through its sidecar")
    app.standby(30)
    yield app


def answers(app: App) -> bool:
    try:
        return curl(f"http://{app.address}/").startswith("127.0.0.1 ")
    except subprocess.CalledProcessError:
        return False


def test_with_localhost_traffic_a_mesh_is_traffic(stage: Stage, tmp_path: Path) -> None:
    with in_the_mesh(stage, tmp_path, "true") as app:
        before = app.status
        keeps_coming(f"http://{app.address}/", LONGER)
        assert app.status.restores == before.restores + 1, "through the connections that the proxy keeps, too"
        app.standby()
        assert failures(probe(app.address, f"http:{HEALTH}", count=2, seconds=0.5)) == []
        answered = app.status
        assert answered.probes_answered > 0, "what is excluded from the mesh is answered"
        assert answered.restores == before.restores + 1
        assert failures(probe(app.address, f"http:{WEB}")) == []
        assert app.status.restores == before.restores + 2, "what comes through the sidecar is the sidecar's"
        assert app.status.probes_answered == answered.probes_answered


def test_without_it_a_mesh_wakes_but_keeps_nobody_awake(stage: Stage, tmp_path: Path) -> None:
    with in_the_mesh(stage, tmp_path, "false") as app:
        before, started = app.status, time.monotonic()
        while app.status.restores < before.restores + 2:
            assert time.monotonic() < started + patient(60)
            keeps_coming(f"http://{app.address}/", 1)
