"""Sets the command line of this process as ps and /proc/PID/cmdline show it.

For forks, which otherwise all show the arguments of the process they were forked from. Source of facts: prctl(2),
PR_SET_MM_MAP, which needs no capability but a kernel with CONFIG_CHECKPOINT_RESTORE; proc(5), /proc/PID/stat.
"""

import ctypes
from collections.abc import Sequence

from zeropod.kernel import libc, proc_stat

_PR_SET_MM, _PR_SET_MM_MAP = 35, 14
_NO_FILE = 0xFFFFFFFF

_STAT = {
    "start_code": 26,
    "end_code": 27,
    "start_stack": 28,
    "start_data": 45,
    "end_data": 46,
    "start_brk": 47,
    "env_start": 50,
    "env_end": 51,
}
"""The numbers of fields of /proc/PID/stat, by their names in the kernel's struct prctl_mm_map."""

_ADDRESSES = (
    *("start_code", "end_code", "start_data", "end_data", "start_brk", "brk", "start_stack"),
    *("arg_start", "arg_end", "env_start", "env_end", "auxv"),
)


class _Map(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_uint64) for name in _ADDRESSES),
        ("auxv_size", ctypes.c_uint32),
        ("exe_fd", ctypes.c_uint32),
    ]


_libc = ctypes.CDLL(None)
_libc.sbrk.restype = ctypes.c_void_p

_shown = ctypes.create_string_buffer(b"")
"""Holds the buffer, since the kernel reads the command line from this address."""


def show(words: Sequence[bytes]) -> None:
    """Set the process's command line. Raises OSError where the kernel does not allow it."""
    global _shown
    text = ctypes.create_string_buffer(b"\0".join(words))  # appends the final zero that a command line ends with
    stat = proc_stat.read("self")
    known = {name: stat.number(field) for name, field in _STAT.items()}
    start = ctypes.addressof(text)
    new = _Map(
        **known, brk=_libc.sbrk(0), arg_start=start, arg_end=start + len(text), auxv=0, auxv_size=0, exe_fd=_NO_FILE
    )
    libc.call("prctl", _PR_SET_MM, _PR_SET_MM_MAP, ctypes.addressof(new), ctypes.sizeof(new), 0)
    _shown = text
