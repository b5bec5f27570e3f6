"""Situations of sockets: clients that are idle or new, on every family, and what they were told to be."""

import resource
import socket
from collections.abc import Iterator

from tests.integration import node
from tests.integration.protos import cri_v1_pb2 as v1
from tests.integration.situations.scene import Scene, Situation, Subject
from tests.integration.situations.subject import Told

ECHO = """
    def echo(connection):
        while data := connection.recv(1000):
            connection.sendall(data)
    def serve_unix(listener):
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=echo, args=(connection,), daemon=True).start()
    def unix(kind, name):
        made = socket.socket(socket.AF_UNIX, kind)
        made.bind(name)
        return made
    for kind, name in ((socket.SOCK_STREAM, "/vol/stream"), (socket.SOCK_SEQPACKET, "\\0abstract-%d" % port)):
        kept[name] = unix(kind, name)
        kept[name].listen(8)
        threading.Thread(target=serve_unix, args=(kept[name],), daemon=True).start()
    kept["datagrams"] = unix(socket.SOCK_DGRAM, "/vol/datagram")
    got = []
    def collect():
        while True:
            got.append(kept["datagrams"].recv(100).decode())
    threading.Thread(target=collect, daemon=True).start()
"""


def woken(one: Subject, what: str, restores: int) -> None:
    node.until(lambda: one.status.restores > restores, f"{what} wakes", 5)


def unix_sockets_on_a_shared_volume(scene: Scene) -> Iterator[None]:
    volume = scene.volume("unix")
    one = scene.subject(mounts={"/vol": str(volume)})
    one.tell(ECHO)
    stream = str(volume / "stream")
    idle = scene.stack.enter_context(socket.socket(socket.AF_UNIX))
    idle.settimeout(10)
    idle.connect(stream)
    idle.sendall(b"early")
    assert idle.recv(100) == b"early"
    yield
    one.sleeps_still()

    restores = one.status.restores
    with socket.socket(socket.AF_UNIX) as new:
        new.settimeout(10)
        new.connect(stream)
        woken(one, "a new Unix connection", restores)
        new.sendall(b"new")
        assert new.recv(100) == b"new"

    restores = one.standby().restores
    idle.sendall(b"late")
    assert idle.recv(100) == b"late"
    woken(one, "an idle Unix client's data", restores)

    restores = one.standby().restores
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        for number in range(5):
            sender.sendto(b"%d" % number, str(volume / "datagram"))
    woken(one, "a Unix datagram", restores)
    assert one.tell("got") == ["0", "1", "2", "3", "4"]
    one.is_whole()


def unix_sockets_within_the_pod(scene: Scene) -> Iterator[None]:
    volume = {"/vol": str(scene.volume("inside"))}
    one = scene.subject(mounts=volume)
    one.tell(ECHO)
    client = scene.subject(0, mounts=volume)
    client.tell(f"""
        idle = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        idle.connect("\\0abstract-{one.port}")
        def ask(connection, words):
            connection.settimeout(10)
            connection.sendall(words.encode())
            return connection.recv(100).decode()
        ask(idle, "early")
    """)
    yield
    one.sleeps_still()
    client.sleeps_still()
    restores = one.status.restores
    assert client.tell('ask(idle, "late")') == "late"
    woken(one, "an idle client in the pod", restores)
    restores = one.standby().restores
    assert (
        client.tell("""
        with socket.socket(socket.AF_UNIX) as new:
            new.connect("/vol/stream")
            answer = ask(new, "new")
        answer
    """)
        == "new"
    )
    woken(one, "a new client in the pod", restores)
    one.is_whole()


def udp_datagrams(scene: Scene) -> Iterator[None]:
    one = scene.subject()
    one.tell("""
        kept["udp"] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        kept["udp"].bind(("", port))
        got = []
        def collect():
            while True:
                data, sender = kept["udp"].recvfrom(100)
                got.append(data.decode())
                kept["udp"].sendto(data, sender)
        threading.Thread(target=collect, daemon=True).start()
    """)
    yield
    one.sleeps_still()
    restores = one.status.restores
    wanted = [str(number) for number in range(20)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.connect((one.host, one.port))
        for word in wanted:
            client.send(word.encode())
        answered = [client.recv(100).decode() for _ in wanted]
    assert answered == wanted
    woken(one, "a UDP datagram", restores)
    assert one.tell("got") == wanted
    one.is_whole()


def descriptors_in_flight(scene: Scene) -> Iterator[None]:
    one = scene.subject()
    one.tell("""
        kept["pair"] = socket.socketpair()
        memory = os.memfd_create("flying")
        os.write(memory, b"in flight")
        socket.send_fds(kept["pair"][0], [b"here"], [memory])
        os.close(memory)
    """)
    yield
    one.sleeps_still()
    assert (
        one.tell("""
        data, (arrived,), *_ = socket.recv_fds(kept["pair"][1], 100, 1)
        os.lseek(arrived, 0, 0)
        data.decode() + " " + os.read(arrived, 100).decode()
    """)
        == "here in flight"
    )
    one.is_whole()


CONNECTIONS = 1000


def a_thousand_idle_connections(scene: Scene) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4 * CONNECTIONS)), hard))
    one = scene.subject()
    limit = one.tell("""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        hard
    """)
    assert limit > CONNECTIONS + 50
    idle = [scene.stack.enter_context(one.connect()) for _ in range(CONNECTIONS)]
    for told in idle:
        told.send("port")
    assert [told.answer() for told in idle] == [one.port] * CONNECTIONS
    yield
    one.sleeps_still()
    for number, told in enumerate(idle):
        told.send(f"{number}")
    assert [told.answer() for told in idle] == list(range(CONNECTIONS))
    one.standby()
    assert idle[-1]("1 + 1") == 2
    for told in idle:
        told.close()
    one.is_whole()


