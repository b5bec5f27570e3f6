"""System V IPC of a pod: which objects go into a container's image, and which stay in the pod's namespace.

CRIU dumps all objects of the IPC namespace, and creates them at the restore. A container in a pod uses the sandbox's
namespace, which outlives it: CRIU would fail with `File exists`. So shared memory that the container has attached is
removed from the namespace after the dump, and restored from the image with its id. All other objects stay in the
namespace and are removed from the image: semaphores, message queues, and shared memory of the pod's other containers.
"""

import os
import struct
from collections import Counter
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError

from zeropod.kernel import libc, mappings
from zeropod.kernel.mappings import Area
from zeropod.kernel.namespace import CLONE_NEWIPC, entered
from zeropod.rpc.messages.ipcns_pb2 import IpcShm
from zeropod.runtime.errors import CriuError

MAGIC = 8
"""Bytes before the first record of an image: the magic number of all images and that of its kind."""

_SIZE = struct.Struct("<I")
_IPC_RMID = 0
_MAPPED = "/SYSV"
"""The prefix of a mapped segment's name; its inode is its id."""


@dataclass(frozen=True, slots=True)
class Record:
    """A segment in an image. `data` are its bytes there, preceded by their size."""

    id: int
    data: bytes


def attached(pids: Iterable[int], namespace: str) -> frozenset[int]:
    """Return the ids of the segments that these processes have attached in this namespace.

    Raises CriuError if other processes have attached one of them, too: it cannot go COLD with only some of its users.
    """
    ours: list[int] = []
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):
            ours += mapped(mappings.of(pid, sizes=False))
    if others := shared(ours, namespace):
        raise CriuError(f"another container of the pod has also attached its shared memory (shmid {others[0]})")
    return frozenset(ours)


def shared(ours: Iterable[int], namespace: str) -> list[int]:
    """Return those of these segments that are attached more often in the namespace than they are given."""
    counts = Counter(ours)
    if not counts:
        return []
    with entered(namespace, CLONE_NEWIPC):
        all_counts = attachments(Path("/proc/sysvipc/shm").read_text())
    return [segment for segment, count in counts.items() if all_counts.get(segment, 0) > count]


def attachments(table: str) -> dict[int, int]:
    """Return how often each segment in /proc/sysvipc/shm is attached, by id."""
    lines = (line.split() for line in table.splitlines()[1:])
    return {int(fields[1]): int(fields[6]) for fields in lines}


def mapped(areas: Iterable[Area]) -> list[int]:
    """Return the ids of the segments among a process's mappings, once for each mapping."""
    return [area.inode for area in areas if area.name.startswith(_MAPPED)]


def separate(images: Path, namespace: str, mine: Collection[int]) -> None:
    """After a dump, keep only the segments `mine` in the image, and only the others in the namespace."""
    for kind in ("sem", "msg"):
        for path in images.glob(f"ipcns-{kind}-*.img"):
            os.truncate(path, MAGIC)
    for path in images.glob("ipcns-shm-*.img"):
        image = path.read_bytes()
        kept = [record for record in records(image) if record.id in mine]
        path.write_bytes(image[:MAGIC] + b"".join(record.data for record in kept))
    clear(images, namespace)


def clear(images: Path, namespace: str) -> None:
    """Before a restore, remove the image's segments from the namespace, where a failed restore may have left them."""
    with suppress(StopIteration):
        image = next(images.glob("ipcns-shm-*.img")).read_bytes()
        ids = [record.id for record in records(image)]
        if ids:
            with entered(namespace, CLONE_NEWIPC):
                for segment in ids:
                    with suppress(OSError):  # EINVAL: it does not exist
                        libc.call("shmctl", segment, _IPC_RMID, None)


def records(image: bytes) -> list[Record]:
    """Return the segments in an image of shared memory. Raises CriuError if it cannot be parsed."""
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
