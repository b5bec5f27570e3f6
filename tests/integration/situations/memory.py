"""Situations of memory and its accounts: mappings that change while their pages are out, limits, statistics."""

import itertools
import json
import operator
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.message import Message
from tests.integration import containerd, node
from tests.integration.endpoint import Refused
from tests.integration.protos import containerd_services_pb2 as api
from tests.integration.protos import cri_v1_pb2 as v1
from tests.integration.situations.scene import Scene, Situation, Subject
from tests.integration.situations.subject import MEBIBYTE

from zeropod.rpc.messages import cgroups_v1_pb2, cgroups_v2_pb2
from zeropod.runtime.cgroups.sleeping import Kind, kind_of

METRICS: dict[str, type[Message]] = {
    "io.containerd.cgroups.v1.Metrics": cgroups_v1_pb2.Metrics,
    "io.containerd.cgroups.v2.Metrics": cgroups_v2_pb2.Metrics,
}


def mappings_that_change_while_their_pages_are_out(scene: Scene) -> Iterator[None]:
    one = scene.subject()
    one.tell("""
        SIZE, PAGE = 16 << 20, 4096
        libc.mmap.restype = libc.mremap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
        libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
        libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        libc.mprotect.argtypes = libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        def pages(seed):
            return random.Random(seed).randbytes(SIZE)
        def area(seed, flags=0x22):
            at = libc.mmap(None, SIZE, 3, flags, -1, 0)
            ctypes.memmove(at, pages(seed), SIZE)
            return at
        def bytes_at(at, size):
            return ctypes.string_at(at, size)
        cut, moved, grown, given_up, kept_at, protected = (area(seed) for seed in range(6))
        shared = area(6, 0x21)
    """)
    yield
    one.sleeps_still()
    # All in one go: the first pages that it needs are still out, and the pager works beside it.
    assert (
        one.tell("""
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            fine = bytes_at(kept_at, SIZE) == pages(4) and bytes_at(shared, SIZE) == pages(6)
            ctypes.memset(kept_at, 0, PAGE)
            os.write(write, b"1" if fine and digest() and bytes_at(moved, SIZE) == pages(1) else b"0")
            os._exit(0)
        libc.munmap(cut + SIZE // 4, SIZE // 2)
        new = libc.mmap(None, SIZE, 0, 0x22, -1, 0)
        moved = libc.mremap(moved, SIZE, SIZE, 3, new)
        grown = libc.mremap(grown, SIZE, 2 * SIZE, 1, None)
        libc.madvise(given_up + SIZE // 2, SIZE // 2, 4)        # MADV_DONTNEED
        libc.mprotect(protected, SIZE, 1)
        again = libc.mmap(cut + SIZE // 4, PAGE * 16, 3, 0x32, -1, 0)   # MAP_FIXED into the hole
        ctypes.memset(again, 0x7E, PAGE)
        results = {
            "head": bytes_at(cut, SIZE // 4) == pages(0)[:SIZE // 4],
            "tail": bytes_at(cut + SIZE // 4 * 3, SIZE // 4) == pages(0)[SIZE // 4 * 3:],
            "hole": bytes_at(again, 2 * PAGE) == b"\\x7e" * PAGE + bytes(PAGE),
            "moved": bytes_at(moved, SIZE) == pages(1),
            "grown": bytes_at(grown, SIZE) == pages(2) and not any(bytes_at(grown + SIZE, SIZE)),
            "kept half": bytes_at(given_up, SIZE // 2) == pages(3)[:SIZE // 2],
            "given up half": not any(bytes_at(given_up + SIZE // 2, SIZE // 2)),
            "protected": bytes_at(protected, SIZE) == pages(5),
            "child": os.read(read, 1) == b"1",
            "not the child's": bytes_at(kept_at, SIZE) == pages(4),
            "shared": bytes_at(shared, SIZE) == pages(6),
        }
        os.waitpid(child, 0)
        [name for name, fine in results.items() if not fine]
    """)
        == []
    )
    one.standby()
    time.sleep(0.5)
    assert (
        one.tell("""
        [bytes_at(moved, SIZE) == pages(1), bytes_at(protected, SIZE) == pages(5), bytes_at(kept_at, SIZE) == pages(4),
         bytes_at(grown, SIZE) == pages(2), bytes_at(again, PAGE) == b"\\x7e" * PAGE]
    """)
        == [True] * 5
    )
    one.is_whole()


