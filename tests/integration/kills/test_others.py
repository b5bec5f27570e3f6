"""Whatever else is killed, at whatever step of the shim's or its own: the container lives on, and all of it is right.

containerd, the pagers, CRIU and runc are killed while the shim is stopped at a system call, as if all of that were one
moment; CRIU and runc at their own system calls, too.
"""

import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest
from tests.integration import node
from tests.integration.kills.killing import Killer
from tests.integration.kills.steps import (
    AGAIN,
    DUMP,
    FIRST,
    REACHED,
    RESTORE,
    WAKE,
    Step,
    kill,
    points,
    round_of,
)
from tests.integration.sleep.helpers import faults
from tests.integration.sleep.helpers.stage import Stage

pytestmark = pytest.mark.timeout(180)


def name(value: object) -> str | None:
    return value.name if isinstance(value, Step) else getattr(value, "__name__", None)


@pytest.mark.parametrize(("step", "count"), [(AGAIN, 3), (WAKE, 2), (DUMP, 2)], ids=name)
def test_nothing_is_lost_with_a_pager(
    stage: Stage, killer: Killer, more: int, step: Step, count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    killed = 0
    for point in points(step.calls, count * more):
        what = f"a pager killed as {step.name}, at call {point} of the shim"
        with round_of(stage, step) as one:
            step.prepare(one)
            with killer.watch(one.shim, point, "hold") as watch:
                step.begin(one)
                if watch.wait(REACHED):
                    pids = faults.pagers(one.app)
                    killed += bool(pids)
                    kill(pids)
                    watch.go_on()
                one.answer(f"{what} ({watch.call})")
            one.out()
            one.answer(f"{what}, and then")
    with capsys.disabled():
        print(f"\n  a pager, as {step.name}: killed at {killed} of {count * more} points")
    assert killed >= count * more // 2


@pytest.mark.parametrize(("step", "count"), [(FIRST, 1), (WAKE, 1), (DUMP, 1), (RESTORE, 1)], ids=name)
def test_nothing_is_lost_with_containerd(stage: Stage, killer: Killer, more: int, step: Step, count: int) -> None:
    for point in points(step.calls, count * more):
        what = f"containerd killed as {step.name}, at call {point} of the shim"
        with round_of(stage, step) as one:
            step.prepare(one)
            with killer.watch(one.shim, point, "hold") as watch:
                step.begin(one)
                if watch.wait(REACHED):
                    containerd = node.stop_containerd(9)
                    watch.go_on()
                    try:
                        one.answer(f"{what} ({watch.call})")
                    finally:
                        node.start_containerd(*containerd)
            assert one.app.running(), what
            one.answer(f"{what}, and then")


WORDS = {DUMP.name: "checkpoint", RESTORE.name: "restore"}
"""Of runc's command line."""


def is_criu_of(step: Step) -> str:
    """Whether this is CRIU for that step: it is told by runc through a socket, not by arguments."""
    return f"grep -qw {WORDS[step.name]} /proc/$PPID/cmdline"


def is_runc_of(step: Step) -> str:
    return f'[[ " $* " == *" {WORDS[step.name]} "* ]]'


def attempt(
    stage: Stage, killer: Killer, step: Step, program: str, count: int, victim: str = "", *, may_end: bool = False
) -> tuple[int, bool]:
    """Kill what is run for a step at that system call of its own, or its parent.

    Returns how many calls it has made, and whether the container lives. If not, its end is reported.
    """
    what = f"{victim or program} killed as {step.name}, at call {count} of {program}"
    when = is_criu_of(step) if program == "criu" else is_runc_of(step)
    with round_of(stage, step) as one, killer.program_once(program, count, when, "hold" if victim else "kill"):
        step.prepare(one)
        step.begin(one)
        if step is DUMP or victim:
            node.until(lambda: killer.reached() or one.app.state in DONE[step.name], "it is killed, or all is over", 30)
        if victim and killer.reached():
            node.until(lambda: bool(stopped(program)), f"{program} stands still", 5)
            for pid in stopped(program):
                assert os.path.basename(node.processes()[parent(pid)][0]) == victim
                kill([parent(pid)])
                os.kill(pid, signal.SIGCONT)
        try:
            one.answer(what)
        except (ConnectionError, EOFError, FileNotFoundError):  # the last one is its network namespace's
            if not may_end:
                raise
            assert one.reported(what) > 128, what
            return killer.counted(), False
        assert one.app.running(), what
        return killer.counted(), True


DONE = {DUMP.name: ("COLD",), RESTORE.name: ("RUNNING", "CHECKPOINTING", "STANDBY")}


def stopped(program: str) -> list[int]:
    """Processes of that program that a signal has stopped."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            text = Path(f"/proc/{name}/status").read_text()
            if text.startswith(f"Name:\t{program}\n") and ("State:\tt" in text or "State:\tT" in text):
                found.append(int(name))
    return found


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.parametrize(("program", "victim"), [("criu", ""), ("runc", ""), ("criu", "runc")])
@pytest.mark.parametrize("step", [DUMP, RESTORE], ids=name)
def test_nothing_is_lost_with_a_program_that_dumps_or_restores(
    stage: Stage, killer: Killer, more: int, program: str, victim: str, step: Step, capsys: pytest.CaptureFixture[str]
) -> None:
    """A CRIU that dies while it works in the processes may leave one that cannot go on, which then ends of that."""
    calls, _ = attempt(stage, killer, step, program, 0)
    may_end = step is DUMP and program == "criu"
    lived = [
        attempt(stage, killer, step, program, point, victim, may_end=may_end)[1] for point in points(calls, 2 * more)
    ]
    with capsys.disabled():
        name = victim or program
        print(
            f"\n  {name}, as {step.name}: killed at {len(lived)} of the {calls} calls of {program}, {sum(lived)} lived"
        )
