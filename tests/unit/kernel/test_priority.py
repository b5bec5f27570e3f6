"""Little for a program in the background, and back to the usual for all that it has started."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from zeropod.kernel import priority

PROGRAM = "import subprocess, sys; subprocess.run(['sleep', '60'], process_group=%s)"


def nice(pid: int) -> int:
    return os.getpriority(os.PRIO_PROCESS, pid)


def child_of(pid: int) -> int:
    """Once it has one that has become what it is started for."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            if Path(f"/proc/{child}/comm").read_text() == "sleep\n":
                return int(child)
        time.sleep(0.01)
    raise TimeoutError("it starts nothing")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may raise a priority")
@pytest.mark.parametrize(("group", "raised"), [("None", 0), ("0", priority.BACKGROUND)])
def test_what_a_program_starts_is_raised_with_it_unless_it_has_a_group_of_its_own(group: str, raised: int) -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM % group], process_group=0) as program:
        priority.lower(program.pid)
        assert nice(program.pid) == priority.BACKGROUND
        child = child_of(program.pid)
        try:
            assert nice(child) == priority.BACKGROUND
            priority.raise_all(program.pid)
            assert (nice(program.pid), nice(child)) == (0, raised)
        finally:
            program.kill()
            os.kill(child, 9)


def test_one_that_has_ended_is_no_error() -> None:
    with subprocess.Popen(["true"]) as program:
        pass
    priority.lower(program.pid)
    priority.raise_all(program.pid)
