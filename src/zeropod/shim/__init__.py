"""The shim: containerd's task service on one side, one pod's containers on the other, asleep or awake."""
