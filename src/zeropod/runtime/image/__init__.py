"""Whether a container can be checkpointed to an image and restored completely, before its processes are ended.

`unsupported` decides, `obstacle` has the texts of the reasons, `snapshot` the data about a container, which `reading`
collects from /proc and `checks` evaluate. `reapplied` sets state again that a restore loses.
"""
