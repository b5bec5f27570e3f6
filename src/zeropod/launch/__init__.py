"""containerd's calls of the shim binary, until a shim serves: flags, `start`, and its request to the zygote.

containerd waits for `start` at every container, so these modules import as little as possible, and only from the
standard library.
"""
