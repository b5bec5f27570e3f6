"""Into standby and out of it: the same process goes on where it stopped, and has not run in between."""

import re
import subprocess
import time

import pytest
from tests.integration import node
from tests.integration.patience import patient
from tests.integration.sleep.helpers import server
from tests.integration.sleep.helpers.stage import KINDS, NGINX, REDIS, Stage, Way, answers, python
from tests.integration.standby.helpers.looks import resident, run_time, started

pytestmark = pytest.mark.timeout(60)

each_way = pytest.mark.parametrize("way", ["cri", "ctr"])
each_kind = pytest.mark.parametrize("name", KINDS)


@each_way
@each_kind
def test_an_application_goes_into_standby_and_wakes_again_and_again(stage: Stage, way: Way, name: str) -> None:
    app = stage.app(way, KINDS[name])
    for cycle in range(1, 6):
        frozen = app.standby()
        assert app.running()
        assert (frozen.checkpoints, frozen.checkpoint_errors) == (cycle, 0)
        birth = started(frozen.pid)
        with app.connect() as session:
            assert answers(session, app.kind)
        awake = app.awake()
        assert awake.restores == cycle
        assert (awake.pid, started(awake.pid)) == (frozen.pid, birth)


@each_way
def test_redis_keeps_its_data(stage: Stage, way: Way) -> None:
    app = stage.app(way, REDIS, scaledown="1s")  # the digest takes a while
    with app.connect() as session:
        session.redis("DEBUG", "POPULATE", "50000", "key", "100")
        digest = session.redis("DEBUG", "DIGEST")
    for _ in range(2):
        app.standby()
        with app.connect() as session:
            assert session.redis("DBSIZE") == 50000
            assert session.redis("DEBUG", "DIGEST") == digest


@each_way
def test_python_keeps_its_memory_and_counts_on(stage: Stage, way: Way) -> None:
    app = stage.app(way, python(8000, 30))
    expected = server.memory(8000, 30)
    for cycle in range(1, 4):
        app.standby()
        with app.connect() as session:
            assert session.ask("memory") == expected
            assert session.ask("count") == f"{cycle} 1"


@each_way
def test_nothing_runs_in_standby(stage: Stage, way: Way) -> None:
    app = stage.app(way, python())
    with app.connect() as session:
        session.ask("tick 0.002")
    frozen = app.standby()
    node.until(lambda: not app.status.memory_moving, "its memory is out")  # which it spends some milliseconds on
    time.sleep(0.1)  # what it wrote last is on its way through pipes
    before, output = run_time(frozen.pid), app.output()
    assert "tick" in output
    time.sleep(0.7)
    assert app.output() == output
    assert run_time(frozen.pid) == before
    with app.connect() as session:
        session.ask("say awake")
    node.until(lambda: "awake" in app.output(), "its output goes on")
    ticks = [int(number) for number in re.findall(r"^tick (\d+)$", app.output(), re.MULTILINE)]
    assert ticks == list(range(len(ticks)))


def test_memory_moves_out_in_standby(stage: Stage) -> None:
    app = stage.app("cri", python(8000, 100))
    assert resident(app.status.pid) > 100 << 20
    pid = app.standby().pid
    node.until(lambda: resident(pid) < 10 << 20, "its memory is out")
    with app.connect() as session:
        assert session.ask("memory") == server.memory(8000, 100)


@pytest.mark.parametrize("name", ["nginx", "python"])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_connection_over_either_ip_version_wakes(stage: Stage, name: str, host: str) -> None:
    app = stage.app("cri", KINDS[name])
    app.standby()
    with app.connect(host) as session:
        assert answers(session, app.kind)
        if name == "python":
            assert session.ask("peer") == host
    app.standby()
    with app.connect() as session:
        assert answers(session, app.kind)


@each_way
def test_the_application_sees_the_address_of_its_client(stage: Stage, way: Way) -> None:
    app = stage.app(way, python())
    app.standby()
    with app.connect() as session:
        assert session.ask("peer") == session.own_address


@each_way
@each_kind
def test_fifty_connections_at_once_are_all_served(stage: Stage, way: Way, name: str) -> None:
    app = stage.app(way, KINDS[name])
    app.standby()
    sessions = [stage.stack.enter_context(app.connect()) for _ in range(50)]
    assert [answers(session, app.kind) for session in sessions] == [True] * 50
    assert app.status.restores == 1


@each_way
def test_a_client_that_gives_up_at_once_does_no_harm(stage: Stage, way: Way) -> None:
    app = stage.app(way, python())
    app.standby()
    app.connect().close()
    node.until(lambda: app.status.restores == 1, "it was woken")
    app.standby()
    with app.connect() as session:
        assert session.ask("count") == "1 1"


@each_way
def test_the_exit_code_of_a_woken_application_is_reported(stage: Stage, way: Way) -> None:
    app = stage.app(way, python())
    app.standby()
    with app.connect() as session, pytest.raises((EOFError, ConnectionError)):
        session.ask("exit 7")
    assert app.exit_code() == 7


def test_the_containers_of_a_pod_are_in_standby_each_on_its_own(stage: Stage) -> None:
    pod = stage.pod()
    apps = [stage.add(pod, kind) for kind in (REDIS, NGINX, python())]
    for app in apps:
        app.standby()
    for number, app in enumerate(apps):
        with app.connect() as session:
            assert answers(session, app.kind)
        assert [other.state for other in apps[number + 1 :]] == ["STANDBY"] * (2 - number)
        assert [each.status.restores for each in apps] == [1] * (number + 1) + [0] * (2 - number)


def test_looking_at_the_processes_of_a_node_does_not_hang_on_frozen_ones(stage: Stage) -> None:
    """Their command lines and environments are in their memory, which may be out."""
    app = stage.app("cri", python(8000, 30))
    pid = app.standby().pid
    node.until(lambda: resident(pid) < 10 << 20, "its memory is out")
    listed = subprocess.run(["ps", "auxe"], capture_output=True, text=True, timeout=patient(10), check=True).stdout
    assert re.search(rf"^root +{pid} .*python3", listed, re.MULTILINE)
    for name in ("cmdline", "environ", "maps", "smaps_rollup", "stack", "wchan"):
        with open(f"/proc/{pid}/{name}", "rb") as file:
            file.read()
    assert app.state == "STANDBY"
    with app.connect() as session:
        assert session.ask("memory") == server.memory(8000, 30)
