"""The shim: containerd's task service for the containers of one pod, asleep or awake."""
