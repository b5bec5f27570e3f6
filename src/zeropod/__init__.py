"""zeropod: a containerd shim that puts idle containers to sleep and wakes them on their first connection.

Importing the package must stay free: `start`, which containerd waits for, pays for every line here.
"""

__version__ = "0.1.0"

SHIM_BINARY = "containerd-shim-zeropod-v2"
"""The name by which containerd looks for the runtime type io.containerd.zeropod.v2."""

KUBECTL_PLUGIN = "kubectl-zeropod"
"""The name by which kubectl looks for `kubectl zeropod`."""

KUBECTL_COMPLETION = "kubectl_complete-zeropod"
"""The name by which kubectl looks for its shell completion."""
