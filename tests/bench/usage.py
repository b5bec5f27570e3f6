"""What a container takes of a node: its shim, its pager, its processes, its image. Bytes, or seconds of CPU."""

import ctypes
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tests.bench.containers import OURS
from tests.demo.usage import image_size, look
from tests.integration.sleep.helpers.shims import status

from zeropod import paths as places
from zeropod.kernel import libc
from zeropod.rpc.messages import cgroups_v1_pb2
from zeropod.runtime import cgroups

MIB = 1 << 20
PAGE = os.sysconf("SC_PAGESIZE")
_CACHESTAT = 451
_CREDENTIALS = struct.Struct("3i")
_TICKS = os.sysconf("SC_CLK_TCK")

__all__ = ["MIB", "cached", "cpu_seconds", "image_size", "images", "kernel", "pager", "processes", "pss", "shim"]


def shim(id: str, runtime: str = OURS, namespace: str = "default") -> int:
    """The pid of the shim that serves the container with this id, the first one of its pod."""
    if runtime == OURS:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(places.status_socket(namespace, id))
            credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            return int(_CREDENTIALS.unpack(credentials)[0])
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if id.encode() in words and b"containerd-shim-runc" in words[0]:
                return int(process.name)
    raise RuntimeError(f"no shim of {id}")


def pss(pid: int) -> int:
    """What a process has in memory, its part of what it shares with others included."""
    return sum(int(line.split()[1]) * 1024 for line in _rollup(pid) if line.startswith("Pss:"))


def anonymous(pid: int) -> int:
    """What a process has in memory that is no file's."""
    return sum(int(line.split()[1]) * 1024 for line in _rollup(pid) if line.startswith("Anonymous:"))


def _rollup(pid: int) -> Iterator[str]:
    yield from Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()


def pager(id: str, namespace: str = "default") -> int:
    """Private to the pager of a sleeping container; 0 without one."""
    return look(id, namespace).pager


def processes(pid: int) -> int:
    """What all of a container's processes, of which this is one, keep resident."""
    return cgroups.of(pid).resident_bytes()


def kernel(pid: int) -> int:
    """What the kernel has allocated for them."""
    stats = cgroups.of(pid).stats()
    if isinstance(stats, cgroups_v1_pb2.Metrics):
        return int(stats.memory.kernel.usage)
    return int(stats.memory.slab + stats.memory.kernel_stack)


def images(id: str) -> Path:
    """Where the image of a container of containerd's default namespace is."""
    return places.container("default", id) / "images"


def cached(id: str) -> int:
    """How much of a container's image is in the page cache (cachestat(2))."""
    return PAGE * sum(map(_cached_pages, images(id).iterdir()))


def _cached_pages(file: Path) -> int:
    everything, answer = ctypes.create_string_buffer(16), ctypes.create_string_buffer(40)
    with file.open("rb") as opened:
        libc.call("syscall", _CACHESTAT, opened.fileno(), everything, answer, 0)
    return int(struct.unpack_from("=Q", answer.raw)[0])


def cpu_seconds(pid: int) -> float:
    """That a process has used so far, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def pid_of(id: str) -> int:
    """Of the init process of one of our containers, awake or in standby."""
    return status(id).pid
