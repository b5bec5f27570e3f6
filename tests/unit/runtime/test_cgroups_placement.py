"""Which directory is a process's own, on v1, hybrid and v2 nodes and inside a cgroup namespace."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeropod.kernel import mountinfo
from zeropod.runtime import cgroups
from zeropod.runtime.cgroups import placement
from zeropod.runtime.cgroups.placement import UNIFIED, CgroupMount, below

SEPARATE = """\
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
33 31 0:30 / /sys/fs/cgroup/cpuacct rw,relatime - cgroup cgroup rw,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
37 31 0:34 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""
JOINED = """\
33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 master:2 - cgroup cgroup rw,cpu,cpuacct
37 31 0:34 / /sys/fs/cgroup/freezer rw,nosuid shared:10 - cgroup cgroup rw,freezer
"""
V2 = "41 31 0:38 / /sys/fs/cgroup rw,nosuid,nodev shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
SYSTEM = Path("/sys/fs/cgroup")


def directories(cgroup: str, mounts: str) -> dict[str, Path]:
    return placement.directories(cgroup, mountinfo.parse(mounts))


def cgroup_mounts(mounts: str) -> list[CgroupMount]:
    return placement.cgroup_mounts(mountinfo.parse(mounts))


def test_each_v1_controller_has_its_own_directory() -> None:
    controllers = ["cpu", "cpuacct", "memory", "freezer", "name=systemd"]
    text = "".join(f"{number}:{name}:/k8s/c1\n" for number, name in enumerate(controllers, 1)) + "0::/\n"
    assert directories(text, SEPARATE) == {
        "name=systemd": SYSTEM / "systemd/k8s/c1",
        "freezer": SYSTEM / "freezer/k8s/c1",
        "memory": SYSTEM / "memory/k8s/c1",
        "cpuacct": SYSTEM / "cpuacct/k8s/c1",
        "cpu": SYSTEM / "cpu/k8s/c1",
    }


def test_controllers_mounted_together_share_a_directory() -> None:
    found = directories("4:freezer:/c1\n2:cpu,cpuacct:/c1\n", JOINED)
    assert found["cpu"] == found["cpuacct"] == SYSTEM / "cpu,cpuacct/c1"


def test_a_v2_process_has_one_directory() -> None:
    assert directories("0::/kubepods.slice/c1\n", V2) == {UNIFIED: SYSTEM / "kubepods.slice/c1"}


def test_a_mount_that_begins_below_the_root_is_taken_into_account() -> None:
    mount = "37 31 0:34 /docker/node /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n"
    assert directories("4:freezer:/docker/node/c1\n", mount) == {"freezer": SYSTEM / "freezer/c1"}
    assert directories("4:freezer:/docker/nodes/c1\n", mount) == {}


def test_cgroups_above_the_namespace_are_found_if_the_mount_shows_them() -> None:
    above = V2.replace(" / /sys", " /.. /sys")
    assert directories("0::/../sibling\n", above) == {UNIFIED: SYSTEM / "sibling"}
    assert directories("0::/../sibling\n", V2) == {}
    assert directories("0::/../../cousin\n", above) == {}


def test_a_process_at_the_root_has_no_cgroup_of_its_own() -> None:
    # The kernel shows a zombie at the root of every v1 hierarchy.
    assert directories("4:freezer:/\n3:memory:/\n0::/\n", SEPARATE) == {}


def test_a_removed_cgroup_is_not_mistaken_for_a_new_one_of_its_name() -> None:
    assert directories("4:freezer:/c1 (deleted)\n3:memory:/c1\n", SEPARATE) == {"memory": SYSTEM / "memory/c1"}


def test_of_two_mounts_on_one_place_the_later_hides_the_earlier() -> None:
    hidden = V2.replace(" / /sys", " /elsewhere /sys")
    assert directories("0::/c1\n", hidden + V2) == {UNIFIED: SYSTEM / "c1"}
    covered = V2 + "50 41 0:60 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
    assert cgroup_mounts(covered) == []


def test_spaces_in_a_mount_point_are_unescaped() -> None:
    mount = r"41 31 0:38 / /mnt/my\040cgroups\134 rw - cgroup2 cgroup2 rw"
    assert cgroup_mounts(mount)[0].mount_point == Path("/mnt/my cgroups\\")


parts = st.lists(st.from_regex(r"[a-z0-9_.-]*[a-z0-9]", fullmatch=True), max_size=4)


@given(parts, parts)
def test_a_path_below_a_root_is_root_and_rest(root: list[str], rest: list[str]) -> None:
    assert below("/" + "/".join(root), "/" + "/".join(root + rest)) == "/".join(rest)


def test_v1_wins_on_a_hybrid_node_and_v2_where_v1_has_only_a_name() -> None:
    hybrid = cgroups.at({"freezer": SYSTEM / "freezer/c1", UNIFIED: SYSTEM / "unified/c1"})
    assert isinstance(hybrid, cgroups.CgroupV1)
    assert hybrid.paths == {"freezer": "/sys/fs/cgroup/freezer/c1"}
    named = cgroups.at({"name=systemd": "/sys/fs/cgroup/systemd/c1", UNIFIED: "/sys/fs/cgroup/unified/c1"})
    assert isinstance(named, cgroups.CgroupV2)
    assert named.directory == SYSTEM / "unified/c1"


def test_paths_lead_back_to_the_same_cgroup() -> None:
    cgroup = cgroups.at({"freezer": "/sys/fs/cgroup/freezer/c1", "memory": "/sys/fs/cgroup/memory/c1"})
    assert cgroups.at(cgroup.paths).paths == cgroup.paths


def test_without_any_controller_there_is_no_cgroup() -> None:
    with pytest.raises(cgroups.CgroupNotFound, match="name=systemd"):
        cgroups.at({"name=systemd": "/sys/fs/cgroup/systemd/c1"})
    with pytest.raises(cgroups.CgroupNotFound, match="there are none"):
        cgroups.at({})


def test_a_process_that_is_gone_has_no_cgroup() -> None:
    with pytest.raises(cgroups.CgroupNotFound, match="4194305 is gone"):
        # One more than the highest process id there can be.
        cgroups.of(4_194_305)
