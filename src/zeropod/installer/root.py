"""The node's file system and programs; its root may be mounted below this process's, for example at /host in a
container.

Symbolic links are the node's: an absolute one starts at the node's root, so the kernel must not follow it. Programs of
the node run in a chroot.
"""

import glob
import os
import stat
import subprocess
from collections.abc import Sequence
from pathlib import PurePosixPath

from zeropod.installer.changes import Entry, File, Link
from zeropod.installer.errors import InstallError

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/snap/bin"
"""PATH for the node's programs, like that of containerd under systemd."""

QUICK = 30.0
"""Seconds for a program that only prints something."""

MOST_LINKS = 40
"""Most symbolic links in a path, as in the kernel."""


class Root:
    """A node whose `/` is at `top`. Paths are absolute paths of the node."""

    def __init__(self, top: str = "/") -> None:
        self.top = os.path.abspath(top)

    def outside(self, path: str, *, follow: bool = True) -> str:
        """Return the path of the node's `path` for this process; a link as its last part is followed only on
        request."""
        return self.top.rstrip("/") + self.resolve(path, follow=follow)

    def resolve(self, path: str, *, follow: bool = True) -> str:
        """Return the node's path without symbolic links. Raises InstallError for a loop."""
        todo = list(PurePosixPath(path).parts[1:])[::-1]
        done: list[str] = []
        links = 0
        while todo:
            part = todo.pop()
            if part == "..":
                del done[-1:]
                continue
            here = "/".join((self.top.rstrip("/"), *done, part))
            if (todo or follow) and os.path.islink(here):
                if (links := links + 1) > MOST_LINKS:
                    raise InstallError(f"{path}: too many symbolic links")
                target = PurePosixPath(os.readlink(here))
                if target.is_absolute():
                    done = []
                todo += [name for name in target.parts if name != "/"][::-1]
            else:
                done.append(part)
        return "/" + "/".join(done)

    def look(self, path: str) -> Entry:
        """Return the entry at `path`. Raises InstallError if it is neither a file nor a link."""
        outside = self.outside(path, follow=False)
        try:
            status = os.lstat(outside)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if stat.S_ISLNK(status.st_mode):
            return Link(os.readlink(outside))
        if not stat.S_ISREG(status.st_mode):
            raise InstallError(f"{path} is not a file: move it out of the way")
        with open(outside, "rb") as file:
            return File(file.read(), stat.S_IMODE(status.st_mode))

    def text(self, path: str) -> str | None:
        """Return the text at `path`, following links; None if it does not exist. Raises InstallError if it is not
        UTF-8."""
        match self.look(self.resolve(path)):
            case File(content):
                try:
                    return content.decode()
                except UnicodeDecodeError as error:
                    raise InstallError(f"{path} is not UTF-8 text: {error}") from error
            case _:
                return None

    def exists(self, path: str) -> bool:
        return os.path.lexists(self.outside(path))

    def glob(self, pattern: str) -> list[str]:
        """Return the matching paths of the node, sorted."""
        top = self.top.rstrip("/")
        return sorted(found.removeprefix(top) for found in glob.glob(glob.escape(top) + pattern))

    def walk(self, directory: str) -> list[str]:
        """Yield every file and link below a directory, without following links; nothing if it does not exist."""
        top = self.outside(directory)
        return sorted(
            f"{directory}{parent.removeprefix(top)}/{name}"
            for parent, directories, names in os.walk(top)
            for name in [*names, *(each for each in directories if os.path.islink(os.path.join(parent, each)))]
        )

    def run(self, command: Sequence[str], timeout: float) -> "subprocess.CompletedProcess[str]":
        """Run a program of the node. Raises InstallError if it does not exist or does not end in time."""
        # In a chroot, systemctl assumes an image under construction, and would restart nothing.
        environment = {"PATH": PATH, "SYSTEMD_IGNORE_CHROOT": "1", "LC_ALL": "C.UTF-8", "HOME": "/root"}
        try:
            return subprocess.run(
                command,
                preexec_fn=None if self.top == "/" else self._enter,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                timeout=timeout, check=False, env=environment, cwd="/",
            )  # fmt: skip
        except FileNotFoundError as error:
            raise InstallError(f"there is no {error.filename} here") from error
        except subprocess.TimeoutExpired as error:
            raise InstallError(f"{' '.join(command)} did not end within {timeout:g} s") from error
        except (OSError, subprocess.SubprocessError) as error:  # the latter if _enter fails
            raise InstallError(f"{command[0]} cannot be run on the node: {error}") from error

    def _enter(self) -> None:
        os.chroot(self.top)
        os.chdir("/")

    def succeeds(self, command: Sequence[str]) -> str | None:
        """Return the output of a program of the node; None if it does not exist or fails."""
        try:
            done = self.run(command, QUICK)
        except InstallError:
            return None
        return None if done.returncode else done.stdout
