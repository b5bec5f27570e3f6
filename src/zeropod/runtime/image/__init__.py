"""Whether a container can be checkpointed to an image and restored completely, before its processes are ended.

`unsupported` makes the decision, `obstacle` has the texts of its reasons, `snapshot` the data about a container, which
`reading` collects from /proc and `checks` evaluate. `reapplied` sets again what a restore loses and can be set from
outside.
"""
