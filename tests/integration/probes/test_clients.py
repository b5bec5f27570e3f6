"""Whoever is no prober gets the application, wherever he comes from and whatever he says: he wakes it, and counts."""

import socket
import time
from pathlib import Path

import pytest
from tests.integration import cri
from tests.integration.patience import patient
from tests.integration.probes.helpers import outside
from tests.integration.probes.helpers.forwarding import port_forward
from tests.integration.probes.helpers.outside import INGRESS_PORT, NODE, NODE_PORT, curl, keeps_coming
from tests.integration.probes.helpers.probing import HINT, named, probe
from tests.integration.probes.helpers.server import ECHO, PROBED, get
from tests.integration.sleep.helpers.stage import App

pytestmark = pytest.mark.timeout(120)

AGENT = "kube-probe/1.34"
LONGER = patient(4.0)
"""Seconds, than the scale-down duration."""


def strangers(app: App, path: str) -> list[str]:
    """From where requests for this path have come, but for those that the shim has made from the pod's own address."""
    return [peer for seen, peer, _ in get(app, "/who") if seen == path and peer != app.address]


@pytest.fixture
def question(standby: App) -> str:
    """What is known to be asked by probes, and answered in the application's stead: so much the worse if it is taken
    for one."""
    assert all(outcome.ok for outcome in probe(standby.address, f"http/known:{PROBED}"))
    standby.standby()
    return "/known"


@pytest.mark.parametrize("agent", ["curl/8", AGENT])
def test_a_process_of_the_node_is_no_prober_whatever_it_says(standby: App, question: str, agent: str) -> None:
    before, seen = standby.status, len(strangers(standby, question))
    standby.standby()
    curl(f"http://{standby.address}:{PROBED}{question}", "--user-agent", agent)
    assert len(strangers(standby, question)) == seen + 1
    assert standby.status.restores == before.restores + 2
    assert standby.status.probes_answered == before.probes_answered


def test_who_says_all_at_once_and_waits_for_the_answer_is_no_prober_that_has_gone(standby: App, question: str) -> None:
    before = standby.status
    with socket.create_connection((standby.address, PROBED), 10) as client:
        client.sendall(f"GET {question} HTTP/1.0\r\n\r\n".encode())
        client.shutdown(socket.SHUT_WR)
        assert client.recv(5) == b"HTTP/"
    assert standby.status.restores == before.restores + 1


@pytest.mark.parametrize("agent", ["test/1", AGENT])
def test_what_is_received_in_a_probers_context_reaches_the_application(standby: App, question: str, agent: str) -> None:
    before = standby.status
    with named(HINT):
        seen = get(standby, question, agent)
    assert seen, "that is the application's answer"
    assert [question, standby.address, agent] in get(standby, "/who"), "it sees the pod's own address, not 127.0.0.1"
    assert standby.status.restores == before.restores + 1
    assert standby.status.probes_answered == before.probes_answered


def test_a_service_on_a_port_of_the_node_is_traffic(standby: App, question: str) -> None:
    before, url = standby.status, f"http://{NODE}:{NODE_PORT}{question}"
    with outside.node_port(standby.address, PROBED) as there:
        curl(url, "--user-agent", AGENT, before=there)
        keeps_coming(url, LONGER, before=there)
        assert standby.status.restores == before.restores + 1
    assert standby.status.probes_answered == before.probes_answered
    assert "192.0.2.2" not in strangers(standby, question), "the node's address hides the client's"


def test_an_ingress_controller_in_the_nodes_network_is_traffic(standby: App, question: str, tmp_path: Path) -> None:
    before, url = standby.status, f"http://127.0.0.1:{INGRESS_PORT}{question}"
    with outside.ingress(tmp_path, standby.address, PROBED):
        curl(url, "--user-agent", AGENT)
        keeps_coming(url, LONGER)
        assert standby.status.restores == before.restores + 1
    assert standby.status.probes_answered == before.probes_answered


def test_port_forwarding_is_traffic(standby: App) -> None:
    before = standby.status
    assert isinstance(standby.container, cri.Container)
    with port_forward(standby.container.pod, ECHO) as forwarded:
        for _ in range(8):
            forwarded.send(b"hello")
            assert forwarded.receive() == b"hello"
            time.sleep(LONGER / 8)
        assert standby.status.restores == before.restores + 1
        standby.standby()
        forwarded.send(b"again")
        assert forwarded.receive() == b"again"
    assert standby.status.restores == before.restores + 2
