"""Becomes start.py where zeropod.pyz unpacks itself: the quick way in, without runpy and zipimport.

The archive's shell header runs it with the name that the archive was called by as its first argument.
"""

import sys
from posix import _exit, execv

directory = __file__.rpartition("/")[0]
sys.path.insert(0, directory)
del sys.argv[0]


def run_from_archive() -> None:
    """Starts over from the archive, which knows what to do without the directory."""
    execv(sys.executable, [sys.executable, "-I", "-S", *sys.argv])


if sys.version_info < (3, 11):
    run_from_archive()

from zeropod.private import exposure

# Somebody has opened it to others since it was made: what is in it cannot be trusted any more.
if exposure(directory):
    run_from_archive()

from zeropod.__main__ import main

status = main()
if sys.argv[-1] in ("start", "delete"):
    # containerd waits for it, and taking the interpreter down takes two milliseconds and frees nothing.
    sys.stdout.flush()
    sys.stderr.flush()
    _exit(status)
sys.exit(status)
