"""The first connection wakes a sleeping container, and the application itself serves it as if nothing had been."""

import random
import re
import time
from contextlib import nullcontext

import pytest
from tests.integration import node
from tests.integration.protos.cri_v1_pb2 import LinuxContainerResources
from tests.integration.sleep.helpers import server
from tests.integration.sleep.helpers.stage import KINDS, NGINX, REDIS, Stage, Way, answers, python

WAYS: tuple[Way, ...] = ("cri", "ctr")

pytestmark = pytest.mark.timeout(60)

each_way = pytest.mark.parametrize("way", WAYS)
each_kind = pytest.mark.parametrize("name", KINDS)


@each_way
@each_kind
def test_an_application_sleeps_and_wakes_again_and_again(stage: Stage, way: Way, name: str) -> None:
    app = stage.app(way, KINDS[name])
    for cycle in range(1, 4):
        slept = app.asleep()
        assert app.running()
        assert slept.cold_sleeps == cycle
        assert slept.pid == 0
        assert slept.last_checkpoint_ms > 0
        with app.connect() as session:
            assert answers(session, app.kind)
        awake = app.awake()
        assert awake.restores == cycle
        assert awake.last_restore_ms > 0
        assert node.alive(awake.pid)


@each_way
def test_redis_keeps_its_data(stage: Stage, way: Way) -> None:
    app = stage.app(way, REDIS, scaledown="1s")  # the digest takes a while
    with app.connect() as session:
        session.redis("DEBUG", "POPULATE", "50000", "key", "100")
        digest = session.redis("DEBUG", "DIGEST")
    app.asleep()
    with app.connect() as session:
        assert session.redis("DBSIZE") == 50000
        assert session.redis("DEBUG", "DIGEST") == digest
    app.asleep()
    with app.connect() as session:
        assert session.redis("DEBUG", "DIGEST") == digest


@each_way
def test_python_keeps_its_memory_and_counts_on(stage: Stage, way: Way) -> None:
    app = stage.app(way, python(8000, 30))
    expected = server.memory(8000, 30)
    for cycle in (1, 2):
        app.asleep()
        with app.connect() as session:
            assert session.ask("memory") == expected
            assert session.ask("count") == f"{cycle} 1"


@each_way
def test_the_application_sees_the_address_of_its_client(stage: Stage, way: Way) -> None:
    app = stage.app(way, python())
    app.asleep()
    with app.connect() as session:
        assert session.ask("peer") == session.own_address


@each_way
def test_data_that_is_sent_to_a_sleeping_application_is_there(stage: Stage, way: Way) -> None:
    app = stage.app(way, python())
    app.asleep()
    with app.connect() as session:
        session.send(b"count\n" + b"echo " + b"x" * 50_000 + b"\ncount\n")
        assert [session.line() for _ in range(3)] == ["1 1", "x" * 50_000, "2 2"]


@each_way
@each_kind
def test_fifty_connections_at_once_are_all_served(stage: Stage, way: Way, name: str) -> None:
    app = stage.app(way, KINDS[name])
    app.asleep()
    sessions = [app.connect() for _ in range(50)]
    try:
        assert [answers(session, app.kind) for session in sessions] == [True] * 50
    finally:
        for session in sessions:
            session.close()
    assert app.status.restores == 1


@each_way
def test_a_client_that_gives_up_at_once_does_no_harm(stage: Stage, way: Way) -> None:
    app = stage.app(way, python())
    app.asleep()
    app.connect().close()
    app.awake()
    with app.connect() as session:
        assert session.ask("count") == "1 1"


@pytest.mark.parametrize("name", ["nginx", "python"])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_connection_over_either_ip_version_wakes(stage: Stage, name: str, host: str) -> None:
    app = stage.app("cri", KINDS[name])
    app.asleep()
    with app.connect(host) as session:
        assert answers(session, app.kind)
        if name == "python":
            assert session.ask("peer") == host
    app.asleep()
    with app.connect() as session:  # the other listener's turn: both must have come back
        assert answers(session, app.kind)


@each_way
def test_output_goes_on_where_it_stopped(stage: Stage, way: Way) -> None:
    app = stage.app(way, python())
    with app.connect() as session:
        session.ask("tick 0.002")
    for cycle in range(3):
        app.asleep()
        with app.connect() as session:
            assert session.ask(f"say awake {cycle}") == f"awake {cycle}"
    node.until(lambda: "awake 2" in app.output(), "the last line is in the log")
    output = app.output()
    ticks = [int(number) for number in re.findall(r"^tick (\d+)$", output, re.MULTILINE)]
    assert len(ticks) > 100
    assert ticks == list(range(len(ticks)))
    assert re.findall(r"awake \d", output) == ["awake 0", "awake 1", "awake 2"]
    assert output.count("listening") == 1


