"""The name of the current task, for an eBPF program that may not call bpf_get_current_comm on this kernel.

Owns the replacement of that call by a read of the task_struct, and the offset of the name there. Programs of type
sk_lookup may call the helper on newer kernels only (seen: 6.18, not 6.1), but get_current_task and probe_read_kernel on
all, with CAP_PERFMON, unless the kernel is locked down for confidentiality.

Source of facts: include/uapi/linux/{bpf,btf}.h, Documentation/bpf/btf.rst; kernel/bpf/helpers.c (bpf_base_func_proto).
"""

import struct
from functools import cache

_BTF = "/sys/kernel/btf/vmlinux"
_MAGIC = 0xEB9F
_STRUCT = 4

_INSTRUCTION = struct.Struct("<BBhi")
_CALL, _EXIT = 0x85, 0x95
_JUMPS = frozenset({5, 6})
"""The classes of instructions (their lowest three bits) that jump."""
_GET_CURRENT_COMM, _GET_CURRENT_TASK, _PROBE_READ_KERNEL = 16, 35, 113
_NAME = 16
"""Bytes of a name, including the final zero."""
_SPILL = -504
"""Stack offset for saving the destination: the end of the 512 bytes that compilers use last."""


def by_reading(code: bytes) -> bytes:
    """Return the program with its one call of bpf_get_current_comm replaced. Raises OSError without BTF.

    Fill in map descriptors before: the code after the call moves. Raises ValueError unless there is exactly one call.
    """
    found = [_INSTRUCTION.unpack_from(code, at) for at in range(0, len(code), 8)]
    (place,) = (index for index, each in enumerate(found) if each == (_CALL, 0, 0, _GET_CURRENT_COMM))
    instead = [
        (0x7B, 0x1A, _SPILL, 0),  # the destination, in r1, is kept on the stack
        (_CALL, 0, 0, _GET_CURRENT_TASK),
        (0xBF, 0x03, 0, 0),  # r3 = r0
        (0x07, 0x03, 0, name_offset()),  # r3 += where the name is
        (0x79, 0xA1, _SPILL, 0),  # r1 = the destination
        (0xB7, 0x02, 0, _NAME),  # r2 = its size
        (_CALL, 0, 0, _PROBE_READ_KERNEL),
    ]
    longer = len(instead) - 1
    moved = []
    for index, (operation, registers, offset, immediate) in enumerate(found):
        target = index + 1 + offset
        if operation & 7 in _JUMPS and operation not in (_CALL, _EXIT):
            offset += longer * ((index < place < target) - (target <= place < index))
        moved.append((operation, registers, offset, immediate))
    moved[place : place + 1] = instead
    return b"".join(_INSTRUCTION.pack(*each) for each in moved)


@cache
def name_offset() -> int:
    """Return the offset of `comm` in a task_struct of this kernel, in bytes. Raises OSError without BTF."""
    with open(_BTF, "rb") as file:
        return _offset(file.read(), b"task_struct", b"comm")


def _offset(btf: bytes, name: bytes, member: bytes) -> int:
    """Return the offset of a structure's member in the kernel's BTF, in bytes. Raises OSError."""
    magic, _, _, header, types, length, strings, _ = struct.unpack_from("<HBBIIIII", btf)
    if magic != _MAGIC:
        raise OSError(f"{_BTF} does not begin as BTF does")
    words, described = btf[header + strings :], btf[header + types : header + types + length]
    names = [words.find(b"\0" + word + b"\0") + 1 for word in (name, member)]
    at = described.find(struct.pack("<I", names[0]))
    # A match of the name's offset may be unrelated data, whose kind is unlikely to be that of a structure.
    while at >= 0:
        if at % 4 == 0:
            info = int.from_bytes(described[at + 4 : at + 8], "little")
            if info >> 24 & 0x1F == _STRUCT:
                for entry in range(at + 12, at + 12 + 12 * (info & 0xFFFF), 12):
                    named, _, bits = struct.unpack_from("<III", described, entry)
                    if named == names[1]:
                        return int(bits & 0xFFFFFF if info >> 31 else bits) // 8
        at = described.find(struct.pack("<I", names[0]), at + 1)
    raise OSError(f"{_BTF} says nothing of {member.decode()} in {name.decode()}")
