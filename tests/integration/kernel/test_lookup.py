"""The sk_lookup program at work: what it notes, where it steers, and that it leaves nothing behind."""

import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import pytest
from tests.integration.kernel.conftest import Network

from zeropod.activator.connect import OurConnections
from zeropod.kernel import bpf, namespace, sockets
from zeropod.kernel.lookup import Flow, FlowOrigin, Lookup, LookupUnavailable

FAMILIES = [socket.AF_INET, socket.AF_INET6]
PORT = 7777
NOBODYS = 9
"""A port at which nothing listens."""


@pytest.fixture(autouse=True, params=["asks for names", "reads names"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Newer kernels let the program ask for a task's name; older ones do not, and here none does for once."""
    load, asks = bpf.Program.__init__, struct.pack("<BBhi", 0x85, 0, 0, 16)

    def refuse(program: bpf.Program, code: bytes, licence: str, name: str) -> None:
        if asks in code:
            raise OSError(22, "Invalid argument; verifier: unknown func bpf_get_current_comm#16")
        load(program, code, licence, name)

    if request.param == "reads names":
        monkeypatch.setattr(bpf.Program, "__init__", refuse)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_new_connection_is_counted_and_stamped(network: Network, family: socket.AddressFamily) -> None:
    with closing(Lookup.attach(network.path)) as lookup:
        listener = network.listen(PORT, family)
        assert lookup.activity() == {}
        before = time.monotonic_ns()
        pair = network.join(listener)
        first = lookup.activity()[PORT]
        assert first.connections == 1
        assert before <= first.last_ns <= time.monotonic_ns()
        pair.client.sendall(b"data on an established connection")
        assert lookup.activity()[PORT] == first
        network.join(listener)
        second = lookup.activity()[PORT]
        assert (second.connections, second.last_ns > first.last_ns) == (2, True)


def test_attempts_at_ports_where_nobody_listens_are_refused_as_ever(network: Network) -> None:
    with closing(Lookup.attach(network.path)), pytest.raises(ConnectionRefusedError):
        network.connect(PORT)


def test_a_port_scan_does_not_stop_the_noting(network: Network) -> None:
    with closing(Lookup.attach(network.path)) as lookup:
        for port in range(1000, 2000):
            with pytest.raises(ConnectionRefusedError):
                network.connect(port)
        network.pair(port=PORT)
        assert lookup.activity()[PORT].connections == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_steered_connections_reach_the_activator_as_if_it_were_the_application(
    network: Network, family: socket.AddressFamily
) -> None:
    activator = network.listen(family=family)
    with closing(Lookup.attach(network.path)) as lookup:
        lookup.steer(PORT, [activator])
        pair = network.join_at(activator, PORT)
        assert pair.server.getsockname()[1] == PORT
        assert pair.server.getpeername() == pair.client.getsockname()


def test_steering_goes_before_the_application_until_it_ends(network: Network) -> None:
    application, activator = network.listen(PORT), network.listen()
    for listener in (application, activator):
        listener.settimeout(0)
    with closing(Lookup.attach(network.path)) as lookup:
        for _ in range(3):
            lookup.steer(PORT, [activator])
            network.connect(PORT)
            network.own(activator.accept()[0])
            lookup.unsteer(PORT)
            network.connect(PORT)
            network.own(application.accept()[0])


def test_both_families_are_steered_to_a_listener_each_or_to_one_for_both(network: Network) -> None:
    four, six = network.listen(family=socket.AF_INET), network.listen(family=socket.AF_INET6)
    both = network.own(
        network.run(lambda: socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True))
    )
    with closing(Lookup.attach(network.path)) as lookup:
        lookup.steer(PORT, [six, four])
        lookup.steer(PORT + 1, [both])
        for family, listener in ((socket.AF_INET, four), (socket.AF_INET6, six)):
            network.join_at(listener, PORT, family)
            network.join_at(both, PORT + 1, family)


def test_a_family_without_an_activator_still_reaches_the_application(network: Network) -> None:
    application, activator = network.listen(PORT, socket.AF_INET6), network.listen(family=socket.AF_INET)
    with closing(Lookup.attach(network.path)) as lookup:
        lookup.steer(PORT, [activator])
        network.join(application)


def test_an_activator_that_closed_its_listener_drops_nobody(network: Network) -> None:
    application, activator = network.listen(PORT), network.listen()
    with closing(Lookup.attach(network.path)) as lookup:
        lookup.steer(PORT, [activator])
        activator.close()
        network.join(application)
        lookup.unsteer(PORT)
        lookup.unsteer(PORT)


def test_slots_are_used_again(network: Network) -> None:
    activator = network.listen()
    with closing(Lookup.attach(network.path)) as lookup:
        for port in range(1000, 1400):
            lookup.steer(port, [activator])
            lookup.unsteer(port)
        lookup.steer(PORT, [activator])
        network.join_at(activator, PORT)


def test_udp_is_none_of_its_business(network: Network) -> None:
    one, other = (network.own(network.run(lambda: socket.socket(type=socket.SOCK_DGRAM))) for _ in range(2))
    with closing(Lookup.attach(network.path)) as lookup:
        one.bind(("127.0.0.1", PORT))
        other.sendto(b"hello", ("127.0.0.1", PORT))
        assert one.recv(5) == b"hello"
        assert lookup.activity() == {}


def test_two_programs_in_one_namespace_both_count(network: Network) -> None:
    with closing(Lookup.attach(network.path)) as one, closing(Lookup.attach(network.path)) as other:
        network.pair(port=PORT)
        assert one.activity()[PORT].connections == other.activity()[PORT].connections == 1


def test_nothing_is_left_when_it_is_closed(network: Network) -> None:
    before = set(os.listdir("/proc/self/fd"))
    activator = network.listen()
    lookup = Lookup.attach(network.path)
    lookup.steer(PORT, [activator])
    lookup.close()
    lookup.close()
    activator.close()
    assert set(os.listdir("/proc/self/fd")) <= before
    with pytest.raises(ConnectionRefusedError):
        network.connect(PORT)


def test_without_the_right_to_bpf_it_says_so(network: Network) -> None:
    code = """
import os, sys
from zeropod.kernel.lookup import Lookup, LookupUnavailable
netns = os.open(sys.argv[1], os.O_RDONLY)
os.setgid(65534); os.setuid(65534)
try:
    Lookup.attach(f"/proc/self/fd/{netns}")
except LookupUnavailable as reason:
    print(reason)
"""
    path = ":".join(entry for entry in sys.path if entry)
    result = subprocess.run(
        [sys.executable, "-c", code, str(network.path)],
        env={"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert "Operation not permitted" in result.stdout, result.stderr


def test_a_namespace_that_is_not_there_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        Lookup.attach("/run/netns/nothing")


def test_something_else_than_a_namespace_cannot_be_attached_to() -> None:
    with pytest.raises(LookupUnavailable, match=r"sk_lookup in /proc/self/stat: .*LINK_CREATE"):
        Lookup.attach("/proc/self/stat")


def test_a_program_the_verifier_refuses_is_reported_with_its_words() -> None:
    exit_without_result = bytes.fromhex("9500000000000000")
    with pytest.raises(OSError, match=r"verifier: .*R0 !read_ok"):
        bpf.Program(exit_without_result, "GPL", "refused")


def test_a_map_keeps_forgets_and_lists() -> None:
    with bpf.Map(bpf.MapType.HASH, 2, 4, 2, "test") as table:
        assert table.get(b"ab") is None
        table.set(b"ab", b"1234")
        table.set(b"ab", b"5678")
        table.set(b"cd", b"1234")
        assert dict(table.items()) == {b"ab": b"5678", b"cd": b"1234"}
        with pytest.raises(OSError, match=r"bpf\(MAP_UPDATE_ELEM\)"):
            table.set(b"ef", b"1234")
        table.delete(b"ab")
        table.delete(b"ab")
        assert dict(table.items()) == {b"cd": b"1234"}
        for key, value in ((b"a", b"1234"), (b"ab", b"1")):
            with pytest.raises(ValueError, match="expected"):
                table.set(key, value)


def name_of(process: str) -> None:
    """Gives the calling thread a name: the kernel's hint of who connects."""
    with open("/proc/thread-self/comm", "w") as file:
        file.write(process)


@pytest.fixture
def as_kubelet() -> Iterator[None]:
    before = Path("/proc/thread-self/comm").read_text().strip()
    name_of("kubelet")
    yield
    name_of(before)


@pytest.fixture(params=[("10.9.0.1", "10.9.0.2"), ("fd00:9::1", "fd00:9::2")], ids=["IPv4", "IPv6"])
def link(request: pytest.FixtureRequest, network: Network) -> Iterator[tuple[str, str]]:
    """A pair of addresses: the node's (here, in a namespace of this test's own) and the pod's."""
    node, pod = request.param
    prefix = "/64" if ":" in node else "/24"
    run = partial(subprocess.run, check=True, timeout=10)
    with namespace.entered(network.path):
        inside = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        run(["ip", "link", "add", "zptest", "type", "veth", "peer", "name", "eth0"])
        os.set_inheritable(inside, True)
        run(["ip", "link", "set", "eth0", "netns", f"/proc/self/fd/{inside}"], pass_fds=[inside])
        run(["ip", "addr", "add", node + prefix, "dev", "zptest", *(["nodad"] if ":" in node else [])])
        run(["ip", "link", "set", "zptest", "up"])
        with namespace.entered(network.path):
            run(["ip", "addr", "add", pod + prefix, "dev", "eth0", *(["nodad"] if ":" in node else [])])
            run(["ip", "link", "set", "eth0", "up"])
        # A link that has just come up may drop its first packets. What asks for the neighbour's address is then sent
        # again by a timer, in the context of whoever runs, and so is the SYN that waits for the answer.
        with suppress(ConnectionRefusedError):
            socket.create_connection((pod, NOBODYS), 10).close()
        yield node, pod
    finally:
        os.close(inside)
        subprocess.run(["ip", "link", "del", "zptest"], check=False, timeout=10)


def listen_everywhere(network: Network, address: str, port: int = 0) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return network.own(network.run(lambda: socket.create_server((address, port), family=family)))


@pytest.mark.usefixtures("as_kubelet")
def test_a_probers_connection_is_written_down_and_does_not_count(network: Network, link: tuple[str, str]) -> None:
    node, pod = link
    listener = listen_everywhere(network, pod, PORT)
    with closing(Lookup.attach(network.path)) as lookup:
        lookup.set_tasks(["k3s", "kubelet"])
        lookup.set_node_addresses([node])
        before = time.monotonic_ns()
        with socket.create_connection((pod, PORT), 5) as client:
            flow = Flow(client.getsockname()[:2], PORT)
            listener.accept()[0].close()
        assert before <= (lookup.flow(flow) or 0) <= time.monotonic_ns()
        assert lookup.activity() == {}


@pytest.mark.parametrize(("name", "known"), [("curl", True), ("kubelet2", True), ("kubelet", False)])
def test_what_merely_comes_from_the_node_counts(
    network: Network, link: tuple[str, str], name: str, known: bool, as_kubelet: None
) -> None:
    node, pod = link
    listener = listen_everywhere(network, pod, PORT)
    with closing(Lookup.attach(network.path)) as lookup:
        lookup.set_tasks(["kubelet"])
        lookup.set_node_addresses([node] if known else [])
        name_of(name)
        with socket.create_connection((pod, PORT), 5) as client:
            flow = Flow(client.getsockname()[:2], PORT)
            listener.accept()[0].close()
        assert lookup.activity()[PORT].connections == 1
        assert lookup.flow(flow) is None


def application_and_activator(network: Network, pod: str) -> tuple[socket.socket, socket.socket]:
    """Their listeners, at PORT and at a port of its own."""
    application, activator = listen_everywhere(network, pod, PORT), listen_everywhere(network, pod)
    for listener in (application, activator):
        listener.settimeout(5)
    return application, activator


@pytest.mark.usefixtures("as_kubelet")
def test_only_what_may_be_a_probers_is_inspected(network: Network, link: tuple[str, str]) -> None:
    node, pod = link
    application, activator = application_and_activator(network, pod)
    with closing(Lookup.attach(network.path)) as lookup:
        lookup.set_tasks(["kubelet"])
        lookup.set_node_addresses([node])
        lookup.inspect(PORT, [activator])
        with socket.create_connection((pod, PORT), 5) as client:
            accepted = network.own(activator.accept()[0])
            assert accepted.getsockname()[:2] == (pod, PORT)
            assert accepted.getpeername() == client.getsockname()
        name_of("nginx")
        with socket.create_connection((pod, PORT), 5):
            application.accept()[0].close()
        name_of("kubelet")
        lookup.uninspect(PORT)
        with socket.create_connection((pod, PORT), 5):
            application.accept()[0].close()


def test_what_a_thread_of_the_kernel_has_received_may_be_a_probers_but_is_none_by_name(
    network: Network, link: tuple[str, str], as_kubelet: None
) -> None:
    node, pod = link
    application, activator = application_and_activator(network, pod)
    with closing(Lookup.attach(network.path)) as lookup:
        lookup.set_tasks(["kubelet"], ["ksoftirqd"])
        lookup.set_node_addresses([node])
        for named, name, listener in (
            (True, "ksoftirqd/11", application),
            (True, "kubelet", activator),
            (False, "ksoftirqd/11", activator),
        ):
            lookup.inspect(PORT, [activator], named=named)
            name_of(name)
            with socket.create_connection((pod, PORT), 5) as client:
                listener.accept()[0].close()
                assert lookup.flow(Flow(client.getsockname()[:2], PORT)) is not None
        assert lookup.activity() == {}


def test_all_that_the_node_sends_is_inspected_while_that_is_wanted(
    network: Network, link: tuple[str, str], as_kubelet: None
) -> None:
    node, pod = link
    application, activator = application_and_activator(network, pod)
    with closing(Lookup.attach(network.path)) as lookup:
        lookup.set_tasks(["kubelet"])
        lookup.set_node_addresses([node])
        lookup.inspect(PORT, [activator])
        name_of("postgres")
        for on, listener, counted in (
            (True, activator, {}),
            (False, application, {PORT: 1}),
            (True, activator, {PORT: 1}),
        ):
            lookup.inspect_nodes(PORT, on=on)
            with socket.create_connection((pod, PORT), 5) as client:
                listener.accept()[0].close()
                assert (lookup.flow(Flow(client.getsockname()[:2], PORT)) is not None) is on
            assert {port: seen.connections for port, seen in lookup.activity().items()} == counted
        lookup.set_node_addresses([])
        with socket.create_connection((pod, PORT), 5):
            application.accept()[0].close()


def test_what_no_prober_has_sent_counts(network: Network, link: tuple[str, str], as_kubelet: None) -> None:
    node, pod = link
    application = listen_everywhere(network, pod, PORT)
    application.settimeout(5)
    with closing(Lookup.attach(network.path)) as lookup:
        lookup.set_tasks(["kubelet"], ["ksoftirqd"])
        lookup.set_node_addresses([node])
        for name, counted in (("postgres", 1), ("kubelet", 1), ("postgres", 2)):
            name_of(name)
            with socket.create_connection((pod, PORT), 5):
                application.accept()[0].close()
            assert lookup.activity()[PORT].connections == counted


@pytest.mark.parametrize("family", FAMILIES)
def test_connections_from_within_the_pod_are_told_apart(network: Network, family: socket.AddressFamily) -> None:
    with closing(Lookup.attach(network.path)) as lookup:
        network.pair(family, PORT)
        assert lookup.activity(own=False) == {}
        assert lookup.activity()[PORT].connections == 1


@pytest.mark.parametrize(("said", "counted"), [(FlowOrigin.CLIENT, {PORT: 1}), (FlowOrigin.PROBE, {})])
def test_the_activator_says_what_its_own_connections_are(
    network: Network, said: FlowOrigin, counted: dict[int, int]
) -> None:
    network.listen(PORT)
    with closing(Lookup.attach(network.path)) as lookup:
        client = network.own(network.run(socket.socket))
        client.bind(("127.0.0.1", 0))
        flow = Flow(client.getsockname(), PORT)
        lookup.tag_flow(flow, said)
        client.connect(("127.0.0.1", PORT))
        assert {port: seen.connections for port, seen in lookup.activity(own=False).items()} == counted
        lookup.untag_flow(flow)
        assert lookup.flow(flow) is None


def test_what_is_left_of_a_probe_of_ours_does_not_count(network: Network) -> None:
    listener = network.listen(PORT)
    with closing(Lookup.attach(network.path)) as lookup:
        client = network.own(network.run(socket.socket))
        client.bind(("127.0.0.1", 0))
        with OurConnections(lookup).announced(FlowOrigin.PROBE, PORT)(client.getsockname()):
            client.connect(listener.getsockname())
            accepted = listener.accept()[0]
        sockets.enter_repair(accepted)
        accepted.close()  # without a word: what is sent now comes to the listener
        client.send(b"x")
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        assert lookup.activity() == {}


def test_the_nodes_addresses_are_replaced(network: Network) -> None:
    with closing(Lookup.attach(network.path)) as lookup:
        for addresses in (["10.0.0.1", "fd00::1"], ["10.0.0.1", "10.0.0.2"]):
            lookup.set_node_addresses(addresses)
        with pytest.raises(OSError, match=r"MAP_UPDATE_ELEM"):
            lookup.set_node_addresses([f"10.1.{number >> 8}.{number & 255}" for number in range(600)])


def test_what_is_forwarded_into_the_pod_counts_as_from_outside(network: Network, as_kubelet: None) -> None:
    listener = network.listen(PORT)
    with closing(Lookup.attach(network.path)) as lookup:
        lookup.set_tasks([], forwarders=["containerd"])
        name_of("containerd")
        pair = network.join(listener)
        assert lookup.activity(own=False)[PORT].connections == 1
        flow = Flow(pair.client.getsockname(), PORT)
        assert lookup.flow(flow) == FlowOrigin.FORWARDED
        name_of("envoy")
        client = network.own(network.run(socket.socket))
        for end in (pair.server, pair.client):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes.fromhex("0100000000000000"))
            end.close()
        client.bind(flow.remote)
        client.connect(listener.getsockname())
        assert lookup.activity(own=False)[PORT].connections == 1
        assert lookup.activity()[PORT].connections == 2
        assert lookup.flow(flow) is None


def test_an_address_with_a_scope_is_the_one_without(network: Network) -> None:
    with closing(Lookup.attach(network.path)) as lookup:
        lookup.tag_flow(Flow(("fe80::1%eth0", 40000), PORT), FlowOrigin.CLIENT)
        assert lookup.flow(Flow(("fe80::1", 40000), PORT)) == FlowOrigin.CLIENT
