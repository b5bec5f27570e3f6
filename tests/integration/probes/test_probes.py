"""Health probes neither wake a sleeping container nor keep it awake; whoever is no prober gets the application."""

import json
import socket
import subprocess
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest
from tests.integration import node
from tests.integration.probes.helpers import server
from tests.integration.probes.helpers.probing import Outcome, named, probe
from tests.integration.probes.helpers.server import PORTS
from tests.integration.sleep.helpers.stage import NGINX, App, Stage

from zeropod.kernel.namespace import entered

pytestmark = pytest.mark.timeout(120)

PROBES = 12
HINT = "ksoftirqd/0"
"""What this process is not, but what its connections may be taken for."""


def listening(app: App) -> App:
    node.until(lambda: "listening" in app.output(), "the application listens")
    return app


def get(app: App, path: str, agent: str = "test/1") -> list[list[str]]:
    request = urllib.request.Request(f"http://{app.address}:8080{path}", headers={"User-Agent": agent})
    with urllib.request.urlopen(request, timeout=10) as response:
        seen: list[list[str]] = json.load(response)
        return seen


def failures(outcomes: list[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if not outcome.ok]


def test_probes_of_every_kind_leave_a_container_in_standby(stage: Stage, tmp_path: Path) -> None:
    app = listening(server.start(stage, tmp_path))
    probers = [probe(kind, app.address, port, 1, PROBES) for kind, port in PORTS.items()]
    app.standby()
    codes = []
    for _ in range(PROBES // 2):
        codes.append(app.container.exec("true").exit_code)  # type: ignore[union-attr]
        time.sleep(0.5)
    outcomes = [outcome for prober in probers for outcome in prober.outcomes()]
    assert failures(outcomes) == []
    assert len(outcomes) == PROBES * len(PORTS)
    assert set(codes) == {0}
    app.standby()
    status = app.status
    assert (status.checkpoints, status.restores) == (1, 0), status
    assert status.probes_answered > 0 < status.dozes
    seen = get(app, "/real")
    assert [agent for _, _, agent in seen].count("test/1") == 0
    assert app.status.restores == 1
    app.standby()


def test_probes_that_can_be_answered_leave_a_container_on_disk(stage: Stage, tmp_path: Path) -> None:
    app = listening(server.start(stage, tmp_path, standby="false"))
    probers = [probe(kind, app.address, PORTS[kind], 0.5, PROBES) for kind in ("http", "tcp", "grpc")]
    app.cold()
    assert failures([outcome for prober in probers for outcome in prober.outcomes()]) == []
    status = app.status
    assert (status.state, status.checkpoints, status.restores) == (app.cold().state, 1, 0)
    assert get(app, "/real") is not None
    assert app.status.restores == 1


def test_probes_do_not_start_a_container_that_was_ended(stage: Stage, tmp_path: Path) -> None:
    app = listening(server.start(stage, tmp_path, disable_checkpointing="true"))
    app.cold()
    for kind in ("http", "tcp", "grpc"):
        assert failures(probe(kind, app.address, PORTS[kind], 0.2, 3).outcomes()) == []
    assert app.state == "COLD"
    assert get(app, "/real") == []


def test_without_detection_probes_are_traffic(stage: Stage, tmp_path: Path) -> None:
    app = listening(server.start(stage, tmp_path, disable_probe_detection="true"))
    app.standby()
    assert failures(probe("http", app.address, 8080, 1, 1).outcomes()) == []
    assert app.status.restores == 1


def test_awake_the_application_answers_probes_itself(stage: Stage, tmp_path: Path) -> None:
    app = listening(server.start(stage, tmp_path, scaledown="30s"))
    assert failures(probe("http", app.address, 8080, 0.1, 3).outcomes()) == []
    assert [agent for _, _, agent in get(app, "/")] == ["kube-probe/1.34"] * 3


def test_the_name_of_a_probe_alone_makes_nobody_a_prober(stage: Stage, tmp_path: Path) -> None:
    app = listening(server.start(stage, tmp_path))
    app.standby()
    get(app, "/forged", "kube-probe/1.34")
    assert "/forged" in [path for path, _, _ in get(app, "/")]
    assert app.status.restores == 1


def test_traffic_that_is_received_in_a_probers_context_reaches_the_application(stage: Stage, tmp_path: Path) -> None:
    app = listening(server.start(stage, tmp_path))
    app.standby()
    with named(HINT):
        get(app, "/mistaken")
    assert ["/mistaken", app.address, "test/1"] in get(app, "/")
    assert app.status.restores == 1


@pytest.mark.parametrize("standby", ["true", "false"])
def test_a_server_that_speaks_first_is_waited_for_half_a_second(stage: Stage, tmp_path: Path, standby: str) -> None:
    app = listening(server.start(stage, tmp_path, standby=standby))
    app.asleep()
    with named(HINT), socket.create_connection((app.address, 9000), 10) as client:
        assert client.recv(100) == f"220 {app.address}\r\n".encode()
    assert app.status.restores == 1


@pytest.mark.parametrize("standby", ["true", "false"])
def test_what_was_looked_at_is_passed_on_to_its_end(stage: Stage, tmp_path: Path, standby: str) -> None:
    app = listening(server.start(stage, tmp_path, standby=standby))
    app.asleep()
    total, received = 30 << 20, 0
    with named(HINT), socket.create_connection((app.address, 9001), 20) as client:
        client.setblocking(False)
        sent, ended, data = 0, False, b"x"
        deadline = time.monotonic() + 60
        while data and time.monotonic() < deadline:
            if sent < total:
                with suppress(BlockingIOError):
                    sent += client.send(bytes(min(1 << 16, total - sent)))
            elif not ended:
                client.shutdown(socket.SHUT_WR)
                ended = True
            try:
                received += len(data := client.recv(1 << 18))
            except BlockingIOError:
                data = b"x"
                time.sleep(0.001)
    assert received == total


def test_half_sent_requests_and_garbage_hold_nobody_up(stage: Stage, tmp_path: Path) -> None:
    app = listening(server.start(stage, tmp_path, scaledown="2s"))
    app.standby()
    openings = [
        b"G",
        b"GET / HTTP/1.1\r\nUser-Agent: kube-probe/1\r\n",
        b"PRI * HTTP/2.0\r\n",
        b"\x16\x03\x01",
        b"\0" * 50,
    ]
    with named(HINT):
        slow = [socket.create_connection((app.address, 8080), 10) for _ in range(60)]
    for number, connection in enumerate(slow):
        connection.sendall(openings[number % len(openings)])
    outcomes = probe("http", app.address, 8080, 0.1, 5).outcomes()
    assert failures(outcomes) == []
    assert get(app, "/real") is not None
    for connection in slow:
        connection.close()
    app.standby()


def test_an_address_that_the_node_gets_later_is_the_nodes(stage: Stage, tmp_path: Path) -> None:
    app = listening(server.start(stage, tmp_path))
    app.standby()
    subprocess.run(["ip", "addr", "add", "10.99.0.1/32", "dev", "lo"], check=True, timeout=10)
    try:
        time.sleep(0.1)
        with named("kubelet"):
            with socket.create_connection((app.address, 8080), 5, source_address=("10.99.0.1", 0)) as client:
                client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nUser-Agent: kube-probe/1.34\r\n\r\n")
                assert client.recv(100).startswith(b"HTTP/1.1 200 ")
    finally:
        subprocess.run(["ip", "addr", "del", "10.99.0.1/32", "dev", "lo"], check=True, timeout=10)
    assert (app.state, app.status.restores) == ("STANDBY", 0)


def test_two_thousand_probes_leave_nothing_behind(stage: Stage, tmp_path: Path) -> None:
    app = listening(server.start(stage, tmp_path))
    app.standby()
    (shim,) = {
        int(path.parent.name) for path in Path("/proc").glob("[0-9]*/comm") if path.read_text() == "zeropod-shim\n"
    }
    assert failures(probe("http", app.address, 8080, 0, 20).outcomes()) == []

    def descriptors() -> int:
        return len(list(Path(f"/proc/{shim}/fd").iterdir()))

    before = descriptors()
    outcomes = [probe(kind, app.address, 8080, 0, 1000) for kind in ("http", "tcp")]
    assert [len(failures(prober.outcomes(100))) for prober in outcomes] == [0, 0]
    node.until(lambda: descriptors() <= before, "the shim has as many descriptors as before")
    assert app.status.restores == 0
    assert app.status.probes_answered >= 2000


FORWARDER = r"""
import socketserver, socket, threading
class Forward(socketserver.BaseRequestHandler):
    def handle(self):
        with socket.create_connection(("127.0.0.1", 80)) as up:
            back = threading.Thread(target=pump, args=(up, self.request)); back.start()
            pump(self.request, up); back.join()
def pump(source, sink):
    while data := source.recv(1 << 16):
        sink.sendall(data)
    try: sink.shutdown(1)
    except OSError: pass
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
server = Server(("", 15006), Forward)
print("listening", flush=True)
server.serve_forever()
"""
"""What a sidecar of a service mesh is to us: what comes in is redirected to it, and comes from it over loopback."""


@pytest.mark.parametrize("localhost", ["true", "false"])
def test_behind_the_sidecar_of_a_service_mesh(stage: Stage, localhost: str) -> None:
    annotations = {"container-names": "nginx", "localhost-traffic": localhost}
    pod = stage.pod("1500ms", annotations)
    app = stage.add(pod, NGINX)
    sidecar = pod.container("sidecar", "localhost/python:test", args=("-c", FORWARDER))
    node.until(lambda: "listening" in sidecar.logs(), "the sidecar listens")
    with entered(app.network):
        rules = "add table ip mesh; add chain ip mesh in { type nat hook prerouting priority -100; }; "
        rules += "add rule ip mesh in tcp dport 80 redirect to :15006"
        subprocess.run(["nft", rules], check=True, timeout=10)
    app.standby()
    with app.connect() as session:
        assert session.get() == "hello from nginx\n"
    assert app.status.restores == 1
    busy = time.monotonic() + 4
    while time.monotonic() < busy:
        with app.connect() as session:
            assert session.get() == "hello from nginx\n"
        time.sleep(0.2)
    assert (app.status.restores == 1) == (localhost == "true")
    app.standby()
