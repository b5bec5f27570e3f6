"""Nothing outside of root reaches a shim's socket or reads an image: an image holds all memory of a container."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator

import pytest
from tests.integration.cri import Container, Cri
from tests.integration.sleep.helpers.shims import until_state

from zeropod import paths as places

PLACES = ("/run/zeropod", "/var/lib/zeropod", "/run/containerd/s")

# Run as nobody: says which of the paths on its standard input it can get at.
INTRUDER = """
import os, socket, stat, sys
for path in sys.stdin.read().splitlines():
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISSOCK(mode):
            socket.socket(socket.AF_UNIX).connect(path)
        elif stat.S_ISDIR(mode):
            os.listdir(path)
        else:
            os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        continue
    print(path)
"""


@pytest.fixture
def sleeping(cri: Cri) -> Iterator[Container]:
    """A container with an image on disk, beside one that is awake."""
    annotations = {
        "zeropod.ctrox.dev/scaledown-duration": "500ms",
        "zeropod.ctrox.dev/container-names": "redis",
        "zeropod.ctrox.dev/standby": "false",
    }
    with cri.pod(annotations=annotations) as pod:
        pod.container("awake", "localhost/nginx:test")
        redis = pod.container("redis", "localhost/redis:test")
        redis.exec("redis-cli", "set", "password", "hunter2")
        until_state(redis.id, "COLD", 30)
        yield redis


def everything(*places: str) -> list[str]:
    found = []
    for place in places:
        for directory, names, files in os.walk(place):
            found += [os.path.join(directory, name) for name in names + files]
    return [*places, *found]


def as_nobody(paths: list[str]) -> list[str]:
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c", INTRUDER],
        input="\n".join(paths), capture_output=True, text=True, timeout=30, check=True, env={},
    )  # fmt: skip
    return done.stdout.splitlines()


def test_nobody_gets_at_any_image_or_socket(sleeping: Container) -> None:
    paths = everything(*PLACES, f"/run/containerd/io.containerd.runtime.v2.task/k8s.io/{sleeping.id}")
    assert any(path.endswith("pages-1.img") for path in paths), "no image to protect"
    assert any(stat.S_ISSOCK(os.lstat(path).st_mode) for path in paths), "no socket to protect"
    # Where the node's /run/zeropod is only passed through, as containerd's own, its name may be seen but nothing in it.
    assert [path for path in as_nobody(paths) if path != "/run/zeropod"] == []


def test_the_intruder_of_these_tests_gets_at_what_is_open(sleeping: Container) -> None:
    assert as_nobody(["/etc/passwd", "/etc"]) == ["/etc/passwd", "/etc"]


def test_images_are_for_their_owner_alone_on_every_level(sleeping: Container) -> None:
    for path in everything(str(places.CONTAINERS)):
        status = os.lstat(path)
        assert status.st_uid == 0, path
        if stat.S_ISDIR(status.st_mode):
            assert stat.S_IMODE(status.st_mode) & 0o077 == 0, f"{path} is {oct(status.st_mode)}"


def test_sockets_are_for_root_alone_even_without_their_directories(sleeping: Container) -> None:
    """But for the status sockets, which are the manager's group's, too."""
    sockets = [path for path in everything(*PLACES) if stat.S_ISSOCK(os.lstat(path).st_mode)]
    assert sockets
    assert any(path.startswith(places.STATUS_SOCKETS) for path in sockets)
    for path in sockets:
        status = os.lstat(path)
        of_group = 0o060 if path.startswith(places.STATUS_SOCKETS) else 0
        assert (status.st_uid, stat.S_IMODE(status.st_mode) & 0o177 & ~of_group) == (0, 0), oct(status.st_mode)
        assert not of_group or status.st_gid == places.MANAGER_GROUP


def test_a_shim_listens_on_no_abstract_socket(sleeping: Container) -> None:
    with open("/proc/net/unix") as file:
        rows = [line.split() for line in file][1:]
    assert [row[7] for row in rows if len(row) == 8 and row[7].startswith("@") and row[3] == "00010000"] == []
