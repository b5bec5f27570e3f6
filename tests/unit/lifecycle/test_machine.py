"""The tables of what a request, and what an event, means in which state."""

import inspect
import itertools

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.unit.shim.fakes import World
from tests.unit.shim.states import reach, way

from zeropod.lifecycle.actions import Actions
from zeropod.lifecycle.machine import (
    ANSWERS,
    ASLEEP,
    TRANSITIONS,
    Action,
    Answer,
    Event,
    IllegalTransition,
    Life,
    Request,
    Row,
    State,
    decide,
    transition,
)
from zeropod.rpc.messages import process_pb2
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


def test_every_request_has_one_answer_for_each_state() -> None:
    assert set(ANSWERS) == set(Request)
    assert {len(row) for row in ANSWERS.values()} == {len(State)}


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


@pytest.mark.parametrize("state", [State.STANDBY, State.DOZING, State.COLD])
def test_a_session_has_the_container_awake(state: State) -> None:
    assert decide(state, Request.SESSION) is Answer.WAKE


def test_an_exec_lets_a_container_in_standby_nap_and_wakes_one_that_cannot() -> None:
    assert decide(State.STANDBY, Request.EXEC) is Answer.NAP
    assert decide(State.DOZING, Request.EXEC) is Answer.PASS
    assert decide(State.COLD, Request.EXEC) is Answer.WAKE


@pytest.mark.parametrize("request_", list(Request))
def test_every_answer_stands_where_the_state_allows_it(request_: Request) -> None:
    """Each cell by what its state has: processes that run, frozen ones, none, or a moment that passes."""
    for state, answer in zip(State, ANSWERS[request_], strict=True):
        allowed = {
            State.CREATED: {Answer.PASS, Answer.REFUSE},
            State.RUNNING: {Answer.PASS, Answer.REFUSE},
            State.CHECKPOINTING: {Answer.WAIT, Answer.REFUSE, Answer.PASS},
            State.STANDBY: {Answer.WAKE, Answer.NAP, Answer.PASS, Answer.REFUSE},
            State.DOZING: {Answer.WAKE, Answer.PASS, Answer.REFUSE},
            State.COLD: {Answer.WAKE, Answer.END, Answer.RECORD, Answer.REFUSE},
            State.RESTORING: {Answer.WAIT, Answer.RECORD, Answer.REFUSE},
            State.PAUSED: {Answer.PASS, Answer.REFUSE},
            State.STOPPED: {Answer.PASS, Answer.REFUSE, Answer.GONE},
        }[state]
        assert answer in allowed, state


# Events

ARRIVALS = [Event.CONNECTION, Event.DATA, Event.WANTED]
SHORT = [Event.PROBE, Event.WANTED_SHORTLY]
AWAKE = (State.RUNNING, (Action.THAW, Action.AWAIT_IDLE))
FAILED = (State.RUNNING, (Action.THAW, Action.BACK_OFF, Action.AWAIT_IDLE))
NAP = (State.DOZING, (Action.NAP,))
RESTORE = (State.RESTORING, (Action.RESTORE,))
SLEEP = (State.STANDBY, (Action.MOVE_OUT, Action.AWAIT_ARRIVAL))

