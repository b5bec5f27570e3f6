"""The test node: a throw-away Debian machine made of namespaces, with containerd, runc and CRIU in it.

Built once and kept: ``rootfs`` (the Debian tree), ``site`` (the tests' Python packages), ``images`` out
of ``layers`` (container images made from that tree), all through ``cache``. One run: ``run`` (its
directory, lock and end) and ``cgroups`` (its corner of the host's hierarchies), started by ``__main__``. For a cluster
(tests/cluster) there are one or two nodes in a run, and ``kubernetes`` builds what they run.
Inside: ``boot.sh`` makes the file systems, ``init.sh`` is pid 1, ``etc/`` is the configuration.
"""
