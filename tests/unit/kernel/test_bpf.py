"""Loading a program when signals arrive, which make the verifier give up."""

import errno
import os

import pytest

from zeropod.kernel import bpf


class Verifier:
    """Answers bpf(2): interrupted so many times, then well."""

    def __init__(self, interruptions: int) -> None:
        self.left = interruptions

    def __call__(self, command: bpf._Command, attributes: bytes) -> int:
        if self.left:
            self.left -= 1
            raise OSError(errno.EAGAIN, "bpf(PROG_LOAD): Resource temporarily unavailable")
        return os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)


def load() -> bpf.Program:
    return bpf.Program(bytes(8), "GPL", "test")


def test_a_program_is_loaded_though_signals_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bpf, "_bpf", Verifier(5))
    with load() as program:
        assert program.fd >= 0


def test_it_is_not_tried_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bpf, "_bpf", Verifier(10_000))
    with pytest.raises(BlockingIOError, match="temporarily unavailable"):
        load()
