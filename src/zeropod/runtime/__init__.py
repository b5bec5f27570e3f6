"""The parts of a container on this node: runc, CRIU, cgroups, the OCI spec, standard streams, images.

Each module here owns one tool or kernel interface and knows nothing of idle timers, sockets or containerd's task API:
the layers above decide when a container sleeps; this one implements how.
"""
