"""The manager of a node, the commands that ask its shims, and Prometheus."""