EXPECTED: dict[tuple[State, Event], tuple[State, tuple[Action, ...]]] = {
    (State.CREATED, Event.START): (State.RUNNING, ()),
    (State.CREATED, Event.START_ASLEEP): (State.CHECKPOINTING, (Action.FREEZE,)),
    (State.RUNNING, Event.LEAVE): (State.CHECKPOINTING, (Action.BRING_TO_REST,)),
    (State.COLD, Event.LEAVE): (State.COLD, (Action.EXPORT, Action.AWAIT_ARRIVAL)),
    (State.RUNNING, Event.PAUSE): (State.PAUSED, ()),
    (State.PAUSED, Event.RESUME): (State.RUNNING, ()),
    **{(state, Event.EXIT): (State.STOPPED, ()) for state in State if state is not State.STOPPED},
    (State.RUNNING, Event.QUIET): (State.CHECKPOINTING, (Action.FREEZE,)),
    (State.CHECKPOINTING, Event.FROZEN): SLEEP,
    (State.CHECKPOINTING, Event.KEPT): (State.STANDBY, (Action.AWAIT_ARRIVAL,)),
    (State.CHECKPOINTING, Event.NOT_IDLE): FAILED,
    (State.CHECKPOINTING, Event.FAILED): FAILED,
    (State.CHECKPOINTING, Event.DUMPED): (State.COLD, (Action.AWAIT_ARRIVAL,)),
    **{(state, event): AWAKE for state in (State.CHECKPOINTING, State.STANDBY) for event in ARRIVALS},
    **{(state, event): NAP for state in (State.CHECKPOINTING, State.STANDBY) for event in SHORT},
    (State.STANDBY, Event.FAILED): FAILED,
    (State.STANDBY, Event.STANDBY_OVER): (State.CHECKPOINTING, (Action.DUMP,)),
    (State.DOZING, Event.NAP_OVER): (State.CHECKPOINTING, (Action.REFREEZE,)),
    (State.DOZING, Event.CONNECTION): AWAKE,
    (State.DOZING, Event.WANTED): AWAKE,
    (State.DOZING, Event.FAILED): FAILED,
    **{(State.COLD, event): RESTORE for event in (*ARRIVALS, *SHORT, Event.FAILED)},
    (State.RESTORING, Event.RESTORED): (State.RUNNING, (Action.AWAIT_IDLE,)),
}
"""Written down once more, in another order: what the table says is no accident of how it is put together."""

LAST = {
    Action.AWAIT_IDLE: {Event.QUIET, Event.LEAVE},
    Action.FREEZE: {Event.FROZEN, Event.DUMPED, Event.NOT_IDLE, Event.FAILED},
    Action.BRING_TO_REST: {Event.FROZEN, Event.FAILED},
    Action.AWAIT_ARRIVAL: {*ARRIVALS, *SHORT, Event.FAILED, Event.STANDBY_OVER, Event.LEAVE},
    Action.NAP: {Event.NAP_OVER, Event.CONNECTION, Event.WANTED},
    Action.REFREEZE: {Event.FROZEN, Event.PROBE, Event.WANTED_SHORTLY, Event.CONNECTION, Event.FAILED},
    Action.DUMP: {Event.DUMPED, Event.KEPT, Event.FAILED, Event.CONNECTION, Event.DATA, Event.WANTED},
    Action.RESTORE: {Event.RESTORED},
}
"""What can come of each action that is the last one of a row."""

NEVER = {(State.COLD, Event.STANDBY_OVER), (State.STANDBY, Event.LEAVE)}
"""What cannot come from there: what is on disk already does not go there, and only that leaves."""


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_each_pair_is_a_row_or_cannot_happen(state: State, event: Event) -> None:
    if expected := EXPECTED.get((state, event)):
        assert transition(state, event) == Row(*expected)
    else:
        with pytest.raises(IllegalTransition, match=f"{event.name} cannot happen in {state.name}"):
            transition(state, event)


def test_an_event_that_cannot_happen_changes_nothing() -> None:
    life, told = Life(), list[None]()
    life.tell = lambda: told.append(None)
    with pytest.raises(IllegalTransition):
        life.happen(Event.DUMPED)
    assert (life.state, told) == (State.CREATED, [])


@pytest.mark.parametrize("action", list(Action))
def test_every_action_is_in_the_table_and_is_performed(action: Action) -> None:
    assert any(action in row.actions for row in TRANSITIONS.values())
    assert inspect.iscoroutinefunction(getattr(Actions, f"_{action.name.lower()}"))


async def test_exactly_these_are_performed(world: World) -> None:
    made = Actions(world.container, None, None, None)  # type: ignore[arg-type]
    assert {action: step.__name__ for action, step in made._perform.items()} == {
        action: f"_{action.name.lower()}" for action in Action
    }


@pytest.mark.parametrize("row", sorted({row for row in TRANSITIONS.values() if row.actions}, key=repr), ids=str)
def test_the_last_action_of_a_row_returns_an_event_and_the_others_none(row: Row) -> None:
    *before, last = (getattr(Actions, f"_{action.name.lower()}") for action in row.actions)
    assert inspect.get_annotations(last, eval_str=True)["return"] is Event
    assert [inspect.get_annotations(step, eval_str=True)["return"] for step in before] == [None] * len(before)
    assert row.actions[-1] in LAST


