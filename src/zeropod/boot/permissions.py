"""Check whether users other than root and this one could change files in a directory, like sshd's StrictModes.

Called at every start before code is imported from the unpacked tree, so it imports only built-in modules.
"""

from posix import geteuid, lstat

# The constants of stat(2): importing `stat` costs more than the check.
_TYPE, _DIRECTORY = 0o170000, 0o040000
_STICKY = 0o1000
_WRITABLE_BY_OTHERS = 0o022


def exposure(directory: str) -> str | None:
    """Return why others could change files in `directory` (absolute), and what to do about it; None if they cannot.

    Parent directories may be writable by all if they are sticky, as /tmp is: others' entries are safe there. Raises
    OSError if a part of the path does not exist or cannot be examined.
    """
    path, allowed = directory, 0
    while True:
        status = lstat(path or "/")
        if status.st_mode & _TYPE != _DIRECTORY:
            return f"{path} is not a directory: remove it"
        if status.st_uid not in (0, geteuid()):
            return f"{path} belongs to uid {status.st_uid}, who could change what runs here: chown it to root"
        if status.st_mode & _WRITABLE_BY_OTHERS and not status.st_mode & allowed:
            mode = f"{status.st_mode & 0o7777:04o}"
            return f"{path or '/'} has mode {mode}, so others could change what runs here: chmod go-w it"
        if not path:
            return None
        path, allowed = path.rpartition("/")[0], _STICKY