def _limit(subject: Subject) -> int:
    """The limit of memory that the kernel has for it."""
    unified = ""
    for line in Path(f"/proc/{subject.status.pid}/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if "memory" in names.split(","):
            return int((Path("/sys/fs/cgroup/memory") / path.lstrip("/") / "memory.limit_in_bytes").read_text())
        unified = path
    return int((Path("/sys/fs/cgroup") / unified.lstrip("/") / "memory.max").read_text())


def memory_limit_that_is_lowered_while_asleep(scene: Scene) -> Iterator[None]:
    def limited(size: int) -> v1.LinuxContainerResources:
        return v1.LinuxContainerResources(
            memory_limit_in_bytes=size * MEBIBYTE, memory_swap_limit_in_bytes=size * MEBIBYTE, cpu_shares=512
        )

    one = scene.subject(64, resources=limited(256))
    spec = Path(f"{node.TASKS}/k8s.io/{one.id}/config.json")
    yield
    one.sleeps_still()
    before = spec.read_text()
    # With its memory out it takes a few MiB, so the kernel alone would not mind.
    with pytest.raises(Refused) as refused:
        scene.kubelet.update_container_resources(one.id, limited(40))
    for part in ("40 MiB", "MiB) to come back", "zeropod wake"):
        assert part in refused.value.message, refused.value.message
    assert (_limit(one), spec.read_text()) == (256 * MEBIBYTE, before)
    one.sleeps_still()
    scene.kubelet.update_container_resources(one.id, limited(120))
    assert _limit(one) == 120 * MEBIBYTE
    assert json.loads(spec.read_text())["linux"]["resources"]["memory"]["limit"] == 120 * MEBIBYTE
    one.sleeps_still()
    one.is_whole()
    one.standby()
    # It is the limit of all it takes that counts, not that of the moment: a wake does not end it.
    one.is_whole()
    assert one.cri.state == "RUNNING"


def wake_near_the_memory_limit(scene: Scene) -> Iterator[None]:
    size = 64 * MEBIBYTE
    limit = v1.LinuxContainerResources(memory_limit_in_bytes=size, memory_swap_limit_in_bytes=size)
    one = scene.subject(40, resources=limit)
    yield
    one.sleeps_still()
    for _ in range(3):
        one.is_whole()
        one.standby()
    assert one.cri.state == "RUNNING"


def counters(message: Message, prefix: str = "") -> dict[str, list[int]]:
    """Every counter of a container's metrics that is set, by its dotted name."""
    found: dict[str, list[int]] = {}
    for field, value in message.ListFields():
        name = f"{prefix}{field.name}"
        match kind_of(field):
            case Kind.COUNTER:
                found[name] = list(value) if field.is_repeated else [value]
            case None if not field.is_repeated:
                found |= counters(value, f"{name}.")
    return found


def statistics_never_go_backwards(scene: Scene) -> Iterator[None]:
    one = scene.subject()
    client = scene.stack.enter_context(containerd.Containerd("k8s.io"))
    seen: list[tuple[float, dict[str, list[int]]]] = []
    over: list[bool] = []

    def watch() -> None:
        while not over:
            request = api.MetricsRequest(filters=[f"id=={one.id}"])
            data = client.tasks("Metrics", request, api.MetricsResponse).metrics[0].data
            message = METRICS[data.type_url.rpartition("/")[2]].FromString(data.value)
            seen.append((time.monotonic(), counters(message)))
            time.sleep(0.2)

    watching = scene.background(watch)
    scene.stack.callback(over.append, True)
    one.tell("digest()")
    yield
    one.sleeps_still()
    asleep = len(seen)
    assert asleep > 5
    assert one.cri.exec("true").exit_code == 0  # a nap
    for _ in range(2):
        one.tell("[digest() for _ in range(3)] and None")
        one.standby()
        time.sleep(0.5)
    over.append(True)
    watching.result(10)
    names = [name for name in seen[0][1] if name.partition(".")[0] in ("cpu", "memory")]
    assert any("usage" in name for name in names), names
    for (_, before), (_, after) in itertools.pairwise(seen):
        assert [name for name in names if any(map(operator.lt, after[name], before[name]))] == []
    usage = next(name for name in names if name.endswith(("usage.total", "usage_usec")))
    assert seen[-1][1][usage] > seen[asleep - 1][1][usage]
    one.is_whole()


SITUATIONS: tuple[Situation, ...] = (
    mappings_that_change_while_their_pages_are_out,
    memory_limit_that_is_lowered_while_asleep,
    wake_near_the_memory_limit,
    statistics_never_go_backwards,
)
