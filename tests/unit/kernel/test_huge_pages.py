"""Memory that a process has refused to have in huge pages is marked so, in its forks, too."""

import subprocess
import sys
from pathlib import Path

import pytest

import zeropod

SOURCE = str(Path(zeropod.__file__).parent.parent)
PROGRAM = """
import os
from pathlib import Path
from zeropod.kernel import huge_pages

def left():
    kilobytes = own = 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, *words = line.split()
        match name:
            case "Size:":
                kilobytes = int(words[0])
            case "VmFlags:" if {"rd", "wr"} <= set(words) and "sh" not in words and "nh" not in words:
                own += kilobytes
    return own

kept = bytearray(64 << 20)
print(left(), flush=True)
huge_pages.exempt()
if os.fork():
    os.wait()
else:
    print(left(), flush=True)
"""


@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="a kernel without huge pages")
def test_a_fork_has_none_of_what_was_there() -> None:
    program = f"import sys; sys.path.insert(0, {SOURCE!r}){PROGRAM}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    before, after = map(int, done.stdout.split())
    assert before > 64 << 10
    assert after < 4 << 10  # mapped for this look
