"""The life that the zygote plays before it has forks, by itself: it sleeps, and nothing of it is left on the node."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from tests.integration import node
from tests.integration.patience import patient

from zeropod.zygote import warm_up

PROGRAM = """
import sys, trio
from zeropod.zygote import warm_up
warm_up.ENOUGH = float(sys.argv[1])
try:
    warm_up.live()
    print("lived")
except BaseExceptionGroup as group:
    if not group.subgroup(trio.TooSlowError | trio.Cancelled):
        raise
except trio.TooSlowError:
    print("broken off")
"""


def live(seconds: float) -> tuple[str, list[str]]:
    """Returns what it says, and what is left of it."""
    path = f"import sys; sys.path[:0] = {sys.path!r}"
    command = [sys.executable, "-c", f"{path}\n{PROGRAM}", str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        said, _ = process.communicate(timeout=patient(60))
    assert process.returncode == 0, said
    name = f"zygote-{process.pid}"
    left = node.left_over(name)
    left += [f"directory {path}" for path in Path(tempfile.gettempdir()).glob(f"{name}*")]
    left += [f"process {pid}" for pid, line in node.processes().items() if line[-2:] == ("container", "init.pid")]
    return said, left


@pytest.mark.timeout(120)
def test_it_sleeps_and_leaves_nothing() -> None:
    assert live(patient(warm_up.ENOUGH)) == ("lived\n", [])


@pytest.mark.timeout(300)
def test_broken_off_at_any_moment_it_leaves_nothing() -> None:
    broken_off = 0
    for hundredths in range(0, 40, 4):
        said, left = live(hundredths / 100)
        assert left == []
        broken_off += "broken off" in said
    assert broken_off
