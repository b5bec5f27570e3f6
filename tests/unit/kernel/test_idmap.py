import os

import pytest

from zeropod.kernel import idmap


def test_mappings_are_written_as_the_kernel_wants_them() -> None:
    assert idmap._lines("0:131072:65536") == "0 131072 65536\n"
    assert idmap._lines("0:1000:1,1:2000:10") == "0 1000 1\n1 2000 10\n"


@pytest.mark.parametrize("wrong", ["", "0:1", "0:1:2:3", "a:b:c"])
def test_what_is_no_mapping_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"mapping|invalid literal"):
        idmap._lines(wrong)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_user_namespace_has_its_mappings_and_leaves_no_process() -> None:
    with idmap.user_namespace("0:131072:65536", "0:131072:65536") as descriptor:
        assert not os.path.samestat(os.fstat(descriptor), os.stat("/proc/self/ns/user"))
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
