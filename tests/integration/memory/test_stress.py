"""Programs of many threads and processes in containers, which check themselves, through sleep after sleep.

With --long as often as it must hold: 300 cycles and a million page faults under a pager that is killed at random; 50
cycles of eight processes with four threads and a connection each. That takes some twenty minutes on two cores.
"""

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.integration import node
from tests.integration.conftest import OURS
from tests.integration.containerd import Containerd
from tests.integration.patience import patient
from tests.integration.programs import PLACE, compiled, mounted
from tests.integration.sleep.helpers import faults, shims
from tests.integration.sleep.helpers.client import Session
from tests.integration.sleep.helpers.stage import App, Kind

from zeropod.rpc.messages.status_pb2 import ContainerStatus, State
from zeropod.rpc.status import RpcError

STRESS = Path(__file__).with_name("store_stress.c")
PROCESSES = Path(__file__).with_name("processes.c")
ANNOTATIONS = {"zeropod.ctrox.dev/scaledown-duration": "10m", "zeropod.ctrox.dev/standby-memory": "store"}
"""It sleeps when it is told to."""

CYCLES, FAULTS = 300, 1_000_000
FEW = 8
"""Cycles where --long is not asked for."""
MEGABYTES = "28"
"""Of each of four threads, twice."""

THREADS = 8 * 4
THREADS_CYCLES = 50


@dataclass
class Sums:
    cycles: int = 0
    faults: int = 0
    killed: int = 0
    lost: int = 0
    """Containers that ended, and that said why, since their pager was killed as it was told of a fork."""


@contextmanager
def program(containerd: Containerd, source: Path, directory: Path, *words: str) -> Iterator[App]:
    made = compiled(source, directory, "-pthread")
    if made is None:
        pytest.skip("needs a compiler")
    with containerd.container(PLACE, *words, runtime=OURS, annotations=ANNOTATIONS, spec=mounted(made)) as container:
        yield App(Kind("redis", 8000), container.run())


def fall_asleep(app: App) -> None:
    """Until it sleeps: it is tried again where it was busy at the last moment."""
    deadline = time.monotonic() + patient(30)
    while True:
        try:
            shims.sleep(app.id)
        except RpcError:
            if app.state == "STOPPED" or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def settled(app: App) -> ContainerStatus:
    return shims.until(app.id, lambda status: not status.memory_moving, "moved out", 30)


@contextmanager
def killing(app: App, chance: random.Random, sums: Sums) -> Iterator[None]:
    """Its pager is killed at random moments meanwhile."""
    over = threading.Event()

    def kill() -> None:
        while not over.wait(chance.uniform(0, 2)):
            for pid in faults.pagers(app):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    sums.killed += 1

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def cycle(app: App, chance: random.Random) -> None:
    fall_asleep(app)
    if chance.random() < 0.3:
        time.sleep(chance.uniform(0, 0.5))
    else:
        settled(app)
    shims.wake(app.id)
    time.sleep(chance.uniform(0.05, 0.6))


@pytest.mark.timeout(180)
def test_a_busy_program_in_a_container_never_sees_a_wrong_byte(
    containerd: Containerd, tmp_path: Path, long: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    chance, sums = random.Random(300), Sums()
    cycles, least = (CYCLES, FAULTS) if long else (FEW, 0)
    while sums.cycles < cycles or sums.faults < least:
        with program(containerd, STRESS, tmp_path, MEGABYTES) as app, killing(app, chance, sums):
            time.sleep(1)
            before, seen = sums.faults, app.status
            try:
                while sums.cycles < cycles or sums.faults < least:
                    cycle(app, chance)
                    sums.cycles += 1
                    seen = app.status
                    assert seen.state != State.STOPPED
                    sums.faults = before + seen.memory_faults_total
                fall_asleep(app)
                shims.wake(app.id)
                time.sleep(1)
                assert app.running()
                assert app.output() == ""
            except (RpcError, TimeoutError, AssertionError):
                seen = app.status
                if seen.state != State.STOPPED:
                    raise
                said = f"{app.exit_code()}: {seen.message}; {app.output()}"
                assert "a process was forking" in seen.message, said
                sums.lost += 1
    with capsys.disabled():
        print(f"\n  {sums}")
    assert sums.lost <= 1 + sums.killed // 100


@pytest.mark.timeout(120)
def test_nothing_is_lost_of_many_processes_with_many_threads(
    containerd: Containerd, tmp_path: Path, long: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(50)
    cycles = THREADS_CYCLES if long else FEW
    with program(containerd, PROCESSES, tmp_path) as app, ExitStack() as stack:
        node.until(lambda: bool(_connected(app)), "it listens")
        sessions: list[Session] = []
        for _ in range(THREADS):
            sessions.append(stack.enter_context(app.connect()))
            time.sleep(0.01)
        names: dict[int, str] = {}
        lines = 0

        def ask() -> None:
            nonlocal lines
            lines += 1
            for session in chance.sample(sessions, len(sessions)):
                session.send(b"next\n")
            for number, session in enumerate(sessions):
                name, _, told = session.line().rpartition(" ")
                assert told == str(lines), f"{name}: {told} instead of {lines}"
                assert names.setdefault(number, name) == name
            assert len(set(names.values())) == THREADS

        pids = {process.pid for process in app.container.pids()}  # type: ignore[union-attr]
        for _ in range(cycles):
            ask()
            fall_asleep(app)
            if chance.random() < 0.7:
                settled(app)
        ask()
        status = app.status
        assert {process.pid for process in app.container.pids()} == pids  # type: ignore[union-attr]
        assert status.standby_sleeps >= cycles
        assert app.output() == ""
    with capsys.disabled():
        print(
            f"\n  {status.standby_sleeps} sleeps, {lines * THREADS} answers, {status.memory_faults_total} page faults"
        )


def _connected(app: App) -> bool:
    with suppress(OSError), app.connect():
        return True
    return False
