"""From cgroup files to containerd's metrics messages.

The directories are plain ones, with the files' texts as Linux 6 writes them; the integration tests read real
cgroups.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from zeropod.rpc.messages import cgroups_v1_pb2 as v1
from zeropod.rpc.messages import cgroups_v2_pb2 as v2
from zeropod.runtime.cgroups import Cgroup, CgroupV1, CgroupV2, metrics_v1, metrics_v2
from zeropod.runtime.cgroups.fill import fill

UNLIMITED = 2**64 - 1


def lay(directory: Path, files: Mapping[str, str]) -> Path:
    directory.mkdir(exist_ok=True)
    for name, text in files.items():
        (directory / name).write_text(text)
    return directory


V2_FILES = {
    "pids.current": "3\n",
    "pids.max": "max\n",
    "cpu.stat": """\
usage_usec 4081
user_usec 3000
system_usec 1081
nice_usec 0
core_sched.force_idle_usec 0
nr_periods 5
nr_throttled 2
throttled_usec 77
nr_bursts 4
burst_usec 44
""",
    "cpu.pressure": """\
some avg10=0.25 avg60=0.00 avg300=0.00 total=1234
full avg10=0.00 avg60=0.00 avg300=0.00 total=9
""",
    "memory.stat": """\
anon 1048576
file 4096
kernel 90
kernel_stack 16384
file_mapped 2048
pgfault 33
workingset_refault_anon 2
workingset_refault_file 5
thp_fault_alloc 1
""",
    "memory.current": "2000000\n",
    "memory.max": "4000000\n",
    "memory.peak": "3000000\n",
    "memory.swap.current": "0\n",
    "memory.swap.max": "max\n",
    "memory.events": "low 0\nhigh 0\nmax 4\noom 1\noom_kill 1\noom_group_kill 0\n",
    "io.stat": "8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n254:0 \n",
    "hugetlb.2MB.current": "2097152\n",
    "hugetlb.2MB.max": "max\n",
    "hugetlb.2MB.rsvd.current": "0\n",
    "rdma.current": "mlx4_0 hca_handle=2 hca_object=2000\n",
    "rdma.max": "mlx4_0 hca_handle=2 hca_object=max\n",
}


def test_a_v2_cgroup_is_reported_as_containerd_does(tmp_path: Path) -> None:
    found = CgroupV2({"": lay(tmp_path, V2_FILES)}).stats()
    assert found.pids == v2.PidsStat(current=3, limit=UNLIMITED)
    cpu = found.cpu
    assert (cpu.usage_usec, cpu.user_usec, cpu.system_usec) == (4081, 3000, 1081)
    assert (cpu.nr_periods, cpu.nr_throttled, cpu.throttled_usec) == (5, 2, 77)
    assert (cpu.nr_bursts, cpu.burst_usec) == (4, 44)
    assert cpu.psi == v2.PSIStats(some=v2.PSIData(avg10=0.25, total=1234), full=v2.PSIData(total=9))
    assert not found.memory.HasField("psi")
    memory = found.memory
    assert (memory.anon, memory.pgfault, memory.thp_fault_alloc) == (1048576, 33, 1)
    assert memory.workingset_refault == 7
    assert (memory.usage, memory.usage_limit, memory.max_usage) == (2000000, 4000000, 3000000)
    assert (memory.swap_usage, memory.swap_limit) == (0, UNLIMITED)
    assert found.memory_events == v2.MemoryEvents(max=4, oom=1, oom_kill=1)
    assert list(found.io.usage) == [
        v2.IOEntry(major=8, minor=0, rbytes=4096, wbytes=8192, rios=1, wios=2),
        v2.IOEntry(major=254, minor=0),
    ]
    assert list(found.hugetlb) == [v2.HugeTlbStat(pagesize="2MB", current=2097152, max=UNLIMITED)]
    assert list(found.rdma.current) == [v2.RdmaEntry(device="mlx4_0", hca_handles=2, hca_objects=2000)]
    assert list(found.rdma.limit) == [v2.RdmaEntry(device="mlx4_0", hca_handles=2, hca_objects=2**32 - 1)]


def test_oom_kills_are_read_from_a_v2_cgroup(tmp_path: Path) -> None:
    cgroup = CgroupV2({"": lay(tmp_path, V2_FILES)})
    assert cgroup.oom_kills() == 1


def v2_keeping(directory: Path, **stat: int) -> CgroupV2:
    text = "".join(f"{key} {value}\n" for key, value in {"file": 900, "file_mapped": 800, **stat}.items())
    return CgroupV2({"": lay(directory, {"memory.stat": text})})


def v1_keeping(directory: Path, **stat: int) -> CgroupV1:
    stat["rss"] = stat.pop("anon", 0)
    counts = {"cache": 900, "mapped_file": 800, **stat}
    own = "".join(f"{key} 1\n" for key in counts)
    text = own + "".join(f"total_{key} {value}\n" for key, value in counts.items())
    return CgroupV1({"memory": lay(directory, {"memory.stat": text})})


@pytest.mark.parametrize("keeping", [v1_keeping, v2_keeping])
@pytest.mark.parametrize(
    ("stat", "resident"),
    [
        ({}, 0),
        ({"anon": 100}, 100),
        # Restored shared memory, into which no process has looked yet: it is not mapped, but it is there.
        ({"anon": 100, "shmem": 5000}, 5100),
        ({"anon": 100, "shmem": 50, "unevictable": 120}, 150),
        # mlockall(2): the program's files, too, which otherwise could be read again.
        ({"anon": 100, "shmem": 50, "unevictable": 700}, 700),
    ],
)
def test_resident_is_what_stays_in_memory_and_not_what_can_be_read_again(
    tmp_path: Path, keeping: Callable[..., Cgroup], stat: dict[str, int], resident: int
) -> None:
    assert keeping(tmp_path, **stat).resident_bytes() == resident


def test_huge_pages_are_resident_beside_all_others(tmp_path: Path) -> None:
    sizes = {"2MB": 4 << 20, "1GB": 1 << 30}
    unified = {f"hugetlb.{size}.current": str(used) for size, used in sizes.items()}
    unified |= {f"hugetlb.{size}.rsvd.current": str(7 << 30) for size in sizes}
    total = sum(sizes.values())
    assert CgroupV2({"": lay(tmp_path, {**unified, "memory.stat": "anon 5\n"})}).resident_bytes() == total + 5
    split = {f"hugetlb.{size}.usage_in_bytes": str(used) for size, used in sizes.items()}
    split |= {f"hugetlb.{size}.rsvd.usage_in_bytes": str(7 << 30) for size in sizes}
    assert CgroupV1({"hugetlb": lay(tmp_path / "v1", split)}).resident_bytes() == total


def test_pressure_is_read_as_shares_and_a_total() -> None:
    assert metrics_v2.pressure(V2_FILES["cpu.pressure"]) == {
        "psi": {
            "some": {"avg10": 0.25, "avg60": 0.0, "avg300": 0.0, "total": 1234},
            "full": {"avg10": 0.0, "avg60": 0.0, "avg300": 0.0, "total": 9},
        }
    }
    assert metrics_v2.pressure(None) == {}


def test_a_v2_cgroup_without_controllers_reports_zeroes(tmp_path: Path) -> None:
    found = CgroupV2({"": tmp_path}).stats()
    # containerd answers with these parts whatever is enabled.
    assert found.HasField("cpu")
    assert found.HasField("memory")
    assert found.HasField("pids")
    assert found.HasField("io")
    assert not found.HasField("memory_events")
    assert found.memory.usage == 0


V1_MEMORY = {
    "memory.stat": """\
