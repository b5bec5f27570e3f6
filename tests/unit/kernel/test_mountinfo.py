"""Mounts as the kernel lists them, with every name that a mount point may have."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from zeropod.kernel import mountinfo
from zeropod.kernel.mountinfo import Mount


def test_it_is_read_with_its_escapes_optional_fields_and_options() -> None:
    text = r"55 40 254:0 /a\040b /mnt/x\134y rw,relatime master:5 - ext4 /dev/vda rw,discard" + "\nnonsense\n"
    fields, options = ("master:5",), ("rw", "discard")
    assert mountinfo.parse(text) == [Mount(55, "254:0", "/a b", r"/mnt/x\y", "ext4", fields, options)]


def test_a_mount_without_a_source_is_read() -> None:
    (mount,) = mountinfo.parse("55 40 0:9 / /mnt rw - tmpfs  rw\n")
    assert (mount.kind, mount.options) == ("tmpfs", ("rw",))


def test_only_a_newline_ends_a_line_and_only_a_blank_a_field() -> None:
    for name in ("/größe", "/\u00a0\u2028\x85\x0b\x1c", "/tab\\011here"):
        (mount,) = mountinfo.parse(f"55 40 0:9 / {name} rw - tmpfs tmpfs rw\n")
        assert mount.place == name.replace("\\011", "\t")


def test_of_two_mounts_on_one_place_the_later_is_visible() -> None:
    one, two, three = (Mount(number, "0:9", "/", place, "tmpfs") for number, place in enumerate(("/a", "/b", "/a")))
    assert mountinfo.visible([one, two, three]) == [two, three]


def test_what_the_kernel_says_of_this_process_is_read() -> None:
    found = mountinfo.read()
    assert len(found) == len(Path("/proc/self/mountinfo").read_bytes().splitlines())
    assert any(mount.place == "/proc" and mount.kind == "proc" for mount in found)


@given(st.text())
def test_no_text_breaks_it(text: str) -> None:
    mountinfo.parse(text)


@given(st.lists(st.from_regex(r"[0-9 /:a-z\\-]{0,60}", fullmatch=True)))
def test_no_line_breaks_it(lines: list[str]) -> None:
    mountinfo.visible(mountinfo.parse("\n".join(lines)))