SET_AND_GET = """
    TCP, SOL, IP = socket.IPPROTO_TCP, socket.SOL_SOCKET, socket.IPPROTO_IP
    options = {
        "connection": [
            (TCP, 18, 12345),  # TCP_USER_TIMEOUT
            (SOL, socket.SO_KEEPALIVE, 1),
            (TCP, socket.TCP_KEEPIDLE, 123), (TCP, socket.TCP_KEEPINTVL, 45), (TCP, socket.TCP_KEEPCNT, 6),
            (SOL, 36, 0x1234),  # SO_MARK
            (SOL, 12, 5),  # SO_PRIORITY
            (TCP, socket.TCP_NODELAY, 1), (TCP, socket.TCP_QUICKACK, 0), (TCP, socket.TCP_LINGER2, 17),
            (SOL, socket.SO_SNDBUF, 50000), (SOL, socket.SO_RCVBUF, 60000), (SOL, socket.SO_RCVLOWAT, 1),
            (IP, socket.IP_TOS, 0x28), (IP, socket.IP_TTL, 77), (SOL, socket.SO_OOBINLINE, 1),
            (TCP, socket.TCP_NOTSENT_LOWAT, 4321),
        ],
        "listener": [(TCP, socket.TCP_DEFER_ACCEPT, 3), (TCP, socket.TCP_FASTOPEN, 7), (SOL, socket.SO_REUSEPORT, 1)],
        "udp": [
            (IP, socket.IP_MULTICAST_TTL, 9), (IP, socket.IP_MULTICAST_LOOP, 0), (IP, 49, 0),  # IP_MULTICAST_ALL
            (SOL, socket.SO_BROADCAST, 1), (IP, socket.IP_PKTINFO, 1), (SOL, 29, 1),  # SO_TIMESTAMP
            (IP, socket.IP_RECVTOS, 1),
        ],
    }
    kept["udp"] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    kept["udp"].bind(("", 0))
    kept["listener"] = socket.create_server(("", 0))
    kept["connection"] = socket.create_connection(("127.0.0.1", kept["listener"].getsockname()[1]))
    kept["accepted"], _ = kept["listener"].accept()
    for name, wanted in options.items():
        for level, option, value in wanted:
            kept[name].setsockopt(level, option, value)
    kept["connection"].setsockopt(TCP, socket.TCP_CONGESTION, b"reno")
    for group in ("239.1.2.3", "239.4.5.6"):
        kept["udp"].setsockopt(IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(group) + socket.inet_aton("0.0.0.0"))

    def seen():
        found = {}
        for name, wanted in options.items():
            for level, option, _ in wanted:
                found[f"{name} {level} {option}"] = kept[name].getsockopt(level, option)
        found["congestion"] = kept["connection"].getsockopt(TCP, socket.TCP_CONGESTION, 16).decode()
        found["groups"] = open("/proc/net/igmp").read().count("03020") + open("/proc/net/igmp").read().count("06050")
        found["names"] = [str(each.getsockname()) for each in kept.values()]
        return found
    first = seen()
"""


def socket_options(scene: Scene) -> Iterator[None]:
    capabilities = v1.Capability(add_capabilities=["NET_ADMIN"])
    one = scene.subject(security=v1.LinuxContainerSecurityContext(capabilities=capabilities))
    one.tell(SET_AND_GET)
    idle: Told = scene.stack.enter_context(one.connect())
    assert idle("port") == one.port
    yield
    one.sleeps_still()
    assert idle("seen() == first or [seen(), first]") is True
    assert (
        one.tell("""
        kept["connection"].sendall(b"still connected")
        kept["accepted"].recv(100).decode()
    """)
        == "still connected"
    )
    # Through the loopback a member gets what is sent to its group.
    assert (
        one.tell("""
        kept["udp"].settimeout(5)
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sender.sendto(b"to the group", ("239.1.2.3", kept["udp"].getsockname()[1]))
        kept["udp"].recv(100).decode()
    """)
        == "to the group"
    )
    one.is_whole()


SITUATIONS: tuple[Situation, ...] = (
    a_thousand_idle_connections,
    unix_sockets_on_a_shared_volume,
    unix_sockets_within_the_pod,
    udp_datagrams,
    descriptors_in_flight,
    socket_options,
)