cache 10
rss 20
swap 30
pgpgin 4
pgmajfault 1
hierarchical_memory_limit 5000
hierarchical_memsw_limit 6000
total_cache 11
total_rss 21
total_shmem 3
total_mapped_file 2
total_pgpgin 5
""",
    "memory.oom_control": "oom_kill_disable 0\nunder_oom 1\noom_kill 2\n",
    "memory.usage_in_bytes": "100\n",
    "memory.limit_in_bytes": "5000\n",
    "memory.max_usage_in_bytes": "200\n",
    "memory.failcnt": "6\n",
    "memory.kmem.tcp.usage_in_bytes": "7\n",
}


def test_a_v1_cgroup_is_reported_as_containerd_does(tmp_path: Path) -> None:
    cgroup = CgroupV1(
        {
            "memory": lay(tmp_path / "memory", V1_MEMORY),
            "cpuacct": lay(
                tmp_path / "cpu",
                {
                    "cpuacct.usage": "900\n",
                    "cpuacct.usage_percpu": "400 500 \n",
                    "cpuacct.stat": "user 3\nsystem 2\n",
                },
            ),
            "cpu": lay(tmp_path / "cpu", {"cpu.stat": "nr_periods 8\nnr_throttled 7\nthrottled_time 6\n"}),
            "pids": lay(tmp_path / "pids", {"pids.current": "3\n", "pids.max": "max\n"}),
            "hugetlb": lay(
                tmp_path / "hugetlb",
                {
                    "hugetlb.2MB.usage_in_bytes": "1\n",
                    "hugetlb.2MB.max_usage_in_bytes": "2\n",
                    "hugetlb.2MB.failcnt": "3\n",
                    "hugetlb.2MB.rsvd.usage_in_bytes": "4\n",
                },
            ),
        }
    )
    found = cgroup.stats()
    assert found.pids == v1.PidsStat(current=3)
    assert found.cpu == v1.CPUStat(
        usage=v1.CPUUsage(total=900, user=30_000_000, kernel=20_000_000, per_cpu=[400, 500]),
        throttling=v1.Throttle(periods=8, throttled_periods=7, throttled_time=6),
    )
    memory = found.memory
    assert (memory.cache, memory.rss, memory.pg_pg_in, memory.pg_maj_fault) == (10, 20, 4, 1)
    assert (memory.total_cache, memory.total_rss, memory.total_pg_pg_in) == (11, 21, 5)
    assert (memory.hierarchical_memory_limit, memory.hierarchical_swap_limit) == (5000, 6000)
    assert memory.usage == v1.MemoryEntry(limit=5000, usage=100, max=200, failcnt=6)
    assert memory.kernel_tcp == v1.MemoryEntry(usage=7)
    # memory.stat's own `swap` is something else than the message's.
    assert memory.swap == v1.MemoryEntry()
    assert found.memory_oom_control == v1.MemoryOomControl(under_oom=1, oom_kill=2)
    assert list(found.hugetlb) == [v1.HugetlbStat(pagesize="2MB", usage=1, max=2, failcnt=3)]
    assert cgroup.oom_kills() == 2


def test_a_v1_controller_that_is_not_mounted_is_left_out(tmp_path: Path) -> None:
    found = CgroupV1({"freezer": tmp_path}).stats()
    assert [field.name for field, _ in found.ListFields()] == ["cpu", "blkio"]


def test_io_is_what_the_throttling_layer_counts(tmp_path: Path) -> None:
    throttle = {"blkio.throttle.io_service_bytes_recursive": "254:0 Read 512\n254:0 Total 512\nTotal 512\n"}
    found = metrics_v1.metrics({"blkio": lay(tmp_path, throttle)}).blkio
    entries = [(entry.op, entry.value) for entry in found.io_service_bytes_recursive]
    assert entries == [("Read", 512), ("Total", 512)]


def test_names_the_message_does_not_know_are_left_out_and_empty_parts_are_present() -> None:
    message = v1.Metrics()
    fill(message, {"cpu": {"usage": {}, "invented": {"total": 1}}, "unheard_of": 3})
    assert message.cpu.HasField("usage")
    assert not message.cpu.HasField("throttling")
