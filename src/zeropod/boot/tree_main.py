"""What start.py does, the quick way into an unpacked zeropod.pyz: checks the directory, and is quick to end.

Has to be readable for Pythons that are older than zeropod needs: the archive knows what to do about them.
"""

import sys
from posix import _exit, execv


def main() -> None:
    if sys.version_info < (3, 11):  # noqa: UP036 - an older one may run this
        _run_from_archive()

    from zeropod.boot.permissions import exposure

    # It was opened to others since it was made: what is in it cannot be trusted any more.
    if exposure(sys.path[0]):
        _run_from_archive()

    from zeropod.__main__ import main

    status = main()
    if sys.argv[-1] in ("start", "delete"):
        # containerd waits for it, and taking the interpreter down takes two milliseconds and frees nothing.
        sys.stdout.flush()
        sys.stderr.flush()
        _exit(status)
    sys.exit(status)


def _run_from_archive() -> None:
    """Starts over from the archive, which knows what to do without the directory."""
    execv(sys.executable, [sys.executable, "-I", "-S", *sys.argv])
