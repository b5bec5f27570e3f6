"""Where things are on a node: no two containers share a place, and none leads out of its directory."""

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from zeropod import paths
from zeropod.installer import wrappers

IDENTIFIERS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,75}", fullmatch=True)
# Few letters, so that what differs is where one name ends and the next one begins.
SIMILAR = st.from_regex(r"[ab][ab._-]{0,3}", fullmatch=True)
PLACES = {
    "container": (paths.container, paths.CONTAINERS),
    "store": (paths.store, paths.CONTAINERS),
    "reservation": (paths.reservation, paths.CONTAINERS),
    "network": (paths.network, paths.NETWORKS),
    "tmpfs": (paths.tmpfs, paths.TMPFS),
    "pod": (paths.pod, paths.PODS),
    "status_socket": (lambda *names: Path(paths.status_socket(*names)), Path(paths.STATUS_SOCKETS)),
}

Place = Callable[[str, str], Path]
EACH = pytest.mark.parametrize(("place", "top"), PLACES.values(), ids=PLACES)


@EACH
@given(one=st.tuples(SIMILAR, SIMILAR), other=st.tuples(SIMILAR, SIMILAR))
def test_two_containers_never_have_the_same_place(
    place: Place, top: Path, one: tuple[str, str], other: tuple[str, str]
) -> None:
    assume(one != other)
    first, second = place(*one), place(*other)
    assert first != second
    assert first not in second.parents
    assert second not in first.parents


@EACH
def test_names_that_are_the_same_side_by_side_are_two(place: Place, top: Path) -> None:
    assert len({place("a-b", "c"), place("a", "b-c"), place("a", "b.c"), place("a.b", "c")}) == 4


@EACH
@given(namespace=IDENTIFIERS, id=IDENTIFIERS)
def test_every_place_is_below_its_directory(place: Place, top: Path, namespace: str, id: str) -> None:
    found = Path(os.path.normpath(place(namespace, id)))
    assert top in found.parents
    assert found == place(namespace, id)


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/etc", ".lock", "a\n", "a\0", "é", "-a", "a" * 77])
def test_what_is_not_containerds_is_refused(name: str) -> None:
    assert not paths.is_identifier(name)
    for place, _ in PLACES.values():
        with pytest.raises(ValueError, match="not an identifier"):
            place(name, "web")
        if place is not paths.pod:
            with pytest.raises(ValueError, match="not an identifier"):
                place("default", name)


@given(st.text(), st.text())
def test_a_group_may_be_any_text(one: str, other: str) -> None:
    assert paths.pod("default", one).parent == paths.PODS / "default"
    assert ".." not in paths.pod("default", one).parts
    assert (paths.pod("default", one) == paths.pod("default", other)) == (one == other)


@given(IDENTIFIERS, IDENTIFIERS)
def test_a_status_socket_has_room_in_an_address(namespace: str, id: str) -> None:
    assert len(os.fsencode(f"{paths.status_socket(namespace, id)}.new")) <= 107


def test_what_is_made_is_for_root_alone_all_the_way(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        for _ in range(2):
            paths.make_private(tmp_path / "a" / "b" / "c")
    finally:
        os.umask(before)
    made = [tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a" / "b" / "c"]
    assert [stat.S_IMODE(path.stat().st_mode) for path in made] == [0o700] * 3


def test_what_is_no_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        paths.make_private(tmp_path / "file")
    with pytest.raises(NotADirectoryError):
        paths.make_private(tmp_path / "file" / "a")


@pytest.mark.parametrize("root", ["/opt/zeropod", "/home/kubernetes/bin/zeropod"])
def test_what_an_administrator_has_configured_is_below_the_install_root(root: str, tmp_path: Path) -> None:
    print_it = "from zeropod import paths; print(paths.PROGRAMS, paths.NODE_CONFIG)"
    program = tmp_path / "bin" / "zeropod.pyz"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{print_it}'\n")
    program.chmod(0o755)
    script = wrappers.mode(root).replace(f"exec {root}/", f"exec {tmp_path}/")
    source = {"PYTHONPATH": str(Path(paths.__file__).parents[1]), "PATH": os.environ["PATH"]}
    done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=True, env=source)
    assert done.stdout.split() == [f"{root}/bin", f"{root}/etc/zeropod.toml"]
