"""What is said about a container that is not asleep."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.lifecycle.said import said
from tests.unit.shim.fakes import FakeNetwork, World
from tests.unit.shim.states import reach

from zeropod.kernel.sock_diag import TcpSocket, TcpState
from zeropod.lifecycle.controller import Controller
from zeropod.lifecycle.defaults import resolve
from zeropod.lifecycle.machine import State
from zeropod.lifecycle.reasons import Reason
from zeropod.lifecycle.settings import PREFIX
from zeropod.lifecycle.strategy import MemoryReport
from zeropod.runtime.image.obstacle import Obstacle
from zeropod.runtime.memory.backend import Kind, Usage
from zeropod.shim.why import MOST, Facts, Link, Part, Statement, gather, statements

EXEC = Reason.EXEC.because("7")
EXPLANATIONS = st.builds(Reason.because, st.sampled_from(Reason), st.text(), st.floats(0, 1e9), st.text())
SIZES = st.integers(0, 1 << 50)
AWAKE = Facts(State.RUNNING, None, "12:00:00 UTC", 60.0)


def link(idle: float, part: Part = Part.COUNTS, port: int = 5) -> Link:
    return Link("10.0.0.1:80", f"10.0.0.2:{port}", idle, part)


def kinds(facts: Facts) -> list[str]:
    return [reason.kind for reason in statements(facts)]


def test_a_connection_is_named_with_both_ends_and_since_when_it_is_idle() -> None:
    (reason,) = statements(replace(AWAKE, links=[link(3.25)]))
    expected = "The connection from 10.0.0.2:5 to 10.0.0.1:80, last data 3.2 s ago, keeps it awake."
    assert reason == Statement("connection", expected)


def test_an_idle_one_does_not_keep_it_awake() -> None:
    assert "idle for long enough" in statements(replace(AWAKE, links=[link(61.0)]))[0].text


def test_one_from_the_node_itself_may_be_a_probe_that_is_not_known() -> None:
    (reason,) = statements(replace(AWAKE, links=[replace(link(3.0), from_node=True)]))
    assert "probe-processes" in reason.remedy
    (reason,) = statements(replace(AWAKE, links=[replace(link(3.0, Part.PROBE), from_node=True)]))
    assert reason.remedy == ""


def test_probes_that_were_answered_are_told_of_one_that_sleeps() -> None:
    found = statements(replace(AWAKE, state=State.STANDBY, probes=12))
    assert found[1] == Statement("probe", "12 health probes were answered in its place so far.")


def test_what_counts_comes_first_and_the_youngest_of_it() -> None:
    links = [link(1.0, Part.PROBE, 1), link(9.0, port=2), link(2.0, port=3), link(5.0, Part.OTHER, 4)]
    texts = [reason.text for reason in statements(replace(AWAKE, links=links))]
    assert [text.split(":")[1].split()[0] for text in texts] == ["3", "2", "1", "4"]
    assert kinds(replace(AWAKE, links=links)) == ["connection", "connection", "probe", "connection"]


def test_of_thousands_of_connections_the_weightiest_are_listed() -> None:
    found = statements(replace(AWAKE, links=[link(float(index)) for index in range(3000)]))
    assert len(found) == MOST + 1
    assert found[-1].text == f"{3000 - MOST} more connections."


def test_an_exec_is_a_reason_with_something_to_do() -> None:
    (reason,) = statements(replace(AWAKE, why=EXEC, inhibitors=[EXEC]))
    assert (reason.kind, reason.text) == ("exec", "Exec 7 is running.")
    assert reason.remedy


def test_several_execs_are_all_named() -> None:
    inhibitors = [EXEC, Reason.EXEC.because("8")]
    assert kinds(replace(AWAKE, why=EXEC, inhibitors=inhibitors)) == ["exec", "exec"]


def test_a_failure_has_crius_words_the_time_of_the_next_attempt_and_the_log() -> None:
    failure = Reason.DUMP_FAILED.because("runc failed; CRIU said: Error (x.c:1): no")
    facts = replace(AWAKE, why=failure, failure=failure, next_attempt="12:00:30 UTC", log="/var/x/dump.log")
    found = statements(facts)
    assert [reason.kind for reason in found] == ["error", "error", "log"]
    assert "Error (x.c:1): no" in found[0].text
    assert "CRIU's log" in found[0].remedy
    assert "12:00:30 UTC" in found[1].text
    assert "/var/x/dump.log" in found[2].text


def test_an_older_failure_is_told_beside_what_keeps_it_awake_now() -> None:
    facts = replace(AWAKE, why=EXEC, inhibitors=[EXEC], failure=Reason.DUMP_FAILED.because("no"))
    assert kinds(facts) == ["exec", "error"]


def test_a_full_disk_is_one_and_is_not_taken_for_an_error() -> None:
    full = Reason.DISK.because("… and min-free-bytes is 1 MiB")
    assert kinds(replace(AWAKE, why=full, failure=full)) == ["disk"]
    assert "Free space" in statements(replace(AWAKE, why=full))[0].remedy


def test_one_that_is_being_stopped_says_so() -> None:
    stopping = Reason.STOPPING.because()
    (reason,) = statements(replace(AWAKE, why=stopping, inhibitors=[stopping]))
    assert (reason.kind, reason.text) == ("stop", "It is being stopped.")


def test_what_stands_against_cold_is_told_one_by_one_with_what_to_do() -> None:
    obstacles = [Obstacle("tty", "its terminal is outside", "tty: false"), Obstacle("x", "something", "")]
    found = statements(replace(AWAKE, state=State.STANDBY, why=Reason.WOULD_LOSE.because("…"), obstacles=obstacles))
    assert found[1:] == [
        Statement("cold", "COLD would lose something: its terminal is outside.", "tty: false"),
        Statement("cold", "COLD would lose something: something."),
    ]


def memory(kind: Kind, usage: Usage | None = None, why: str = "") -> MemoryReport:
    return MemoryReport(kind, Reason.MEMORY_BACKEND.because(why), usage or Usage(), 4 << 20)


def test_where_its_memory_is_and_why_there() -> None:
    report = memory(Kind.STORE, Usage(out=300 << 20, faults=7), "not in swap: the node has no swap; page store")
    assert statements(replace(AWAKE, state=State.STANDBY, memory=report))[1] == Statement(
        "memory",
        "Its memory is in store: 300 MiB out, 4 MiB in memory, 7 page faults since the last wake; "
        "not in swap: the node has no swap; page store.",
    )
    assert statements(replace(AWAKE, state=State.DOZING, memory=memory(Kind.RESIDENT, why="3 MiB are too little")))[
        1
    ].text == ("Its memory stays in place, 4 MiB; 3 MiB are too little.")


def test_memory_that_could_not_be_moved_comes_with_something_to_do() -> None:
    report = replace(memory(Kind.SWAP), why=Reason.MEMORY_STAYS.because("it is full"))
    assert "zeropod doctor" in statements(replace(AWAKE, state=State.STANDBY, memory=report))[1].remedy


def test_one_that_runs_says_where_its_memory_is_only_if_some_is_out() -> None:
    assert "memory" not in kinds(replace(AWAKE, memory=memory(Kind.STORE)))
    assert "memory" in kinds(replace(AWAKE, memory=memory(Kind.STORE, Usage(out=1 << 20))))


def test_what_never_sleeps_says_so_and_nothing_else() -> None:
    facts = replace(AWAKE, may_sleep=False, why=Reason.HOST_NETWORK.because(), links=[link(1.0)], failure=said("old"))
    assert kinds(facts) == ["setting"]


@pytest.mark.parametrize("state", [State.STANDBY, State.COLD])
def test_what_sleeps_says_since_when_and_why_no_deeper(state: State) -> None:
    found = statements(replace(AWAKE, state=state, why=Reason.NO_COLD.because("no")))
    assert found[0].text == f"It sleeps, {state.name} since 12:00:00 UTC."
    assert found[1].text == "Stays in STANDBY: no."


@given(
    st.builds(
        Facts,
        state=st.sampled_from(State),
        why=st.none() | EXPLANATIONS,
        since=st.text(),
        scaledown=st.floats(0, 1e9),
        may_sleep=st.booleans(),
        inhibitors=st.lists(EXPLANATIONS),
        ports=st.frozensets(st.integers(1, 65535)),
        quiet=st.none() | st.floats(0, 1e9),
        links=st.lists(st.builds(Link, st.text(), st.text(), st.floats(0, 1e9), st.sampled_from(Part))),
        failure=st.none() | EXPLANATIONS,
        next_attempt=st.text(),
        log=st.text(),
        limits=st.lists(st.text()),
        memory=st.none()
        | st.builds(MemoryReport, st.sampled_from(Kind), EXPLANATIONS, st.builds(Usage, *[SIZES] * 4), SIZES),
        obstacles=st.lists(st.builds(Obstacle, st.text(), st.text(), st.text())),
    )
)
def test_there_is_always_something_to_say(facts: Facts) -> None:
    assert statements(facts)


async def test_a_connection_counts_though_it_has_grown_older_between_two_looks(world: World) -> None:
    end, other = ("10.0.0.1", 80), ("10.0.0.2", 5)
    ages = itertools.count(1000)

    def connections() -> list[TcpSocket]:
        return [TcpSocket(2, TcpState.ESTABLISHED, end, other, 1, 0, 0, 0, next(ages), next(ages))]

    network = FakeNetwork()
    network.connections = network.counting = connections  # type: ignore[method-assign]
    network.ports = frozenset({80})
    world.container.settings = replace(world.container.settings, ports=frozenset({80}))
    world.container.controller = controller = Controller(world.container, "/proc/self/ns/net", lambda *_: None)  # type: ignore[arg-type]
    controller.network = network  # type: ignore[assignment]
    reach(world.container.life, State.RUNNING)
    (found,) = gather(world.container).links
    assert (found.part, found.remote) == (Part.COUNTS, "10.0.0.2:5")


def test_settings_are_told_with_where_they_come_from() -> None:
    choices = resolve({f"{PREFIX}standby": "false"}, {"scaledown-duration": "5m"}, "web").choices
    found = statements(replace(AWAKE, links=[link(1.0)], choices=choices))
    assert [reason.kind for reason in found] == ["connection", "setting"]
    assert found[-1] == Statement("setting", "Set for it: scaledown-duration=5m (node), standby=false (pod).")


@pytest.mark.parametrize("state", [State.RUNNING, State.STANDBY, State.CREATED])
def test_a_default_that_is_passed_over_is_told_in_every_state(state: State) -> None:
    complaints = resolve({}, {"standby": "soon"}, "web").complaints
    told = [reason for reason in statements(replace(AWAKE, state=state, complaints=complaints)) if reason.remedy]
    assert [reason.text for reason in told] == [
        "A default is not taken, standby of the node: 'soon' is not true or false."
    ]
    assert "zeropod.toml" in told[0].remedy
