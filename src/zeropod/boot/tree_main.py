"""The main program of start.py, the fast entry into an unpacked zeropod.pyz; it also ends fast.

Its callers have checked the directory's permissions: the archive's shell header, or `zeropod.boot.unpack`.
"""

import sys
from posix import _exit


def main() -> None:
    from zeropod.__main__ import main

    status = main()
    if sys.argv[-1] in ("start", "delete"):
        # containerd waits for the end, and finalizing the interpreter takes two milliseconds and frees nothing.
        sys.stdout.flush()
        sys.stderr.flush()
        _exit(status)
    sys.exit(status)