@each_way
@pytest.mark.parametrize("code", [0, 7])
def test_the_exit_code_of_a_woken_application_is_reported(stage: Stage, way: Way, code: int) -> None:
    app = stage.app(way, python())
    app.asleep()
    with app.connect() as session:
        with pytest.raises((EOFError, ConnectionError)):
            session.ask(f"exit {code}")
    assert app.exit_code() == code


@each_way
def test_a_connection_from_before_the_sleep_survives_it(stage: Stage, way: Way) -> None:
    app = stage.app(way, python())
    with app.connect() as session:
        for cycle in range(1, 4):
            assert session.ask("count") == f"{cycle} {cycle}"
            app.asleep()


@each_way
def test_a_session_of_redis_survives_the_sleep(stage: Stage, way: Way) -> None:
    app = stage.app(way, REDIS)
    with app.connect() as session:
        session.redis("CLIENT", "SETNAME", "sleeper")
        client = session.redis("CLIENT", "ID")
        session.redis("MULTI")
        session.redis("INCR", "n")
        app.asleep()
        assert session.redis("INCR", "n") == b"QUEUED"
        app.asleep()
        assert session.redis("EXEC") == [1, 2]
        assert session.redis("CLIENT", "GETNAME") == b"sleeper"
        assert session.redis("CLIENT", "ID") == client
    assert app.status.restores == 2


def test_many_connections_from_before_the_sleep_survive_it(stage: Stage) -> None:
    app = stage.app("cri", python())
    sessions = [app.connect() for _ in range(30)]
    for session in sessions:
        assert session.ask("count").endswith(" 1")
    app.asleep()
    for session in sessions:
        session.send(b"count\n")
    with app.connect() as new:
        assert new.ask("count").endswith(" 1")
    assert {session.line().split()[1] for session in sessions} == {"2"}
    for session in sessions:
        session.close()


def test_a_kept_alive_connection_to_nginx_survives_the_sleep(stage: Stage) -> None:
    app = stage.app("cri", NGINX)
    with app.connect() as session:
        assert session.get() == "hello from nginx\n"
        app.asleep()
        assert session.get() == "hello from nginx\n"


def test_a_client_that_goes_away_during_the_sleep_is_not_missed(stage: Stage) -> None:
    app = stage.app("cri", python())
    session = app.connect()
    assert session.ask("count") == "1 1"
    app.asleep()
    session.close()
    with app.connect() as new:
        assert new.ask("count") == "2 1"
    app.asleep()
    with app.connect() as new:
        assert new.ask("count") == "3 1"


def test_an_application_that_works_on_an_answer_does_not_sleep(stage: Stage) -> None:
    app = stage.app("cri", python(), scaledown="200ms")
    with app.connect() as session:
        for _ in range(4):
            checkpoints = app.status.checkpoints
            assert session.ask("echo hello") == "hello"
            # At once after the last answer: to the kernel's clock of a few milliseconds both come at the same time.
            assert len(session.ask("burn 3000000")) == 64
            assert app.status.checkpoints == checkpoints
    app.asleep()


def test_an_application_that_gets_little_of_the_cpu_does_not_sleep_in_the_middle_of_its_work(stage: Stage) -> None:
    app = stage.add(
        stage.pod(scaledown="500ms"), python(), resources=LinuxContainerResources(cpu_period=100000, cpu_quota=10000)
    )
    app.asleep()
    with app.connect() as session:
        assert session.ask("echo hello") == "hello"
        checkpoints = app.status.checkpoints
        assert len(session.ask("burn 1000000")) == 64
        assert app.status.checkpoints == checkpoints
    app.asleep()


@pytest.mark.parametrize("kept", [True, False], ids=["on a kept connection", "on a new connection"])
def test_a_request_at_the_very_moment_of_falling_asleep_is_answered(stage: Stage, kept: bool) -> None:
    app = stage.app("cri", python(), scaledown="200ms")
    chance = random.Random(200)
    with app.connect() as session:
        for _ in range(25):
            with nullcontext(session) if kept else app.connect() as client:
                # An answer that takes a little: it may be asked for before the freeze and not yet given in it.
                assert client.ask("delay 0.02") == "0.02"
            time.sleep(chance.uniform(0.197, 0.212))
