"""Names of the custom resource and its label and annotation, which users know."""

GROUP_VERSION = "runtime.zeropod.ctrox.dev/v1"
KIND = "Zeropod"
PLURAL = "zeropods"
NODE_LABEL = "zeropod.ctrox.dev/node-name"
"""The label by which a manager selects the resources of its node."""
WANTED_ANNOTATION = "zeropod.ctrox.dev/wanted"
"""The annotation of a pod that makes its containers sleep or wake."""
