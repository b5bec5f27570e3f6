"""The other kind of test node: a machine of its own under QEMU, as users have theirs.

Its own Debian kernel, cgroup v2, systemd as init, containerd as a service with the systemd cgroup driver, all
capabilities, AppArmor. Debian's tree and the images are the other node's (``rootfs``, ``site``, ``images``).

Built once and kept: ``tree`` (the Debian tree with systemd and a kernel) and ``state`` (that as a disk, and the memory
of a machine that has booted from it). One run: ``run``, which resumes that machine with writes to a layer that is
thrown away, and talks to it (``talk``). ``qemu`` is the emulator's process and its monitor, ``initrd`` what it boots
with, ``checkout`` the disk with what is tested. Inside: ``agent`` runs the commands that come through a port as
``frames``; ``etc/`` is laid over the other node's. The host lends nothing but files under build/ and a process: no
mount, no network, no cgroup.
"""
