import os
import subprocess

import pytest

from zeropod.runtime import undumpable


def test_it_is_found_by_the_kind_of_file_that_a_process_has_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(undumpable.KINDS, "[eventfd]", "a stand-in")
    assert undumpable.found([os.getpid()]) == ""
    descriptor = os.eventfd(0)
    try:
        assert undumpable.found([os.getppid(), os.getpid()]) == "a stand-in"
    finally:
        os.close(descriptor)


def test_a_process_that_has_ended_has_nothing_open() -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert undumpable.found([ended.pid]) == ""
