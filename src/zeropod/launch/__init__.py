"""containerd's calls of the shim binary, up to a process that serves: flags, `start`, and how that asks a zygote.

containerd waits for `start` at every container, so only the standard library is imported here, and of that as little as
possible.
"""