def test_whatever_comes_of_the_last_action_of_a_row_has_a_row() -> None:
    """So nothing that the controller does itself can be illegal."""
    for row in TRANSITIONS.values():
        for event in LAST[row.actions[-1]] if row.actions else ():
            if (row.next, event) not in NEVER:
                assert (row.next, event) in TRANSITIONS, (row, event)


def test_every_row_is_reached_from_a_new_container_by_what_comes_of_its_actions() -> None:
    """What comes from outside (start, pause, exit) or out of the bulkhead (FAILED) can come at any moment."""
    outside = {Event.START, Event.START_ASLEEP, Event.PAUSE, Event.RESUME, Event.EXIT, Event.FAILED}
    found: set[tuple[State, Event]] = set()
    waiting: list[tuple[State, Action | None]] = [(State.CREATED, None), (State.RUNNING, Action.AWAIT_IDLE)]
    seen = set(waiting)
    while waiting:
        state, action = waiting.pop()
        events = outside | (LAST[action] if action else set())
        for event in events:
            if row := TRANSITIONS.get((state, event)):
                found.add((state, event))
                after = (row.next, row.actions[-1] if row.actions else None)
                if after not in seen:
                    seen.add(after)
                    waiting.append(after)
    assert found == set(TRANSITIONS)


@pytest.mark.parametrize("state", [state for state in ASLEEP if state not in (State.COLD, State.RESTORING)])
def test_whatever_fails_while_there_are_processes_they_run_and_it_says_why(state: State) -> None:
    assert transition(state, Event.FAILED) == Row(*FAILED)


def test_only_a_running_container_falls_asleep() -> None:
    assert [state for state in State if (state, Event.QUIET) in TRANSITIONS] == [State.RUNNING]


def test_nothing_leads_out_of_the_end() -> None:
    assert not any(state is State.STOPPED for state, _ in TRANSITIONS)


@pytest.mark.parametrize("state", list(State))
def test_every_state_is_reached_and_ends(state: State) -> None:
    life = Life()
    reach(life, state)
    assert life.state is state
    assert way(state, State.STOPPED) == ([] if state is State.STOPPED else [Event.EXIT])


class Walk(RuleBasedStateMachine):
    """A container to which anything happens, legal or not, and what must hold at every moment."""

    @initialize()
    def begin(self) -> None:
        self.life = Life()
        self.state = State.CREATED
        self.awaited: Action | None = None
        self.has_processes = True
        self.frozen = False

    @rule(event=st.sampled_from(Event))
    def happens(self, event: Event) -> None:
        row = EXPECTED.get((self.state, event))
        if row is None:
            with pytest.raises(IllegalTransition):
                self.life.happen(event)
            return
        assert self.life.happen(event) == row[1]
        self.state = row[0]
        if event in (Event.DUMPED, Event.EXIT):
            self.has_processes = self.frozen = False
        if event is Event.RESTORED:
            self.has_processes = True
        for action in row[1]:
            self.performed(action)

    @precondition(lambda self: self.life.state in ASLEEP)
    @rule()
    def wanted(self) -> None:
        self.life.wake_wanted.set()

    def performed(self, action: Action) -> None:
        match action:
            case Action.FREEZE | Action.REFREEZE | Action.BRING_TO_REST:
                self.frozen = True
            case Action.THAW | Action.NAP:
                assert self.has_processes
                self.frozen = False
            case Action.MOVE_OUT | Action.DUMP:
                assert self.frozen
                assert self.has_processes
            case Action.RESTORE | Action.EXPORT:
                assert not self.has_processes

    @invariant()
    def holds(self) -> None:
        assert self.life.state is self.state
        assert self.has_processes == (self.state not in (State.COLD, State.RESTORING, State.STOPPED))
        if self.state is State.STANDBY:
            assert self.frozen
        if self.state in (State.RUNNING, State.DOZING, State.PAUSED):
            assert not self.frozen, "whatever was frozen is thawed on each way out"


TestWalk = Walk.TestCase
TestWalk.settings = hypothesis_settings(max_examples=200, stateful_step_count=60, deadline=None)
