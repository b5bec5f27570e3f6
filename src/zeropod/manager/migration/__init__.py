"""The manager's side of migration: which pod takes over from which, and how the bytes get from node to node.

Imported only by a manager with --migration, and by kubectl's plugin, which needs `names`, `pods` and `resource` alone.
Containers are moved by their shims; the manager finds the one for the other, lets each wait for its moment, and
relays what they say to each other without looking into it.
"""
