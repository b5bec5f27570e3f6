"""userfaultfd's messages and arguments; what the kernel does with them is tested in the node."""

import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeropod.kernel import userfault
from zeropod.kernel.userfault import FORK, MESSAGE, PAGE, PAGEFAULT, REMAP, UNMAP, Message

numbers = st.integers(min_value=0, max_value=(1 << 64) - 1)
kinds = st.sampled_from([PAGEFAULT, REMAP, UNMAP])


@given(st.lists(st.tuples(kinds, numbers, numbers, numbers), max_size=16))
def test_messages_are_read_in_their_order(written: list[tuple[int, int, int, int]]) -> None:
    data = b"".join(struct.pack("=BBHIQQQ", kind, 0, 0, 0, *rest) for kind, *rest in written)
    assert len(data) == MESSAGE * len(written)
    assert list(userfault.messages(data)) == [Message(*fields) for fields in written]


def test_the_descriptor_of_a_fork_is_32_bits_wide() -> None:
    data = struct.pack("=BBHIIIQQ", FORK, 0, 0, 0, 9, 0xFFFFFFFF, 0, 0)
    assert [message.first for message in userfault.messages(data)] == [9]


def test_a_call_on_what_is_no_userfaultfd_says_so() -> None:
    with open(os.devnull) as file:
        done, error = userfault.copy(file.fileno(), PAGE, PAGE, PAGE)
        assert done == 0
        assert error
        assert userfault.zero(file.fileno(), PAGE)
        with pytest.raises(OSError, match="no range"):
            userfault.wake_all(file.fileno())
