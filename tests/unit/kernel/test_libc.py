"""System calls by name."""

import errno
import os

import pytest

from zeropod.kernel import libc


def test_an_error_names_the_call_and_what_it_was_for() -> None:
    with pytest.raises(OSError, match=r"^\[Errno 9\] pidfd_getfd\(a socket\): Bad file descriptor$"):
        libc.syscall("pidfd_getfd", -1, 0, 0, what="(a socket)")


def test_an_unlisted_machine_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libc, "_NUMBERS", {})
    monkeypatch.setattr("platform.machine", lambda: "vax")
    with pytest.raises(OSError, match=r"bpf\(2\): its number on vax is not known") as raised:
        libc.syscall("bpf", 0)
    assert raised.value.errno == errno.ENOSYS


def test_the_numbers_are_those_of_this_machine() -> None:
    own = os.getpid()
    assert libc.syscall("kcmp", own, own, 1, 0, 0) == 0
    assert libc.syscall("ioprio_get", 1, own) >= 0
