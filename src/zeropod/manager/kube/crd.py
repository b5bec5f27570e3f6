"""Names of the custom resource and of what goes with it, which users know."""

GROUP_VERSION = "runtime.zeropod.ctrox.dev/v1"
KIND = "Zeropod"
PLURAL = "zeropods"
NODE_LABEL = "zeropod.ctrox.dev/node-name"
"""By which a manager finds the resources of its own node."""
WANTED_ANNOTATION = "zeropod.ctrox.dev/wanted"
"""Of a pod: has its containers sleep or wake."""
