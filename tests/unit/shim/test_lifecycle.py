"""The tables of what a request, and what an event, means in which state."""

import itertools

import pytest

from zeropod.rpc.messages import process_pb2
from zeropod.shim.lifecycle import ASLEEP, Answer, Event, Reaction, Request, State, decide, react
from zeropod.shim.service import _STATUS

MOMENTS = [State.CHECKPOINTING, State.RESTORING]
REPEATED = [
    Request.EXEC,
    Request.SESSION,
    Request.SIGNAL,
    Request.STOP,
    Request.KILL,
    Request.PAUSE,
    Request.UPDATE,
    Request.CHECKPOINT,
]
LOOKS = [Request.STATS, Request.PIDS]


def test_every_request_has_an_answer_in_every_state() -> None:
    for state, request in itertools.product(State, Request):
        assert isinstance(decide(state, request), Answer)


def test_every_event_has_a_reaction_in_every_state() -> None:
    for state, event in itertools.product(State, Event):
        assert isinstance(react(state, event), Reaction)


@pytest.mark.parametrize("state", [state for state in State if state in ASLEEP])
def test_a_container_that_sleeps_looks_running_to_containerd(state: State) -> None:
    assert _STATUS[state] == process_pb2.RUNNING


def test_every_state_has_a_status_for_containerd() -> None:
    assert set(_STATUS) == set(State)


@pytest.mark.parametrize("state", list(State))
def test_what_ends_a_container_at_once_never_wakes_it(state: State) -> None:
    for request in (Request.KILL, Request.DELETE):
        assert decide(state, request) is not Answer.WAKE


def test_a_container_without_processes_ends_without_them() -> None:
    assert decide(State.COLD, Request.KILL) is decide(State.COLD, Request.STOP) is Answer.END


def test_a_container_that_has_its_processes_shuts_down_by_itself_and_another_if_it_wants_to() -> None:
    assert decide(State.STANDBY, Request.STOP) is Answer.WAKE
    assert decide(State.COLD, Request.STOP_IN_ORDER) is Answer.WAKE


@pytest.mark.parametrize("state", list(State))
def test_looking_never_wakes_and_never_waits(state: State) -> None:
    for request in LOOKS:
        assert decide(state, request) in (Answer.PASS, Answer.RECORD)


@pytest.mark.parametrize("state", MOMENTS)
@pytest.mark.parametrize("request_", REPEATED)
def test_nothing_that_a_running_container_does_is_refused_because_of_the_moment(
    state: State, request_: Request
) -> None:
    assert decide(State.RUNNING, request_) is Answer.PASS
    assert decide(state, request_) is Answer.WAIT


@pytest.mark.parametrize("request_", list(Request))
def test_what_a_running_container_refuses_a_sleeping_one_refuses_too(request_: Request) -> None:
    refused = {decide(state, request_) is Answer.REFUSE for state in (State.RUNNING, *ASLEEP)}
    assert len(refused) == 1


def answering(answer: Answer) -> set[State]:
    return {state for state in State if answer in {decide(state, request) for request in Request}}


def test_only_a_state_that_ends_by_itself_makes_a_request_wait() -> None:
    assert answering(Answer.WAIT) == set(MOMENTS)


def test_only_a_container_that_is_asleep_is_woken() -> None:
    assert answering(Answer.WAKE) == {State.STANDBY, State.DOZING, State.COLD}
    assert answering(Answer.END) == {State.COLD}


def test_new_limits_do_not_wake() -> None:
    assert decide(State.COLD, Request.UPDATE) is Answer.RECORD


def test_a_signal_to_a_stopped_container_finds_nobody() -> None:
    assert decide(State.STOPPED, Request.SIGNAL) is decide(State.STOPPED, Request.KILL) is Answer.GONE


def test_a_container_starts_once_and_is_deleted_before_the_start_or_after_the_end() -> None:
    assert [state for state in State if decide(state, Request.START) is Answer.PASS] == [State.CREATED]
    deletable = [state for state in State if decide(state, Request.DELETE) is Answer.PASS]
    assert deletable == [State.CREATED, State.STOPPED]


def test_only_a_paused_container_is_resumed_and_only_an_unpaused_one_paused() -> None:
    assert [state for state in State if decide(state, Request.RESUME) is Answer.PASS] == [State.PAUSED]
    assert decide(State.PAUSED, Request.PAUSE) is Answer.REFUSE


@pytest.mark.parametrize("event", [Event.CONNECTION, Event.DATA, Event.WANTED])
def test_whoever_wants_a_sleeping_container_wakes_it_or_is_kept_until_it_can_be(event: Event) -> None:
    assert {react(state, event) for state in ASLEEP} == {Reaction.WAKE, Reaction.HOLD}


def test_a_probe_or_an_exec_lets_a_container_in_standby_doze_and_wakes_one_that_cannot() -> None:
    assert decide(State.STANDBY, Request.EXEC) is Answer.DOZE
    assert decide(State.DOZING, Request.EXEC) is Answer.PASS
    assert decide(State.COLD, Request.EXEC) is Answer.WAKE
    for event in (Event.PROBE, Event.WANTED_SHORTLY):
        assert react(State.STANDBY, event) is Reaction.DOZE
        assert react(State.COLD, event) is Reaction.WAKE


@pytest.mark.parametrize("state", [State.STANDBY, State.DOZING, State.COLD])
def test_who_works_in_a_container_has_it_awake(state: State) -> None:
    assert decide(state, Request.SESSION) is Answer.WAKE


@pytest.mark.parametrize("event", [Event.CONNECTION, Event.DATA, Event.WANTED])
def test_whoever_wants_it_is_kept_until_it_is_there(event: Event) -> None:
    assert {state for state in State if react(state, event) is Reaction.HOLD} == set(MOMENTS)


def test_only_a_running_container_falls_asleep() -> None:
    assert [state for state in State if react(state, Event.QUIET) is Reaction.SLEEP] == [State.RUNNING]


def test_memory_that_is_lost_never_costs_a_container_that_has_not_run_since_its_image_was_taken() -> None:
    lost = {state: react(state, Event.PAGER_LOST) for state in State}
    finished = {state for state, reaction in lost.items() if reaction is Reaction.FINISH}
    assert finished == {State.RUNNING, State.DOZING, State.PAUSED}


@pytest.mark.parametrize("state", list(State))
def test_a_containerd_that_restarts_changes_nothing_and_a_shim_that_dies_leaves_nothing(state: State) -> None:
    assert react(state, Event.CONTAINERD_RESTART) is Reaction.NOTHING
    assert react(state, Event.SHIM_DEATH) is Reaction.CLEAN_UP


@pytest.mark.parametrize("state", [state for state in State if state not in (State.STOPPED, State.COLD)])
def test_an_exit_that_nobody_wanted_is_reported(state: State) -> None:
    assert react(state, Event.EXIT) is Reaction.FINISH
