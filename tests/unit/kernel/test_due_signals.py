"""Signals that a process will handle as soon as it runs: seen on children that are stopped."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from zeropod.kernel import proc_stat

CHILD = """
import signal, sys, time
signal.signal(signal.SIGUSR1, lambda *_: None)
signal.signal(signal.SIGUSR2, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGWINCH})
signal.signal(signal.SIGWINCH, lambda *_: None)
print("ready", flush=True)
while True:
    time.sleep(60)
"""


@pytest.fixture
def stopped() -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            os.kill(child.pid, signal.SIGSTOP)
            _until(lambda: proc_stat.read(child.pid).state == "T")
            yield child.pid
        finally:
            child.kill()


def _until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)


def test_a_signal_is_due_until_it_is_handled(stopped: int) -> None:
    assert not proc_stat.has_due_signal(stopped)
    os.kill(stopped, signal.SIGUSR1)
    assert proc_stat.has_due_signal(stopped)
    os.kill(stopped, signal.SIGCONT)
    _until(lambda: not proc_stat.has_due_signal(stopped))


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGWINCH], ids=["ignored", "blocked"])
def test_one_that_is_ignored_or_blocked_is_not(stopped: int, number: signal.Signals) -> None:
    os.kill(stopped, number)
    assert not proc_stat.has_due_signal(stopped)


def test_a_process_that_is_gone_has_none() -> None:
    with subprocess.Popen(["true"]) as child:
        child.wait()
    assert not proc_stat.has_due_signal(child.pid)
