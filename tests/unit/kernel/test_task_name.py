"""A program that may not ask for the current task's name reads it."""

import struct
from pathlib import Path

import pytest

from zeropod.kernel import lookup, task_name

INSTRUCTION = struct.Struct("<BBhi")
CALL = (0x85, 0, 0, 16)
EXIT = (0x95, 0, 0, 0)


def program(*instructions: tuple[int, int, int, int]) -> bytes:
    return b"".join(INSTRUCTION.pack(*each) for each in instructions)


def jumps(code: bytes) -> list[tuple[int, int]]:
    """From where to where, of each jump if equal."""
    found = enumerate(INSTRUCTION.iter_unpack(code))
    return [(index, index + 1 + offset) for index, (operation, _, offset, _) in found if operation == 0x15]


def test_jumps_over_it_lead_to_where_they_led(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_name, "name_offset", lambda: 1234)
    before = program(
        (0x15, 0, 3, 0),  # over the call, to the end
        (0x15, 0, 0, 0),  # to the call's neighbour
        CALL,
        (0x15, 0, -4, 0),  # back over it, to the beginning
        EXIT,
    )
    after = task_name.by_reading(before)
    assert len(after) == len(before) + 6 * 8
    assert jumps(before) == [(0, 4), (1, 2), (3, 0)]
    assert jumps(after) == [(0, 10), (1, 2), (9, 0)]
    calls = [immediate for operation, _, _, immediate in INSTRUCTION.iter_unpack(after) if operation == 0x85]
    assert calls == [35, 113]
    assert (0x07, 3, 0, 1234) in list(INSTRUCTION.iter_unpack(after))


def test_the_compiled_program_asks_for_a_name_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_name, "name_offset", lambda: 8)
    code = bytes.fromhex("".join(lookup.compiled()["instructions"]))
    assert len(task_name.by_reading(code)) == len(code) + 6 * 8
    with pytest.raises(ValueError, match="not enough values"):
        task_name.by_reading(program(EXIT))


def test_a_member_is_found_among_others() -> None:
    words = b"\0other\0task_struct\0comm\0"
    integer = struct.pack("<III", words.index(b"other"), 1 << 24, 4) + bytes(4)
    members = struct.pack("<III", words.index(b"other"), 1, 0) + struct.pack("<III", words.index(b"comm"), 1, 2944)
    structure = struct.pack("<III", words.index(b"task_struct"), 4 << 24 | 2, 4096) + members
    types = integer + structure
    btf = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(words)) + types + words
    assert task_name._offset(btf, b"task_struct", b"comm") == 368
    with pytest.raises(OSError, match="says nothing of pid in task_struct"):
        task_name._offset(btf.replace(b"comm", b"comn"), b"task_struct", b"pid")
    with pytest.raises(OSError, match="does not begin"):
        task_name._offset(bytes(100), b"task_struct", b"comm")


@pytest.mark.skipif(not Path("/sys/kernel/btf/vmlinux").exists(), reason="needs BTF")
def test_this_kernel_says_where_the_name_is() -> None:
    assert 0 < task_name.name_offset() < 1 << 14
