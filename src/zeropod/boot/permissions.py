"""Says whether users other than root and this one could change what is in a directory, like sshd's StrictModes.

Asked at every start before code is imported from the unpacked tree, so it imports only what is built in.
"""

from posix import geteuid, lstat

# The numbers of stat(2): importing `stat` costs more than the whole question.
_TYPE, _DIRECTORY = 0o170000, 0o040000
_STICKY = 0o1000
_WRITABLE_BY_OTHERS = 0o022


def exposure(directory: str) -> str | None:
    """Return why others could change what is in `directory` (absolute), and what to do about it; None if they cannot.

    Directories above it may be open to all if they are sticky, as /tmp is: others' entries are safe there.
    Raises OSError where a part of the path does not exist or may not be looked at.
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
