"""System V IPC of a pod: what of it is in a container's image, and what stays in the pod's namespace.

CRIU dumps whatever the IPC namespace has, and makes it again at the restore. A container in a pod is in the sandbox's
namespace, which goes on without it: CRIU would fail with `File exists`. So the shared memory that the container has
attached leaves the namespace with it, and comes back out of the image, with its id; all else stays where it is, and is
taken out of the image: semaphores, message queues, and what the pod's other containers share among themselves.
"""

import os
import struct
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError

from zeropod.kernel import libc
from zeropod.kernel.namespace import CLONE_NEWIPC, entered
from zeropod.rpc.messages.ipcns_pb2 import IpcShm
from zeropod.runtime.errors import CriuError

MAGIC = 8
"""Bytes before the first record of an image: the magic of all images, and that of its kind."""

_SIZE = struct.Struct("<I")
_IPC_RMID = 0
_MAPPED = "/SYSV"
"""What the name of a mapped segment begins with in /proc/PID/maps; its inode there is its id."""


@dataclass(frozen=True, slots=True)
class Record:
    """A segment in an image. `data` are its bytes there, with their size before them."""

    id: int
    data: bytes


def attached(pids: Iterable[int], namespace: str) -> frozenset[int]:
    """The ids of the segments that these processes have attached, in this namespace.

    Raises CriuError if others have attached one of them, too: it cannot sleep with only one of its users.
    """
    with entered(namespace, CLONE_NEWIPC):
        everybodys = attachments(Path("/proc/sysvipc/shm").read_text())
    if not any(everybodys.values()):
        return frozenset()
    ours: dict[int, int] = {}
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):
            for segment in mapped(Path(f"/proc/{pid}/maps").read_text()):
                ours[segment] = ours.get(segment, 0) + 1
    for segment, count in ours.items():
        if everybodys.get(segment, 0) > count:
            raise CriuError(f"another container of the pod has attached its shared memory (shmid {segment}), too")
    return frozenset(ours)


def attachments(table: str) -> dict[int, int]:
    """How often each segment in /proc/sysvipc/shm is attached, by its id."""
    lines = (line.split() for line in table.splitlines()[1:])
    return {int(fields[1]): int(fields[6]) for fields in lines}


def mapped(maps: str) -> list[int]:
    """The ids of the segments in a process's /proc/PID/maps, once for each of their mappings."""
    lines = (line.split(maxsplit=5) for line in maps.splitlines() if _MAPPED in line)
    return [int(fields[4]) for fields in lines if fields[5].startswith(_MAPPED)]


def sort_out(images: Path, namespace: str, mine: Collection[int]) -> None:
    """After the dump: only the segments `mine` stay in the image, and only the others in the namespace."""
    for kind in ("sem", "msg"):
        for path in images.glob(f"ipcns-{kind}-*.img"):
            os.truncate(path, MAGIC)
    for path in images.glob("ipcns-shm-*.img"):
        image = path.read_bytes()
        kept = [record for record in records(image) if record.id in mine]
        path.write_bytes(image[:MAGIC] + b"".join(record.data for record in kept))
    clear(images, namespace)


def clear(images: Path, namespace: str) -> None:
    """Before a restore: what the image will bring must not be there, be it of a restore that has failed."""
    with suppress(StopIteration):
        image = next(images.glob("ipcns-shm-*.img")).read_bytes()
        ids = [record.id for record in records(image)]
        if ids:
            with entered(namespace, CLONE_NEWIPC):
                for segment in ids:
                    with suppress(OSError):  # EINVAL: it is not there
                        libc.call("shmctl", segment, _IPC_RMID, None)


def records(image: bytes) -> list[Record]:
    """The segments in an image of shared memory. Raises CriuError for what is none."""
    found, at = [], MAGIC
    while at < len(image):
        end = at + _SIZE.size + int.from_bytes(image[at : at + _SIZE.size], "little")
        try:
            segment = IpcShm.FromString(image[at + _SIZE.size : end])
        except DecodeError as error:
            raise CriuError(f"the image of System V shared memory cannot be read: {error}") from error
        if end > len(image) or not segment.in_pagemaps:
            raise CriuError("the image of System V shared memory cannot be read: it has another form than CRIU 4.2's")
        found.append(Record(segment.desc.id, image[at:end]))
        at = end
    return found
