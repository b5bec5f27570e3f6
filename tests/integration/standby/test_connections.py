"""Established connections in standby: they stay, and whatever comes on one wakes."""

import socket
import time

import pytest
from tests.integration import node
from tests.integration.sleep.helpers.stage import NGINX, REDIS, Stage, Way, python
from tests.integration.standby.helpers.looks import called_by, undisturbed

pytestmark = pytest.mark.timeout(60)

each_way = pytest.mark.parametrize("way", ["cri", "ctr"])


@each_way
def test_data_on_an_established_connection_wakes(stage: Stage, way: Way) -> None:
    app = stage.app(way, python())
    with app.connect() as session:
        for cycle in range(1, 6):
            assert session.ask("count") == f"{cycle} {cycle}"
            app.standby()
            assert app.status.restores == cycle - 1
            assert undisturbed(session)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_data_wakes_over_either_ip_version(stage: Stage, host: str) -> None:
    app = stage.app("cri", python())
    with app.connect(host) as session:
        for cycle in range(1, 4):
            assert session.ask("count") == f"{cycle} {cycle}"
            app.standby()


@each_way
def test_data_on_a_connection_that_the_container_has_made_wakes(stage: Stage, way: Way) -> None:
    app = stage.app(way, python())
    with called_by(app) as session:
        for cycle in range(1, 4):
            assert session.ask("count") == f"{cycle} {cycle}"
            app.standby()
            assert app.status.restores == cycle - 1


@each_way
def test_the_end_of_a_connection_wakes_so_that_the_application_closes_its_own(stage: Stage, way: Way) -> None:
    app = stage.app(way, python())
    with app.connect() as session:
        assert session.ask("count") == "1 1"
        app.standby()
        session.socket.shutdown(socket.SHUT_WR)
        with pytest.raises(EOFError):
            session.line()
    assert app.status.restores == 1
    assert app.standby().checkpoint_errors == 0


def test_a_connection_that_is_reset_wakes_and_is_forgotten(stage: Stage) -> None:
    app = stage.app("cri", python())
    with app.connect() as session:
        assert session.ask("count") == "1 1"
        app.standby()
        session.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    node.until(lambda: app.status.restores == 1, "it was woken")
    app.standby()
    with app.connect() as session:
        assert session.ask("count") == "2 1"


def test_the_end_of_a_connection_that_the_container_has_made_wakes(stage: Stage) -> None:
    app = stage.app("cri", python())
    with called_by(app) as session:
        assert session.ask("count") == "1 1"
        app.standby()
        session.socket.shutdown(socket.SHUT_WR)
        with pytest.raises(EOFError):
            session.line()
    assert app.status.restores == 1


@each_way
def test_connections_without_traffic_wake_nobody(stage: Stage, way: Way) -> None:
    app = stage.app(way, python())
    with app.connect() as inbound, called_by(app) as outbound:
        assert inbound.ask("count") == "1 1"
        assert outbound.ask("count") == "2 1"
        since = app.standby().since
        time.sleep(2)
        status = app.status
        assert (status.since, status.restores) == (since, 0)
        assert undisturbed(inbound)
        assert undisturbed(outbound)
        assert inbound.ask("count") == "3 2"
        assert outbound.ask("count") == "4 2"


def test_much_data_that_comes_in_standby_arrives_whole(stage: Stage) -> None:
    app = stage.app("cri", python())
    with app.connect() as session:
        session.ask("count")
        for _ in range(3):
            app.standby()
            session.send(b"echo " + b"x" * 900_000 + b"\n")
            assert session.line() == "x" * 900_000


def test_data_for_many_connections_at_once_wakes_once(stage: Stage) -> None:
    app = stage.app("cri", python())
    sessions = [stage.stack.enter_context(app.connect()) for _ in range(30)]
    for session in sessions:
        assert session.ask("count").endswith(" 1")
    app.standby()
    for session in sessions:
        session.send(b"count\n")
    assert {session.line().split()[1] for session in sessions} == {"2"}
    assert app.status.restores == 1


@each_way
def test_a_session_of_redis_goes_on(stage: Stage, way: Way) -> None:
    app = stage.app(way, REDIS)
    with app.connect() as session:
        session.redis("CLIENT", "SETNAME", "sleeper")
        client = session.redis("CLIENT", "ID")
        session.redis("MULTI")
        session.redis("INCR", "n")
        app.standby()
        assert session.redis("INCR", "n") == b"QUEUED"
        app.standby()
        assert session.redis("EXEC") == [1, 2]
        assert session.redis("CLIENT", "GETNAME") == b"sleeper"
        assert session.redis("CLIENT", "ID") == client
    assert app.status.restores == 2


def test_a_pool_of_kept_alive_http_connections_goes_on(stage: Stage) -> None:
    app = stage.app("cri", NGINX)
    pool = [stage.stack.enter_context(app.connect()) for _ in range(10)]
    for cycle in range(5):
        for session in pool[cycle:] + pool[:cycle]:
            assert session.get() == "hello from nginx\n"
        app.standby()
    assert all(map(undisturbed, pool))


def test_a_connection_between_two_containers_of_a_pod_goes_on(stage: Stage) -> None:
    pod = stage.pod()
    store, front = stage.add(pod, REDIS), stage.add(pod, python())
    with front.connect() as session:
        session.ask("keep 6379")
        assert session.ask("kept INCR n") == ":1"
        slept = store.status.restores  # it may have slept while the other one started
        for cycle in range(2, 5):
            store.standby()
            front.standby()
            assert session.ask("kept INCR n") == f":{cycle}"
            assert (store.status.restores - slept, front.status.restores) == (cycle - 1, cycle - 1)


@each_way
def test_idle_connections_are_closed_on_the_way_to_disk_where_that_is_wanted(stage: Stage, way: Way) -> None:
    app = stage.app(way, python(), annotations={"tcp-established": "false", "standby-duration": "500ms"})
    with app.connect() as session:
        assert session.ask("count") == "1 1"
        app.standby()
        assert undisturbed(session)
        app.cold()
        with pytest.raises((EOFError, ConnectionResetError)):
            session.line()
        assert (app.state, app.status.restores) == ("COLD", 0)
    for cycle in range(2, 4):
        with app.connect() as session:
            assert session.ask("count") == f"{cycle} 1"
        app.cold()
