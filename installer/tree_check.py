"""Becomes a part of zeropod.pyz's shell header: looks at the unpacked tree before any code of the tree runs.

What is in the tree cannot be asked whether it can be trusted, so this is in the archive. The header has Python run it
as a command, with the tree, the name that the archive was called by, and its arguments. Has to be readable for Pythons
that are older than zeropod needs: the archive knows what to do about them.
"""

import sys
from posix import execv

tree = sys.argv.pop(1)


def _run_from_archive():  # type: () -> None
    execv(sys.executable, [sys.executable, "-I", "-S", *sys.argv[1:]])


if sys.version_info < (3, 11):  # noqa: UP036 - an older one may run this
    _run_from_archive()

from zeropod.boot.permissions import exposure  # noqa: E402 - the build puts the module itself here

try:
    exposed = exposure(tree)
except OSError:
    exposed = "it is gone"
if exposed:
    _run_from_archive()
sys.argv[0] = start = f"{tree}/start.py"
with open(start, "rb") as file:
    code = compile(file.read(), start, "exec")
exec(code, {"__name__": "__main__", "__file__": start})
